"""Reading and writing 8-bit RGB images (uint8, HWC)."""

import io
from pathlib import Path

import cv2
import numpy as np
from natsort import natsorted
from PIL import Image

from utils.files import atomic_path, files_below

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # read_rgb says it in one line
Image.MAX_IMAGE_PIXELS = None  # it reads headers; OpenCV, which decodes, has a limit of its own

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
NOT_AN_IMAGE = "not an image, truncated, or of a kind that OpenCV does not read, such as HEIC"


def list_images(folder: Path, recursive: bool = False) -> list[Path]:
    """Image files of a folder in natural order; hidden ones are left out."""
    entries = files_below(folder) if recursive else Path(folder).iterdir()
    return natsorted(
        (p for p in entries if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".") and p.is_file()),
        key=str,
    )


def read_rgb(path: Path) -> np.ndarray:
    """Decodes one image file.

    Returns:
        (H, W, 3) uint8 RGB; a grey image is repeated into three channels.
    Raises:
        ValueError: not an image, truncated, 16-bit, or with an alpha channel; the message does not name the file.
    """
    data = np.fromfile(path, dtype=np.uint8)
    # A JPEG has neither alpha nor 16 bits, and IMREAD_COLOR turns it upright by its EXIF orientation.
    is_jpeg = data[:2].tobytes() == b"\xff\xd8"
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR if is_jpeg else cv2.IMREAD_UNCHANGED) if data.size else None
    except cv2.error as error:  # such as a header that claims billions of pixels
        raise ValueError(f"cannot be decoded: {error.err}") from error
    if image is None:
        raise ValueError(NOT_AN_IMAGE)
    if image.dtype != np.uint8:
        raise ValueError(f"{image.dtype.itemsize * 8}-bit samples; convert it to 8-bit")
    if not is_jpeg and has_alpha(data):
        raise ValueError("has an alpha channel; flatten it onto a background first")
    if image.ndim == 2 or image.shape[2] == 1:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    return cv2.cvtColor(image[:, :, :3], cv2.COLOR_BGR2RGB)


def has_alpha(data: np.ndarray) -> bool:
    """Whether the file says so: OpenCV leaves out the alpha of some kinds of TIFF and BMP without a word."""
    try:
        with Image.open(io.BytesIO(data.tobytes())) as image:
            return image.has_transparency_data
    except (OSError, ValueError):  # what Pillow cannot open, such as a float TIFF
        return False


def write_rgb(path: Path, image: np.ndarray) -> None:
    """Encodes (H, W, 3) uint8 RGB by the file's suffix; the file is whole or absent.

    Raises:
        ValueError: a suffix that OpenCV cannot write.
    """
    path = Path(path)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise ValueError(f"cannot write {path}: use one of {', '.join(IMAGE_SUFFIXES)}")
    try:
        ok, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error:  # such as a WebP of more than 16383 pixels a side
        ok = False
    if not ok:
        raise ValueError(f"cannot encode {path}: {image.shape[1]}×{image.shape[0]} is too large for its format")
    with atomic_path(path) as temporary:
        data.tofile(temporary)
