"""Layers shared by two or more network families, and the checks on their sizes."""

import torch
import torch.nn as nn
from torch import Tensor

SCALES = (2, 3, 4)


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def check_scale(scale: int) -> None:
    require(scale in SCALES, f"scale is {scale}; allowed: 2, 3, 4")


def conv3x3(in_channels: int, out_channels: int, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation)


def conv1x1(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 1)


def separable_conv(in_channels: int, out_channels: int, kernel_size: int = 3) -> nn.Sequential:
    """Depthwise k×k then pointwise 1×1, both with bias, nothing between them."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, kernel_size, padding=kernel_size // 2, groups=in_channels),
        nn.Conv2d(in_channels, out_channels, 1),
    )


def pixel_shuffle_upsampler(nf: int, scale: int) -> nn.Sequential:
    """3×3 conv to 3·scale² channels, then rearranged: (N, nf, H, W) -> (N, 3, scale·H, scale·W)."""
    return nn.Sequential(conv3x3(nf, 3 * scale**2), nn.PixelShuffle(scale))


def channel_contrast(x: Tensor, mean: Tensor) -> Tensor:
    """Standard deviation over H, W (biased): (N, C, H, W), (N, C, 1, 1) -> (N, C, 1, 1).

    The gradient is zero, not infinite, where a channel is constant: `vector_norm` takes the zero subgradient.
    The mean is detached, which is exact (the deviations sum to zero) and saves two passes over x in backward.
    """
    norm = torch.linalg.vector_norm(x - mean.detach(), dim=(2, 3), keepdim=True)
    return norm * (x.shape[2] * x.shape[3]) ** -0.5


class ContrastAwareChannelAttention(nn.Module):
    """CCA: scales each channel by a gate computed from its standard deviation plus its mean.

    Source: IMDN (arXiv 1909.11856), eq. 5.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.average_pool = nn.AdaptiveAvgPool2d(1)  # a module, so that thop counts it
        self.gate = nn.Sequential(conv1x1(channels, hidden), nn.ReLU(), conv1x1(hidden, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        # A sum over thousands of pixels loses the contrast in bf16's 8 bits.
        with torch.autocast(x.device.type, enabled=False):
            x32 = x.float()
            mean = self.average_pool(x32)
            gate = self.gate(mean + channel_contrast(x32, mean))
        return x * gate.to(x.dtype)


class DistillationBlock(nn.Module):
    """The IMDB's three-fold split: each step keeps a quarter of the channels and refines the rest.

    Subclasses set c1…c4 (a conv takes the step) and what follows the concatenation of the four kept quarters.
    """

    c1: nn.Module
    c2: nn.Module
    c3: nn.Module
    c4: nn.Module

    def __init__(self, nf: int, negative_slope: float = 0.05) -> None:
        super().__init__()
        require(nf >= 4 and nf % 4 == 0, f"nf is {nf}; a distillation block needs a positive multiple of 4")
        self.sizes = (nf // 4, nf - nf // 4)
        self.act = nn.LeakyReLU(negative_slope, inplace=True)

    def distil(self, x: Tensor) -> Tensor:
        d1, rest = self.act(self.c1(x)).split(self.sizes, dim=1)
        d2, rest = self.act(self.c2(rest)).split(self.sizes, dim=1)
        d3, rest = self.act(self.c3(rest)).split(self.sizes, dim=1)
        return torch.cat((d1, d2, d3, self.c4(rest)), dim=1)


@torch.no_grad()
def bilinear_kernels(scale: int) -> Tensor:
    """3×3 kernels that upscale one channel bilinearly when followed by PixelShuffle: (scale², 3, 3)."""
    offsets = (torch.arange(scale) + 0.5) / scale - 0.5  # of each HR pixel's centre from its LR pixel's
    taps = torch.stack((-offsets.clamp(max=0), 1 - offsets.abs(), offsets.clamp(min=0)), dim=1)
    return torch.einsum("iy,jx->ijyx", taps, taps).reshape(scale**2, 3, 3)


@torch.no_grad()
def pass_through(conv: nn.Conv2d, source: int, target: int, sign: float = 1.0) -> None:
    """Makes output channel `target` of a stride-1 conv a copy of input channel `source`, times sign."""
    conv.weight[target] = 0
    conv.weight[target, source, conv.kernel_size[0] // 2, conv.kernel_size[1] // 2] = sign
    conv.bias[target] = 0


@torch.no_grad()
def interpolate_rgb(head: nn.Conv2d, trunk_conv: nn.Conv2d, upsampler_conv: nn.Conv2d, scale: int) -> None:
    """Makes a network of head, residual trunk and upsampler start near bilinear interpolation.

    The head passes RGB through its first three channels, the trunk adds almost nothing to them, and the upsampler's
    kernels for them are bilinear. Everything else keeps the framework's initialisation, the trunk's last conv and
    the upsampler's other kernels scaled down, so that each still receives a gradient.
    """
    for channel in range(3):
        pass_through(head, channel, channel)
    trunk_conv.weight *= 0.01
    trunk_conv.bias.zero_()
    upsampler_conv.weight *= 0.1
    upsampler_conv.bias.zero_()
    for channel in range(3):
        outputs = slice(channel * scale**2, (channel + 1) * scale**2)
        upsampler_conv.weight[outputs, :3] = 0
        upsampler_conv.weight[outputs, channel] = bilinear_kernels(scale).to(upsampler_conv.weight)
