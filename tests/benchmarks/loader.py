"""Patches a second: the report's loader and this project's, on decoded 2040×1356 images.

python -m tests.benchmarks.loader
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dataset import DevicePatches, PairedPatches, find_pairs
from tests.benchmarks.harness import parse_args, report

HEIGHT, WIDTH, SCALE, PATCH = 1356, 2040, 3, 192


class ReportsLoader(Dataset):
    """np.load of both whole arrays for every sample, then the crop, then float tensors: one sample at a time."""

    def __init__(self, root: Path, length: int) -> None:
        self.pairs, self.length = find_pairs(root, "training", SCALE), length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        pair = self.pairs[index % len(self.pairs)]
        lr, hr = np.load(pair.lr), np.load(pair.hr)
        size = PATCH // SCALE
        top, left = np.random.randint(lr.shape[0] - size + 1), np.random.randint(lr.shape[1] - size + 1)
        lr = lr[top : top + size, left : left + size]
        hr = hr[SCALE * top : SCALE * top + PATCH, SCALE * left : SCALE * left + PATCH]
        return tuple(torch.from_numpy(np.ascontiguousarray(a.transpose(2, 0, 1))).float() / 255 for a in (lr, hr))


def write_images(root: Path, count: int) -> None:
    random = np.random.default_rng(0)
    for folder, height, width in (("HR", HEIGHT, WIDTH), ("LR_bicubic/X3", HEIGHT // SCALE, WIDTH // SCALE)):
        target = root / f"DIV2K_train_{folder}"
        target.mkdir(parents=True)
        for i in range(count):
            name = f"{i:04d}{'' if folder == 'HR' else 'x3'}.npy"
            np.save(target / name, random.integers(0, 256, (height, width, 3), np.uint8))


def rate(batches, batch_size: int, warm_up: int, count: int) -> float:
    """Patches a second as training sees them: float32 in [0, 1]."""
    source = iter(batches)
    for _ in range(warm_up):
        next(source)
    start = time.perf_counter()
    for _ in range(count):
        for part in next(source):
            if part.dtype == torch.uint8:
                part.float().div_(255)
    return count * batch_size / (time.perf_counter() - start)


def main() -> None:
    args = parse_args(__doc__, images=24, batch=16, batches=200, workers=2)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "DIV2K_decoded"
        write_images(root, args.images)
        total = (args.batches + 20) * args.batch
        shares = [range(start, start + args.batch) for start in range(0, total, args.batch)]

        def patches() -> PairedPatches:
            return PairedPatches(
                [(find_pairs(root, "training", SCALE), 1)], scale=SCALE, patch_size=PATCH, split="training"
            )

        in_ram = patches()
        in_ram.lr.load()
        in_ram.hr.load()
        whole = {"sampler": shares, "batch_size": None, "num_workers": args.workers, "prefetch_factor": 4}
        on_device = DevicePatches(patches(), args.device)
        loaders = {
            "report: np.load of whole arrays": DataLoader(
                ReportsLoader(root, total), args.batch, shuffle=True, num_workers=args.workers
            ),
            "memory-mapped": DataLoader(patches(), **whole),
            "in RAM": DataLoader(in_ram, **whole),
            f"on the device ({args.device})": (on_device[share] for share in shares),
        }
        rates = {name: rate(loader, args.batch, 10, args.batches) for name, loader in loaders.items()}
    base = next(iter(rates.values()))
    rows = [{"loader": name, "patches/s": round(r), "ratio": round(r / base, 1)} for name, r in rates.items()]
    report(f"Loader, {args.workers} workers, {PATCH}×{PATCH} patches of {WIDTH}×{HEIGHT} images", rows, args)


if __name__ == "__main__":
    main()
