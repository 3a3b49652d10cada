"""What each part of the training recipe is worth: short runs with one thing changed.

python -m tests.benchmarks.recipe
python -m tests.benchmarks.recipe --model IMDN_dw --nf 40 --modules 6 --data sample    # other flags are train.py's
"""

import argparse
import contextlib
import io
import tempfile
from collections.abc import Sequence

import train
from tests.benchmarks.harness import make_parser, report

NETWORK = "--model IMDN_RTC --nf 12 --modules 5"
RECIPE = "--init interpolation --optimizer soap --lr 3e-3 --loss fourier --schedule cosine --batch 8 --patch 96"
RECIPE += " --ema 0.999 --clip 1"
CHANGES = (
    "",
    "--seed 1",
    "--bf16",
    "--bf16 --seed 1",
    "--cautious",
    "--detail 1",
    "--loss l1",
    "--loss mse",
    "--loss psnr",
    "--init default",
    "--optimizer adam --lr 1e-3",
    "--optimizer adam",
    "--optimizer adam --lr 6e-3",
    "--optimizer adam --lr 1.2e-2",
    "--lr 1e-3",
    "--lr 6e-3",
    "--batch 2 --patch 192",
    "--ema 0",
)


def last_entry(change: str, args: argparse.Namespace, others: Sequence[str]) -> dict:
    """Trains in a folder of its own, where nothing is kept, and returns the log's last entry."""
    length = f"--device {args.device} --iterations {args.iterations} --epochs 1"
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        return train.main(
            [*f"{NETWORK} {RECIPE} {length}".split(), *others, *change.split(), "--save-dir", f"{folder}/run"]
        )


def main(argv: Sequence[str] | None = None) -> None:
    args, others = make_parser(__doc__, iterations=4000).parse_known_args(argv)
    entries = {change: last_entry(change, args, others) for change in CHANGES}
    rows = []
    for change, entry in entries.items():
        difference = entry["valid_psnr_db"] - entries[""]["valid_psnr_db"]
        row = {
            "change": f"`{change}`" if change else "none",
            "validation (dB)": f"{entry['valid_psnr_db']:.3f}",
            "difference": f"{difference:+.3f}",
        }
        if entry["set5_psnr_db"] is not None:
            row["Set5 (dB)"] = f"{entry['set5_psnr_db']:.3f}"
        rows.append(row)
    report(" ".join([NETWORK, RECIPE, *others]) + f", {args.iterations} iterations", rows, args)


if __name__ == "__main__":
    main()
