"""How fast the published networks upscale, beside the default one: FLOPs alone do not tell.

They take turns in one process, each in tiles as demo.py runs it.

python -m tests.benchmarks.choice
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from tests.benchmarks.harness import CHECKPOINTS, paired_medians, parse_args, report
from utils.checkpoint import load_model
from utils.tiling import super_resolve

SCALE = 3
DEFAULT = CHECKPOINTS / "IMDN_dw_nf32_m10_x3.safetensors"


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv, __doc__, rounds=9, width=1280, height=720)
    image = np.random.default_rng(0).integers(0, 256, (args.height // SCALE, args.width // SCALE, 3), np.uint8)
    networks = {file: load_model(file) for file in CHECKPOINTS.glob(f"*_x{SCALE}.safetensors")}
    ways = {file: partial(super_resolve, model.to(args.device), image, SCALE) for file, (model, _) in networks.items()}
    seconds = paired_medians(ways, args.device, args.rounds, steps=1)
    rows = [
        {
            "network": "{} {nf}/{num_modules}".format(metadata["model"], **metadata["hyperparameters"]),
            "FLOPs (G)": f"{metadata['gflops']:.3f}",
            "Set5 (dB)": f"{metadata['metrics']['Set5 course']['average_psnr_db']:.3f}",
            "Mpx/s": round(args.width * args.height / 1e6 / seconds[file], 2),
            "speed": round(seconds[DEFAULT] / seconds[file], 2),
        }
        for file, (_, metadata) in networks.items()
    ]
    report(f"Upscaling to {args.width}×{args.height}", sorted(rows, key=lambda row: -row["speed"]), args)


if __name__ == "__main__":
    main()
