"""Fetching Set5 from the report's public repository."""

import hashlib
import http.client
import tempfile
import urllib.request
from pathlib import Path

import numpy as np

from utils.bicubic import imresize
from utils.images import read_rgb, write_rgb

SET5_URL = "https://raw.githubusercontent.com/yating52997/SuperResolution/main/Set5/original/"
SET5_SHA256 = {  # of the decoded pixels, RGB
    "baby": "f14d515486b1a110a8f6a08b23114a7c0ef79e96337692bb48e24dfd8943b3b7",
    "bird": "0f7ca11adc96abc59dd08160fb99dc77a3732ffc7b903db6832eceeb5592dcbf",
    "butterfly": "200d3ae507119f83763ea74f31f54de31cad6a36ec478cae7a8eab2de2304163",
    "head": "1aca63a883d2cabd7a143dd452427305ca9fa8ab965d7202d9081fcce5cbd508",
    "woman": "6d9d5a40b83984bde434c44ae6e070484ec37b15741b4561c684b2001deb474f",
}
SET5_CROP = 12  # the course cropped its originals to a multiple of 12 before shrinking them by 3


class DownloadError(RuntimeError):
    """Set5 could not be had; the message says why."""


def pixel_hash(image: np.ndarray) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def fetch_set5(folder: Path, url: str = SET5_URL, timeout_s: float = 10.0) -> None:
    """Writes original/ and LRbicx3/ into `folder`, which appears whole or not at all.

    Raises:
        DownloadError: no network, other pixels than Set5's, or a folder that cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            made = Path(temporary) / folder.name
            for name, expected in SET5_SHA256.items():
                hr = fetch_image(f"{url}{name}.png", made / "original" / f"{name}.png", timeout_s)
                if pixel_hash(hr) != expected:
                    raise DownloadError(f"{url}{name}.png does not hold Set5's pixels")
                height, width = (n // SET5_CROP * SET5_CROP for n in hr.shape[:2])
                write_rgb(made / "LRbicx3" / f"{name}.png", imresize(hr[:height, :width], 1 / 3))
            if not folder.exists():  # as where another process was first
                made.replace(folder)
    except OSError as error:  # nowhere to write to
        raise DownloadError(f"{folder}: {error.strerror or error}") from error


def fetch_image(url: str, file: Path, timeout_s: float) -> np.ndarray:
    """Downloads an image into a file and reads it, as (H, W, 3) uint8.

    Raises:
        DownloadError: no network, no such image, or no room for it.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=timeout_s) as response:
            file.write_bytes(response.read())
        return read_rgb(file)
    except (OSError, ValueError, http.client.HTTPException) as error:  # a URLError is an OSError
        raise DownloadError(f"{url}: {getattr(error, 'reason', error)}") from error
