"""What training minimises. Images are (N, 3, H, W) RGB, nominally in [0, 1], neither clamped nor quantised."""

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.metrics import ROUNDING_MSE, check_pair, per_image_mse


def fourier_loss(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean absolute error of the pixels plus that of their Fourier coefficients: a scalar.

    The coefficients (orthonormal, each channel's own; real and imaginary parts apart) are about as large as the pixels'
    errors. L1's gradient is the error's sign alone: of a pixel the strongest frequencies set it, of a coefficient its
    own frequency, so that weak ones are learned too.

    Raises:
        ValueError: shapes differ.
    Source: the frequency loss of MIMO-UNet (arXiv 2108.05054); weighed by 1, not 0.1.
    """
    check_pair(sr, hr, border=0)
    error = sr - hr
    coefficients = torch.fft.rfft2(error, norm="ortho")
    return error.abs().mean() + torch.view_as_real(coefficients).abs().mean()


def psnr_loss(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean over images of minus the PSNR, to be minimised, not quantised: a scalar in dB.

    A score that averages PSNR weighs images by the logarithm of their error, so that a flat one counts as much as a
    detailed one. The error never falls below that of rounding to 8 bits.

    Raises:
        ValueError: shapes differ.
    Source: HINet (arXiv 2105.06086).
    """
    check_pair(sr, hr, border=0)
    return 10 * torch.log10(per_image_mse(sr, hr) + ROUNDING_MSE).mean()


LOSSES = {"l1": F.l1_loss, "fourier": fourier_loss, "mse": F.mse_loss, "psnr": psnr_loss}  # as --loss names them
