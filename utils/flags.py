"""Command-line flags."""

import argparse
import sys
from typing import NoReturn


class FlagParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage of dozens of flags before it. No flag is abbreviated."""

    def __init__(self, description: str) -> None:
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments"):
            message += "; --help lists what there is (a glob goes in quotes)"
        self.exit(2, f"error: {message}\n")


def stop(hint: str = "") -> NoReturn:
    """Ends the process as Ctrl-C does elsewhere: one line, exit code 130."""
    print(f"stopped; {hint}" if hint else "stopped", file=sys.stderr)
    sys.exit(130)


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its type's name where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
