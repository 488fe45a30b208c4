"""The depthwise convolution layers."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy.typing as npt

from numbadw import checks
from numbadw.functional import IMAGES, Prepared, Rank, prepare
from numbadw.gradients import depthwise_conv2d_grad
from numbadw.layers.base import ConvLayer
from numbadw.sequence import SEQUENCES, depthwise_conv1d_grad

Array = npt.NDArray[Any]
Gradients = Callable[..., tuple[Array, Array, Array]]


class _Depthwise(ConvLayer):
    """A depthwise layer of any rank, with the defaults of two dimensions."""

    _rank: ClassVar[Rank]

    def __init__(
        self,
        kernel_size: int | tuple[int, ...],
        strides: int | tuple[int, ...] = (1, 1),
        padding: Any = "valid",
        depth_multiplier: int = 1,
        data_format: str | None = None,
        dilation_rate: int | tuple[int, ...] = (1, 1),
        activation: str | tuple[str, float] | None = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        depthwise_regularizer: None = None,
        bias_regularizer: None = None,
        activity_regularizer: None = None,
        depthwise_constraint: None = None,
        bias_constraint: None = None,
        *,
        trainable: bool = True,
        name: str | None = None,
        dtype: npt.DTypeLike = "float32",
        backend: str = "auto",
        seed: int | None = None,
    ) -> None:
        self.kernel_size = self._steps(kernel_size, "kernel_size")
        self.strides = self._steps(strides, "strides")
        self.padding = self._rank.padding(padding)
        self.dilation_rate = self._steps(dilation_rate, "dilation_rate")
        super().__init__(
            depth_multiplier=depth_multiplier,
            data_format=data_format,
            activation=activation,
            use_bias=use_bias,
            initial={
                "depthwise_initializer": depthwise_initializer,
                "bias_initializer": bias_initializer,
            },
            unsupported={
                "depthwise_regularizer": depthwise_regularizer,
                "bias_regularizer": bias_regularizer,
                "activity_regularizer": activity_regularizer,
                "depthwise_constraint": depthwise_constraint,
                "bias_constraint": bias_constraint,
            },
            trainable=trainable,
            name=name,
            dtype=dtype,
            backend=backend,
            seed=seed,
        )

    @classmethod
    @abstractmethod
    def _steps(cls, value: object, name: str) -> tuple[int, ...]:
        """Read an argument of one number an axis."""

    @property
    @abstractmethod
    def _grad(self) -> Gradients:
        """The function that gives the gradients."""

    @property
    def kernel(self) -> Array:
        """The kernel, shape (..., c, m): a writable view of the layer's own."""
        return self._weight("kernel")

    @kernel.setter
    def kernel(self, value: npt.ArrayLike) -> None:
        self._assign({"kernel": value})

    def _weight_specs(self, channels: int) -> dict[str, tuple[tuple[int, ...], str]]:
        shape = (*self.kernel_size, channels, self.depth_multiplier)
        specs: dict[str, tuple[tuple[int, ...], str]]
        specs = {"kernel": (shape, "depthwise_initializer")}
        if self.use_bias:
            specs["bias"] = ((self._out_channels(channels),), "bias_initializer")
        return specs

    def _out_channels(self, channels: int) -> int:
        return channels * self.depth_multiplier

    def _prepare(self, inputs: Any, out: Array | None) -> Prepared:
        options = (
            self.strides,
            self.padding,
            self.dilation_rate,
            self.data_format,
            self.activation,
            self.backend,
        )
        return prepare(self._rank, inputs, self.kernel, self.bias, out, options)

    def _gradients(
        self, inputs: Array, weights: Sequence[Array], grad: Array
    ) -> tuple[Array, list[Array]]:
        x_grad, *weight_grads = self._grad(
            inputs,
            weights[0],
            grad,
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
            activation=self.activation,
            bias=weights[1] if self.use_bias else None,
            backend=self.backend,
        )
        return x_grad, weight_grads[: len(weights)]


class DepthwiseConv2D(_Depthwise):
    """Depthwise 2-D convolution with Keras 3's arguments: `depthwise_conv2d` prepared.

    The arguments of `numbadw.depthwise_conv2d` have the same meaning here: every form
    of `padding`, strides together with dilation, activations by name. The weights are
    made at the first call or by `build(input_shape)`. `kernel` and `bias` are writable
    views of the layer's own 64-byte aligned memory, so values written in place count
    at the next call. All other arguments are fixed once the layer is made, except
    `name` and `trainable`. A built layer may be called from many threads.

    Parameters
    ----------
    kernel_size : int or (int, int)
        Rows and columns of the kernel.
    depth_multiplier : int, default 1
        Output channels for each input channel, m.
    data_format : str or None, default None
        None is "channels_last".
    use_bias : bool, default True
        Whether there is a bias.
    depthwise_initializer, bias_initializer : str, callable or None
        zeros, ones, random_uniform, random_normal, truncated_normal,
        {glorot, he, lecun}_{uniform, normal}, or a callable(shape, dtype) that
        returns an array. None is the default.
    depthwise_regularizer, bias_regularizer, activity_regularizer : None
        In the signature for Keras's sake, as are the constraints.
    depthwise_constraint, bias_constraint : None
        Anything but None is a ValueError.
    trainable : bool, default True
        A mark for training loops; numbadw does not read it.
    name : str or None, default None
        None counts up from the class's name.
    dtype : str or dtype, default "float32"
        "float32" or "float64": the dtype of weights and results. Floating inputs of
        another dtype are cast to it; integers and booleans are a TypeError.
    seed : int or None, default None
        Seed of the initialisers; None gives new values in every layer.

    Examples
    --------
    >>> import numpy as np
    >>> import numbadw as ndw
    >>> layer = ndw.DepthwiseConv2D(3, padding="same", activation="relu6")
    >>> layer(np.ones((1, 28, 28, 3), np.float32)).shape
    (1, 28, 28, 3)
    """

    _rank = IMAGES

    @classmethod
    def _steps(cls, value: object, name: str) -> tuple[int, ...]:
        return checks.pair(value, name)

    @property
    def _grad(self) -> Gradients:
        return depthwise_conv2d_grad


class DepthwiseConv1D(_Depthwise):
    """Depthwise 1-D convolution with Keras 3's arguments: `depthwise_conv1d` prepared.

    `DepthwiseConv2D` for sequences (n, length, c): what it says of its arguments holds
    here, the kernel has shape (k, c, m), and `padding` may be "causal". A state from
    piece to piece is the function's: `numbadw.depthwise_conv1d(..., layer.kernel)`.

    Parameters
    ----------
    kernel_size : int or (int,)
        Steps of the kernel.
    depth_multiplier : int, default 1
        Output channels for each input channel, m.
    data_format : str or None, default None
        None is "channels_last".
    use_bias : bool, default True
        Whether there is a bias.
    depthwise_initializer, bias_initializer : str, callable or None
        As those of `DepthwiseConv2D`.
    depthwise_regularizer, bias_regularizer, activity_regularizer : None
        In the signature for Keras's sake, as are the constraints.
    depthwise_constraint, bias_constraint : None
        Anything but None is a ValueError.
    trainable, name, dtype, seed : optional
        As those of `DepthwiseConv2D`.

    Examples
    --------
    >>> import numpy as np
    >>> import numbadw as ndw
    >>> layer = ndw.DepthwiseConv1D(4, padding="causal", activation="silu")
    >>> layer(np.ones((1, 100, 16), np.float32)).shape
    (1, 100, 16)
    """

    _rank = SEQUENCES

    def __init__(
        self,
        kernel_size: int | tuple[int, ...],
        strides: int | tuple[int, ...] = 1,
        padding: Any = "valid",
        depth_multiplier: int = 1,
        data_format: str | None = None,
        dilation_rate: int | tuple[int, ...] = 1,
        activation: str | tuple[str, float] | None = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        depthwise_regularizer: None = None,
        bias_regularizer: None = None,
        activity_regularizer: None = None,
        depthwise_constraint: None = None,
        bias_constraint: None = None,
        *,
        trainable: bool = True,
        name: str | None = None,
        dtype: npt.DTypeLike = "float32",
        backend: str = "auto",
        seed: int | None = None,
    ) -> None:
        super().__init__(
            kernel_size,
            strides,
            padding,
            depth_multiplier,
            data_format,
            dilation_rate,
            activation,
            use_bias,
            depthwise_initializer,
            bias_initializer,
            depthwise_regularizer,
            bias_regularizer,
            activity_regularizer,
            depthwise_constraint,
            bias_constraint,
            trainable=trainable,
            name=name,
            dtype=dtype,
            backend=backend,
            seed=seed,
        )

    @classmethod
    def _steps(cls, value: object, name: str) -> tuple[int, ...]:
        return (checks.step(value, name),)

    @property
    def _grad(self) -> Gradients:
        return depthwise_conv1d_grad

    def _axis_padding(self, axis: int) -> Any:
        return self.padding
