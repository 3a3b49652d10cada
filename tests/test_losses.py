import pytest
import torch

from utils.losses import fourier_loss, psnr_loss
from utils.metrics import psnr_rgb


def test_the_loss_is_minus_the_mean_psnr():
    torch.manual_seed(0)
    hr = torch.randint(0, 256, (3, 3, 8, 8)) / 255
    sr = ((hr * 255).round() + torch.tensor([1, 5, 60]).reshape(3, 1, 1, 1)).clamp(0, 255) / 255
    without_rounding = 10 * torch.log10(10 ** (-psnr_rgb(sr, hr) / 10) + 1 / (12 * 255**2))
    assert psnr_loss(sr, hr).item() == pytest.approx(without_rounding.mean().item(), abs=1e-4)
    sr = hr.clone().requires_grad_()
    psnr_loss(sr, hr).backward()
    assert sr.grad.isfinite().all()


def test_fourier_loss_of_one_wave_is_that_of_the_wave_and_its_one_coefficient():
    height, width = 6, 8
    hr = torch.rand(1, 3, height, width)
    wave = torch.cos(2 * torch.pi * 2 * torch.arange(width) / width).expand(3, height, width)
    coefficient = (height * width) ** 0.5 / 2  # at (0, 2) of each channel, and no imaginary part
    kept = height * (width // 2 + 1)  # by rfft2
    expected = wave.abs().mean().item() + coefficient / (2 * kept)
    assert fourier_loss(hr + 0.1 * wave, hr).item() == pytest.approx(0.1 * expected, rel=1e-4)
