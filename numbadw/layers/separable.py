"""The separable convolution layer."""

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from numbadw import checks
from numbadw.layers.base import ConvLayer
from numbadw.separable import (
    PreparedSeparable,
    prepare_separable,
    separable_conv2d_grad,
)

Array = npt.NDArray[Any]


class SeparableConv2D(ConvLayer):
    """Separable 2-D convolution with Keras 3's arguments: `separable_conv2d` prepared.

    A depthwise convolution, then a pointwise one with `filters` outputs; bias and
    activation belong to the second.  What `DepthwiseConv2D` says of its arguments holds
    here.  `depthwise_kernel` (kh, kw, c, m), `pointwise_kernel` (1, 1, c * m, filters)
    and `bias` are writable views of the layer's own memory.

    Parameters
    ----------
    filters : int
        Output channels.
    kernel_size : int or (int, int)
        Rows and columns of the depthwise kernel.
    depth_multiplier : int, default 1
        Depthwise outputs for each input channel, m.
    use_bias : bool, default True
        Whether there is a bias.
    depthwise_initializer, pointwise_initializer, bias_initializer : optional
        As those of `DepthwiseConv2D`.
    depthwise_regularizer, pointwise_regularizer, bias_regularizer : None
        In the signature for Keras's sake, as is all that follows.
    activity_regularizer, depthwise_constraint, pointwise_constraint : None
        Anything but None is a ValueError.
    bias_constraint : None
        As the others.
    trainable, name, dtype, seed : optional
        As those of `DepthwiseConv2D`.

    Examples
    --------
    >>> import numpy as np
    >>> import numbadw as ndw
    >>> layer = ndw.SeparableConv2D(16, 3, padding="same", activation="relu")
    >>> layer(np.ones((1, 28, 28, 8), np.float32)).shape
    (1, 28, 28, 16)
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = (1, 1),
        padding: Any = "valid",
        data_format: str | None = None,
        dilation_rate: int | tuple[int, int] = (1, 1),
        depth_multiplier: int = 1,
        activation: str | tuple[str, float] | None = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        pointwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        depthwise_regularizer: None = None,
        pointwise_regularizer: None = None,
        bias_regularizer: None = None,
        activity_regularizer: None = None,
        depthwise_constraint: None = None,
        pointwise_constraint: None = None,
        bias_constraint: None = None,
        *,
        trainable: bool = True,
        name: str | None = None,
        dtype: npt.DTypeLike = "float32",
        backend: str = "auto",
        seed: int | None = None,
    ) -> None:
        self.filters = checks.integer(filters, "filters", 1)
        self.kernel_size = checks.pair(kernel_size, "kernel_size")
        self.strides = checks.pair(strides, "strides")
        self.padding = checks.padding(padding)
        self.dilation_rate = checks.pair(dilation_rate, "dilation_rate")
        super().__init__(
            depth_multiplier=depth_multiplier,
            data_format=data_format,
            activation=activation,
            use_bias=use_bias,
            initial={
                "depthwise_initializer": depthwise_initializer,
                "pointwise_initializer": pointwise_initializer,
                "bias_initializer": bias_initializer,
            },
            unsupported={
                "depthwise_regularizer": depthwise_regularizer,
                "pointwise_regularizer": pointwise_regularizer,
                "bias_regularizer": bias_regularizer,
                "activity_regularizer": activity_regularizer,
                "depthwise_constraint": depthwise_constraint,
                "pointwise_constraint": pointwise_constraint,
                "bias_constraint": bias_constraint,
            },
            trainable=trainable,
            name=name,
            dtype=dtype,
            backend=backend,
            seed=seed,
        )

    @property
    def depthwise_kernel(self) -> Array:
        """The depthwise kernel, shape (kh, kw, c, m): a view of the layer's own."""
        return self._weight("depthwise_kernel")

    @depthwise_kernel.setter
    def depthwise_kernel(self, value: npt.ArrayLike) -> None:
        self._assign({"depthwise_kernel": value})

    @property
    def pointwise_kernel(self) -> Array:
        """The pointwise kernel, shape (1, 1, c * m, filters): as the other."""
        return self._weight("pointwise_kernel")

    @pointwise_kernel.setter
    def pointwise_kernel(self, value: npt.ArrayLike) -> None:
        self._assign({"pointwise_kernel": value})

    def _weight_specs(self, channels: int) -> dict[str, tuple[tuple[int, ...], str]]:
        between = channels * self.depth_multiplier
        depthwise = (*self.kernel_size, channels, self.depth_multiplier)
        specs: dict[str, tuple[tuple[int, ...], str]] = {
            "depthwise_kernel": (depthwise, "depthwise_initializer"),
            "pointwise_kernel": (
                (1, 1, between, self.filters),
                "pointwise_initializer",
            ),
        }
        if self.use_bias:
            specs["bias"] = ((self.filters,), "bias_initializer")
        return specs

    def _out_channels(self, channels: int) -> int:
        return self.filters

    def _prepare(self, inputs: Any, out: Array | None) -> PreparedSeparable:
        options = (
            None,  # the depthwise activation
            self.strides,
            self.padding,
            self.dilation_rate,
            self.data_format,
            self.activation,
            self.backend,
        )
        kernels = self.depthwise_kernel, None, self.pointwise_kernel, self.bias
        return prepare_separable((inputs, *kernels), out, options)

    def _gradients(
        self, inputs: Array, weights: Sequence[Array], grad: Array
    ) -> tuple[Array, list[Array]]:
        depthwise, pointwise, *rest = weights
        x_grad, d_grad, p_grad, _, b_grad = separable_conv2d_grad(
            inputs,
            depthwise,
            pointwise,
            grad,
            bias=rest[0] if rest else None,
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            activation=self.activation,
            data_format=self.data_format,
            backend=self.backend,
        )
        return x_grad, [d_grad, p_grad, b_grad][: len(weights)]
