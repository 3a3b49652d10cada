"""Reading and writing 8-bit RGB images (uint8, HWC), and finding the images of a folder."""

from pathlib import Path

import numpy as np
from natsort import natsorted

from utils.files import files_below, is_output
from utils.photo import IMAGE_SUFFIXES, Photo, read_photo, write_photo


def list_images(folder: Path, recursive: bool = False) -> list[Path]:
    """Image files of a folder in natural order; hidden ones are left out."""
    entries = files_below(folder) if recursive else Path(folder).iterdir()
    return natsorted(
        (p for p in entries if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".") and p.is_file()),
        key=str,
    )


def other_files(folder: Path, output: Path | None = None) -> str:
    """How many files of a tree are left out for their suffix, and which these are, to be put behind other counts; those
    of an `output` inside it do not count.
    """
    files = [file for file in files_below(folder) if not is_output(file, folder, output or folder)]
    suffixes = [file.suffix.lower() or file.name for file in files if file.suffix.lower() not in IMAGE_SUFFIXES]
    return f", {len(suffixes)} left out ({', '.join(natsorted(set(suffixes)))})" if suffixes else ""


def read_rgb(path: Path) -> np.ndarray:
    """Decodes one image file, upright.

    Returns:
        (H, W, 3) uint8 RGB; a grey image is repeated into three channels.
    Raises:
        ValueError: as `read_photo`, or 16-bit, or with an alpha channel; the message does not name the file.
    """
    photo = read_photo(path)
    if photo.rgb.dtype != np.uint8:
        raise ValueError("16-bit samples; convert it to 8-bit")
    if photo.alpha is not None:
        raise ValueError("has an alpha channel; flatten it onto a background first")
    return photo.rgb


def write_rgb(path: Path, image: np.ndarray) -> None:
    """Encodes (H, W, 3) uint8 RGB by the file's suffix; raises as `write_photo`."""
    write_photo(path, Photo(image))
