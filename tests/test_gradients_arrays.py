"""The gradients on every backend: arrays of every kind, calls seen before."""

import itertools

import numpy as np
import pytest
from cases import Case, lanes
from gradient_cases import FEW, MANY, assert_gradients_close, check_gradients, draw
from numpy.lib.stride_tricks import as_strided
from views import VIEWS, every_other, surrounded

import numbadw as ndw
from numbadw import calls, gradients
from numbadw.memory import LINE, SMALL_BYTES


class TestArrays:
    @pytest.mark.parametrize("first", [False, True], ids=["nhwc", "nchw"])
    @pytest.mark.parametrize("view", VIEWS)
    def test_of_every_kind(self, view, first, backend, rng):
        make = VIEWS[view]
        for c, w, dtype in ((MANY, 9, "f4"), (FEW, 40, "f4"), (MANY, 9, "f8")):
            case = Case(6, w, c, first=first, n=2, dtype=dtype)
            x, k, b, g = draw(case, rng)
            options = {**case.options, "backend": backend}
            for activation in (None, "gelu"):
                results = ndw.depthwise_conv2d_grad(
                    make(x), make(k), make(g), bias=b, activation=activation, **options
                )
                assert all(type(result) is np.ndarray for result in results)
                assert all(result.flags.c_contiguous for result in results)
                assert_gradients_close(results, x, k, g, b, activation, **case.options)
            x_grad = ndw.depthwise_conv2d_input_grad(
                make(g), make(k), x.shape, **options
            )
            w_grad = ndw.depthwise_conv2d_kernel_grad(
                make(x), make(g), k.shape, **options
            )
            assert_gradients_close((x_grad, w_grad, None), x, k, g, **case.options)

    @pytest.mark.parametrize("axes", [(0,), (1,), (2,), (3,), (0, 1, 2, 3)], ids=str)
    def test_broadcast(self, axes, backend, rng):
        # The gradient of a sum or a mean comes as a broadcast scalar.
        for c in (MANY, FEW):
            full = (2, 6, 20, c)
            shape = tuple(1 if a in axes else s for a, s in enumerate(full))
            x, g = (
                np.broadcast_to(rng.standard_normal(shape).astype("f4"), full)
                for _ in range(2)
            )
            k = rng.standard_normal((3, 3, c, 1)).astype("f4")
            results = ndw.depthwise_conv2d_grad(
                x, k, g, padding="same", backend=backend
            )
            assert_gradients_close(results, x, k, g, padding="same")

    def test_overlapping_windows_as_inputs(self, backend, rng):
        signal = rng.standard_normal(64 + MANY).astype("f4")
        x = as_strided(signal, (1, 20, 12, MANY), (0, 4, 8, 4), writeable=False)
        k = rng.standard_normal((3, 3, MANY, 1)).astype("f4")
        g = rng.standard_normal((1, 18, 10, MANY)).astype("f4")
        results = ndw.depthwise_conv2d_grad(x, k, g, backend=backend)
        assert_gradients_close(results, x, k, g)

    @pytest.mark.parametrize("first", [False, True], ids=["nhwc", "nchw"])
    @pytest.mark.parametrize("view", sorted(set(VIEWS) - {"read_only", "byte_swapped"}))
    def test_out_of_every_kind(self, view, first, backend, rng):
        for c, w, dtype in ((MANY, 9, "f4"), (FEW, 40, "f4"), (MANY, 9, "f8")):
            case = Case(5, w, c, first=first, n=2, dtype=dtype)
            x, k, _, g = draw(case, rng)
            options = {**case.options, "backend": backend}
            for _ in range(2):
                out = VIEWS[view](np.full(x.shape, np.nan, dtype))
                result = ndw.depthwise_conv2d_input_grad(
                    g, k, x.shape, out=out, **options
                )
                assert result is out
                w_out = VIEWS[view](np.full(k.shape, np.nan, dtype))
                w_result = ndw.depthwise_conv2d_kernel_grad(
                    x, g, k.shape, out=w_out, **options
                )
                assert w_result is w_out
                results = np.asarray(result), np.asarray(w_result), None
                assert_gradients_close(results, x, k, g, **case.options)

    def test_nothing_around_out_is_written(self, backend, rng):
        for c, first in itertools.product((FEW, MANY), (False, True)):
            case = Case(6, 9, c, strides=(2, 2), first=first)
            x, k, _, g = draw(case, rng)
            for make in (surrounded, every_other):
                out = make(np.zeros(x.shape, "f4"))
                inside = np.isfinite(out.base)
                ndw.depthwise_conv2d_input_grad(
                    g, k, x.shape, out=out, backend=backend, **case.options
                )
                np.testing.assert_array_equal(np.isfinite(out.base), inside)

    @pytest.mark.parametrize("theirs", ["f2", "i1", "u2", ">f4"])
    def test_other_dtypes_are_cast(self, theirs, backend, rng):
        x, k, b, g = draw(Case(6, 9, MANY), rng)
        k, b, g = ((8 * array).astype(theirs) for array in (k, b, np.abs(g)))
        k, b = np.abs(k), np.abs(b)
        for _ in range(2):
            results = ndw.depthwise_conv2d_grad(
                x, k, g, bias=b, activation="gelu", padding="same", backend=backend
            )
            assert_gradients_close(results, x, k, g, b, "gelu", padding="same")

    def test_results_are_arrays_of_their_own(self, backend, rng):
        x, k, _, g = draw(Case(32, 33, MANY), rng)
        options = {"padding": "same", "backend": backend}
        first = ndw.depthwise_conv2d_grad(x, k, g, **options)
        again = ndw.depthwise_conv2d_grad(x, k, g, **options)
        for a, b in zip(first, again, strict=True):
            assert not np.shares_memory(a, b)
            if a.nbytes >= SMALL_BYTES:
                assert a.ctypes.data % LINE == 0
            a[...] = 7
        assert_gradients_close(again, x, k, g, padding="same")

    def test_arguments_are_left_as_they_were(self, backend, rng):
        for case in (Case(6, 9, MANY, 2), Case(6, 40, FEW, first=True)):
            x, k, b, g = draw(case, rng)
            copies = [array.copy() for array in (x, k, b, g)]
            ndw.depthwise_conv2d_grad(
                x, k, g, bias=b, activation="gelu", backend=backend, **case.options
            )
            for array, copy in zip((x, k, b, g), copies, strict=True):
                np.testing.assert_array_equal(array, copy)


class TestCalls:
    def test_seen_before_do_no_checks(self, monkeypatch, rng):
        x, k, b, g = draw(Case(6, 7, MANY), rng)
        first = {"strides": (1, 1), "padding": ((1, 1), (1, 1))}
        other = {"strides": [1, np.int8(1)], "padding": [1, 1]}
        act = ("leaky_relu", 0.1), ["Leaky_ReLU", np.float64(0.1)]
        options = {"bias": b, "activation": act[0]}
        expected = ndw.depthwise_conv2d_grad(x, k, g, **first, **options)
        monkeypatch.setattr(gradients, "_check", None)
        for forms, options["activation"] in itertools.product((first, other), act):
            again = ndw.depthwise_conv2d_grad(x, k, g, **forms, **options)
            for result, right in zip(again, expected, strict=True):
                np.testing.assert_array_equal(result, right)

    def test_the_table_of_calls_stays_small(self, monkeypatch, rng):
        monkeypatch.setattr(calls, "MOST", 3)
        for w in range(3, 12):
            check_gradients(Case(6, w, 2), rng, backend="reference")
            assert len(gradients._calls) <= 3

    def test_changed_values_count_at_the_next_call(self, backend, rng):
        x, k, b, g = draw(Case(6, 7, MANY), rng)
        options = {"padding": "same", "activation": "gelu", "bias": b}
        for _ in range(3):
            results = ndw.depthwise_conv2d_grad(x, k, g, backend=backend, **options)
            assert_gradients_close(results, x, k, g, **options)
            k += 1
            b -= 1
            x *= 2

    def test_a_misaligned_kernel_after_an_aligned_one(self, backend, rng):
        x, k, _, g = draw(Case(6, 7, MANY), rng)
        for kernel in (k, VIEWS["misaligned"](k)) * 2:
            results = ndw.depthwise_conv2d_grad(
                x, kernel, g, padding="same", backend=backend
            )
            assert_gradients_close(results, x, k, g, padding="same")


def test_lanes_over_a_gap_are_not_read_as_channels(backend, rng):
    # Fewer channels than a vector, NaN right behind them in memory.
    for c in range(1, 2 * lanes() + 2, 3):
        case = Case(4, 6, c)
        x, k, _, g = draw(case, rng)
        for make in (surrounded, every_other):
            results = ndw.depthwise_conv2d_grad(
                make(x), k, make(g), backend=backend, **case.options
            )
            assert_gradients_close(results, x, k, g, **case.options)
