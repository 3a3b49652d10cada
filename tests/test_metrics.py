import math

import numpy as np
import pytest
import torch

from utils.metrics import (
    crop_to,
    kaggle_score,
    luma,
    missed_conditions,
    mse_255,
    psnr_rgb,
    psnr_y,
    ranking_score,
    ssim_y,
)

REPORT_PSNRS = (34.042938232421875, 35.0545654296875, 28.74995994567871, 30.8249568939209, 31.338890075683594)


def grey(value: int, size: int = 16) -> torch.Tensor:
    return torch.full((1, 3, size, size), value / 255)


def test_formulas_give_the_report_s_scores():
    average = sum(REPORT_PSNRS) / 5
    assert average == pytest.approx(32.002, abs=5e-4)
    # the report prints 127654.516: it averaged in float32, whose last bit is 0.25 here
    assert ranking_score(average, 10.88467488, 0.117399) == pytest.approx(127654.516, abs=0.25)
    mses = [255**2 / 10 ** (psnr / 10) for psnr in REPORT_PSNRS]
    assert kaggle_score(mses) == pytest.approx(234.200745, abs=1e-5)


def test_psnr_by_hand():
    assert mse_255(grey(100), grey(110)).item() == 100
    assert psnr_rgb(grey(100), grey(110)).item() == pytest.approx(20 * math.log10(255 / 10))
    # a grey step of 10 is 10 · 219/255 on the studio-range luma
    assert psnr_y(grey(100), grey(110), border=3).item() == pytest.approx(
        20 * math.log10(255 / (10 * 219 / 255)), rel=1e-6
    )


def test_equal_images_give_infinity_and_one():
    image = torch.rand(2, 3, 20, 20)
    assert psnr_rgb(image, image).tolist() == [math.inf] * 2
    assert psnr_y(image, image, border=0).tolist() == [math.inf] * 2
    assert ssim_y(image, image, border=2).tolist() == pytest.approx([1.0, 1.0])


def test_psnr_is_per_image_and_on_all_channels():
    sr = torch.cat((grey(100), grey(100)))
    hr = sr.clone()
    hr[1, 0] += 30 / 255  # one channel of one image: mean squared error 300
    assert mse_255(sr, hr).tolist() == pytest.approx([0, 300])


def test_images_are_clamped_and_quantised_first():
    assert psnr_rgb(grey(255) + 0.7, grey(255)).item() == math.inf
    assert psnr_rgb(grey(100) + 0.4 / 255, grey(100)).item() == math.inf


def test_border_is_shaved():
    sr, hr = grey(100), grey(100)
    sr[..., 0, :] = 0
    assert psnr_y(sr, hr, border=1).item() == math.inf
    assert psnr_y(sr, hr, border=0).item() < 30


@pytest.mark.parametrize("border", (8, -1))
def test_a_border_that_leaves_nothing_is_an_error(border):
    with pytest.raises(ValueError, match="no pixels"):
        psnr_y(grey(1), grey(2), border=border)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="differ"):
        psnr_rgb(grey(1, 16), grey(1, 17))
    assert crop_to(grey(1, 17), grey(1, 16)).shape == (1, 3, 16, 16)


def test_luma_of_the_primaries():
    primaries = torch.tensor([[255.0, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0]]).reshape(5, 3, 1, 1)
    assert luma(primaries).flatten().tolist() == pytest.approx([81.481, 144.553, 40.966, 235, 16], abs=1e-4)


def test_ssim_follows_the_published_formula():
    """Wang et al. 2004, written out with an explicit 11×11 window."""
    random = np.random.default_rng(0)
    images = [torch.from_numpy(random.integers(0, 256, (1, 3, 24, 22)) / 255) for _ in range(2)]
    ys = [luma((image * 255).round())[0, 0].numpy() for image in images]
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(taps, taps) / taps.sum() ** 2

    def filtered(image):
        return (np.lib.stride_tricks.sliding_window_view(image, (11, 11)) * window).sum(axis=(2, 3))

    a, b = ys
    mean_a, mean_b = filtered(a), filtered(b)
    variance_a, variance_b = filtered(a * a) - mean_a**2, filtered(b * b) - mean_b**2
    covariance = filtered(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    ssim = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    ssim /= (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    assert ssim_y(*images, border=0).item() == pytest.approx(ssim.mean(), abs=1e-10)


def test_missed_conditions_say_which():
    assert missed_conditions(31.51, 11.09) == []
    assert len(missed_conditions(31.5, 11.1)) == 2
    assert "FLOPs" in missed_conditions(32, 12)[0]
    assert "PSNR" in missed_conditions(31, 10)[0]
