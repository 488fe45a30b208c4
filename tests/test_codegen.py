"""The machine code of the hot tiles, on this CPU and on lesser ones of its kind."""

import contextlib
import functools
import json
import platform
import re

import pytest
from cases import Case, lanes
from test_guard_pages import FORWARD, LESSER, finish, start

from numbadw import jit
from numbadw.cpu import kernels

X86 = platform.machine().lower() in ("x86_64", "amd64")
pytestmark = pytest.mark.skipif(not X86, reason="reads x86 assembly")
REGISTERS = {64: "zmm", 32: "ymm", 16: "xmm"}
STRIDED = Case(9, 99, 64, strides=(2, 2))
HOT = {
    "3x3": Case(9, 99, 64),
    "3x3 float64": Case(9, 99, 64, dtype="float64"),
    "3x3 stride 2": STRIDED,
    "3x3 twice": Case(9, 99, 64, 2),
    "5x5": Case(9, 99, 64, kernel=(5, 5)),
    "7x7": Case(9, 99, 64, kernel=(7, 7)),
    "31x31": Case(40, 99, 64, kernel=(31, 31)),
    "3x3 packed": Case(9, 9, 65, first=True),
    "5x5 of 3 channels": Case(9, 99, 3, kernel=(5, 5)),
}
# The tiles that only the gradients have: of which case, at inputs or kernel.
HOT_BACK = {
    "input gradient 3x3 stride 2": (STRIDED, "input"),
    "input gradient 5x5 stride 2": (STRIDED._replace(kernel=(5, 5)), "input"),
    "kernel gradient 3x3": (HOT["3x3"], "kernel"),
    "kernel gradient 3x3 stride 2": (STRIDED, "kernel"),
    "kernel gradient 5x5": (HOT["5x5"], "kernel"),
    "kernel gradient 7x7": (HOT["7x7"], "kernel"),
    "both gradients 3x3": (Case(299, 299, 64), "both"),
}
# Those whose sums and weights are all in registers throughout; how many tiles.
KEPT = {
    "3x3": 4,
    "3x3 float64": 4,
    "input gradient 3x3 stride 2": 4,
    "kernel gradient 3x3": 3,
    "kernel gradient 3x3 stride 2": 3,
    "both gradients 3x3": 1,  # with guards the bias' sum goes to the stack
}


def plan_of(name):
    """Return the plan of a case, or of the gradient in question."""
    if name in HOT:
        return HOT[name].plan()
    case, wanted = HOT_BACK[name]
    return case.gradient_plans(wanted)[0]


@functools.cache
def kernel_code(name, number):
    """Return one of a case's tiles, and the lines of the function that multiplies."""
    plan = plan_of(name)
    tile = plan.tiles[number]
    functions = split_functions(compile_code(plan, tile))
    return tile, max(functions, key=lambda lines: sum(map(is_multiply, lines)))


def compile_code(plan, tile):
    """Return the assembly of a plan's loops round one tile alone, compiled anew.

    Code from the disk cache cannot be read, hence without it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jit, "_cache_for", lambda function: None)
        build = kernels.BUILDERS[plan.feed]
        body = build([tile] * len(plan.tiles))
        compiled = jit.compile_kernel(body, f"asm_{tile.label}")
    return compiled._library.get_asm_str()


def split_functions(code):
    """Split assembly at its function labels."""
    functions = [[]]
    for line in code.splitlines():
        if re.match(r"(?!\.L)[\w.$]+:", line):
            functions.append([])
        functions[-1].append(line)
    return functions


def is_multiply(line):
    """Tell whether a line multiplies vectors: fused, or where that is missing plain."""
    return bool(re.match(r"\tv?(fmadd\d+|mul)p[sd]\b", line))


def loops(lines):
    """Return (first, last) of every loop: from a label to a later jump back to it."""
    labels, found = {}, {}
    for at, line in enumerate(lines):
        if label := re.match(r"(\.L\w+):", line):
            labels[label[1]] = at
        elif (jump := re.match(r"\tj\w+\t(\.L\w+)", line)) and jump[1] in labels:
            found[labels[jump[1]]] = at
    return list(found.items())


def hot_loops(lines):
    """Return the loops that multiply and hold no other loop that does."""
    hot = [(a, b) for a, b in loops(lines) if any(map(is_multiply, lines[a : b + 1]))]
    return [
        (a, b)
        for a, b in hot
        if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in hot)
    ]


@pytest.mark.parametrize("name", [*HOT, *HOT_BACK])
def test_taps_are_packed_multiply_adds_of_full_width(name):
    tile, lines = kernel_code(name, 0)
    target = jit.target()
    register = REGISTERS[target.vector_bytes]
    multiplies = [line for line in lines if is_multiply(line)]
    taps = max(1, tile.kh) * max(1, tile.kw)
    # On the way back through a stride, every so many outputs share the taps.
    outputs = tile.width // (tile.sw if tile.transposed else 1)
    assert len(multiplies) >= taps * outputs
    assert all(register in line for line in multiplies)
    if target.fused:
        assert all("fmadd" in line for line in multiplies)
    assert not re.search(r"\tv?(fmadd\d+|mul)s[sd]\b", "\n".join(lines))


@pytest.mark.parametrize("name", [*HOT, *HOT_BACK])
def test_no_call_in_the_hot_loops(name):
    _, lines = kernel_code(name, 0)
    hot = hot_loops(lines)
    assert hot
    for first, last in hot:
        assert not [line for line in lines[first : last + 1] if "\tcall" in line]


@pytest.mark.parametrize(
    ("name", "number"),
    [(name, number) for name, count in KEPT.items() for number in range(count)],
)
def test_the_3x3_tiles_keep_everything_in_registers(name, number):
    if jit.target().registers < 32:
        pytest.skip("9 weights and the accumulators need 32 vector registers")
    _, lines = kernel_code(name, number)
    inside = {at for first, last in loops(lines) for at in range(first, last + 1)}
    store = re.compile(r"\tv\w+\t%[xyz]mm\d+, -?\d*\(%rsp\)")
    assert not [lines[at].strip() for at in sorted(inside) if store.match(lines[at])]


@pytest.mark.parametrize("wanted", ["forward", "kernel"])
def test_code_does_not_grow_with_the_stride(wanted):
    def lines(stride):
        case = Case(2 * stride, 99 * stride, 64, strides=(stride, stride))
        plan = case.plan() if wanted == "forward" else case.gradient_plans(wanted)[0]
        return len(compile_code(plan, plan.tiles[0]).splitlines())

    assert lines(50) < 2 * lines(4)


@pytest.mark.parametrize("kernel", [(5, 5), (63, 3), (200, 3)], ids=str)
def test_code_of_few_channels_does_not_grow_with_the_stride(kernel):
    def lines(stride):
        case = Case(kernel[0], 400, 3, kernel=kernel, strides=(stride, 1))
        plan = case.plan()
        return len(compile_code(plan, plan.tiles[0]).splitlines())

    assert lines(40) < 2 * lines(4)


FOUND = {
    "haswell": ([32, True, 16, True], ["zmm"], ["ymm", "vfmadd"]),
    "nehalem": ([16, False, 16, False], ["zmm", "ymm", "vfmadd"], ["xmm", "mulps"]),
}


@pytest.fixture(scope="module")
def lesser(tmp_path_factory):
    """Start all children at once: compiling is what takes their time."""
    if lanes() < 8:
        pytest.skip("this CPU has nothing to leave out")
    with contextlib.ExitStack() as stack:
        yield {
            cpu: stack.enter_context(
                start(
                    FORWARD,
                    "inspect",
                    NUMBADW_CACHE_DIR=str(tmp_path_factory.mktemp(cpu)),
                    **variables,
                )
            )
            for cpu, variables in LESSER.items()
        }


@pytest.mark.parametrize("cpu", FOUND)
def test_lesser_cpus_get_code_of_their_own(cpu, lesser):
    target, absent, present = FOUND[cpu]
    *_, found, _ = finish(lesser[cpu])
    found = json.loads(found)
    assert found["target"] == target
    assert found["kernels"] > 10
    assert {word: found[word] for word in absent} == dict.fromkeys(absent, 0)
    assert all(found[word] > 0 for word in present)
