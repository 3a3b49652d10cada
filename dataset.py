"""Paired patches for training and validation, and the benchmark set.

A decoded set is a tree of .npy files (uint8, HWC, RGB) laid out as DIV2K and Flickr2K are when downloaded:

    DIV2K_decoded/DIV2K_train_HR/0001.npy     DIV2K_decoded/DIV2K_train_LR_bicubic/X3/0001x3.npy
    DIV2K_decoded/DIV2K_valid_HR/0801.npy     DIV2K_decoded/DIV2K_valid_LR_bicubic/X3/0801x3.npy
    Flickr2K_decoded/Flickr2K_HR/000001.npy   Flickr2K_decoded/Flickr2K_LR_bicubic/X3/000001x3.npy
"""

import re
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import attrgetter
from pathlib import Path
from threading import Lock

import cv2
import numpy as np
import torch
from natsort import natsorted
from torch import Tensor

from utils.bicubic import imresize
from utils.images import list_images, other_files, read_rgb
from utils.layout import is_training_hr, is_validation_hr, lr_folder_of, lr_name, read_array, what_is_wrong
from utils.patterns import unlike_photos
from utils.photo import Photo
from utils.sampling import CELL, Cells, detail_of, random_uniform

SET5 = ("baby", "bird", "butterfly", "head", "woman")
LARGEST_EXCESS = 8  # pixels by which the course's HR images exceed their LR at most
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
    """(H, W, 3) uint8, memory-mapped where it is a file.

    Raises:
        DataError: a file that png2npy.py did not write; named.
    """
    if isinstance(source, np.ndarray):
        return source
    try:
        array = read_array(source, mmap_mode="r")
    except (ValueError, OSError) as error:
        raise DataError(f"{source} is not a readable .npy file ({error}); run png2npy.py again") from error
    if wrong := what_is_wrong(array):
        raise DataError(f"{source} {wrong}; run png2npy.py again")
    return array


def find_pairs(root: Path, split: str, scale: int) -> list[Pair]:
    """Pairs of one decoded set.

    Args:
        root: a folder such as DIV2K_decoded.
        split: `training` (X_train_HR, or X_HR where a set has no splits) or `validation` (X_valid_HR).
    Returns:
        Pairs in natural order of their names, without hidden files, which a killed conversion leaves; empty where the
        root has no such split.
    Raises:
        DataError: an image without its partner or with two, named; or several sets in one root.
    """
    of_split = {"training": is_training_hr, "validation": is_validation_hr}[split]
    folders = [folder for folder in natsorted(root.glob("[!.]*_HR"), key=str) if folder.is_dir() and of_split(folder)]
    if not folders:
        return []
    if len(folders) > 1:
        names = ", ".join(f.name for f in folders)
        raise DataError(f"{root} holds several {split} sets ({names}); decode each into a folder of its own")
    (hr_folder,) = folders
    lr_folder = lr_folder_of(hr_folder, scale)
    hr_files, lr_files = (natsorted(folder.glob("[!.]*.npy"), key=str) for folder in (hr_folder, lr_folder))
    hr_files = by_name(hr_files)
    lr_files = by_name(lr_files, partial(lr_name, scale=scale, hr_names=hr_files))
    if hr_files and not lr_files:
        raise DataError(
            f"{split} images in {hr_folder} have no partners in {lr_folder}; png2npy.py --make-lr {scale} makes them,"
            " in a --pathTo of its own"
        )
    sides = ((hr_files, hr_folder), (lr_files, lr_folder))
    for (have, folder), (want, where) in (sides, sides[::-1]):
        if missing := natsorted(have.keys() - want.keys()):
            named = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise DataError(
                f"{split} images of {folder} without a partner in {where}: {named}; decode them again (png2npy.py), or"
                " delete them"
            )
    return [Pair(stem, lr_files[stem], hr_files[stem]) for stem in natsorted(hr_files)]


def by_name(files: Iterable[Path], name_of: Callable[[Path], str] = attrgetter("stem")) -> dict[str, Path]:
    """One folder's files by their names.

    Raises:
        DataError: two files of one name, both named.
    """
    named: dict[str, Path] = {}
    for file in files:
        name = name_of(file)
        if (other := named.setdefault(name, file)) != file:
            raise DataError(
                f"{file.parent} holds two images called {name}, {other.name} and {file.name}; delete or rename one"
            )
    return named


def images_of(folder: Path) -> dict[str, Path]:
    """A folder's images by their names.

    Raises:
        DataError: no folder, no images, or two of one name.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    if not (files := list_images(folder)):
        below = natsorted(str(f) for f in folder.iterdir() if f.is_dir() and list_images(f))
        raise DataError(f"{folder} holds no images" + (f"; {below[0]} does" if below else other_files(folder)))
    return by_name(files)


def sample_pairs(split: str, scale: int) -> list[Pair]:
    """Pairs made from the colour photos that scikit-image ships, so that nothing need be downloaded."""
    from skimage.data import data_dir

    names = {"training": SAMPLE_TRAINING, "validation": SAMPLE_VALIDATION}[split]
    return [Pair(Path(name).stem, *downscaled(read_rgb(Path(data_dir) / name), scale)) for name in names]


def noise_pairs(scale: int, side: int) -> list[Pair]:
    """Pairs of what no photo shows (utils/patterns.py), LR of side×side pixels, HR by bicubic."""
    photos = {pair.name: pair.lr for pair in sample_pairs("training", scale)}
    return [Pair(name, lr, imresize(lr, scale)) for name, lr in unlike_photos(photos, side).items()]


def downscaled(image: np.ndarray, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """(lr, hr): the image cropped to a multiple of the scale, and its MATLAB bicubic."""
    height, width = (n // scale * scale for n in image.shape[:2])
    hr = np.ascontiguousarray(image[:height, :width])
    return imresize(hr, 1 / scale), hr


@dataclass(frozen=True)
class Draws:
    """What to cut for each sample of a batch, in LR pixels: (n,) integers.

    `orientation` is one of eight: bit 0 flips left to right, bit 1 top to bottom, then bit 2 transposes.
    """

    image: np.ndarray
    top: np.ndarray
    left: np.ndarray
    orientation: np.ndarray


def describe(pair: Pair) -> str:
    files = [str(source) for source in (pair.hr, pair.lr) if isinstance(source, Path)]
    return " and ".join(files) or f"{pair.name} of scikit-image"


def check_sizes(pair: Pair, lr: Sequence[int], hr: Sequence[int], scale: int, split: str) -> None:
    """Raises DataError where HR of shape `hr` is not `scale` times LR of shape `lr`, or is empty."""
    if tuple(hr[:2]) != (lr[0] * scale, lr[1] * scale):
        raise DataError(
            f"{split} pair {pair.name}: HR is {hr[1]}×{hr[0]}, not {scale} times LR's {lr[1]}×{lr[0]}"
            f" ({describe(pair)})"
        )
    if not min(hr[:2]):
        raise DataError(f"{split} pair {pair.name} is empty ({describe(pair)})")


class MappedArrays:
    """.npy files by number, memory-mapped. Those unused for longest are closed: memory and open files stay bounded."""

    def __init__(self, sources: Sequence[Path | np.ndarray], limit: int = 32) -> None:  # macOS lets 256 be open
        self.sources, self.limit = list(sources), limit
        self.headers = [(s.shape, getattr(s, "offset", 0)) for s in map(open_array, sources)]
        self.shapes = np.array([shape for shape, _ in self.headers])
        self._open: OrderedDict[int, np.ndarray] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> np.ndarray:
        source = self.sources[index]
        if isinstance(source, np.ndarray):
            return source
        with self._lock:
            if index in self._open:
                self._open.move_to_end(index)
                return self._open[index]
            return self._map(index, source)

    def _map(self, index: int, source: Path) -> np.ndarray:
        shape, offset = self.headers[index]
        try:
            array = np.asarray(np.memmap(source, np.uint8, "r", offset, shape))
        except (OSError, ValueError) as error:
            raise DataError(f"{source} changed or disappeared during the run ({error})") from error
        self._open[index] = array
        if len(self._open) > self.limit:
            self._open.popitem(last=False)
        return array

    def nbytes(self) -> int:
        return int(self.shapes.prod(axis=1).sum())

    def load(self) -> None:
        """Reads everything into memory, which is then shared by all threads."""
        self.sources = [np.array(open_array(source)) for source in self.sources]


class PairedPatches:
    """Batches of aligned LR and HR patches; sample i is a pure function of (seed, i).

    Training draws with replacement: every crop position of every image is equally likely, or as likely as it holds
    detail, times its set's repeat; then one of the eight flips and rotations. So it never ends: sample i exists for
    any i.
    Validation cuts as many patches from each image as its set is repeated, in a row, unflipped, at the same places
    every time.

    Args:
        sets: pairs of each set, and how often it is repeated.
        patch_size: HR pixels, a multiple of the scale.
        split: `training` or `validation`.
        detail: for training; a cell of positions is as likely as the sum of the detail in their patches, each to this
            power. 0: all positions equally.
        noise: for training; this share of the samples are of `noise_pairs` instead, drawn by `detail` among themselves.
            `photo_count` counts the others.
    Raises:
        DataError: no images, `hr != scale·lr`, a validation image smaller than the patch, or a training set of none
            but such; names the file and the split.
    """

    def __init__(
        self,
        sets: Sequence[tuple[Sequence[Pair], int]],
        *,
        scale: int,
        patch_size: int,
        split: str,
        seed: int = 0,
        detail: float = 0.0,
        noise: float = 0.0,
    ) -> None:
        if patch_size < scale or patch_size % scale:
            raise DataError(f"{split} patch size {patch_size} is not a positive multiple of the scale {scale}")
        self.scale, self.patch_size, self.split, self.seed = scale, patch_size, split, seed
        self.left_out: list[Pair] = []
        if split == "training":
            sets = [(self._leave_out_small(pairs), repeat) for pairs, repeat in sets]
        self.pairs = [pair for pairs, _ in sets for pair in pairs]
        repeats = [repeat for pairs, repeat in sets for _ in pairs]
        if not self.pairs:
            raise DataError(f"no {split} images")
        self.photo_count = len(self.pairs)
        self.set_ends = np.cumsum([len(pairs) for pairs, _ in sets])
        if noise:
            self.pairs += noise_pairs(scale, patch_size // scale + 64)
            repeats += [1] * (len(self.pairs) - self.photo_count)
            self.set_ends = np.append(self.set_ends, len(self.pairs))
        self.lr = MappedArrays([pair.lr for pair in self.pairs])
        self.hr = MappedArrays([pair.hr for pair in self.pairs])
        for pair, lr, hr in zip(self.pairs, self.lr.shapes, self.hr.shapes):
            check_sizes(pair, lr, hr, scale, split)
        if small := [(pair, hr) for pair, hr in zip(self.pairs, self.hr.shapes) if min(hr[:2]) < patch_size]:
            (pair, hr), more = small[0], len(small) - 1
            raise DataError(
                f"{split} image {pair.name} is {hr[1]}×{hr[0]}, smaller than the {patch_size} pixel patch"
                f" ({describe(pair)}){f', and {more} more' * bool(more)}; give a smaller --valid-patch or remove it"
            )
        self.positions = self.lr.shapes[:, :2] - patch_size // scale + 1
        self.order = np.repeat(np.arange(len(self.pairs)), repeats)
        if detail:
            grids, side = detail_of(self.lr, patch_size // scale, detail), CELL
        else:  # one cell an image
            grids, side = self.positions.prod(axis=1, dtype=np.float64).reshape(-1, 1, 1), self.positions.max()
        weighted = [grid * repeat for grid, repeat in zip(grids, repeats, strict=True)]
        self.cells = Cells(weighted, self.positions, side=side, photo_count=self.photo_count, noise=noise)

    def _leave_out_small(self, pairs: Sequence[Pair]) -> list[Pair]:
        """A set's pairs that hold a patch; the others go to `left_out`."""
        shortest = [min(open_array(pair.hr).shape[:2]) for pair in pairs]
        large = [pair for pair, length in zip(pairs, shortest) if length >= self.patch_size]
        if pairs and not large:
            raise DataError(
                f"every training image of one set, such as {describe(pairs[0])}, is smaller than the"
                f" {self.patch_size} pixel patch; give a smaller --patch or leave that set out"
            )
        self.left_out += [pair for pair, length in zip(pairs, shortest) if length < self.patch_size]
        return large

    def __len__(self) -> int:
        """Samples of one pass: every image as often as it is repeated."""
        return len(self.order)

    def set_shares(self) -> np.ndarray:
        """The share of each set among training samples; that of noise, where there is any, is the last."""
        return self.cells.shares(self.set_ends)

    def draw(self, indices: Sequence[int]) -> Draws:
        """What samples `indices` are."""
        indices = np.asarray(indices)
        choice, vertical, horizontal, orientation = random_uniform(self.seed, indices, 4)
        if self.split == "validation":
            image, orientation = self.order[indices % len(self.order)], np.zeros_like(choice)
            top, left, (rows, columns) = 0, 0, self.positions[image].T
        else:
            image, top, left, rows, columns = self.cells.choose(choice)
        top, left = top + (vertical * rows).astype(int), left + (horizontal * columns).astype(int)
        return Draws(image, top, left, (orientation * 8).astype(int))

    def __getitem__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """A whole batch, uint8 in channels_last: (n, 3, patch/scale, patch/scale) and (n, 3, patch, patch)."""
        draws = self.draw(indices)
        return cut(self.lr, draws, self.patch_size // self.scale, 1), cut(self.hr, draws, self.patch_size, self.scale)


def cut(arrays: MappedArrays, draws: Draws, size: int, scale: int) -> Tensor:
    """Copies the drawn patches, turned: uint8 (n, 3, size, size) in channels_last.

    By OpenCV, as NumPy takes up to 30 times as long to copy an array that is flipped or transposed.
    """
    out = np.empty((len(draws.image), size, size, 3), np.uint8)
    for patch, image, top, left, orientation in zip(out, draws.image, draws.top, draws.left, draws.orientation):
        crop = arrays[image][scale * top : scale * top + size, scale * left : scale * left + size]
        if orientation & 3:
            crop = cv2.flip(crop, FLIP_CODES[orientation & 3], dst=None if orientation & 4 else patch)
        if orientation & 4:
            cv2.transpose(crop, dst=patch)
        elif not orientation:
            patch[:] = crop
    return torch.from_numpy(out).permute(0, 3, 1, 2)


FLIP_CODES = {1: 1, 2: 0, 3: -1}  # OpenCV's: 1 left to right, 0 top to bottom, -1 both


def prefetch(
    patches: PairedPatches, shares: Iterable[Sequence[int]], workers: int, pin: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of `shares` in order, made ahead by threads: copying releases the interpreter lock.

    Args:
        workers: threads; 0 makes each batch when it is asked for.
        pin: whether to put them in page-locked memory, from which a GPU copies while it computes.
    """

    def make(share: Sequence[int]) -> tuple[Tensor, Tensor]:
        batch = patches[share]
        return tuple(part.pin_memory() for part in batch) if pin else batch

    if not workers:
        yield from map(make, shares)
        return
    shares = iter(shares)
    with ThreadPoolExecutor(workers) as pool:
        pending = deque(pool.submit(make, share) for share in islice(shares, 2 * workers))
        while pending:
            batch = pending.popleft().result()
            pending.extend(pool.submit(make, share) for share in islice(shares, 1))
            yield batch


class DevicePatches:
    """The same batches, cut on the device from uint8 images that stay there."""

    def __init__(self, patches: PairedPatches, device: str) -> None:
        self.patches, self.device = patches, device
        self.lr = DeviceArrays(patches.lr, device)
        self.hr = DeviceArrays(patches.hr, device)

    def __getitem__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """As `PairedPatches` gives them, on the device."""
        draws = self.patches.draw(indices)
        scale, size = self.patches.scale, self.patches.patch_size
        table = torch.from_numpy(np.stack((draws.image, draws.top, draws.left, draws.orientation)))
        if self.device.startswith("cuda"):
            table = table.pin_memory()
        table = table.to(self.device, non_blocking=True)
        return self.lr.cut(table, size // scale, 1), self.hr.cut(table, size, scale)


class DeviceArrays:
    """Images one after another in one (pixels, 3) uint8 tensor."""

    def __init__(self, arrays: MappedArrays, device: str) -> None:
        counts = arrays.shapes[:, 0] * arrays.shapes[:, 1]
        self.pixels = torch.empty((int(counts.sum()), 3), dtype=torch.uint8, device=device)
        starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
        for index, (start, count) in enumerate(zip(starts, counts)):
            self.pixels[start : start + count] = torch.from_numpy(np.array(arrays[index]).reshape(-1, 3))
        self.starts = torch.from_numpy(starts).to(device)
        self.widths = torch.from_numpy(arrays.shapes[:, 1].copy()).to(device)

    def cut(self, table: Tensor, size: int, scale: int) -> Tensor:
        """Patches, (n, 3, size, size) uint8, where the fields of `Draws`, (4, n), say.

        Args:
            scale: of these images to the LR ones, in whose pixels `Draws` counts.
        """
        image, top, left, orientation = table[:, :, None, None]
        y = torch.arange(size, device=table.device)[None, :, None]
        x = torch.arange(size, device=table.device)[None, None, :]
        turned = (orientation & 4) > 0
        y, x = torch.where(turned, x, y), torch.where(turned, y, x)
        y = torch.where((orientation & 2) > 0, size - 1 - y, y) + scale * top
        x = torch.where((orientation & 1) > 0, size - 1 - x, x) + scale * left
        return self.pixels[self.starts[image] + y * self.widths[image] + x].permute(0, 3, 1, 2)


class BenchmarkSet:
    """Whole images to score on: iterates (name, lr, hr), uint8 (H, W, 3).

    Args:
        names: of the images.
        read: gives (lr, hr) of a name, as often as it is iterated over.
        name: of the set.
    """

    def __init__(self, names: Iterable[str], read: Callable[[str], tuple[np.ndarray, np.ndarray]], name: str) -> None:
        self.names, self.read, self.name = list(names), read, name

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        return ((name, *self.read(name)) for name in self.names)

    @classmethod
    def from_set5(cls, root: Path, scale: int, make_lr: bool = False) -> "BenchmarkSet":
        """A folder holding LRbicx{scale}/ and original/, paired by name; LR names may end in x{scale}.

        It is called "Set5" where it holds those five. The course gives LR images at ×3 only; at other scales, where
        there are none, they are made by bicubic.

        Args:
            make_lr: whether to make them even where LRbicx{scale}/ is there, as the paper protocol does.
        Raises:
            DataError: a folder or a partner is missing, or an original is neither scale·LR nor a few pixels larger.
        """
        lr_folder, hr_folder = root / f"LRbicx{scale}", root / "original"
        if make_lr or (scale != 3 and hr_folder.is_dir() and not lr_folder.is_dir()):
            items = cls.from_folder(hr_folder, scale)
        else:
            items = read_set5(lr_folder, hr_folder, scale)
        pairs = {name: (lr, hr) for name, lr, hr in items}
        is_whole = pairs.keys() == set(SET5)
        return cls(pairs, pairs.__getitem__, "Set5" if is_whole else f"{root.resolve().name}, {len(pairs)} images")

    @classmethod
    def from_folder(cls, folder: Path, scale: int) -> "BenchmarkSet":
        """Any folder of HR images, read one at a time; LR by MATLAB's bicubic.

        Raises:
            DataError: no images; while iterating, one that cannot be read or is smaller than the scale.
        """
        files = images_of(folder)

        def read(name: str) -> tuple[np.ndarray, np.ndarray]:
            hr = read_named(files[name])
            if min(hr.shape[:2]) < scale:
                raise DataError(f"{files[name]} is smaller than one LR pixel at scale {scale}")
            return downscaled(hr, scale)

        return cls(files, read, folder.resolve().name)

    @classmethod
    def sample(cls, scale: int) -> "BenchmarkSet":
        """The validation photos of scikit-image."""
        pairs = {pair.name: (pair.lr, pair.hr) for pair in sample_pairs("validation", scale)}
        return cls(pairs, pairs.__getitem__, "scikit-image")


def read_set5(lr_folder: Path, hr_folder: Path, scale: int) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(name, lr, hr) of two folders' images, by name."""
    if not hr_folder.parent.is_dir():
        raise DataError(f"{hr_folder.parent} is not a folder; a Set5 folder holds LRbicx{scale}/ and original/")
    for folder in (lr_folder, hr_folder):
        if not folder.is_dir():
            raise DataError(f"{folder.parent} has no {folder.name}/; a Set5 folder holds LRbicx{scale}/ and original/")
    hr_files = by_name(list_images(hr_folder))
    lr_files = by_name(list_images(lr_folder), partial(lr_name, scale=scale, hr_names=hr_files))
    if unpaired := natsorted(lr_files.keys() ^ hr_files.keys()):
        raise DataError(f"{hr_folder.parent}: images without a partner: {', '.join(unpaired)}")
    if not hr_files:
        raise DataError(f"{hr_folder.parent} holds no images")
    items = [(name, read_named(lr_files[name]), read_named(hr_files[name])) for name in natsorted(hr_files)]
    for name, lr, hr in items:
        excess = [have - scale * of_lr for have, of_lr in zip(hr.shape[:2], lr.shape[:2])]
        if not all(0 <= pixels <= LARGEST_EXCESS for pixels in excess):
            differs = "smaller" if min(excess) < 0 else f"more than {LARGEST_EXCESS} pixels larger"
            raise DataError(f"{hr_files[name]} is {differs} than {scale} times {lr_files[name]}")
    return items


def read_sr(folder: Path, benchmark: BenchmarkSet, scale: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(name, sr, hr) of a benchmark's images, sr from a folder that any program wrote.

    Raises:
        DataError: as `sr_files`, or an image that is not `scale` times its LR.
    """
    files = sr_files(folder, benchmark)
    for name, lr, hr in benchmark:
        sr = read_named(files[name])
        height, width = (scale * length for length in lr.shape[:2])
        if sr.shape[:2] != (height, width):
            found = f"{sr.shape[1]}×{sr.shape[0]}, but {scale} times its LR is {width}×{height}"
            raise DataError(f"{files[name]} is {found}: it is of another LR; --protocol paper or --scale may name that")
        yield name, sr, hr


def sr_files(folder: Path, benchmark: BenchmarkSet) -> dict[str, Path]:
    """A benchmark's SR images in a folder, by its names, which end alike there: baby.png, babyx3.png or baby_IMDN.png.

    Raises:
        DataError: no folder, no images, a missing image, or several for each.
    """
    of_ending: dict[str, dict[str, Path]] = {}
    for stem, file in images_of(folder).items():
        endings = {name: stem.removeprefix(name) for name in benchmark.names if stem.startswith(name)}
        whole = [name for name, ending in endings.items() if re.match(r"(x\d)?([\W_]|$)", ending)]  # 10 is no 1
        if whole:
            name = max(whole, key=len)
            of_ending.setdefault(endings[name], {})[name] = file
    ending, files = max(of_ending.items(), key=lambda item: len(item[1]), default=("", {}))
    if missing := [name for name in benchmark.names if name not in files]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"{folder} lacks {missing[0]}{ending}{more} of {benchmark.name}; every image is scored")
    if others := [found for found in of_ending.values() if found is not files and len(found) == len(benchmark)]:
        first = benchmark.names[0]
        two = f"{files[first].name} and {others[0][first].name}"
        raise DataError(
            f"{folder} holds several images for each of {benchmark.name}, such as {two}; move one kind away"
        )
    return files


def read_named(path: Path, read: Callable[[Path], np.ndarray | Photo] = read_rgb) -> np.ndarray | Photo:
    """An image file by `read`: by default (H, W, 3) uint8 RGB.

    Raises:
        DataError: not an image that `read` takes; named.
    """
    try:
        return read(path)
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
