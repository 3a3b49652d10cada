from dataclasses import replace

import cv2
import numpy as np
import pytest
import tifffile
import torch
from conftest import smooth_image
from PIL import Image, ImageCms

from utils.ensemble import SelfEnsemble
from utils.images import read_rgb
from utils.photo import ORIENTATION, Photo, check_holds, read_photo, spread_colours, write_photo

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RGB = smooth_image(12, 17)
ALPHA = smooth_image(12, 17, seed=1)[..., 0]


def deep(image: np.ndarray) -> np.ndarray:
    return image.astype(np.uint16) * 257


@pytest.mark.parametrize("suffix", (".png", ".jpg", ".webp", ".tif", ".bmp"))
@pytest.mark.parametrize("kind", ("colour", "grey", "alpha", "grey and alpha"))
@pytest.mark.parametrize("bits", (8, 16))
def test_what_is_written_is_read_again(tmp_path, suffix, kind, bits):
    rgb = np.repeat(RGB[..., :1], 3, axis=2) if "grey" in kind else RGB
    alpha = ALPHA if "alpha" in kind else None
    photo = Photo(rgb, alpha, "grey" in kind, None if suffix == ".bmp" else ICC, is_one_channel=kind == "grey")
    if bits == 16:
        photo = replace(photo, rgb=deep(rgb), alpha=None if alpha is None else deep(alpha))
    path = tmp_path / f"a{suffix}"
    if (bits == 16 and suffix not in (".png", ".tif")) or ("alpha" in kind and suffix in (".jpg", ".bmp")):
        with pytest.raises(ValueError, match="use one of .png"):
            write_photo(path, photo)
        assert not path.exists()
        return
    write_photo(path, photo)
    again = read_photo(path)
    assert again.rgb.dtype == photo.rgb.dtype
    assert again.icc == (None if kind == "grey" and suffix != ".webp" else photo.icc)  # an RGB profile is not grey's
    lossy = suffix in (".jpg", ".webp")
    assert again.grey == photo.grey or suffix == ".webp"
    difference = np.abs(again.rgb.astype(float) - photo.rgb).mean()
    assert difference < (6 if lossy else 1e-9)
    assert (again.alpha is None) == (photo.alpha is None)
    if photo.alpha is not None:
        assert np.array_equal(again.alpha, photo.alpha)


@pytest.mark.parametrize("mode", ("L", "RGB"))
def test_grey_stays_grey_as_it_is_kept(tmp_path, mode):
    grey = np.minimum(RGB[..., 0], 250)
    Image.fromarray(grey).convert(mode).save(tmp_path / "a.png")
    photo = read_photo(tmp_path / "a.png")
    assert photo.grey and photo.is_one_channel == (mode == "L")
    tinted = replace(photo, rgb=photo.rgb + np.array([0, 1, 4], np.uint8))  # as a network leaves it
    write_photo(tmp_path / "b.png", tinted)
    with Image.open(tmp_path / "b.png") as written:
        assert written.mode == mode and np.array_equal(np.asarray(written.convert("L")), grey + 2)
    Image.fromarray(RGB).save(tmp_path / "colour.png")
    assert not read_photo(tmp_path / "colour.png").grey


def test_hidden_pixels_take_the_nearest_visible_colour():
    rgb = np.zeros((3, 4, 3), np.uint8)
    rgb[:, 0], rgb[:, 3] = 200, (9, 8, 7)
    alpha = np.array([[255, 0, 0, 1]] * 3, np.uint8)
    spread = spread_colours(rgb, alpha)
    assert (spread[:, :2] == 200).all() and (spread[:, 2:] == (9, 8, 7)).all()
    for same in (0, 255):
        assert spread_colours(rgb, np.full_like(alpha, same)) is rgb


def test_jpegs_keep_the_colours_of_single_pixels(tmp_path):
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2, 0] = stripes[:, 1::2, 2] = 200
    write_photo(tmp_path / "a.jpg", Photo(stripes))
    assert np.abs(read_photo(tmp_path / "a.jpg").rgb.astype(int) - stripes).max() < 12
    assert max(Image.open(tmp_path / "a.jpg").quantization[0]) < 8  # at quality 95 it goes up to 12


@pytest.mark.parametrize("suffix", (".png", ".webp"))
def test_broken_exif_is_no_reason_to_refuse_a_photo(tmp_path, suffix):
    Image.fromarray(RGB).save(tmp_path / f"a{suffix}", exif=b"II*\0", icc_profile=b"profile", lossless=True)
    photo = read_photo(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(photo.rgb, RGB)
    assert photo.icc == b"profile"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", (".jpg", ".png", ".webp", ".tif"))
def test_exif_orientation_turns_the_image_upright(tmp_path, orientation, suffix):
    """Against Pillow's reading of the same file."""
    from PIL import ImageOps

    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(RGB).save(tmp_path / f"a{suffix}", exif=exif, **options)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / f"a{suffix}")))
    read = read_photo(tmp_path / f"a{suffix}").rgb
    assert read.shape == upright.shape and np.abs(read.astype(int) - upright).max() <= (3 if suffix == ".jpg" else 0)


def test_other_kinds_of_alpha(tmp_path):
    Image.fromarray(np.dstack((ALPHA, ALPHA))).save(tmp_path / "grey.tif")
    photo = read_photo(tmp_path / "grey.tif")
    assert np.array_equal(photo.alpha, ALPHA) and photo.grey
    palette = Image.fromarray(RGB).quantize(16)
    palette.save(tmp_path / "palette.png", transparency=3)
    assert set(np.unique(read_photo(tmp_path / "palette.png").alpha)) <= {0, 255}


def test_what_cannot_be_read_says_why(tmp_path):
    tifffile.imwrite(tmp_path / "float.tif", np.zeros((4, 4, 3), np.float32), photometric="rgb")
    (tmp_path / "text.png").write_text("text")
    (tmp_path / "empty.png").write_bytes(b"")
    cv2.imwrite(str(tmp_path / "whole.png"), RGB)
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:200])
    for name, says in (
        ("float.tif", "float32 samples"),
        ("text.png", "not an"),
        ("empty.png", "not an"),
        ("half.png", "not"),
    ):
        with pytest.raises(ValueError, match=says):
            read_photo(tmp_path / name)


def test_an_image_too_large_for_its_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match=".webp holds 16383 pixels a side, not 17000×1: use .png"):
        write_photo(tmp_path / "a.webp", Photo(np.zeros((1, 17000, 3), np.uint8)))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="not 18000×3"):
        check_holds(".webp", Photo(np.zeros((1, 6000, 3), np.uint8)), scale=3)


def test_the_ensemble_averages_eight_views():
    class Position(torch.nn.Module):
        """Adds what row a pixel is in: only turning tells rows from columns."""

        def forward(self, x):
            return x + torch.arange(x.shape[2]).reshape(1, 1, -1, 1)

    x = torch.rand(1, 3, 4, 6)
    torch.testing.assert_close(SelfEnsemble(Position())(x), x + (1.5 + 2.5) / 2)
    equivariant = torch.nn.Upsample(scale_factor=3, mode="nearest")
    torch.testing.assert_close(SelfEnsemble(equivariant)(x), equivariant(x))


def test_a_profile_of_other_colours_is_left_out(tmp_path):
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "a.jpg", icc_profile=bytes(16) + b"CMYK" + bytes(108))
    photo = read_photo(tmp_path / "a.jpg")
    assert photo.icc[16:20] == b"CMYK"
    write_photo(tmp_path / "a.png", photo)
    assert read_photo(tmp_path / "a.png").icc is None


def test_a_tiff_that_opencv_halves_is_refused(tmp_path):
    grey_alpha = np.dstack((deep(ALPHA), deep(ALPHA)))
    tifffile.imwrite(tmp_path / "a.tif", grey_alpha, photometric="minisblack", extrasamples=["unassalpha"])
    with pytest.raises(ValueError, match="only 8 of this TIFF's 16 bits"):
        read_photo(tmp_path / "a.tif")


def test_a_tiff_of_16_bits_multiplied_by_its_alpha_is_refused(tmp_path):
    for kind in ("unassalpha", "assocalpha"):
        rgba = np.dstack((deep(RGB), deep(ALPHA)))
        tifffile.imwrite(tmp_path / f"{kind}.tif", rgba, photometric="rgb", extrasamples=[kind])
    assert np.array_equal(read_photo(tmp_path / "unassalpha.tif").rgb, deep(RGB))
    with pytest.raises(ValueError, match="multiplied by its alpha; save it as PNG"):
        read_photo(tmp_path / "assocalpha.tif")


def test_a_tiff_of_16_bits_that_are_0_for_white_is_refused(tmp_path):
    for kind in ("minisblack", "miniswhite"):
        tifffile.imwrite(tmp_path / f"{kind}.tif", deep(ALPHA), photometric=kind)
    assert np.array_equal(read_photo(tmp_path / "minisblack.tif").rgb[..., 0], deep(ALPHA))
    with pytest.raises(ValueError, match="0 for white; save it as PNG"):
        read_photo(tmp_path / "miniswhite.tif")


def test_a_tiff_of_16_bit_planes_is_refused(tmp_path):
    planes = np.stack([deep(ALPHA)] * 3)
    for name, samples in (("deep", planes), ("shallow", planes.astype(np.uint8))):
        tifffile.imwrite(tmp_path / f"{name}.tif", samples, photometric="rgb", planarconfig="separate")
    assert np.array_equal(read_photo(tmp_path / "shallow.tif").rgb, planes.astype(np.uint8).transpose(1, 2, 0))
    with pytest.raises(ValueError, match="16-bit colours in planes apart; save it as PNG"):
        read_photo(tmp_path / "deep.tif")


def test_a_transparent_colour_that_would_be_lost_is_refused(tmp_path):
    Image.fromarray(deep(ALPHA)).save(tmp_path / "a.png", transparency=9)
    with pytest.raises(ValueError, match="grey PNG of 16 bits would be lost"):
        read_photo(tmp_path / "a.png")


def test_training_reads_photos_upright_too(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_rgb(tmp_path / "a.png"), read_photo(tmp_path / "a.png").rgb)
    assert read_rgb(tmp_path / "a.png").shape == (17, 12, 3)


def test_a_transparent_colour_becomes_alpha(tmp_path):
    grey = np.array([[7, 9], [9, 30]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png", transparency=9)
    photo = read_photo(tmp_path / "a.png")
    assert photo.grey and np.array_equal(photo.rgb[..., 0], grey)
    assert np.array_equal(photo.alpha, np.where(grey == 9, 0, 255))


def test_cmyk_has_no_alpha_and_lab_is_refused(tmp_path):
    cmyk = Image.fromarray(RGB).convert("CMYK")
    cmyk.save(tmp_path / "cmyk.tif")
    photo = read_photo(tmp_path / "cmyk.tif")
    assert photo.alpha is None
    assert np.abs(photo.rgb.astype(int) - np.asarray(cmyk.convert("RGB"))).max() <= 2
    lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    ImageCms.applyTransform(Image.fromarray(RGB), lab).save(tmp_path / "lab.tif")
    with pytest.raises(ValueError, match="Lab colours"):
        read_photo(tmp_path / "lab.tif")
