"""Photos as people keep them: grey, alpha, 16 bits, EXIF orientation and ICC profile survive reading and writing."""

import io
import logging
import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

from utils.files import atomic_path

# read_photo says in one line what is wrong; libpng alone cannot be kept from a line of its own
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
logging.getLogger("tifffile").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module="PIL")
Image.MAX_IMAGE_PIXELS = None  # it reads headers; OpenCV, which decodes, has a limit of its own

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
NOT_AN_IMAGE = "not an image, truncated, or of a kind that OpenCV does not read, such as HEIC"
ORIENTATION = 274  # EXIF tag
UPRIGHT = {  # EXIF 2.3, 4.6.4: what turns each orientation upright
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[:, ::-1],
    7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
    8: lambda x: x.swapaxes(0, 1)[::-1],
}
CANNOT_OPEN = (UnidentifiedImageError, OSError, ValueError, SyntaxError, RuntimeError)  # what Pillow raises then
COLOUR_SPACE = slice(16, 20)  # of an ICC profile's header (ICC.1, 7.2)
# costs the SR of Set5 ×3 0.09 dB; OpenCV's own 95 and 4:2:0 cost 0.42 dB
AS_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 98, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
HOLDS_16_BITS = (".png", ".tif", ".tiff")
HOLDS_ALPHA = (".png", ".webp", ".tif", ".tiff")
LONGEST_SIDE = {".webp": 16383, ".jpg": 65500, ".jpeg": 65500}  # libwebp's and libjpeg's
PNG_EXIF = (b"eXIf", b"Raw profile type", b"adobe.xmp")  # what begins the places where a PNG may have it


@dataclass(frozen=True)
class Photo:
    """An upright image.

    Attributes:
        rgb: (H, W, 3) uint8 or uint16; three equal channels where `grey`.
        is_one_channel: whether its file holds the grey once.
        alpha: (H, W) of the same type, or None.
        icc: its colour profile, or None.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    grey: bool = False
    icc: bytes | None = None
    is_one_channel: bool = False


def read_photo(path: Path) -> Photo:
    """Decodes one image file; of several pages or frames the first.

    Raises:
        ValueError: not an image, truncated, or of samples or colours that would not survive; the message does not name
            the file.
    """
    data = Path(path).read_bytes()
    header = read_header(data)
    if header.mode == "LAB":
        raise ValueError("Lab colours; convert it to RGB")
    image = decode(data, header)
    if header.orientation in UPRIGHT and not header.is_tiff:  # both libraries turn TIFFs themselves
        image = np.ascontiguousarray(UPRIGHT[header.orientation](image))
    if image.ndim == 2:
        return Photo(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), grey=True, icc=header.icc, is_one_channel=True)
    alpha = image[:, :, 3].copy() if image.shape[2] == 4 else None
    rgb = cv2.cvtColor(image[:, :, :3], cv2.COLOR_BGR2RGB)
    return Photo(rgb, alpha, is_grey(rgb), header.icc)


def is_grey(rgb: np.ndarray) -> bool:
    """Whether the three channels are equal; a coarse grid of pixels tells most colour photos apart."""
    return all(bool((pixels[..., :1] == pixels[..., 1:]).all()) for pixels in (rgb[::16, ::16], rgb))


@dataclass(frozen=True)
class Header:
    """What Pillow tells of a file; nothing of one that it cannot open, as OpenCV may know it all the same."""

    is_tiff: bool
    mode: str = ""
    orientation: int = 1
    icc: bytes | None = None
    transparent: bool = False


def read_header(data: bytes) -> Header:
    is_tiff = data[:2] in (b"II", b"MM")
    try:
        with Image.open(io.BytesIO(data)) as image:
            icc = image.info.get("icc_profile")
            return Header(is_tiff, image.mode, read_orientation(image, data), icc, image.has_transparency_data)
    except CANNOT_OPEN:
        return Header(is_tiff)


def is_enlarged(path: Path, source: Path, scale: int) -> bool:
    """Whether an image file has `scale` times the sides of `source`, whichever way up."""
    try:
        return sides_of(path) == [scale * side for side in sides_of(source)]
    except (ValueError, OSError):
        return False


def sides_of(path: Path) -> list[int]:
    """An image file's sides, the shorter first, by its header; decoded where Pillow cannot open it but OpenCV may."""
    try:
        with Image.open(path) as image:
            return sorted(image.size)
    except CANNOT_OPEN:
        return sorted(read_photo(path).rgb.shape[:2])


def read_orientation(image: Image.Image, data: bytes) -> int:
    """As its EXIF has it; 1, upright, where that is absent or broken."""
    try:
        # Pillow decodes a whole PNG to look for EXIF behind its pixels
        exif = image.getexif() if any(mark in data for mark in PNG_EXIF) else Image.Image.getexif(image)
        orientation = exif.get(ORIENTATION, 1)
        return orientation if isinstance(orientation, int) else 1
    except Exception:  # Pillow lets out whatever its parser of EXIF meets: struct.error, KeyError, SyntaxError, ...
        return 1


def decode(data: bytes, header: Header) -> np.ndarray:
    """(H, W), (H, W, 3) or (H, W, 4), uint8 or uint16, in OpenCV's order; not yet upright."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    except cv2.error as error:
        is_large = "CV_IO_MAX_IMAGE" in error.err  # its pixels, width or height
        reason = "OpenCV takes at most 2^30 pixels, and 2^20 a side" if is_large else error.err
        raise ValueError(f"cannot be decoded: {reason}") from error
    if image is None:
        raise ValueError(NOT_AN_IMAGE)
    if image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{image.dtype} samples; convert it to 8 or 16 bits")
    has_alpha = image.ndim == 3 and image.shape[2] == 4
    if header.is_tiff:
        check_survives(image, read_tiff_tags(data))
    elif header.transparent and image.ndim == 2 and data[:4] == b"\x89PNG" and (bits := data[24]) not in (1, 8):
        raise ValueError(f"the transparent colour of a grey PNG of {bits} bits would be lost; save it with alpha")
    if header.mode == "CMYK" and has_alpha:  # a TIFF's, which OpenCV makes opaque
        return image[:, :, :3]
    if header.transparent and image.dtype == np.uint8 and (header.is_tiff or not has_alpha):
        # OpenCV multiplies by a TIFF's alpha, or leaves it out, as it does a grey PNG's transparent colour
        with Image.open(io.BytesIO(data)) as whole:
            return cv2.cvtColor(np.array(whole.convert("RGBA")), cv2.COLOR_RGBA2BGRA)
    return image


@dataclass(frozen=True)
class TiffTags:
    """What a TIFF's first page says of its samples; nothing of one that tifffile cannot read."""

    bits: int = 0
    is_multiplied_by_alpha: bool = False
    white_is_zero: bool = False
    planes_apart: bool = False


def read_tiff_tags(data: bytes) -> TiffTags:
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages[0]
            return TiffTags(
                bits=int(page.bitspersample),
                is_multiplied_by_alpha=tifffile.EXTRASAMPLE.ASSOCALPHA in page.extrasamples,
                white_is_zero=page.photometric == tifffile.PHOTOMETRIC.MINISWHITE,
                planes_apart=page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and page.samplesperpixel > 1,
            )
    except (tifffile.TiffFileError, IndexError, TypeError, ValueError):
        return TiffTags()


def check_survives(image: np.ndarray, tags: TiffTags) -> None:
    """Raises ValueError where OpenCV lost part of a TIFF or left it to be undone."""
    is_deep = image.dtype == np.uint16
    if tags.bits > 8 * image.dtype.itemsize:  # such as grey with alpha
        raise ValueError(f"OpenCV reads only 8 of this TIFF's {tags.bits} bits a sample; save it as PNG")
    if is_deep and tags.is_multiplied_by_alpha and image.ndim == 3 and image.shape[2] == 4:
        raise ValueError("this TIFF's 16-bit colours are multiplied by its alpha; save it as PNG")
    if is_deep and tags.planes_apart:  # OpenCV 5.0.0 mixes them up
        raise ValueError("this TIFF keeps its 16-bit colours in planes apart; save it as PNG")
    if is_deep and tags.white_is_zero:  # OpenCV turns those of 8 bits alone
        raise ValueError("this TIFF's 16-bit samples are 0 for white; save it as PNG")


def eight_bits(image: np.ndarray) -> np.ndarray:
    """uint8 or uint16 -> uint8, rounded."""
    return image if image.dtype == np.uint8 else cv2.convertScaleAbs(image, alpha=1 / 257)


def spread_colours(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """(H, W, 3) whose transparent pixels have the colour of the nearest visible one.

    A cut-out's hidden pixels, black more often than not, would else darken its edge when it is enlarged.
    """
    hidden = (alpha == 0).astype(np.uint8)
    if not hidden.any() or hidden.all():
        return rgb
    labels = cv2.DIST_LABEL_PIXEL
    _, nearest = cv2.distanceTransformWithLabels(hidden, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=labels)
    colours = np.zeros((nearest.max() + 1, 3), rgb.dtype)
    colours[nearest[hidden == 0]] = rgb[hidden == 0]
    return colours[nearest]


def check_holds(suffix: str, photo: Photo, scale: int = 1) -> None:
    """Refuses a file format that would lose part of a photo enlarged by `scale`.

    Raises:
        ValueError: it cannot be written, has no alpha, no 16 bits or not that size; says which has.
    """
    if suffix not in IMAGE_SUFFIXES:
        raise ValueError(f"cannot write {suffix or 'a file without suffix'}: use one of {', '.join(IMAGE_SUFFIXES)}")
    if photo.rgb.dtype == np.uint16 and suffix not in HOLDS_16_BITS:
        raise ValueError(f"{suffix} holds no 16-bit samples: use one of {', '.join(HOLDS_16_BITS)}")
    if photo.alpha is not None and suffix not in HOLDS_ALPHA:
        raise ValueError(f"{suffix} holds no alpha: use one of {', '.join(HOLDS_ALPHA)}")
    height, width = (scale * side for side in photo.rgb.shape[:2])
    longest = LONGEST_SIDE.get(suffix, math.inf)
    if max(height, width) > longest:
        raise ValueError(f"{suffix} holds {longest} pixels a side, not {width}×{height}: use .png")


def write_photo(path: Path, photo: Photo, made_from: Path | None = None) -> None:
    """Encodes by the file's suffix; the file is whole or absent, and has the modification time of `made_from`.

    A grey photo is written as grey, the mean of its channels, once or thrice as its file was; with alpha as RGBA. A
    profile of other colours than those written is left out, such as a CMYK picture's, which is RGB now; BMP holds none.

    Raises:
        ValueError: a format that cannot hold the photo, or not at its size.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    check_holds(suffix, photo)
    image = photo.rgb
    if photo.grey:
        image = ((image.sum(axis=2, dtype=np.uint32) + 1) // 3).astype(image.dtype)  # rounded
        if photo.alpha is not None or not photo.is_one_channel:
            image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    if photo.alpha is not None:
        image = np.dstack((image, photo.alpha))
    written = b"GRAY" if image.ndim == 2 and suffix != ".webp" else b"RGB "  # WebP has no grey
    icc = photo.icc if photo.icc and photo.icc[COLOUR_SPACE] == written else None
    with atomic_path(path, made_from) as temporary:
        if suffix in (".tif", ".tiff"):
            extra = ["unassalpha"] if photo.alpha is not None else None
            kind = "minisblack" if image.ndim == 2 else "rgb"
            tifffile.imwrite(temporary, image, photometric=kind, extrasamples=extra, iccprofile=icc, compression="zlib")
        else:
            temporary.write_bytes(_encode(suffix, image, icc))


def _encode(suffix: str, image: np.ndarray, icc: bytes | None) -> bytes:
    codes = {2: None, 3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    code = codes[2 if image.ndim == 2 else image.shape[2]]
    image = image if code is None else cv2.cvtColor(image, code)
    profile = {cv2.IMAGE_METADATA_ICCP: np.frombuffer(icc, np.uint8)} if icc and suffix != ".bmp" else {}
    settings = AS_JPEG if suffix in (".jpg", ".jpeg") else []
    try:
        ok, data = cv2.imencodeWithMetadata(suffix, image, list(profile), list(profile.values()), settings)
    except cv2.error:
        ok = False
    if not ok:
        what = f"{image.shape[1]}×{image.shape[0]} pixels" + (" and its colour profile" if profile else "")
        raise ValueError(f"{what} do not fit {suffix}; use .{'tif' if suffix == '.png' else 'png'}")
    return data.tobytes()
