"""Paired patches for training and validation, and the benchmark set.

A decoded set is a tree of .npy files (uint8, HWC, RGB) laid out as DIV2K and Flickr2K are when downloaded:

    DIV2K_decoded/DIV2K_train_HR/0001.npy     DIV2K_decoded/DIV2K_train_LR_bicubic/X3/0001x3.npy
    DIV2K_decoded/DIV2K_valid_HR/0801.npy     DIV2K_decoded/DIV2K_valid_LR_bicubic/X3/0801x3.npy
    Flickr2K_decoded/Flickr2K_HR/000001.npy   Flickr2K_decoded/Flickr2K_LR_bicubic/X3/000001x3.npy
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from natsort import natsorted
from torch import Tensor
from torch.utils.data import Dataset

from utils.bicubic import imresize
from utils.images import list_images, read_rgb

SAMPLE_TRAINING = ("coffee.png", "rocket.jpg", "motorcycle_left.png", "hubble_deep_field.jpg")
SAMPLE_VALIDATION = ("astronaut.png", "chelsea.png")


class DataError(ValueError):
    """Data that cannot be used; the message names the files and says what to do."""


@dataclass(frozen=True)
class Pair:
    """One image at two resolutions: .npy paths, memory-mapped when read, or arrays. (H, W, 3) uint8."""

    name: str
    lr: Path | np.ndarray
    hr: Path | np.ndarray


def open_array(source: Path | np.ndarray) -> np.ndarray:
    if isinstance(source, np.ndarray):
        return source
    try:
        array = np.load(source, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{source} is not a readable .npy file ({error}); run png2npy.py again") from error
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise DataError(f"{source} holds {array.dtype} {array.shape}, not uint8 (H, W, 3); run png2npy.py again")
    return array


def find_pairs(root: Path, split: str, scale: int) -> list[Pair]:
    """Pairs of one decoded set.

    Args:
        root: a folder such as DIV2K_decoded.
        split: `training` (X_train_HR, or X_HR where a set has no splits) or `validation` (X_valid_HR).
    Returns:
        Pairs in natural order of their names; empty where the root has no such split.
    Raises:
        DataError: an image without its partner, named.
    """
    endings = {"training": ("_train_HR", "_HR"), "validation": ("_valid_HR",)}[split]
    folders = [f for f in natsorted(root.glob("*_HR"), key=str) if f.is_dir()]
    hr_folder = next((f for ending in endings for f in folders if f.name.endswith(ending)), None)
    if hr_folder is None or (split == "training" and hr_folder.name.endswith("_valid_HR")):
        return []
    lr_folder = root / f"{hr_folder.name.removesuffix('_HR')}_LR_bicubic" / f"X{scale}"
    hr_files = {f.stem: f for f in hr_folder.glob("*.npy")}
    lr_files = {f.stem.removesuffix(f"x{scale}"): f for f in lr_folder.glob("*.npy")}
    if hr_files and not lr_files:
        raise DataError(
            f"{split} images in {hr_folder} have no partners in {lr_folder}; png2npy.py --make-lr makes them"
        )
    for have, want, where in ((hr_files, lr_files, lr_folder), (lr_files, hr_files, hr_folder)):
        if missing := natsorted(have.keys() - want.keys()):
            named = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise DataError(f"{split} images without a partner in {where}: {named}")
    return [Pair(stem, lr_files[stem], hr_files[stem]) for stem in natsorted(hr_files)]


def sample_pairs(split: str, scale: int) -> list[Pair]:
    """Pairs made from the colour photos that scikit-image ships, so that nothing need be downloaded."""
    from skimage.data import data_dir

    names = {"training": SAMPLE_TRAINING, "validation": SAMPLE_VALIDATION}[split]
    return [Pair(Path(name).stem, *downscaled(read_rgb(Path(data_dir) / name), scale)) for name in names]


def downscaled(image: np.ndarray, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """(lr, hr): the image cropped to a multiple of the scale, and its MATLAB bicubic."""
    height, width = (n // scale * scale for n in image.shape[:2])
    hr = np.ascontiguousarray(image[:height, :width])
    return imresize(hr, 1 / scale), hr


class PairedPatches(Dataset):
    """Aligned LR and HR patches; sample i is a pure function of (seed, i).

    Training draws with replacement: every crop position of every image is equally likely, times its set's repeat,
    then one of the eight flips and rotations. So it never ends: sample i exists for any i below `length`.
    Validation takes image i modulo the number of images, unflipped.

    Args:
        sets: pairs of each set, and how often it is repeated.
        patch_size: HR pixels, a multiple of the scale.
        split: `training` or `validation`.
        length: samples of a training run; validation has repeat × images of each set.
    Raises:
        DataError: no images, `hr != scale·lr`, or an image smaller than the patch; names the file and the split.
    """

    def __init__(
        self,
        sets: Sequence[tuple[Sequence[Pair], int]],
        *,
        scale: int,
        patch_size: int,
        split: str,
        length: int | None = None,
        seed: int = 0,
    ) -> None:
        if patch_size < scale or patch_size % scale:
            raise DataError(f"{split} patch size {patch_size} is not a positive multiple of the scale {scale}")
        self.scale, self.patch_size, self.split, self.seed = scale, patch_size, split, seed
        self.pairs = [pair for pairs, _ in sets for pair in pairs]
        repeats = [repeat for pairs, repeat in sets for _ in pairs]
        if not self.pairs:
            raise DataError(f"no {split} images")
        positions = [self._count_positions(pair) for pair in self.pairs]
        self.cumulative = np.cumsum(np.multiply(positions, repeats, dtype=np.float64))
        self.cumulative /= self.cumulative[-1]
        self.order = [i for i, repeat in enumerate(repeats) for _ in range(repeat)]
        self.length = length if split == "training" else len(self.order)
        self._opened: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def _count_positions(self, pair: Pair) -> int:
        lr, hr = open_array(pair.lr).shape, open_array(pair.hr).shape
        if hr[:2] != (lr[0] * self.scale, lr[1] * self.scale):
            raise DataError(
                f"{self.split} pair {pair.name}: HR is {hr[1]}×{hr[0]}, not {self.scale} times LR's {lr[1]}×{lr[0]}"
                f" ({describe(pair)})"
            )
        if min(hr[:2]) < self.patch_size:
            raise DataError(
                f"{self.split} image {pair.name} is {hr[1]}×{hr[0]}, smaller than the {self.patch_size} pixel patch"
                f" ({describe(pair)}); use a smaller patch or remove it"
            )
        patch = self.patch_size // self.scale
        return (lr[0] - patch + 1) * (lr[1] - patch + 1)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_opened": {}}  # a pickled memory map would carry the whole image

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """uint8 (3, patch/scale, patch/scale) and (3, patch, patch)."""
        # Philox is counter-based: a generator for any index costs the same.
        random = np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, 0, index]))
        if self.split == "training":
            chosen = int(np.searchsorted(self.cumulative, random.random(), side="right"))
            turns, flip = int(random.integers(4)), bool(random.integers(2))
        else:
            chosen, turns, flip = self.order[index % len(self.order)], 0, False
        if chosen not in self._opened:
            self._opened[chosen] = open_array(self.pairs[chosen].lr), open_array(self.pairs[chosen].hr)
        lr, hr = self._opened[chosen]
        size, s = self.patch_size // self.scale, self.scale
        top, left = (int(random.integers(n - size + 1)) for n in lr.shape[:2])
        patches = lr[top : top + size, left : left + size], hr[s * top : s * (top + size), s * left : s * (left + size)]
        return tuple(augmented(patch, turns, flip) for patch in patches)


def describe(pair: Pair) -> str:
    return " and ".join(str(source) for source in (pair.hr, pair.lr) if isinstance(source, Path)) or "in memory"


def augmented(patch: np.ndarray, turns: int, flip: bool) -> Tensor:
    """(H, W, 3) -> (3, H, W), turned by 90° `turns` times, then flipped left to right."""
    patch = np.rot90(patch, turns)
    if flip:
        patch = patch[:, ::-1]
    return torch.from_numpy(patch.transpose(2, 0, 1).copy())


class BenchmarkSet:
    """Whole images to score on: iterates (name, lr, hr), uint8 (H, W, 3)."""

    def __init__(self, items: Sequence[tuple[str, np.ndarray, np.ndarray]], name: str) -> None:
        self.items, self.name = items, name

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self):
        return iter(self.items)

    @classmethod
    def from_set5(cls, root: Path, scale: int) -> "BenchmarkSet":
        """A folder holding LRbicx{scale}/ and original/, paired by name; LR names may end in x{scale}.

        The course protocol. For the paper's, whose LR is made anew, see from_folder.

        Raises:
            DataError: a folder or a partner is missing, or an original is smaller than scale·LR.
        """
        lr_folder, hr_folder = root / f"LRbicx{scale}", root / "original"
        for folder in (lr_folder, hr_folder):
            if not folder.is_dir():
                raise DataError(f"{root} has no {folder.name}/; a Set5 folder holds LRbicx{scale}/ and original/")
        lr_files = {f.stem.removesuffix(f"x{scale}"): f for f in list_images(lr_folder)}
        hr_files = {f.stem: f for f in list_images(hr_folder)}
        if unpaired := natsorted(lr_files.keys() ^ hr_files.keys()):
            raise DataError(f"{root}: images without a partner: {', '.join(unpaired)}")
        if not hr_files:
            raise DataError(f"{root} holds no images")
        items = [(name, read_named(lr_files[name]), read_named(hr_files[name])) for name in natsorted(hr_files)]
        for name, lr, hr in items:
            if hr.shape[0] < scale * lr.shape[0] or hr.shape[1] < scale * lr.shape[1]:
                raise DataError(f"{hr_files[name]} is smaller than {scale} times {lr_files[name]}")
        return cls(items, "Set5")

    @classmethod
    def from_folder(cls, folder: Path, scale: int) -> "BenchmarkSet":
        """Any folder of HR images; LR by MATLAB's bicubic.

        Raises:
            DataError: no images, or one that cannot be read or is smaller than the scale.
        """
        if not folder.is_dir() or not (files := list_images(folder)):
            raise DataError(f"{folder} holds no images")
        items = []
        for file in files:
            hr = read_named(file)
            if min(hr.shape[:2]) < scale:
                raise DataError(f"{file} is smaller than one LR pixel at scale {scale}")
            items.append((file.stem, *downscaled(hr, scale)))
        return cls(items, folder.name)

    @classmethod
    def sample(cls, scale: int) -> "BenchmarkSet":
        """The validation photos of scikit-image."""
        return cls([(pair.name, pair.lr, pair.hr) for pair in sample_pairs("validation", scale)], "scikit-image")


def read_named(path: Path) -> np.ndarray:
    try:
        return read_rgb(path)
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: {error}") from error
