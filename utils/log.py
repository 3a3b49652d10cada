"""The training log: one JSON object a line, one line an epoch."""

import json
from pathlib import Path

from utils.files import atomic_path


def write_log(path: Path, entries: list[dict]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def read_log(path: Path) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]
