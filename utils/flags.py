"""Command-line flags."""

import argparse
from typing import NoReturn


class FlagParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage of dozens of flags before it. No flag is abbreviated."""

    def __init__(self, description: str) -> None:
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")
