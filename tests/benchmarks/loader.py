"""Patches a second by the report's loader, by BasicSR's way and by this project's, of 2040×1356 images.

python -m tests.benchmarks.loader
"""

import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dataset import DevicePatches, PairedPatches, find_pairs, prefetch, sample_pairs
from tests.benchmarks.harness import parse_args, report
from utils.bicubic import imresize
from utils.images import write_rgb
from utils.memory import keep_freed_memory

HEIGHT, WIDTH, SCALE, PATCH, SUB_IMAGE = 1356, 2040, 3, 192, 480


class ReportsLoader(Dataset):
    """np.load of both whole arrays for every sample, then the crop, then float tensors: one sample at a time."""

    def __init__(self, root: Path, length: int) -> None:
        self.pairs, self.length = find_pairs(root, "training", SCALE), length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        pair = self.pairs[index % len(self.pairs)]
        patches = random_crop(np.load(pair.lr), np.load(pair.hr))
        return tuple(torch.from_numpy(np.ascontiguousarray(p.transpose(2, 0, 1))).float() / 255 for p in patches)


class SubImagesLoader(Dataset):
    """What BasicSR does with the sub-images that its guide has one cut first: a PNG of 480×480 and its LR are decoded
    for every sample and made float whole, then cropped, flipped and turned.
    """

    def __init__(self, folder: Path, length: int) -> None:
        self.files, self.length = sorted(folder.glob("*_hr.png")), length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        hr = self.files[index % len(self.files)]
        lr = hr.with_name(hr.name.replace("_hr", "_lr"))
        patches = random_crop(*(cv2.imread(str(file)).astype(np.float32) / 255 for file in (lr, hr)))
        down, right, turned = (random.choice((1, -1)) for _ in range(3))
        flipped = (patch[::down, ::right, ::-1] for patch in patches)  # and BGR to RGB
        channels_first = [p.transpose(2, 0, 1) if turned == 1 else p.transpose(2, 1, 0) for p in flipped]
        return tuple(torch.from_numpy(np.ascontiguousarray(patch)) for patch in channels_first)


def random_crop(lr: np.ndarray, hr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    size = PATCH // SCALE
    top, left = (random.randrange(n - size + 1) for n in lr.shape[:2])
    hr = hr[SCALE * top : SCALE * top + PATCH, SCALE * left : SCALE * left + PATCH]
    return lr[top : top + size, left : left + size], hr


def write_images(root: Path, sub_images: Path, count: int) -> None:
    """A photo and its mirror images side by side, from another corner each time: decoded, and as PNG sub-images."""
    photo = sample_pairs("training", SCALE)[0].hr
    room = [(0, n + side) for n, side in zip((HEIGHT, WIDTH), photo.shape[:2])]
    mirrored = np.pad(photo, (*room, (0, 0)), mode="symmetric")
    draw = np.random.default_rng(0)
    for folder in (root / "DIV2K_train_HR", root / "DIV2K_train_LR_bicubic/X3", sub_images):
        folder.mkdir(parents=True)
    for i in range(count):
        top, left = (draw.integers(side) for side in photo.shape[:2])
        hr = np.ascontiguousarray(mirrored[top : top + HEIGHT, left : left + WIDTH])
        lr = imresize(hr, 1 / SCALE)
        np.save(root / f"DIV2K_train_HR/{i:04d}.npy", hr)
        np.save(root / f"DIV2K_train_LR_bicubic/X3/{i:04d}x3.npy", lr)
        for name, image, side in (("hr", hr, SUB_IMAGE), ("lr", lr, SUB_IMAGE // SCALE)):
            for row, column in np.ndindex(HEIGHT // SUB_IMAGE, WIDTH // SUB_IMAGE):
                cut = image[row * side : (row + 1) * side, column * side : (column + 1) * side]
                write_rgb(sub_images / f"{i:04d}_{row}{column}_{name}.png", cut)


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
        root, sub_images = Path(folder) / "DIV2K_decoded", Path(folder) / "DIV2K_sub"
        write_images(root, sub_images, args.images)
        total = (args.batches + 20) * args.batch
        shares = [range(start, start + args.batch) for start in range(0, total, args.batch)]

        def patches() -> PairedPatches:
            return PairedPatches(
                [(find_pairs(root, "training", SCALE), 1)], scale=SCALE, patch_size=PATCH, split="training"
            )

        in_ram = patches()
        in_ram.lr.load()
        in_ram.hr.load()

        def samples(of: Dataset) -> Iterator:
            return iter(DataLoader(of, args.batch, shuffle=True, num_workers=args.workers))

        loaders = {
            "report: np.load of whole arrays": lambda: samples(ReportsLoader(root, total)),
            "BasicSR's way: PNG sub-images of 480×480": lambda: samples(SubImagesLoader(sub_images, total)),
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
