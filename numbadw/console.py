"""What the commands of `python -m numbadw` write; nothing else in the package does."""

import sys


def say(text: str) -> None:
    """Write a line of the result to the standard output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def progress(text: str) -> None:
    """Write a line about the work or a failure to the standard error, at once."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
