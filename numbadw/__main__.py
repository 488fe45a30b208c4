"""The commands: `python -m numbadw info | demo | bench | selftest | warmup`."""

import argparse
import sys
from collections.abc import Sequence

import numbadw


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; each imports what it needs, no sooner."""
    parser = argparse.ArgumentParser(
        prog="python -m numbadw",
        description="Depthwise convolution for NumPy arrays.",
        epilog="`python -m numbadw COMMAND --help` tells a command's options.",
    )
    parser.add_argument("--version", action="version", version=numbadw.__version__)
    parser.add_argument("command", choices=sorted(COMMANDS), metavar="COMMAND")
    parser.add_argument("options", nargs=argparse.REMAINDER)
    parser.usage = f"%(prog)s [-h] [--version] {{{','.join(COMMANDS)}}} ..."
    arguments = parser.parse_args(argv)
    return COMMANDS[arguments.command](arguments.options)


def info(argv: Sequence[str]) -> int:
    """Show what numbadw found on this machine."""
    argparse.ArgumentParser(
        prog="python -m numbadw info",
        description="Show CPU, threads, cache folder, devices and versions.",
    ).parse_args(argv)
    numbadw.show_config()
    return 0


def demo(argv: Sequence[str]) -> int:
    """Filter a photo and time MobileNetV1."""
    from numbadw.demo import main as run

    return run(argv)


def bench(argv: Sequence[str]) -> int:
    """Compare with the other libraries."""
    from numbadw.bench.command import main as run

    return run(argv)


def selftest(argv: Sequence[str]) -> int:
    """Compare random calls with the reference."""
    from numbadw.selftest.command import main as run

    return run(argv)


def warmup(argv: Sequence[str]) -> int:
    """Compile what layers of one kind need into the cache on disk."""
    parser = argparse.ArgumentParser(
        prog="python -m numbadw warmup",
        description="Compile what such layers need into the cache on disk.",
    )
    add = parser.add_argument
    add("kernel_size", type=_sizes, help="3, or 3x5 for rows x columns")
    add("--strides", type=_sizes, default=1, metavar="S[xS]")
    add("--dilation-rate", type=_sizes, default=1, metavar="D[xD]")
    add("--depth-multiplier", type=int, default=1, metavar="M")
    add("--dtype", default="float32", help="float32 (default) or float64")
    add("--data-format", default="channels_last", help="default channels_last")
    add("--activation", type=_activation, help="a name, or name=parameter")
    add("--gradients", action="store_true", help="what the gradients need, too")
    add(
        "--pointwise", action="store_true", help="what 1x1 and separable ones need, too"
    )
    add("--backend", default="auto", help="default auto")
    options = vars(parser.parse_args(argv))
    try:
        numbadw.warmup(options.pop("kernel_size"), **options)
    except (TypeError, ValueError, numbadw.BackendUnavailableError) as error:
        parser.error(str(error))
    return 0


def _sizes(text: str) -> int | tuple[int, ...]:
    """Read "3" or "3x5"."""
    try:
        sizes = tuple(int(part) for part in text.split("x"))
    except ValueError:
        message = f"expected a number or two as in 3x5, got {text!r}"
        raise argparse.ArgumentTypeError(message) from None
    return sizes if len(sizes) > 1 else sizes[0]


def _activation(text: str) -> str | tuple[str, float]:
    """Read "relu" or "leaky_relu=0.1"."""
    name, _, parameter = text.partition("=")
    try:
        return (name, float(parameter)) if parameter else name
    except ValueError:
        message = f"expected a name or name=number, got {text!r}"
        raise argparse.ArgumentTypeError(message) from None


COMMANDS = {
    "info": info,
    "demo": demo,
    "bench": bench,
    "selftest": selftest,
    "warmup": warmup,
}

if __name__ == "__main__":
    sys.exit(main())
