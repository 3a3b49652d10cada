"""What each part of the training recipe is worth: short runs that differ from it in one flag.

python -m tests.benchmarks.recipe --data DIV2K_decoded Flickr2K_decoded
"""

import argparse
import contextlib
import os
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
    "--loss l1",
    "--loss mse",
    "--loss psnr",
    "--init default",
    "--optimizer adam",
    "--optimizer adam --lr 1e-3",
    "--lr 1e-3",
    "--lr 6e-3",
    "--batch 2 --patch 192",
    "--ema 0",
)


def last_entry(change: str, args: argparse.Namespace) -> dict:
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        flags = f"{NETWORK} {RECIPE} {change} --device {args.device} --iterations {args.iterations} --epochs 1"
        with contextlib.redirect_stdout(nowhere):
            return train.main([*flags.split(), "--data", *args.data, "--save-dir", f"{folder}/run"])


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, iterations=4000)
    parser.add_argument("--data", nargs="+", default=["sample"], help="as for train.py")
    args = parser.parse_args(argv)
    rows = []
    entries = {change: last_entry(change, args) for change in CHANGES}
    for change, entry in entries.items():
        difference = entry["valid_psnr_db"] - entries[""]["valid_psnr_db"]
        row = {"change": f"`{change}`" if change else "none", "validation (dB)": f"{entry['valid_psnr_db']:.3f}"}
        row |= {"difference": f"{difference:+.3f}"}
        if entry["set5_psnr_db"] is not None:
            row["Set5 (dB)"] = f"{entry['set5_psnr_db']:.3f}"
        rows.append(row)
    report(f"{NETWORK} {RECIPE}, {args.iterations} iterations", rows, args)


if __name__ == "__main__":
    main()
