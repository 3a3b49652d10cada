"""What the benchmarks share: paired timing, the machine's name, a table and a JSON file."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from utils.flags import FlagParser
from utils.hardware import hardware

CHECKPOINTS = Path(__file__).resolve().parents[2] / "checkpoint"


def make_parser(description: str, **defaults: int) -> FlagParser:
    parser = FlagParser(description)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for name, value in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    return parser


def parse_args(argv: Sequence[str] | None, description: str, **defaults: int) -> argparse.Namespace:
    return make_parser(description, **defaults).parse_args(argv)


def machine(device: str) -> str:
    return f"{hardware(device)}, torch {torch.__version__}"


def seconds(run: Callable[[], object], device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def paired_medians(ways: dict[str, Callable[[], object]], device: str, rounds: int, steps: int) -> dict[str, float]:
    """Seconds a step of each way: the median of rounds of so many steps, after one to warm up.

    The ways alternate, so that a busy moment of the machine hits all of them; within a round a GPU is not waited for.
    """

    def run_round(run: Callable[[], object]) -> None:
        for _ in range(steps):
            run()

    times: dict[str, list[float]] = {name: [] for name in ways}
    for run in ways.values():
        run_round(run)
    for _ in range(rounds):
        for name, run in ways.items():
            times[name].append(seconds(partial(run_round, run), device) / steps)
    return {name: statistics.median(values) for name, values in times.items()}


def report(title: str, rows: Sequence[dict], args: argparse.Namespace) -> None:
    """Prints a Markdown table of the rows and writes them to --json."""
    print(f"{title}\n{machine(args.device)}\n")
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))
    if args.json:
        args.json.write_text(json.dumps({"benchmark": title, "machine": machine(args.device), "rows": rows}, indent=1))
