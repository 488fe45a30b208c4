"""Memory: aligned arrays, and buffers that serve again only when nobody holds them."""

import threading

import numpy as np

import numbadw as ndw
from numbadw import memory

SIZE = 300_000


def fresh():
    return memory.aligned_empty((SIZE,), np.float32)


def test_a_dropped_buffer_serves_again():
    first = fresh()
    place = memory.address(first)
    del first
    assert memory.address(fresh()) == place


def test_a_buffer_in_use_does_not():
    first = fresh()
    place = memory.address(first)
    view = first.reshape(300, -1)[3, 5:9]
    assert memory.address(fresh()) != place
    del first
    assert memory.address(fresh()) != place
    transposed = view.T
    del view
    assert memory.address(fresh()) != place
    export = memoryview(transposed)
    del transposed
    assert memory.address(fresh()) != place
    del export


def test_threads_never_share_a_buffer():
    bad = []

    def work(number):
        for _ in range(500):
            one, two = fresh(), fresh()
            one.fill(number)
            two.fill(-number)
            if one[0] != number or one[-1] != number or two[0] != -number:
                bad.append(number)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not bad


def test_what_is_kept_is_bounded():
    arrays = [memory.aligned_empty((k * SIZE,), np.float32) for k in range(1, 20)]
    kept = sum(buffer.nbytes for buffer in memory._kept)
    assert len(memory._kept) <= memory.KEPT_BUFFERS
    assert kept <= memory.KEPT_BYTES
    del arrays
    huge = memory.KEPT_BYTES + 1
    assert memory._buffer(huge).nbytes == huge
    assert all(buffer.nbytes < huge for buffer in memory._kept)


def test_results_of_two_calls_are_apart(rng):
    x = rng.standard_normal((1, 60, 60, 64)).astype("f4")
    k = rng.standard_normal((3, 3, 64, 1)).astype("f4")
    one = ndw.depthwise_conv2d(x, k)
    kept = one.copy()
    two = ndw.depthwise_conv2d(-x, k)
    np.testing.assert_array_equal(one, kept)
    np.testing.assert_array_equal(two, -kept)
    assert not np.shares_memory(one, two)
