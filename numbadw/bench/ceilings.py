"""What the machine can do at most: multiply-adds a second, bytes copied a second.

Both are measured by compiled loops on as many threads as the convolutions get:

    multiply-adds: 12 independent vector sums in registers          # no memory at all
    copies, for each size of source and target together:
        8 vectors loaded, 8 stored; once more with stores past the caches

A convolution that does `flops` operations on `bytes` bytes cannot take less than the
longer of the two times that these allow, the bytes at the speed of a copy which moves
as many: a small layer's data stays in a cache, and so does a small copy.
"""

import functools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from numbadw import jit
from numbadw.cpu.simd import Simd
from numbadw.memory import aligned_empty

# Two a cycle of latency four are eight in flight; with the two factors these fit the
# 16 registers of AVX2.
CHAINS = 12
# Vectors in flight in the copy.
BLOCK = 8
FLOAT_BYTES = 4
SMALLEST, LARGEST = 1 << 14, 1 << 28
# Long enough for the start of the threads to vanish, short beside a pause of the
# system; several passes over everything, so that no pause spoils every trial of one.
TRIAL_SECONDS = 4e-3
TRIALS = 3
PASSES = 3


@dataclass(frozen=True)
class Ceilings:
    """The measured limits of one thread count.

    Attributes
    ----------
    threads : int
        Threads that worked at once.
    flops : float
        Operations a second of all of them, a multiply-add being two; float32.
    copies : tuple of (int, float, float)
        Bytes of source and target together; bytes a second, read and written ones
        added up, with usual stores and with stores past the caches.
    """

    threads: int
    flops: float
    copies: tuple[tuple[int, float, float], ...]

    def bandwidth(self, size: float) -> float:
        """Bytes a second of a copy of `size` bytes in all, the better of the two."""
        sizes = [np.log(copy[0]) for copy in self.copies]
        return float(np.interp(np.log(size), sizes, [max(c[1:]) for c in self.copies]))

    def seconds(self, flops: float, size: float) -> float:
        """Give the time below which a computation cannot come."""
        return max(flops / self.flops, size / self.bandwidth(size))


def measure_ceilings(threads: int) -> Ceilings:
    """Measure both limits for a number of threads; takes a few seconds."""
    buffers = [_noise(LARGEST // threads) for _ in range(threads)]
    sizes = [1 << i for i in range(SMALLEST.bit_length() - 1, LARGEST.bit_length())]
    copies = [_plain_copy(), _streamed_copy()]
    flops, speeds = 0.0, np.zeros((len(sizes), len(copies)))
    for _ in range(PASSES):
        for i, size in enumerate(sizes):
            flops = max(flops, _multiply_add_speed(buffers))
            latest = [_copy_speed(copy, buffers, size) for copy in copies]
            speeds[i] = np.maximum(speeds[i], latest)
    found = zip(sizes, *speeds.T.tolist(), strict=True)
    return Ceilings(threads, flops, tuple(found))


def _noise(size: int) -> Any:
    """Return so many random bytes: zeros some CPUs store twice as fast to memory."""
    buffer = aligned_empty((size,), np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, 1 << 20, np.uint8)
    for start in range(0, size, noise.size):
        part = buffer[start : start + noise.size]
        part[:] = noise[: part.size]
    return buffer


def _multiply_add_speed(buffers: Sequence[Any]) -> float:
    """Give the operations a second of one thread for each buffer."""
    vector: int = jit.target().vector_bytes
    multiply = _multiply_adds()

    def work(thread: int, times: int) -> None:
        sink = buffers[thread][:vector].view(np.float32)
        sink.fill(0.5)
        multiply(times, sink.ctypes.data)

    operations = 2 * CHAINS * vector // FLOAT_BYTES * len(buffers)
    return operations / _fastest(work, len(buffers))


def _copy_speed(copy: Callable[..., None], buffers: Sequence[Any], size: int) -> float:
    """Give the bytes a second, read and written, of copies that move `size` bytes."""
    block: int = BLOCK * jit.target().vector_bytes
    piece = size // (2 * len(buffers)) // block * block

    def work(thread: int, times: int) -> None:
        source = buffers[thread].ctypes.data
        copy(times, source, source + piece, piece)

    return 2 * piece * len(buffers) / _fastest(work, len(buffers))


def _fastest(work: Callable[[int, int], None], threads: int) -> float:
    """Give the least seconds of one of the `times` that all threads work at once."""
    work(0, 1)
    times = 1
    while (taken := _together(work, threads, times)) < TRIAL_SECONDS:
        times *= max(2, min(1000, int(1.2 * TRIAL_SECONDS / taken)))
    trials = (_together(work, threads, times) for _ in range(TRIALS))
    return min(taken, *trials) / times


def _together(work: Callable[[int, int], None], threads: int, times: int) -> float:
    """Give the seconds from the start of the first thread to the end of the last."""
    spans: list[tuple[float, float]] = []
    barrier = threading.Barrier(threads)

    def run(thread: int) -> None:
        barrier.wait()
        start = time.perf_counter()
        work(thread, times)
        spans.append((start, time.perf_counter()))

    helpers = [threading.Thread(target=run, args=(i,)) for i in range(1, threads)]
    for helper in helpers:
        helper.start()
    run(0)
    for helper in helpers:
        helper.join()
    return max(end for _, end in spans) - min(start for start, _ in spans)


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def multiply_add_chains(typingctx: Any, times: Any, sink: Any, lanes: Any) -> Any:
    """Run `times` multiply-adds in each of `CHAINS` sums; `sink` holds the factor."""
    signature = types.void(types.int64, types.int64, lanes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        simd = Simd(builder, "f32", sig.args[2].literal_value)
        count, address = (simd.integer(value) for value in args[:2])
        factor = simd.load(address)
        sums = [simd.variable(factor + float(i)) for i in range(CHAINS)]
        with simd.loop(simd.integer(0), count):
            for cell in sums:
                cell.set(simd.fma(cell.get(builder), factor, factor))
        total = simd.vec(0.0)
        for cell in sums:
            total = total + cell.get(builder)
        simd.store(total, address)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def copy_blocks(typingctx: Any, fields: Any, lanes: Any, streamed: Any) -> Any:
    """Copy (source, target, bytes), a whole number of blocks of `BLOCK` vectors."""
    signature = types.void(fields, lanes, streamed)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        simd = Simd(builder, "f32", sig.args[1].literal_value)
        source, target, size = (
            simd.integer(builder.extract_value(args[0], i)) for i in range(3)
        )
        vector = simd.lanes * simd.itemsize
        store = simd.stream if sig.args[2].literal_value else simd.store
        with simd.loop(simd.integer(0), size, BLOCK * vector) as at:
            steps = [at + i * vector for i in range(BLOCK)]
            loaded = [simd.load(source + step) for step in steps]
            for vec, step in zip(loaded, steps, strict=True):
                store(vec, target + step)
        return context.get_dummy_value()

    return signature, codegen


@functools.cache
def _multiply_adds() -> Any:
    """Compile `f(times, sink)`."""
    lanes = jit.target().vector_bytes // FLOAT_BYTES

    def peak_multiply_adds(times: int, sink: int) -> None:
        multiply_add_chains(times, sink, lanes)

    return jit.compile_driver(peak_multiply_adds, "void(int64, int64)").call


@functools.cache
def _plain_copy() -> Any:
    """Compile `f(times, source, target, bytes)` with usual stores."""
    lanes = jit.target().vector_bytes // FLOAT_BYTES

    def peak_copy(times: int, source: int, target: int, size: int) -> None:
        for _ in range(times):
            copy_blocks((source, target, size), lanes, 0)

    return jit.compile_driver(peak_copy, "void(int64, int64, int64, int64)").call


@functools.cache
def _streamed_copy() -> Any:
    """Compile `f(times, source, target, bytes)` with stores past the caches."""
    lanes = jit.target().vector_bytes // FLOAT_BYTES

    def peak_streamed_copy(times: int, source: int, target: int, size: int) -> None:
        for _ in range(times):
            copy_blocks((source, target, size), lanes, 1)

    return jit.compile_driver(
        peak_streamed_copy, "void(int64, int64, int64, int64)"
    ).call


def describe(copies: Sequence[tuple[int, float, float]]) -> str:
    """Write the speed of copies of a few sizes in a line."""
    parts = [
        f"{_bytes(size)} {max(speeds) / 1e9:.0f}"
        for size, *speeds in copies[2 :: max(1, len(copies) // 5)]
    ]
    return f"GB/s of copies by bytes moved: {', '.join(parts)}"


def _bytes(size: int) -> str:
    """Write a power of two."""
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
