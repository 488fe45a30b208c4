"""Memory: aligned arrays, and buffers that serve again only when nobody holds them."""

import gc
import pickle
import threading
import tracemalloc

import numpy as np
import pytest

import numbadw as ndw
from numbadw import memory

SIZE = 300_000


def fresh():
    return memory.aligned_empty((SIZE,), np.float32)


def test_a_dropped_buffer_serves_again():
    memory._kept.clear()  # of other tests, which would serve before
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
    for _ in range(2):
        kept = [buffer.nbytes for buffer, *_ in memory._kept]
        assert 0 < len(kept) <= memory.KEPT_BUFFERS
        assert 0 < sum(kept) <= memory.KEPT_BYTES
        arrays.clear()
    memory.aligned_empty((memory.KEPT_BYTES,), np.uint8)
    assert [buffer.nbytes for buffer, *_ in memory._kept] == kept


def test_a_buffer_that_is_no_longer_kept_lasts_as_long_as_its_array():
    tracemalloc.start()
    try:
        first = fresh()
        first.fill(3)
        memory._kept.clear()
        gc.collect()
        size, _ = tracemalloc.get_traced_memory()
        assert size >= first.nbytes
        assert (first == 3).all()
        del first
        assert tracemalloc.get_traced_memory()[0] < size - 4 * SIZE + 10_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("end", ["view", "base", "cycle"])
def test_a_loan_ends_with_the_last_reference_of_any_kind(end):
    memory._kept.clear()
    array = fresh()
    place, last = memory.address(array), None
    if end == "view":
        last = np.frombuffer(memoryview(array[5:]).cast("B"), np.uint8)
    elif end == "base":
        last = array.base
    else:
        last = [array]
        last.append(last)
    del array
    assert memory.address(fresh()) != place
    del last
    gc.collect()
    places = [memory.address(fresh()) for _ in range(2)]
    assert place in places


def test_results_of_two_calls_are_apart(rng):
    x = rng.standard_normal((1, 60, 60, 64)).astype("f4")
    k = rng.standard_normal((3, 3, 64, 1)).astype("f4")
    one = ndw.depthwise_conv2d(x, k)
    kept = one.copy()
    two = ndw.depthwise_conv2d(-x, k)
    np.testing.assert_array_equal(one, kept)
    np.testing.assert_array_equal(two, -kept)
    assert not np.shares_memory(one, two)


class TestOutOfStep:
    """Inputs, weights and results begin at different places of every 2 KiB."""

    @pytest.mark.parametrize("offset", [0, 16, 64, 1000, 1024, 2047])
    def test_an_array_beside_another(self, offset):
        buffer = np.empty(3 * memory.STEP, np.uint8)
        one = buffer[-memory.address(buffer) % memory.STEP + offset :]
        for size in (10_000, SIZE):
            two = memory.aligned_empty((size,), np.float32, beside=one)
            apart = (memory.address(two) - memory.address(one)) % memory.STEP
            assert 1024 <= apart < 1024 + memory.LINE
            assert memory.address(two) % memory.LINE == 0
            two.fill(1)

    @pytest.mark.parametrize("gradients", [False, True])
    def test_results(self, rng, gradients):
        x = rng.standard_normal((1, 14, 14, 512)).astype("f4")
        k = rng.standard_normal((3, 3, 512, 1)).astype("f4")
        for _ in range(2):  # a call that is known, too
            y = (
                ndw.depthwise_conv2d_input_grad(x, k, x.shape, padding="same")
                if gradients
                else ndw.depthwise_conv2d(x, k, padding="same")
            )
            apart = (memory.address(y) - memory.address(x)) % memory.STEP
            assert 1024 <= apart < 1024 + memory.LINE

    def test_weights_of_layers(self):
        layer = ndw.DepthwiseConv2D(3)
        layer.build((1, 8, 8, 512))
        copy = pickle.loads(pickle.dumps(layer))
        for kernel in (layer.kernel, copy.kernel):
            assert memory.address(kernel) % memory.STEP == memory.WEIGHTS_AT
