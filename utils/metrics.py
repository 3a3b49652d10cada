"""Image quality and the report's scores. Images are (N, 3, H, W) RGB in [0, 1]; scores quantise them to 8 bits."""

import math
from collections.abc import Sequence

import numpy as np
import skimage
import torch
from torch import Tensor

BUDGET_GFLOPS = 11.1
BUDGET_PSNR_DB = 31.5
ROUNDING_MSE = 1 / (12 * 255**2)  # of [0, 1] images, by rounding to 8 bits


def quantise(image: Tensor) -> Tensor:
    """[0, 1] floats -> 0…255 in whole steps, float64; out-of-range values are clamped."""
    if image.device.type == "mps":  # which has no float64
        image = image.cpu()
    return (image.double().clamp(0, 1) * 255).round()


def crop_to(hr: Tensor, sr: Tensor) -> Tensor:
    """The top left of `hr` that `sr` covers: a ground truth need not be a multiple of the scale."""
    return hr[..., : sr.shape[-2], : sr.shape[-1]]


def check_pair(sr: Tensor, hr: Tensor, border: int) -> None:
    """Raises ValueError where shapes differ or are not (N, 3, H, W), or border leaves no pixels."""
    if sr.shape != hr.shape or sr.ndim != 4 or sr.shape[1] != 3:
        raise ValueError(f"images differ or are not (N, 3, H, W): sr {tuple(sr.shape)}, hr {tuple(hr.shape)}")
    if border < 0 or min(sr.shape[-2:]) <= 2 * border:
        raise ValueError(f"border {border} leaves no pixels of {tuple(sr.shape[-2:])}")


def _shave(image: Tensor, border: int) -> Tensor:
    return image[..., border : image.shape[-2] - border, border : image.shape[-1] - border]


def per_image_mse(sr: Tensor, hr: Tensor) -> Tensor:
    """Of each image: (N,), of values as they are, not quantised."""
    return (sr - hr).square().flatten(1).mean(dim=1)


def _psnr_255(mse: Tensor) -> Tensor:
    return 10 * torch.log10(255**2 / mse)  # inf where mse is 0


def mse_255(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean squared error over all channels and pixels of the 8-bit images: (N,), grey levels squared."""
    check_pair(sr, hr, border=0)
    return per_image_mse(quantise(sr), quantise(hr))


def psnr_rgb(sr: Tensor, hr: Tensor) -> Tensor:
    """PSNR over all three channels and all pixels, per image.

    Args:
        sr, hr: (N, 3, H, W) RGB in [0, 1]; quantised to 8 bits first.
    Returns:
        (N,) decibels, float64; inf where images are equal.
    Raises:
        ValueError: shapes differ.
    """
    return _psnr_255(mse_255(sr, hr))


def luma(image: Tensor) -> Tensor:
    """0…255 RGB (N, 3, H, W) -> Y (N, 1, H, W), 16…235, not rounded. Source: BT.601 as MATLAB's rgb2ycbcr."""
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=image.dtype, device=image.device) / 255
    return 16 + (image * weights.reshape(3, 1, 1)).sum(dim=1, keepdim=True)


def psnr_y(sr: Tensor, hr: Tensor, *, border: int) -> Tensor:
    """PSNR on the luma channel, per image.

    Args:
        sr, hr: (N, 3, H, W) RGB in [0, 1]; quantised to 8 bits first.
        border: pixels cropped per side; the benchmark value is `scale`.
    Returns:
        (N,) decibels, float64; inf where images are equal.
    Raises:
        ValueError: shapes differ, or border leaves no pixels.
    Source: BT.601 studio range, as MATLAB rgb2ycbcr.
    """
    check_pair(sr, hr, border)
    return _psnr_255(per_image_mse(_shave(luma(quantise(sr)), border), _shave(luma(quantise(hr)), border)))


def ssim_y(sr: Tensor, hr: Tensor, *, border: int) -> Tensor:
    """SSIM on the luma channel, per image: 11×11 Gaussian window, σ 1.5, K1 0.01, K2 0.03, valid region.

    Arguments and errors as psnr_y; an image smaller than the window is a ValueError.
    Returns:
        (N,) float64, 1 where images are equal.
    Source: Wang et al. 2004, as their ssim.m; computed by scikit-image.
    """
    check_pair(sr, hr, border)
    if min(sr.shape[-2:]) - 2 * border < 11:
        raise ValueError(f"{sr.shape[-1]}×{sr.shape[-2]} pixels are too few for SSIM's 11×11 window")
    pairs = zip(_shave(luma(quantise(sr)), border)[:, 0].cpu(), _shave(luma(quantise(hr)), border)[:, 0].cpu())
    return torch.tensor([_ssim(a.numpy(), b.numpy()) for a, b in pairs], dtype=torch.float64)


def _ssim(a: np.ndarray, b: np.ndarray) -> float:
    # truncate 3.5 at sigma 1.5 makes the window 11 wide; scikit-image's own mean leaves out its 5-pixel border.
    return skimage.metrics.structural_similarity(  # scikit-image imports SciPy only now
        a, b, data_range=255, gaussian_weights=True, sigma=1.5, truncate=3.5, use_sample_covariance=False
    )


def ranking_score(average_psnr_db: float, gflops: float, mparams: float) -> float:
    """The report's overall ranking: e^(PSNR − 20) / (GFLOPs × MPARAMS); higher is better."""
    return math.exp(average_psnr_db - 20) / (gflops * mparams)


def kaggle_score(mses: Sequence[float]) -> float:
    """The report's Kaggle score: sum over images of the mean squared error (grey levels squared); lower is better."""
    return float(sum(mses))


def missed_conditions(average_psnr_db: float, gflops: float) -> list[str]:
    """Which conditions of the report's budget a network misses; an empty list earns the bonus."""
    missed = []
    if not gflops < BUDGET_GFLOPS:
        missed.append(f"FLOPs {gflops:.3f} G is not below {BUDGET_GFLOPS} G")
    if not average_psnr_db > BUDGET_PSNR_DB:
        missed.append(f"average PSNR {average_psnr_db:.3f} dB is not above {BUDGET_PSNR_DB} dB")
    return missed
