"""Folders and files of a decoded set, which are those of DIV2K and Flickr2K as downloaded; dataset.py shows them."""

import io
import re
from collections.abc import Collection
from pathlib import Path

import numpy as np
from natsort import natsorted

from utils.files import atomic_path, files_below

TEACHER = "teacher.txt"  # in a set that demo.py --teach wrote: which network taught it


def arrays_below(folder: Path) -> list[Path]:
    """The .npy files of a tree; none where there is no such folder."""
    return [file for file in files_below(folder) if file.suffix == ".npy"] if folder.is_dir() else []


def is_training_hr(folder: Path) -> bool:
    """Whether training reads it: X_train_HR, or X_HR where a set has no splits."""
    return folder.name.endswith("_HR") and not (is_validation_hr(folder) or is_test_hr(folder))


def is_validation_hr(folder: Path) -> bool:
    """X_valid_HR, or valid_HR alone."""
    return f"_{folder.name}".endswith("_valid_HR")


def is_test_hr(folder: Path) -> bool:
    """X_test_HR, or test_HR alone."""
    return f"_{folder.name}".endswith("_test_HR")


def lr_folder_of(hr_folder: Path, scale: int) -> Path:
    """X_HR -> X_LR_bicubic/X3."""
    return hr_folder.with_name(f"{hr_folder.name.removesuffix('_HR')}_LR_bicubic") / f"X{scale}"


def hr_folder_of(lr_folder: Path) -> tuple[Path, int] | None:
    """X_LR_bicubic/X3 -> X_HR and 3; None where the folder is not called so."""
    named, parent = re.fullmatch(r"X(\d+)", lr_folder.name), lr_folder.parent
    if not (named and parent.name.endswith("_LR_bicubic")):
        return None
    return parent.with_name(f"{parent.name.removesuffix('_LR_bicubic')}_HR"), int(named[1])


def lr_name(file: Path, scale: int, hr_names: Collection[str]) -> str:
    """The name of an LR file's image: its stem, without the x3 that may end it, unless HR has the whole stem alone."""
    name = file.stem.removesuffix(f"x{scale}")
    return file.stem if name not in hr_names and file.stem in hr_names else name


def what_is_wrong(array: np.ndarray) -> str | None:
    """How a decoded image is not what png2npy.py writes; None where it is."""
    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3 and array.flags.c_contiguous:
        return None
    return f"holds {array.dtype} {array.shape}, not uint8 (H, W, 3) in C order"


def read_array(path: Path, mmap_mode: str | None = None) -> np.ndarray:
    """The array of a .npy file.

    Raises:
        ValueError: a damaged file, or none; the message does not name it.
        OSError, MemoryError: it cannot be read; a damaged header can claim any size.
    """
    try:
        array = np.load(path, mmap_mode, allow_pickle=False)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # whatever numpy's parser of headers meets: EOFError, SyntaxError, TokenError, ...
        raise ValueError(str(error)) from error
    if not isinstance(array, np.ndarray):
        raise ValueError("it is an .npz file")
    return array


def write_array(path: Path, array: np.ndarray, made_from: Path) -> None:
    """Writes a decoded image, whole or not at all, with the modification time of what it was made from.

    Raises:
        OSError: it cannot be written; names `path`.
    """
    buffer = io.BytesIO()  # numpy itself does not say that a disk is full
    np.save(buffer, array)
    with atomic_path(path, made_from) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def sets_below(folder: Path) -> list[Path]:
    """Folders of decoded training images, `folder` itself or those in it, in natural order."""
    patterns = ("[!.]*_HR", "[!.]*/[!.]*_HR")
    hr_folders = {file.parent for pattern in patterns for file in folder.glob(f"{pattern}/[!.]*.npy")}
    return natsorted({hr_folder.parent for hr_folder in hr_folders if is_training_hr(hr_folder)}, key=str)
