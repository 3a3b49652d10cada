"""Command-line flags."""

import argparse
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn


class FlagParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage of dozens of flags before it. No flag is abbreviated, and
    no value may be empty.

    `~` is the home directory also where the shell leaves it: in quotes and after `=`.
    """

    def __init__(self, description: str) -> None:
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        args = sys.argv[1:] if args is None else args
        flag = "the first argument"
        for arg in args:
            flag = arg.split("=")[0] if arg.startswith("--") else flag
            if not arg or re.fullmatch(r"--[\w-]+=", arg):  # which a path would take for the current folder
                self.error(f"{flag}: its value is empty; is a shell variable not set?")
        return super().parse_known_args([re.sub(r"^(--[\w-]+=)?~(?=/|$)", expand_home, arg) for arg in args], namespace)

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments"):
            message += "; --help lists what there is (a glob goes in quotes)"
        self.exit(2, f"error: {message}\n")


def number_that(kind: type[int] | type[float], accepts: Callable[[float], bool], needs: str) -> Callable[[str], float]:
    """A type for argparse: `kind` of the text, refused with "`needs`, not TEXT" where `accepts` does not take it."""

    def parse(text: str) -> float:
        value = kind(text)
        if not accepts(value):
            raise argparse.ArgumentTypeError(f"{needs}, not {text}")
        return value

    parse.__name__ = kind.__name__  # argparse says it of text that is no number
    return parse


at_least_1 = number_that(int, lambda n: n >= 1, "needs at least 1")
at_least_0 = number_that(int, lambda n: n >= 0, "must not be negative")
positive = number_that(float, lambda x: 0 < x < math.inf, "must be positive and finite")
not_negative = number_that(float, lambda x: x >= 0, "must not be negative")
below_one = number_that(float, lambda x: 0 <= x < 1, "must be at least 0 and below 1")


def expand_home(found: re.Match) -> str:
    return (found[1] or "") + os.path.expanduser("~")


def warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def stop(hint: str = "") -> NoReturn:
    """Ends the process as Ctrl-C does elsewhere: one line, exit code 130."""
    print(f"stopped; {hint}" if hint else "stopped", file=sys.stderr)
    sys.exit(130)


def quoted(path: Path) -> str:
    """A path in a command to print: with forward slashes, which Windows takes too; backslashes would be quoted."""
    return shlex.quote(path.as_posix())


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its type's name where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
