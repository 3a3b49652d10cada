"""The training log: one JSON object a line, one line an epoch."""

import json
from pathlib import Path

from utils.files import atomic_path


def write_log(path: Path, entries: list[dict]) -> None:
    """Writes the whole log; entries are those of train.py's epochs, JSON-able.

    Raises:
        OSError: it cannot be written; names `path`.
    """
    with atomic_path(path) as temporary:
        temporary.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def read_log(path: Path) -> list[dict]:
    """The entries that `write_log` wrote."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]
