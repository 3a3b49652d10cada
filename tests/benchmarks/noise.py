"""The largest output of each file in checkpoint/ for LR images that no photo looks like; a photo's is about 1.

The images are scikit-image's astronaut with Gaussian noise of sigma 50 and 100 grey levels, 1-bit noise, grey and by
channel, and a checkerboard of single pixels. `train.py --noise` has other photos and other draws of noise; the
checkerboard is one of its patterns.

python -m tests.benchmarks.noise
"""

from collections.abc import Sequence

import numpy as np
import torch

from dataset import sample_pairs
from tests.benchmarks.harness import CHECKPOINTS, parse_args, report
from utils.checkpoint import load_model
from utils.evaluation import to_tensor

SIDE = 72  # LR pixels


def images() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    photo = sample_pairs("validation", 3)[0].lr[:SIDE, :SIDE]
    noise = rng.standard_normal(photo.shape)
    one_bit = 255 * rng.integers(0, 2, photo.shape)
    rows, columns = np.indices(photo.shape[:2])
    found = {f"sigma {sigma}": photo + sigma * noise for sigma in (50, 100)}
    found["1-bit, grey"] = one_bit[..., :1].repeat(3, axis=2)
    found["1-bit, colours"] = one_bit
    found["checkerboard"] = 255 * ((rows + columns) % 2)[..., None].repeat(3, axis=2)
    return {name: image.clip(0, 255).astype(np.uint8) for name, image in found.items()}


@torch.inference_mode()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv, __doc__)
    rows = []
    for file in sorted(CHECKPOINTS.glob("*.safetensors")):
        network = load_model(file)[0].to(args.device)
        peaks = {name: network(to_tensor(image, args.device)).abs().max().item() for name, image in images().items()}
        rows.append({"weights": file.stem, **{name: f"{peak:.1f}" for name, peak in peaks.items()}})
    report(f"Largest output, LR images of {SIDE}×{SIDE}", rows, args)


if __name__ == "__main__":
    main()
