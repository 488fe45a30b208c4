"""The public functions on device arrays: look up or check and plan, then launch.

Results come from the inputs' library, work goes to its current stream or the one that
the call names, and nothing waits for the device.  A call whose arrays have forms seen
before costs one look-up: the key holds the arrays' forms and the options as given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from numbadw import activations, checks
from numbadw.calls import SHAPES
from numbadw.cuda import arrays, device, dlpack, plan, weights
from numbadw.cuda.arrays import NOT_GIVEN, Seen, View
from numbadw.cuda.emit import ITEMSIZE
from numbadw.cuda.gradients import backward
from numbadw.cuda.launch import Bound
from numbadw.geometry import Geometry, with_row


class Options(NamedTuple):
    """The options of a call, checked; all of them can be a key."""

    strides: Any
    padding: Any
    dilation: Any
    channels_first: bool
    activation: str
    parameter: float

    @classmethod
    def of(cls, rank: Any, given: tuple[Any, ...]) -> Options:
        """Check (strides, padding, dilation_rate, data_format, activation)."""
        strides, padding, dilation_rate, data_format, activation = given
        return cls(
            rank.steps(strides, "strides"),
            rank.padding(padding),
            rank.steps(dilation_rate, "dilation_rate"),
            checks.data_format(data_format),
            *activations.resolve(activation),
        )


class Target(NamedTuple):
    """A result: its name in the plan, its shape, and whether it must be dense."""

    name: str
    shape: tuple[int, ...]
    dense: bool = False


# The arguments by their names in a plan; all others are results.
_NAMES = {"x": "inputs", "w": "kernel", "b": "bias", "g": "grad"}
# Plans of one call, for results of different strides and alignment.
_MOST_PLANS = 64
# A plan, None where there is nothing to do, and the ends of the first result.
Planned = tuple[Bound | None, tuple[int, int]]


class Ready:
    """A checked call: what it writes, and the plans for such results so far."""

    __slots__ = ("_like", "_make", "_plans", "_spans", "_targets")

    def __init__(
        self,
        like: View,
        read: dict[str, View],
        targets: list[Target],
        make: Callable[[dict[str, View], int], Bound | None],
    ) -> None:
        self._like, self._make, self._targets = like, make, targets
        self._spans = [(name, *seen.ends()) for name, seen in read.items()]
        self._plans: dict[Any, Planned] = {}

    def run(
        self, leader: Any, places: dict[str, int], out: Any, on: int, chosen: bool
    ) -> list[Any]:
        """Launch on a stream; give the results, the first one being `out` if any.

        `leader` is an array whose library the results come from; `chosen` tells that
        the stream is not its library's current one.
        """
        results: list[Any] = []
        forms, bits = [], 16
        for address in places.values():
            bits |= address
        for target in self._targets:
            result = out
            if out is None or results:
                own = on if chosen else None
                result = arrays.empty_like(leader, target.shape, self._like, own)
            seen = arrays.read(result, on)
            places[target.name] = seen.address
            bits |= seen.address
            results.append(result)
            forms.append(seen.form)
        key = (bits & -bits, *forms)
        known = self._plans.get(key)
        if known is None:
            self._refuse_misaligned(places)
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            known = self._plans[key] = self._plan(bits & -bits, forms, out is not None)
        bound, (begin, end) = known
        if out is not None:
            at = places[self._targets[0].name]
            for name, low, high in self._spans:
                if at + begin < places[name] + high and places[name] + low < at + end:
                    raise ValueError("out must not overlap an array that is read")
        if bound is not None:
            with device.using(self._like.number):
                bound(places, on)
        return [arrays.finished(result, leader, on) for result in results]

    def _refuse_misaligned(self, places: dict[str, int]) -> None:
        """Refuse addresses that a GPU cannot read elements at."""
        item = ITEMSIZE[self._like.kind]
        for name, address in places.items():
            if address % item:
                raise ValueError(
                    f"{_NAMES.get(name, 'out')} must begin at a multiple of its "
                    f"element's {item} bytes on a CUDA device"
                )

    def _plan(self, align: int, forms: list[Any], given: bool) -> Planned:
        """Check the results' forms and plan; nothing is to do for empty ones."""
        views = {}
        for target, form in zip(self._targets, forms, strict=True):
            name = "out" if given else target.name
            views[target.name] = seen = arrays.view(form, name)
            weights.same(seen, name, self._like)
            if seen.shape != target.shape:
                raise ValueError(
                    f"out must have shape {target.shape}, got {seen.shape}"
                )
            if target.dense and seen.strides != plan.dense(
                seen.shape, ITEMSIZE[seen.kind]
            ):
                raise ValueError("out on a CUDA device must be C-contiguous")
            if given and _covers_itself(seen):
                raise ValueError("out must hold every element in memory of its own")
        return self._make(views, align), views[self._targets[0].name].ends()


def _covers_itself(seen: View) -> bool:
    """Tell whether axes, by rising stride, step into what lies below them."""
    if 0 in seen.shape:
        return False
    span = ITEMSIZE[seen.kind]
    steps = zip(seen.strides, seen.shape, strict=True)
    for step, size in sorted((abs(step), size) for step, size in steps if size > 1):
        if step < span:
            return True
        span += step * (size - 1)
    return False


# Calls seen, cleared when full: programs use few shapes, and a miss only costs a plan.
_READY: dict[Any, Ready] = {}
_MOST_CALLS = 4096
_SIMPLE = {int, str, type(None)}


def _key(rank: Any, given: tuple[Any, ...]) -> Any:
    """Give options as a key: as they are, or checked, since True == 1."""
    if type(given) is Options or {*map(type, given)} <= _SIMPLE:
        return given
    return Options.of(rank, given)


def _options(rank: Any, given: Any) -> Options:
    return given if type(given) is Options else Options.of(rank, given)


def _geometry(
    rank: Any, options: Options, x: tuple[int, ...], w: tuple[int, ...]
) -> Geometry:
    o = options
    geometry = rank.geometry(x, w, o.strides, o.padding, o.dilation, o.channels_first)
    plan.check_sizes(geometry)
    return geometry  # type: ignore[no-any-return]


def _keep(key: Any, ready: Ready) -> Ready:
    if len(_READY) >= _MOST_CALLS:
        _READY.clear()
    _READY[key] = ready
    return ready


def _as_images(seen: View, first: bool) -> plan.Strides:
    """Give the strides of images; sequences are images of one row."""
    steps = seen.strides
    return with_row(steps, first, 0) if len(steps) == 3 else steps


def forward(
    rank: Any, arguments: tuple[Any, Any, Any, Any], given: Any, stream: Any
) -> Any:
    """Run the forward function of a rank on (inputs, kernel, bias, out).

    `given` is what `Options.of` takes, or made of it.
    """
    inputs, kernel, bias, out = arguments
    on = arrays.stream_of(inputs) if stream is None else arrays.handle_of(stream)
    if out is not None:
        _check_out(out)
    x = arrays.read(inputs, on)
    like = arrays.view(x.form, "inputs")
    w = weights.find(kernel, "kernel", rank.ndim, like, on)
    b = weights.find(bias, "bias", 1, like, on)
    options = _key(rank, given)
    key = rank.ndim, x.form, w.form, b.form, options
    ready = _READY.get(key) or _keep(key, _ready_forward(rank, like, w, b, options))
    places = {"x": x.address, "w": w.address, "b": b.address}
    (result,) = ready.run(inputs, places, out, on, stream is not None)
    _hold((x, w, b), on, like)
    return result


def _ready_forward(rank: Any, x: View, w: Seen, b: Seen, given: Any) -> Ready:
    options = _options(rank, given)
    w_shape = weights.check(w, "kernel", rank.ndim, x)
    _check_rank(x, "inputs", rank)
    geometry = _geometry(rank, options, x.shape, w_shape)
    read = {"x": x, **_read_weights(w, b, geometry, x)}
    first = options.channels_first

    def make(views: dict[str, View], align: int) -> Bound | None:
        if 0 in geometry.output_shape:
            return None
        problem = plan.Problem(geometry, x.kind, align)
        strides = _as_images(x, first), _as_images(views["o"], first)
        launches = plan.forward(problem, *strides, options.activation)
        return Bound(launches, x.number, options.parameter)

    return Ready(x, read, [Target("o", rank.shape(geometry))], make)


def _read_weights(w: Seen, b: Seen, geometry: Geometry, like: View) -> dict[str, View]:
    """Check the bias; give the weights that lie where the user's `out` may, too."""
    read = {}
    if b.form is not None:
        shape = weights.check(b, "bias", 1, like)
        if shape != (geometry.out_channels,):
            raise ValueError(
                f"bias must have shape (C*M,) = ({geometry.out_channels},), got {shape}"
            )
    for name, seen in (("w", w), ("b", b)):
        if seen.form is not None and seen.form[0] != "numpy":
            read[name] = arrays.view(seen.form, name)
    return read


def _check_rank(seen: View, name: str, rank: Any) -> None:
    if len(seen.shape) != rank.ndim:
        raise ValueError(
            f"{name} must have {rank.ndim} dimensions, got shape {seen.shape}"
        )


def _check_out(out: Any) -> None:
    if not checks.is_device_array(out):
        raise TypeError("out must be on the CUDA device, as the inputs are")
    arrays.may_be_written(out)


def _hold(read: tuple[Seen, ...], on: int, like: View) -> None:
    """Keep what DLPack lent until the stream has read it."""
    capsules = [s.held for s in read if s.form is not None and s.form[0] == "dlpack"]
    if capsules:
        dlpack.hold(capsules, on, like.number)


def gradients(
    rank: Any,
    wanted: str,
    given: tuple[Any, Any, Any, Any, Any],
    shape: Any,
    options: tuple[Any, ...],
    stream: Any,
) -> tuple[Any, Any, Any]:
    """Run the gradients on device arrays; the arguments are those of `gradients`."""
    inputs, kernel, bias, grad, out = given
    leader, name = (grad, "grad") if wanted == "input" else (inputs, "inputs")
    on = arrays.stream_of(leader) if stream is None else arrays.handle_of(stream)
    if out is not None:
        _check_out(out)
    if not checks.is_device_array(grad):
        raise TypeError("grad must be on the CUDA device, as the inputs are")
    first = arrays.read(leader, on)
    like = arrays.view(first.form, name)
    g = first if leader is grad else arrays.read(grad, on)
    x = NOT_GIVEN if wanted == "input" else first
    w = weights.find(kernel, "kernel", rank.ndim, like, on)
    b = weights.find(bias, "bias", 1, like, on)
    if shape is not None and (type(shape) is not tuple or {*map(type, shape)} != {int}):
        shape = _shape(shape, wanted)
    known = _key(rank, options)
    key = rank.ndim, wanted, x.form, w.form, b.form, g.form, shape, known
    ready = _READY.get(key)
    if ready is None:
        made = _ready_gradients(rank, wanted, (x, w, b, g), shape, known)
        ready = _keep(key, made)
    places = {"x": x.address, "w": w.address, "b": b.address, "g": g.address}
    results = iter(ready.run(leader, places, out, on, stream is not None))
    _hold((x, w, b, g), on, like)
    return (
        next(results) if wanted != "kernel" else None,
        next(results) if wanted != "input" else None,
        next(results) if wanted == "both" else None,
    )


def _ready_gradients(
    rank: Any,
    wanted: str,
    seen: tuple[Seen, Seen, Seen, Seen],
    shape: tuple[int, ...] | None,
    given: Any,
) -> Ready:
    x, w, b, g = seen
    options = _options(rank, given)
    grad = arrays.view(g.form, "grad")
    like = grad if x.form is None else arrays.view(x.form, "inputs")
    weights.same(grad, "grad", like)
    if x.form is not None:
        _check_rank(like, "inputs", rank)
    x_shape = _shape(shape, wanted) if wanted == "input" else like.shape
    if wanted == "kernel":
        w_shape = _shape(shape, wanted)
    else:
        w_shape = weights.check(w, "kernel", rank.ndim, like)
    geometry = _geometry(rank, options, x_shape, w_shape)
    if grad.shape != rank.shape(geometry):
        raise ValueError(
            f"grad must have the output's shape {rank.shape(geometry)}, got "
            f"{grad.shape}"
        )
    read = {"g": grad, **_read_weights(w, b, geometry, like)}
    if x.form is not None:
        read["x"] = like
    targets = []
    if wanted != "kernel":
        targets.append(Target("x_grad", geometry.input_shape))
    if wanted != "input":
        targets.append(Target("w_grad", geometry.kernel_shape, dense=True))
    if wanted == "both":
        targets.append(Target("b_grad", (geometry.out_channels,), dense=True))
    make = _gradient_maker(geometry, options, wanted, read)
    return Ready(like, read, targets, make)


def _shape(given: Any, wanted: str) -> tuple[int, ...]:
    """Check the shape that no array tells."""
    return checks.shape(given, *SHAPES[wanted])


def _gradient_maker(
    geometry: Geometry, options: Options, wanted: str, read: dict[str, View]
) -> Callable[[dict[str, View], int], Bound | None]:
    """Return what plans the gradients for results of some forms."""
    first, grad = options.channels_first, read["g"]
    x = _as_images(read["x"], first) if "x" in read else None

    def make(views: dict[str, View], align: int) -> Bound | None:
        problem = plan.Problem(geometry, grad.kind, align)
        x_grad = views["x_grad"].strides if "x_grad" in views else None
        steps = backward(
            problem, x, _as_images(grad, first), x_grad, options.activation, wanted
        )
        scratch = {"part": steps.parts, "inner": steps.inner}
        return Bound(steps.launches, grad.number, options.parameter, scratch)

    return make
