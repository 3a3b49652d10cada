import numpy as np
import pytest
from conftest import needs_reference, reference, smooth_image

from dataset import BenchmarkSet
from utils import bicubic
from utils.bicubic import cubic, imresize
from utils.download import SET5_CROP, SET5_SHA256, pixel_hash
from utils.evaluation import bicubic_psnr_db, to_tensor
from utils.images import read_rgb
from utils.metrics import psnr_rgb, psnr_y


@needs_reference("data/set5/LRbicx3")
@pytest.mark.parametrize("name", SET5_SHA256)
def test_set5_pixel_for_pixel(name):
    hr = read_rgb(reference(f"data/set5/original/{name}.png"))
    lr = read_rgb(reference(f"data/set5/LRbicx3/{name}.png"))
    np.testing.assert_array_equal(imresize(hr[: 3 * lr.shape[0], : 3 * lr.shape[1]], 1 / 3), lr)
    assert lr.shape[:2] == tuple(n // SET5_CROP * SET5_CROP // 3 for n in hr.shape[:2])
    assert pixel_hash(hr) == SET5_SHA256[name]


@needs_reference("data/set5/LRbicx3")
def test_set5_enlarged_scores_as_by_matlab():
    set5 = BenchmarkSet.from_set5(reference("data/set5"), 3)
    assert bicubic_psnr_db(set5, 3, "course") == pytest.approx(28.607, abs=0.0005)
    assert bicubic_psnr_db(set5, 3, "paper") == pytest.approx(30.385, abs=0.0005)


def test_each_protocol_compares_bicubic_its_own_way():
    lr, hr = smooth_image(20, 22), np.random.default_rng(0).integers(0, 256, (61, 66, 3), np.uint8)
    sr, hr_cropped = to_tensor(imresize(lr, 3)), to_tensor(hr[:60])
    course, paper = (bicubic_psnr_db([("a", lr, hr)] * 2, 3, protocol) for protocol in ("course", "paper"))
    assert course == pytest.approx(psnr_rgb(sr, hr_cropped).item())
    assert paper == pytest.approx(psnr_y(sr, hr_cropped, border=3).item()) != course


def test_kernel_interpolates_and_sums_to_one():
    assert cubic(np.array([0.0, 1.0, 2.0, 2.5])).tolist() == [1, 0, 0, 0]
    for phase in np.linspace(0, 1, 7):
        assert cubic(np.arange(-3, 4) - phase).sum() == pytest.approx(1)


@pytest.mark.parametrize("scale", (1 / 2, 1 / 3, 1 / 4, 2, 3, 4))
def test_a_flat_image_stays_flat(scale):
    out = imresize(np.full((12, 24, 3), 77, np.uint8), scale)
    assert out.shape == (round(12 * scale), round(24 * scale), 3)
    assert (out == 77).all()


def test_size_is_rounded_up_and_edges_are_mirrored():
    image = smooth_image(11, 7)
    assert imresize(image, 1 / 3).shape == (4, 3, 3)
    mirrored = np.concatenate((image, image[::-1]), axis=0)  # what lies past the bottom edge
    np.testing.assert_array_equal(imresize(image, 3)[:30], imresize(mirrored, 3)[:30])


def test_scale_one_is_the_image():
    image = smooth_image(9, 8)
    np.testing.assert_array_equal(imresize(image, 1), image)


@pytest.mark.parametrize("scale", (1 / 3, 2))
def test_bands_are_no_different_from_the_whole(scale, monkeypatch):
    image = smooth_image(61, 40)
    whole = imresize(image, scale)
    monkeypatch.setattr(bicubic, "BAND", 7)
    np.testing.assert_array_equal(imresize(image, scale), whole)


def test_grey_images_and_bad_input():
    assert imresize(smooth_image(6, 6)[..., 0], 1 / 2).shape == (3, 3)
    for bad in (np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="uint8"):
            imresize(bad, 2)
    with pytest.raises(ValueError, match="positive"):
        imresize(smooth_image(6, 6), 0)
