"""Read the machine code of kernels: registers, spills, widths, multiply-adds.

`python -m numbadw.cuda.static` compiles every kernel of `shipped` and writes a table;
neither that nor the checks need a device, only the packages of the extra `cuda-test`.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from numbadw import console
from numbadw.cuda import shipped
from numbadw.cuda.compile import compile_cubin
from numbadw.cuda.emit import ITEMSIZE, WIDEST
from numbadw.cuda.kernel_grad import is_wide
from numbadw.cuda.kernels import shared_bytes
from numbadw.cuda.spec import Spec

# A multiprocessor's registers, and the most that a thread can name.
REGISTERS, MOST = 65536, 255
# Static shared memory of a block; the first KiB is the system's from sm_90 on.
SHARED, RESERVED = 48 * 1024, 1024
_INSTRUCTION = re.compile(
    r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P[T\d]+\s+)?([A-Z][A-Z0-9_.]*)", re.MULTILINE
)
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)")
_DOUBLE = re.compile(r"D(FMA|ADD|MUL|SETP|MNMX)\b|F2F\.F64|F2F\.F32\.F64|I2F\.F64")


class Report(NamedTuple):
    """What the machine code of one kernel holds."""

    spec: Spec
    registers: int
    stack: int
    shared: int
    counts: Counter[str]

    def count(self, pattern: str) -> int:
        """Count the instructions whose name begins with a pattern."""
        names = re.compile(pattern)
        return sum(n for name, n in self.counts.items() if names.match(name))


def tools() -> tuple[Path, Path] | None:
    """Return cuobjdump and nvdisasm, or None where one is not installed."""
    found = importlib.util.find_spec("nvidia")
    for place in found.submodule_search_locations or [] if found else []:
        for folder in sorted(Path(place).glob("cu*/bin")):
            both = folder / "cuobjdump", folder / "nvdisasm"
            if all(path.exists() for path in both):
                return both
    return None


def missing() -> str:
    """Tell what the checks lack; nothing where they can run."""
    if importlib.util.find_spec("numba_cuda") is None:
        return "numba-cuda is not installed: pip install 'numbadw[cuda-test]'"
    if tools() is None:
        return "cuobjdump or nvdisasm is missing: pip install 'numbadw[cuda-test]'"
    return ""


def inspect(spec: Spec, cc: int) -> Report:
    """Compile a kernel and read its machine code."""
    both = tools()
    if both is None:
        raise RuntimeError(missing())
    cuobjdump, nvdisasm = both
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(compile_cubin(spec, cc)[0])
        usage, code = (
            subprocess.run(
                [*command, path], capture_output=True, text=True, check=True
            ).stdout
            for command in ((cuobjdump, "-res-usage"), (nvdisasm, "-c"))
        )
    registers, stack, shared = map(int, _USAGE.findall(usage)[-1])
    return Report(spec, registers, stack, shared, Counter(_INSTRUCTION.findall(code)))


def expected_fma(spec: Spec) -> int | None:
    """Count the multiply-adds that the tile's code must hold; None: no tile."""
    s = spec
    taps = s.kh * s.kw * s.v
    if s.activation != "linear":
        return None
    if s.family == "forward_tile":
        return s.kw * s.tw * s.v * s.th
    if s.family == "input_grad_tile":
        pairs = sum((i - j) % s.sw == 0 for i in range(s.tw) for j in range(s.kw))
        return pairs * s.v
    if s.family == "kernel_grad_tile":
        return taps * s.th * ((1 + is_wide(s)) * s.tw + 1)
    return None


def budget(spec: Spec) -> int:
    """Return the registers that a thread may use."""
    return min(MOST, REGISTERS // (spec.threads * spec.blocks) // 8 * 8)


def faults(report: Report) -> list[str]:
    """List what is wrong with a kernel's code; nothing where it is as it must be."""
    spec = report.spec
    wrong = []
    if report.stack or report.count(r"(LDL|STL)\b"):
        wrong.append(f"spills: stack {report.stack}")
    if report.registers > budget(spec):
        wrong.append(f"{report.registers} registers, {budget(spec)} allowed")
    if report.shared > shared_bytes(spec) + RESERVED or report.shared > SHARED:
        wrong.append(f"{report.shared} bytes of shared memory")
    if spec.kind != "f64" or spec.activation == "linear":
        # What is called returns.  For sm_80 to sm_89 the compiler also leaves loops by
        # a CALL.REL.NOINC from which nothing comes back.
        wrong += ["function calls"] if report.count(r"RET\b") else []
    if spec.kind != "f64":
        doubles = sum(n for name, n in report.counts.items() if _DOUBLE.match(name))
        wrong += [f"{doubles} double instructions"] if doubles else []
    wrong += _widths(report)
    expected = expected_fma(spec)
    if expected is not None and spec.kind != "f64":
        found = report.count(r"FFMA")
        wrong += [f"{found} FFMA, {expected} expected"] if found != expected else []
    return wrong


def _widths(report: Report) -> list[str]:
    """Tell whether the widest loads and stores are as wide as the tile's vectors."""
    spec, wrong = report.spec, list[str]()
    if spec.family == "sum_parts":
        return wrong
    columns = spec.chunk if spec.chunk > 1 else spec.v
    size = min(WIDEST, columns * ITEMSIZE[spec.kind])
    suffix = {16: r"\.128", 8: r"\.64"}.get(size)
    if suffix is None:
        return wrong
    if not report.count(r"LDG\.E.*" + suffix):
        wrong.append(f"no loads of {size} bytes")
    stores = spec.family not in ("kernel_grad_tile", "kernel_grad_any")
    if stores and not report.count(r"STG\.E.*" + suffix):
        wrong.append(f"no stores of {size} bytes")
    return wrong


def main(arguments: list[str] | None = None) -> int:
    """Check every kernel for the architectures named; tell how many are wrong."""
    parser = argparse.ArgumentParser(prog="python -m numbadw.cuda.static")
    parser.add_argument("--cc", type=int, nargs="*", default=[90], help="such as 75 90")
    parser.add_argument("--families", action="store_true", help="one of each family")
    options = parser.parse_args(arguments)
    reason = missing()
    if reason:
        console.say(reason)
        return 1
    bad = 0
    chosen = shipped.families() if options.families else shipped.specs()
    for cc in options.cc:
        for spec in chosen:
            report = inspect(spec, cc)
            wrong = faults(report)
            bad += bool(wrong)
            console.say(
                f"sm_{cc:<4} {spec.label:52} {report.registers:3} registers "
                f"{report.count('FFMA'):5} FFMA of {report.counts.total():5}  "
                f"{'; '.join(wrong) or 'fine'}"
            )
    console.say(
        f"{bad} of {len(chosen) * len(options.cc)} kernels are not as they must"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
