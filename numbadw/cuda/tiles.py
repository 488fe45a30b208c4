"""Words that know registers: the taps of one tile, and what becomes of its sums.

    convtile    sums[th, tw] += x row * weights    loop over input rows, taps unrolled
    gathertile  the same for a strided input gradient: only taps of matching parity
    corrtile    sums[kh, kw] += x row * grad row   the kernel gradient of one tile
    finish      bias, activation, store

A row that lies inside the image is loaded without tests, any other with one test a
column; the choice is a branch that neighbouring threads mostly take together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba.core import types

from numbadw.cuda.emit import I1, I32, I64, Code, Target, sum_type
from numbadw.cuda.rows import make_word
from numbadw.cuda.scalar import emit_activation
from numbadw.cuda.spec import Spec

ADDRESS, STRIDE, SIZE = types.int64, types.int64, types.int32


def _sums(spec: Spec, count: int) -> Any:
    return types.UniTuple(sum_type(spec.kind), count)


def _either(code: Code, inside: Any, emit: Callable[[bool], None]) -> None:
    """Emit both ways of one row: without tests where it lies inside, and with."""
    with code.builder.if_else(inside) as (whole, edge):
        with whole:
            emit(False)
        with edge:
            emit(True)


def _inside(code: Code, first: Any, count: int, limit: Any) -> Any:
    """Tell whether columns first .. first + count - 1 all lie in the row."""
    begins = code.builder.icmp_signed(">=", first, I32(0))
    ends = code.builder.icmp_signed("<=", code.plus(first, count), limit)
    return code.builder.and_(begins, ends)


def _fma_into(code: Code, cell: Any, a: Any, b: Any) -> None:
    code.builder.store(code.fma(a, b, code.builder.load(cell)), cell)


def make_convtile(target: Target, spec: Spec) -> Any:
    """Make `convtile(x, x_row, x_column, w, w_row, w_column, ih, iw, h, width)`.

    Contract: x is the address of the image's pixel (0, 0) at the thread's channels, w
    that of tap (0, 0); (ih, iw) the input pixel of the tile's first output at tap
    (0, 0), which may lie outside.  Returns th * tw * v sums.
    """
    s, form = spec, (spec.kind, spec.vx)
    n = (s.tw - 1) * s.sw + s.kw

    def row_sums(
        code: Code, cells: list[Any], w: Any, w_column: Any, x: list[Any]
    ) -> None:
        weights = []
        for j in range(s.kw):
            at = code.builder.add(w, code.builder.mul(w_column, I64(j)))
            weights += code.load(at, s.kind, s.v)
        for i in range(s.tw):
            for j in range(s.kw):
                for k in range(s.v):
                    lane = (i * s.sw + j) * s.vx + k * s.vx // s.v
                    _fma_into(code, cells[i * s.v + k], x[lane], weights[j * s.v + k])

    def emit(builder: Any, *values: Any) -> list[Any]:
        x, x_row, x_column, w, w_row, w_column, ih, iw, h, width = values
        code = Code(builder, target, s.kind == "f64")
        cells = [code.cell() for _ in range(s.th * s.tw * s.v)]
        columns = [code.cell() for _ in range(n * s.vx)]
        inside = _inside(code, code.plus(iw, -s.shift), n + s.shift + s.chunk, width)
        if s.chunk == 1:
            inside = _inside(code, iw, n, width)
        with code.loop((s.th - 1) * s.sh + s.kh) as r:
            row = builder.add(ih, r)
            with builder.if_then(code.within(row, h)):
                address = code.offset(x, row, x_row)

                def fill(guarded: bool) -> None:
                    loaded = code.row(
                        address,
                        x_column,
                        iw,
                        width,
                        n,
                        form,
                        guarded,
                        (s.chunk, s.shift),
                    )
                    for cell, value in zip(columns, loaded, strict=True):
                        builder.store(value, cell)

                _either(code, inside, fill)
                loaded = [builder.load(cell) for cell in columns]
                for th in range(s.th):
                    ki = code.plus(r, -th * s.sh)
                    with builder.if_then(code.within(ki, I32(s.kh))):
                        own = cells[th * s.tw * s.v : (th + 1) * s.tw * s.v]
                        row_sums(code, own, code.offset(w, ki, w_row), w_column, loaded)
        return [builder.load(cell) for cell in cells]

    arguments = (ADDRESS, STRIDE, STRIDE) * 2 + (SIZE,) * 4
    return make_word(target, arguments, _sums(spec, s.th * s.tw * s.v), emit)


def make_gathertile(target: Target, spec: Spec) -> Any:
    """Make `gathertile(g, g_row, g_column, w, w_row, w_column, ih, ow, oh, width)`.

    One row of tw input pixels gathers the outputs that read it.  Contract: g is the
    address of the gradient's pixel (0, 0), `oh` and `width` its sizes; ih is the input
    row plus the padding above, ow the output column whose tap 0 reads the first pixel
    (the tile begins where there is one).  Returns tw * v sums.
    """
    s, form = spec, (spec.kind, spec.v)
    pairs = [
        (i, j, (i - j) // s.sw)
        for i in range(s.tw)
        for j in range(s.kw)
        if (i - j) % s.sw == 0
    ]
    low = min(q for _, _, q in pairs)
    n = max(q for _, _, q in pairs) - low + 1

    def emit(builder: Any, *values: Any) -> list[Any]:
        g, g_row, g_column, w, w_row, w_column, ih, ow, oh, width = values
        code = Code(builder, target, s.kind == "f64")
        cells = [code.cell() for _ in range(s.tw * s.v)]
        columns = [code.cell() for _ in range(n * s.v)]
        first = code.plus(ow, low)
        inside = _inside(code, first, n, width)
        base = builder.udiv(ih, I32(s.sh))
        phase = builder.sub(ih, builder.mul(base, I32(s.sh)))
        with code.loop(-(-s.kh // s.sh)) as turn:
            ki = builder.add(phase, builder.mul(turn, I32(s.sh)))
            row = builder.sub(base, turn)
            used = builder.and_(code.within(ki, I32(s.kh)), code.within(row, oh))
            with builder.if_then(used):
                address = code.offset(g, row, g_row)

                def fill(guarded: bool) -> None:
                    loaded = code.row(address, g_column, first, width, n, form, guarded)
                    for cell, value in zip(columns, loaded, strict=True):
                        builder.store(value, cell)

                _either(code, inside, fill)
                loaded = [builder.load(cell) for cell in columns]
                taps = code.offset(w, ki, w_row)
                for j in range(s.kw):
                    at = builder.add(taps, builder.mul(w_column, I64(j)))
                    weights = code.load(at, s.kind, s.v)
                    for i, _, q in (pair for pair in pairs if pair[1] == j):
                        for k in range(s.v):
                            value = loaded[(q - low) * s.v + k]
                            _fma_into(code, cells[i * s.v + k], value, weights[k])
        return [builder.load(cell) for cell in cells]

    arguments = (ADDRESS, STRIDE, STRIDE) * 2 + (SIZE,) * 4
    return make_word(target, arguments, _sums(spec, s.tw * s.v), emit)


def make_corrtile(target: Target, spec: Spec, tw: int, guarded: bool) -> Any:
    """Make `corrtile`, which adds what one tile gives to a thread's sums.

    Takes (sums, x, x_row, x_column, g, g_row, g_column, ih, iw, h, width, rows).
    Contract: as `convtile`; g is the address of the gradient's first pixel of the tile,
    all its tw columns exist.  sums are kh * kw * v taps and v sums of grad.  Without
    `guarded`, the tile's rows and its columns of x exist, too; with it, `rows` tells
    how many rows do, and a tap that reads padding adds nothing.
    """
    s = spec
    n = (tw - 1) * s.sw + s.kw
    count = (s.kh * s.kw + 1) * s.v

    def pairs(r: int, q: int) -> list[tuple[int, int, int]]:
        """List (th, i, tap) that column q of row r takes part in."""
        return [
            (th, i, (r - th * s.sh) * s.kw + q - i * s.sw)
            for th in range(s.th)
            for i in range(tw)
            if 0 <= r - th * s.sh < s.kh and 0 <= q - i * s.sw < s.kw
        ]

    def add(
        code: Code, cells: list[Any], x: list[Any], grad: list[Any], tap: int
    ) -> None:
        for k in range(s.v):
            _fma_into(code, cells[tap * s.v + k], x[k * s.vx // s.v], grad[k])

    def load_grads(
        code: Code, cells: list[Any], g: Any, steps: Any, rows: Any
    ) -> list[Any]:
        """Load the tile of grad and add it to the last sums."""
        grads = []
        for th in range(s.th):
            own = [code.cell() for _ in range(tw * s.v)]
            exists = code.builder.icmp_signed(">", rows, I32(th)) if guarded else I1(1)
            with code.builder.if_then(exists):
                at = code.offset(g, I32(th), steps[0])
                form = (s.okind, s.v)
                loaded = code.row(at, steps[1], I32(0), None, tw, form, False)
                for i, value in enumerate(loaded):
                    code.builder.store(value, own[i])
                    bias = cells[s.kh * s.kw * s.v + i % s.v]
                    total = code.builder.fadd(code.builder.load(bias), value)
                    code.builder.store(total, bias)
            grads.append([code.builder.load(cell) for cell in own])
        return grads

    def emit(builder: Any, sums: list[Any], *values: Any) -> list[Any]:
        x, x_row, x_column, g, g_row, g_column, ih, iw, h, width, rows = values
        code = Code(builder, target, s.kind == "f64")
        cells = [code.cell(value) for value in sums]
        grads = load_grads(code, cells, g, (g_row, g_column), rows)
        for r in range((s.th - 1) * s.sh + s.kh):
            row = code.plus(ih, r)
            with builder.if_then(code.within(row, h)):
                address = code.offset(x, row, x_row)
                for q in range(n):
                    column = code.plus(iw, q)
                    used = code.within(column, width) if guarded else I1(1)
                    with builder.if_then(used):
                        at = code.offset(address, iw, x_column)
                        at = builder.add(at, builder.mul(x_column, I64(q)))
                        loaded = code.load(at, s.kind, s.vx)
                        for th, i, tap in pairs(r, q):
                            grad = grads[th][i * s.v : (i + 1) * s.v]
                            # A missing row of grad may pair with NaN: no 0 * NaN.
                            real = builder.icmp_signed(">", rows, I32(th))
                            with builder.if_then(real if guarded else I1(1)):
                                add(code, cells, loaded, grad, tap)
        return [builder.load(cell) for cell in cells]

    row = _sums(spec, count)
    arguments = (row, *(ADDRESS, STRIDE, STRIDE) * 2, *(SIZE,) * 5)
    return make_word(target, arguments, row, emit)


def make_finish(target: Target, spec: Spec) -> Any:
    """Make `finish`, which stores what becomes of a tile's sums.

    Takes (sums, b, o, o_row, o_column, rows, ow, width, slope, g, g_row, g_column).
    Contract: b is the address of the first channel's bias or 0; o that of the result's
    column 0 in the tile's first row, g likewise of grad where the spec derives; `rows`
    rows of the tile exist, and columns ow .. ow + tw - 1 as far as they lie in
    0 .. width - 1.
    """
    s = spec
    size = s.chunk * s.v

    def values_of(code: Code, sums: list[Any], b: Any, slope: Any) -> list[Any]:
        builder = code.builder
        biases = [code.cell() for _ in range(s.v)]
        with builder.if_then(builder.icmp_unsigned("!=", b, I64(0))):
            for cell, value in zip(biases, code.load(b, s.kind, s.v), strict=True):
                builder.store(value, cell)
        loaded = [builder.load(cell) for cell in biases]
        return [
            emit_activation(
                code,
                s.activation,
                s.derive,
                slope,
                builder.fadd(value, loaded[i % s.v]),
            )
            for i, value in enumerate(sums)
        ]

    def emit(builder: Any, sums: list[Any], *values: Any) -> None:
        b, o, o_row, o_column, rows, ow, width, slope, g, g_row, g_column = values
        code = Code(builder, target, s.kind == "f64")
        results = values_of(code, sums, b, slope)
        for th in range(s.th):
            with builder.if_then(builder.icmp_signed(">", rows, I32(th))):
                line, grads = (
                    code.offset(at, I32(th), step)
                    for at, step in ((o, o_row), (g, g_row))
                )
                for q in range(0, s.tw, s.chunk):
                    column = code.plus(ow, q)
                    begin = (th * s.tw + q) * s.v
                    made = results[begin : begin + size]
                    with builder.if_then(code.within(column, width)):
                        if s.derive:
                            at = code.offset(grads, column, g_column)
                            factors = code.load(at, s.kind, size)
                            made = list(map(builder.fmul, made, factors))
                        at = code.offset(line, column, o_column)
                        code.store(at, s.okind, made)

    arguments = (
        _sums(spec, s.th * s.tw * s.v),
        *(ADDRESS, ADDRESS, STRIDE, STRIDE),
        *(SIZE, SIZE, SIZE, sum_type(s.kind)),
        *(ADDRESS, STRIDE, STRIDE),
    )
    return make_word(target, arguments, types.void, emit)


def make_tap(target: Target, spec: Spec) -> Any:
    """Make `tap(sums, x, x_column, iw, step, width, w)`: one tap for tw outputs.

    Contract: x is the address of a row's column 0, output i reads column iw + i * step
    if that lies in 0 .. width - 1; w is the tap's address.
    """
    s = spec

    def emit(builder: Any, sums: list[Any], *values: Any) -> list[Any]:
        x, x_column, iw, step, width, w = values
        code = Code(builder, target, s.kind == "f64")
        weights = code.load(w, s.kind, s.v)
        result: list[Any] = []
        column = iw
        for i in range(s.tw):
            column = builder.add(column, step) if i else column
            cells = [code.cell() for _ in range(s.vx)]
            with builder.if_then(code.within(column, width)):
                at = code.offset(x, column, x_column)
                for cell, value in zip(cells, code.load(at, s.kind, s.vx), strict=True):
                    builder.store(value, cell)
            loaded = [builder.load(cell) for cell in cells]
            for k in range(s.v):
                value = loaded[k * s.vx // s.v]
                result.append(code.fma(value, weights[k], sums[i * s.v + k]))
        return result

    row = _sums(spec, s.tw * s.v)
    arguments = (row, ADDRESS, STRIDE, SIZE, SIZE, SIZE, ADDRESS)
    return make_word(target, arguments, row, emit)


def make_corrtaps(target: Target, spec: Spec) -> Any:
    """Make `corrtaps(sums, x, x_column, iw, step, width, g, taps)`: tw taps of a pixel.

    Contract: as `tap`; g is the address of the gradient's pixel, which exists.  Tap i
    adds x column iw + i * step times it where i < taps and the column exists; the last
    sum adds grad itself.
    """
    s = spec

    def emit(builder: Any, sums: list[Any], *values: Any) -> list[Any]:
        x, x_column, iw, step, width, g, taps = values
        code = Code(builder, target, s.kind == "f64")
        cells = [code.cell(value) for value in sums]
        grad = code.load(g, s.okind, 1)[0]
        column = iw
        for i in range(s.tw):
            column = builder.add(column, step) if i else column
            exists = builder.icmp_signed("<", I32(i), taps)
            used = builder.and_(exists, code.within(column, width))
            with builder.if_then(used):
                value = code.load(code.offset(x, column, x_column), s.kind, 1)[0]
                _fma_into(code, cells[i], value, grad)
        total = builder.fadd(builder.load(cells[s.tw]), grad)
        return [builder.load(cell) for cell in cells[: s.tw]] + [total]

    row = _sums(spec, s.tw + 1)
    arguments = (row, ADDRESS, STRIDE, SIZE, SIZE, SIZE, ADDRESS, SIZE)
    return make_word(target, arguments, row, emit)
