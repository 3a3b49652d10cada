"""Patches a second: the report's loader and this project's, on decoded 2040×1356 images.

python -m tests.benchmarks.loader
"""

import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dataset import DevicePatches, PairedPatches, find_pairs, prefetch
from tests.benchmarks.harness import parse_args, report
from utils.memory import keep_freed_memory

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
        top, left = (random.randrange(n - size + 1) for n in lr.shape[:2])
        lr = lr[top : top + size, left : left + size]
        hr = hr[SCALE * top : SCALE * top + PATCH, SCALE * left : SCALE * left + PATCH]
        return tuple(torch.from_numpy(np.ascontiguousarray(a.transpose(2, 0, 1))).float() / 255 for a in (lr, hr))


def write_images(root: Path, count: int) -> None:
    generator = np.random.default_rng(0)
    for folder, height, width in (("HR", HEIGHT, WIDTH), ("LR_bicubic/X3", HEIGHT // SCALE, WIDTH // SCALE)):
        target = root / f"DIV2K_train_{folder}"
        target.mkdir(parents=True)
        for i in range(count):
            name = f"{i:04d}{'' if folder == 'HR' else 'x3'}.npy"
            np.save(target / name, generator.integers(0, 256, (height, width, 3), np.uint8))


def rate(batches: Iterator, batch_size: int, warm_up: int, count: int, convert: bool) -> float:
    """Patches a second as they arrive, or with this project's uint8 batches made float32 on the CPU."""
    for _ in range(warm_up):
        next(batches)
    start = time.perf_counter()
    for _ in range(count):
        for part in next(batches):
            if convert and part.dtype == torch.uint8:
                part / 255
    return count * batch_size / (time.perf_counter() - start)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv, __doc__, images=24, batch=16, batches=200, workers=2)
    keep_freed_memory()
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
        loaders = {
            "report: np.load of whole arrays": lambda: iter(
                DataLoader(ReportsLoader(root, total), args.batch, shuffle=True, num_workers=args.workers)
            ),
            "memory-mapped": lambda: prefetch(patches(), shares, args.workers),
            "in RAM": lambda: prefetch(in_ram, shares, args.workers),
        }
        if args.device != "cpu":
            on_device = DevicePatches(patches(), args.device)
            loaders[f"on the device ({args.device})"] = lambda: (on_device[share] for share in shares)
        rates = {
            name: [rate(loader(), args.batch, 10, args.batches, convert) for convert in (False, True)]
            for name, loader in loaders.items()
        }
    base, base_converted = next(iter(rates.values()))
    rows = [
        {
            "loader": name,
            "patches/s": round(arriving),
            "ratio": round(arriving / base, 1),
            "patches/s, as float32 on the CPU": round(converted),
            "its ratio": round(converted / base_converted, 1),
        }
        for name, (arriving, converted) in rates.items()
    ]
    report(
        f"Loader, {args.workers} workers, {PATCH}×{PATCH} patches of {args.images} images of {WIDTH}×{HEIGHT}",
        rows,
        args,
    )


if __name__ == "__main__":
    main()
