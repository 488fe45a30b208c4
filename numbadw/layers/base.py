"""What every layer shares: weights, configuration and the plans of its calls.

A layer does no arithmetic. Its first call with arrays of new shapes, strides and dtypes
asks the functional API for a plan bound to its weights, and keeps it; every further one
is a dictionary lookup and the plan's call.
"""

import inspect
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numpy import ndarray

from numbadw import checks
from numbadw.dispatch import ARRAYS, Run, cast_on_device, on_device
from numbadw.geometry import AxisPadding, Padding, output_size
from numbadw.layers import arguments, initializers
from numbadw.layers.training import Trainable
from numbadw.memory import weights_copy, weights_empty

Array = npt.NDArray[Any]
Sizes = tuple[int | None, ...]
Bound = tuple[Run, Array, Array | None]
Made = TypeVar("Made", bound="ConvLayer")

# Plans a layer keeps; more kinds of arrays than this start over.
MAX_PLANS = 64
# The key of the plan for whatever lies on a CUDA device.
DEVICE = ("device",)
# What may change in a layer's life; no plan depends on it.
CHANGEABLE = ("name", "trainable")


class Prepared(Protocol):
    """A plan bound to a layer's weights; see `functional.Prepared`."""

    @property
    def bound(self) -> Bound | None:
        """Give what tells by itself whether two arrays are of the right kinds."""

    def __call__(self, x: Array, out: Array | None) -> Array:
        """Run on arrays of the kinds it was prepared for."""


class ConvLayer(Trainable):
    """Weights, configuration and plans of a convolution, whatever its rank.

    Contract: a subclass reads the four arguments of its rank (`kernel_size`,
    `strides`, `padding`, `dilation_rate`) into attributes of these names, tuples of
    one entry an axis, and passes all others here. Every constructor argument is an
    attribute, which gives `get_config`. Weights are created once and never move.
    """

    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: Padding | AxisPadding
    dilation_rate: tuple[int, ...]

    _arguments: ClassVar[tuple[str, ...]] = ()
    _weights: dict[str, Array]

    def __init__(
        self,
        *,
        depth_multiplier: int,
        data_format: str | None,
        activation: object,
        use_bias: bool,
        initial: Mapping[str, object],
        unsupported: Mapping[str, object],
        trainable: bool,
        name: str | None,
        dtype: npt.DTypeLike,
        backend: str,
        seed: int | None,
    ) -> None:
        """Read the arguments that do not depend on the rank.

        `initial` maps the initialisers' argument names to their values, `unsupported`
        the names of arguments that exist for Keras's sake alone.
        """
        self.depth_multiplier = checks.integer(depth_multiplier, "depth_multiplier", 1)
        channels_first = data_format is not None and checks.data_format(data_format)
        self.data_format = "channels_first" if channels_first else "channels_last"
        self.activation = arguments.activation(activation)
        self.use_bias = bool(use_bias)
        for argument, value in initial.items():
            default = "zeros" if argument == "bias_initializer" else "glorot_uniform"
            setattr(self, argument, initializers.resolve(value, argument, default))
        for argument, value in unsupported.items():
            if value is not None:
                raise ValueError(
                    f"{argument} must be None, got {value!r}: penalties and "
                    "constraints belong to the training loop (see layer.vjp)"
                )
            setattr(self, argument, None)
        self.trainable = bool(trainable)
        self.name = arguments.name(name, type(self).__name__)
        self.dtype = arguments.dtype(dtype)
        self.backend = checks.backend(backend)
        self.seed = None if seed is None else checks.integer(seed, "seed", 0)
        self._runs: dict[tuple[Any, ...], Prepared] = {}
        self._last: Bound | None = None

    def __init_subclass__(cls) -> None:
        """Note the constructor's arguments: they are the keys of the configuration."""
        cls._arguments = tuple(inspect.signature(cls).parameters)

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse to change the configuration: the plans were made from it."""
        if name in self._arguments and name not in CHANGEABLE and name in vars(self):
            raise AttributeError(
                f"{name} of a layer cannot change; make a new layer from get_config()"
            )
        super().__setattr__(name, value)

    def __call__(self, inputs: Any, out: Array | None = None) -> Any:
        """Convolve `inputs`, building the weights for its channels if need be.

        Parameters
        ----------
        inputs : ndarray, shape (n, h, w, c), or (n, c, h, w) with channels first
            Sequences are (n, length, c), or (n, c, length). Floating inputs of another
            dtype than the layer's are cast to it. Arrays on a CUDA device stay there;
            the weights are copied to it once, and again when they have changed.
        out : ndarray, optional
            As in the function.

        Returns
        -------
        ndarray
            New array of the layer's dtype, or `out` when given.
        """
        if type(inputs) is ndarray:
            if type(out) is ndarray:
                # The plan of the last such call tells by itself whether it fits.
                last = self._last
                if last is not None:
                    bound, kernel, bias = last
                    if not bound(inputs, kernel, bias, out, ARRAYS):  # done
                        return out
                run = self._runs.get(
                    (
                        inputs.shape,
                        inputs.strides,
                        inputs.dtype,
                        out.shape,
                        out.strides,
                        out.dtype,
                    )
                )
                if run is not None:
                    self._last = run.bound
                    return run(inputs, out)
            elif out is None:
                run = self._runs.get((inputs.shape, inputs.strides, inputs.dtype))
                if run is not None:
                    return run(inputs, None)
        elif (run := self._runs.get(DEVICE)) is not None:
            x = self._cast(inputs)
            if type(x) is not np.ndarray:
                return run(x, out)
        return self._first_call(inputs, out)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Create the weights for inputs of this shape; only the channels count.

        Building again for as many channels does nothing; for another number it is a
        ValueError.
        """
        channels = self._split(input_shape)[1]
        if channels is None:
            raise ValueError(
                f"build needs the number of channels, got input_shape {input_shape}"
            )
        if self.built:
            return
        rng = np.random.default_rng(self.seed)
        weights = {}
        for name, (shape, argument) in self._weight_specs(channels).items():
            weights[name] = weights_empty(shape, self.dtype)
            initializers.fill(weights[name], getattr(self, argument), argument, rng)
        # One step, so that of two threads that build at once both use the weights of
        # one; a lock could be held by a thread that a forked child does not have.
        vars(self).setdefault("_weights", weights)
        self._split(input_shape)

    @property
    def built(self) -> bool:
        """Whether the weights exist."""
        return "_weights" in vars(self)

    @property
    def bias(self) -> Array | None:
        """The bias, shape (c * m,): a writable view of the layer's own, or None."""
        return self._weight("bias") if self.use_bias else None

    @bias.setter
    def bias(self, value: npt.ArrayLike) -> None:
        self._assign({"bias": value})

    @property
    def weights(self) -> list[Array]:
        """The weights themselves, kernels before the bias; empty before the build."""
        return list(self._weights.values()) if self.built else []

    def get_weights(self) -> list[Array]:
        """Give copies of the weights."""
        return [weight.copy() for weight in self.weights]

    def set_weights(self, weights: Sequence[npt.ArrayLike]) -> None:
        """Copy new values into the weights, in the order of `weights`.

        Raises
        ------
        TypeError
            Not a list, or an array that does not hold real numbers.
        ValueError
            The layer is not built, or the number of arrays or a shape is not right.
        """
        if not isinstance(weights, (list, tuple)):
            raise TypeError(
                f"weights must be a list of arrays, got a {type(weights).__name__}"
            )
        if not self.built:
            raise ValueError(f"{self.name} must be built before weights can be set")
        if len(weights) != len(self._weights):
            raise ValueError(
                f"weights must be a list of {len(self._weights)} arrays "
                f"({', '.join(self._weights)}), got {len(weights)}"
            )
        self._assign(dict(zip(self._weights, weights, strict=True)))

    def count_params(self) -> int:
        """Count the numbers in the weights."""
        if not self.built:
            raise ValueError(f"{self.name} must be built before weights can be counted")
        return sum(weight.size for weight in self.weights)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> Sizes:
        """Give the shape of the result for inputs of a shape with known or None sizes.

        Raises
        ------
        ValueError
            The layer does not take such inputs, or the result would be empty.
        """
        n, channels, *sizes = self._split(input_shape)
        out = tuple(
            output_size(size, k, s, d, self._axis_padding(axis))
            for axis, (size, k, s, d) in enumerate(
                zip(
                    sizes,
                    self.kernel_size,
                    self.strides,
                    self.dilation_rate,
                    strict=True,
                )
            )
        )
        out_channels = None if channels is None else self._out_channels(channels)
        if self.data_format == "channels_first":
            return (n, out_channels, *out)
        return (n, *out, out_channels)

    def get_config(self) -> dict[str, Any]:
        """Give the constructor's arguments, ready for JSON.

        Raises
        ------
        TypeError
            An initialiser is a callable, which no JSON can hold.
        """
        config = {name: getattr(self, name) for name in self._arguments}
        for name, value in config.items():
            if callable(value):
                raise TypeError(
                    f"{name} is a callable, which a configuration cannot hold; "
                    "name an initializer, or set the weights with set_weights"
                )
        return {**config, "dtype": self.dtype.name}

    @classmethod
    def from_config(cls: type[Made], config: Mapping[str, Any]) -> Made:
        """Make a layer from what `get_config` gave."""
        return cls(**config)

    def __repr__(self) -> str:
        """Name the layer and what shapes its result."""
        parts = ", ".join(f"{name}={getattr(self, name)!r}" for name in arguments.SHOWN)
        return f"<{type(self).__name__} {parts}>"

    def __getstate__(self) -> dict[str, Any]:
        """Leave the plans behind: they are bound to this layer's memory."""
        return {**vars(self), "_runs": {}, "_last": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the configuration, and the weights into aligned memory of our own."""
        vars(self).update(state)
        if self.built:
            self._weights = {
                name: weights_copy(weight) for name, weight in self._weights.items()
            }

    @abstractmethod
    def _weight_specs(self, channels: int) -> dict[str, tuple[tuple[int, ...], str]]:
        """Give name -> (shape, initialiser's argument) for so many input channels."""

    @abstractmethod
    def _out_channels(self, channels: int) -> int:
        """Count the channels of the result."""

    @abstractmethod
    def _prepare(self, inputs: Any, out: Array | None) -> Prepared:
        """Check the arrays and make the plan for such ones, bound to the weights."""

    def _first_call(self, inputs: Any, out: Array | None) -> Any:
        """Call with arrays that have no plan: cast, build, prepare."""
        x = self._cast(inputs)
        shape = self.compute_output_shape(x.shape)
        if x is not inputs:
            if out is not None:
                known = cast(tuple[int, ...], shape)
                checks.out_array(out, known, self.dtype, inputs=inputs)
            return self(x, out)
        self.build(x.shape)
        run = self._prepare(x, out)
        if type(x) is not np.ndarray:
            self._runs[DEVICE] = run  # it keeps plans of its own
        elif out is None or type(out) is np.ndarray:
            if len(self._runs) >= MAX_PLANS:
                self._runs.clear()
            key: tuple[Any, ...] = (x.shape, x.strides, x.dtype)
            if out is not None:
                key += (out.shape, out.strides, out.dtype)
            self._runs[key] = run
        return run(x, out)

    def _cast(self, array: Any, name: str = "inputs") -> Any:
        """Give a plain array of the layer's dtype, the same object if it is one."""
        if on_device(self.backend, array):
            return cast_on_device(array, self.dtype, name)
        if isinstance(array, np.ndarray) and array.dtype.kind == "f":
            array = array.astype(self.dtype, copy=False)
        return checks.input_array(array, name, len(self.kernel_size) + 2)

    def _split(self, input_shape: Sequence[int | None]) -> Sizes:
        """Check a shape and give (n, c, sizes along the other axes)."""
        first = self.data_format == "channels_first"
        axes = ("n", "h", "w") if len(self.kernel_size) == 2 else ("n", "length")
        names = ", ".join([axes[0], "c", *axes[1:]] if first else [*axes, "c"])
        expected = f"input_shape must be ({names}), each an int or None"
        if not isinstance(input_shape, (tuple, list)):
            raise TypeError(f"{expected}, got {input_shape!r}")
        if len(input_shape) != len(axes) + 1:
            raise ValueError(f"{expected}, got {tuple(input_shape)}")
        sizes = [
            None if size is None else checks.integer(size, "input_shape", 0)
            for size in input_shape
        ]
        channels = sizes.pop(1 if first else -1)
        if channels == 0:
            raise ValueError(f"{expected}, with c >= 1, got {tuple(input_shape)}")
        if self.built and channels is not None:
            built_for = self._weights[next(iter(self._weights))].shape[-2]
            if channels != built_for:
                raise ValueError(
                    f"{self.name} was built for {built_for} channels, got shape "
                    f"{tuple(input_shape)} with {channels} ({self.data_format})"
                )
        return (sizes[0], channels, *sizes[1:])

    def _axis_padding(self, axis: int) -> Any:
        return self.padding if isinstance(self.padding, str) else self.padding[axis]

    def _weight(self, name: str) -> Array:
        if not self.built:
            raise AttributeError(
                f"{self.name} has no {name} before build(input_shape) or a first call"
            )
        return self._weights[name]

    def _assign(self, values: Mapping[str, npt.ArrayLike]) -> None:
        """Copy values into the named weights, all of them or none."""
        arrays = {name: np.asarray(value) for name, value in values.items()}
        for name, array in arrays.items():
            shape = self._weight(name).shape
            if array.dtype.kind not in "iuf":
                raise TypeError(f"{name} must hold real numbers, got {array.dtype}")
            if array.shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
        for name, array in arrays.items():
            self._weights[name][...] = array
