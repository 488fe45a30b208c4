"""Causal pieces and the state that joins them; everything else is `convolve`.

The `size = (k - 1) * dilation_rate` inputs before a piece are all it needs of the past:

    first `size` outputs = valid convolution of (state, first `size` inputs)  # a copy
    all others           = valid convolution of the piece itself             # in place

Every output is the same sum of the same taps in the same order as in one call, so its
bits are the same, too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from numbadw import activations, checks
from numbadw.dispatch import choose_backend, on_device, require_device, without_cuda
from numbadw.functional import Options, convolve
from numbadw.geometry import make_sequence_geometry
from numbadw.memory import SMALL_BYTES, aligned_empty, require
from numbadw.sequence.rank import SEQUENCES, result_shape, state_size

Array = npt.NDArray[Any]


def depthwise_conv1d(  # noqa: PLR0913  (public: one argument an option)
    inputs: Array,
    kernel: Array,
    bias: Array | None = None,
    *,
    strides: Any = 1,
    padding: Any = "valid",
    dilation_rate: Any = 1,
    data_format: str = "channels_last",
    activation: Any = None,
    initial_state: Array | None = None,
    return_state: bool = False,
    out: Array | None = None,
    backend: str = "auto",
    stream: Any = None,
) -> Any:
    """Convolve every channel of a batch of sequences with its own filters.

    Output channel `c * M + q` at (n, i) is `activation(bias[c * M + q] + sum over j of
    inputs[n, i * stride + j * dilation - before, c] * kernel[j, c, q])`, where inputs
    outside the sequence count as zero: `depthwise_conv2d` of images of one row.

    With "causal" padding and stride 1 a sequence may come in pieces: `initial_state`
    is what came before this piece, and `return_state` asks for what the next one needs.

    Parameters
    ----------
    inputs : ndarray, shape (N, L, C), float32 or float64
        The sequences; (N, C, L) with `data_format="channels_first"`.  Any strides,
        alignment and byte order.  L may be 0 in a call with a state.
    kernel : ndarray, shape (k, C, M)
        The filters, M of them a channel.  The dtype of `inputs`, or one that casts to
        it safely.
    bias : ndarray, shape (C * M,), optional
        Added to every output channel.
    strides, dilation_rate : int, default 1
        Steps between outputs and between taps.
    padding : str, int or (int, int), default "valid"
        "valid" (none), "same" (`ceil(L / stride)` outputs, the odd step at the end),
        "causal" (`(k - 1) * dilation_rate` at the start: no output sees inputs behind
        its own), an int, or `(before, after)`.
    data_format, activation, out, backend, stream : optional
        See `depthwise_conv2d`.
    initial_state : ndarray, shape (N, (k - 1) * dilation_rate, C), optional
        The inputs before this piece, channels last in both layouts; None stands for
        zeros.  "causal" padding and stride 1 only.
    return_state : bool, default False
        Whether to give the state after this piece, too.  "causal" padding and stride 1
        only.

    Returns
    -------
    result : ndarray, shape (N, length, C * M) or (N, C * M, length)
        New array, or `out`; the length as in `numbadw.geometry.output_size`.
    state : ndarray, shape (N, (k - 1) * dilation_rate, C)
        With `return_state` alone: a new array.

    Raises
    ------
    TypeError
        For an argument of a wrong type or dtype.
    ValueError
        For a wrong value or shape, a state without "causal" padding or with a stride,
        or an `out` that overlaps an input.
    BackendUnavailableError
        For `backend="cuda"` where it cannot run.

    Notes
    -----
    As `depthwise_conv2d`.  The same bits however a sequence is split: with a state only
    the first `(k - 1) * dilation_rate` inputs of a piece are copied.

    Examples
    --------
    >>> import numpy as np
    >>> import numbadw as ndw
    >>> x = np.ones((1, 100, 8), np.float32)
    >>> kernel = np.ones((4, 8, 1), np.float32)
    >>> whole = ndw.depthwise_conv1d(x, kernel, padding="causal")
    >>> causal = {"padding": "causal", "return_state": True}
    >>> a, state = ndw.depthwise_conv1d(x[:, :60], kernel, **causal)
    >>> b, _ = ndw.depthwise_conv1d(x[:, 60:], kernel, initial_state=state, **causal)
    >>> np.array_equal(np.concatenate([a, b], axis=1), whole)
    True
    """
    options = strides, padding, dilation_rate, data_format, activation, backend
    if stream is not None:
        require_device(backend, inputs)
    if initial_state is None and return_state is False:
        return convolve(SEQUENCES, inputs, kernel, bias, out, options, stream)
    if not isinstance(return_state, (bool, np.bool_)):
        raise TypeError(f"return_state must be a bool, got {return_state!r}")
    piece = _Piece(inputs, kernel, bias, initial_state, out, options)
    result = piece.run()
    return (result, piece.after()) if return_state else result


class _Piece:
    """A piece of a sequence: checked arguments, its outputs and the state after it.

    The copies it makes are of as many inputs as a state holds.
    """

    def __init__(
        self,
        inputs: Any,
        kernel: Any,
        bias: Any,
        initial_state: Any,
        out: Any,
        options: Options,
    ) -> None:
        strides, padding, dilation_rate, data_format, activation, backend = options
        if on_device(backend, inputs):
            without_cuda("cuda", "sequences in pieces")
        choose_backend(backend, inputs)
        first = checks.data_format(data_format)
        dilation = checks.step(dilation_rate, "dilation_rate")
        stride = checks.step(strides, "strides")
        if checks.sequence_padding(padding) != "causal" or stride != 1:
            raise ValueError(
                "initial_state and return_state need padding 'causal' and strides 1, "
                f"got padding {padding!r} and strides {strides!r}"
            )
        activations.resolve(activation)
        x = checks.input_array(inputs, "inputs", 3)
        w = checks.weight_array(kernel, "kernel", 3, x.dtype)
        # A piece may be empty, an output may not.
        shape = list(x.shape)
        along = 2 if first else 1
        shape[along] = max(1, shape[along])
        g = make_sequence_geometry(tuple(shape), w.shape, 1, "causal", dilation, first)
        b = checks.bias_array(bias, g.out_channels, x.dtype)
        self.size = size = state_size(w.shape, dilation)
        self.x = x.transpose(0, 2, 1) if first else x
        n, self.length, c = self.x.shape
        self.state = None
        if initial_state is not None:
            self.state = checks.state_array(
                initial_state, "initial_state", (n, size, c), x.dtype
            )
        result = list(result_shape(g))
        result[along] = self.length
        self.shape = tuple(result)
        if out is not None:
            others = {"inputs": inputs, "kernel": kernel, "bias": bias}
            checks.out_array(
                out, self.shape, x.dtype, initial_state=initial_state, **others
            )
        else:
            require(self.shape, x.dtype)
        self.out, self.given, self.weights = out, x, (w, b)
        self.first, self.options = first, options

    def run(self) -> Array:
        """Write the outputs."""
        out: Array = self.out
        size, dtype = self.size, self.x.dtype
        if out is None:
            out = aligned_empty(self.shape, dtype, small=SMALL_BYTES, beside=self.given)
        if self.length == 0:
            return out
        if self.state is None or size == 0:
            self._convolve(self.given, out, "causal")
            return out
        head = min(size, self.length)
        n, _, c = self.x.shape
        near = aligned_empty((n, size + head, c), dtype)
        near[:, :size] = self.state
        near[:, size:] = self.x[:, :head]
        begin, rest = (
            (out[:, :, :head], out[:, :, head:])
            if self.first
            else (out[:, :head], out[:, head:])
        )
        self._convolve(near.transpose(0, 2, 1) if self.first else near, begin, "valid")
        if self.length > size:
            self._convolve(self.given, rest, "valid")
        return out

    def after(self) -> Array:
        """Give the state after the piece."""
        n, length, c = self.x.shape
        keep = max(0, self.size - length)
        state = aligned_empty((n, self.size, c), self.x.dtype, small=SMALL_BYTES)
        state[:, :keep] = 0 if self.state is None else self.state[:, self.size - keep :]
        state[:, keep:] = self.x[:, length - (self.size - keep) :]
        return state

    def _convolve(self, x: Array, out: Array, padding: str) -> None:
        options = 1, padding, *self.options[2:]
        convolve(SEQUENCES, x, *self.weights, out, options)
