"""IMDN (arXiv 1909.11856, ACM MM 2019), its RTC variant, and the report's depthwise-separable one."""

from functools import partial

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.blocks import (
    DistillationBlock,
    ScaledPointwise,
    SeparableDistillationBlock,
    check_distillation,
    check_scale,
    conv1x1,
    conv3x3,
    float32_region,
    full_precision,
    in_full_precision,
    interpolate_rgb,
    linear_of,
    pixel_shuffle_upsampler,
    require,
    run_conv,
)
from models.chain import is_watched
from models.tail import distillation_tail, runs_native


def channel_contrast(x: Tensor, mean: Tensor) -> Tensor:
    """Standard deviation over H, W (biased): (N, C, H, W), (N, C, 1, 1) -> (N, C, 1, 1).

    The gradient is zero, not infinite, where a channel is constant: `vector_norm` takes the zero subgradient.
    """
    norm = torch.linalg.vector_norm(x - mean, dim=(2, 3), keepdim=True)
    return norm * (x.shape[2] * x.shape[3]) ** -0.5


class ContrastAwareChannelAttention(nn.Module):
    """CCA: scales each channel by a gate computed from its standard deviation plus its mean.

    Shape: (N, channels, H, W) -> the same. Source: IMDN (arXiv 1909.11856), eq. 5.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.global_pool = True  # for utils.tiling: no margin around a tile makes up for the mean of a whole image
        hidden = max(1, channels // reduction)
        self.average_pool = nn.AdaptiveAvgPool2d(1)  # a module, so that thop counts it
        self.gate = nn.Sequential(conv1x1(channels, hidden), nn.ReLU(), conv1x1(hidden, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        with float32_region(x.device.type):
            precise = full_precision(x)
            mean = self.average_pool(precise)
            gate = self.gate(mean + channel_contrast(precise, mean))
        return x * gate.to(x.dtype)

    def gate_from(self, mean: Tensor, variance: Tensor) -> Tensor:
        """The gate where a map's moments are known: (N, C), (N, C) -> (N, C)."""
        reduce, act, expand, sigmoid = self.gate
        return sigmoid(linear_of(expand, act(linear_of(reduce, mean + standard_deviation(variance)))))


def channels_innermost(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H·W, C), a view where x is in channels_last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


class Moments(torch.autograd.Function):
    """Mean and covariance over positions: (N, C, H, W) -> (N, 1, C), (N, C, C).

    Centred before it is squared: E[x²] − E[x]² loses the variance of a channel whose mean is large.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> tuple[Tensor, Tensor]:
        positions = x.flatten(2) if x.is_contiguous() else channels_innermost(x).mT  # (n, c, positions)
        mean = positions.mean(dim=2, keepdim=True)
        centred = positions - mean
        ctx.save_for_backward(x, mean)
        return mean.mT, torch.bmm(centred, centred.mT) / positions.shape[2]

    @staticmethod
    @once_differentiable
    def backward(ctx, mean_grad: Tensor, covariance_grad: Tensor) -> Tensor:
        # G the covariance's gradient: dx = (dmean + (G + Gᵀ)(x − mean)) / (h·w); the deviations' own mean adds nothing
        x, mean = ctx.saved_tensors
        n, c, h, w = x.shape
        slope = (covariance_grad + covariance_grad.mT) / (h * w)
        offset = mean_grad.mT / (h * w) - slope @ mean
        if x.is_contiguous():
            return torch.baddbmm(offset, slope, x.flatten(2)).reshape(n, c, h, w)
        return torch.baddbmm(offset.mT, channels_innermost(x), slope).reshape(n, h, w, c).permute(0, 3, 1, 2)


def standard_deviation(variance: Tensor) -> Tensor:
    """Square root with a zero, not infinite, gradient where the variance is zero."""
    return variance.clamp_min(1e-12).sqrt()


def add_product(x: Tensor, matrix: Tensor, bias: Tensor, h: Tensor) -> Tensor:
    """x plus a 1×1 conv of h that is another for each image: (N, out, in) and (N or 1, out).

    Not in one product under autocast, which would round the sum at every block.
    """
    n, c, height, width = x.shape
    matrix, bias = matrix.to(x.dtype), bias.to(x.dtype)
    rounds = torch.is_autocast_enabled(x.device.type)
    if h.is_contiguous():
        total, product = x.contiguous().flatten(2), (matrix, h.flatten(2))
        out = total + torch.bmm(*product) if rounds else torch.baddbmm(total, *product)
        return out.add_(bias[:, :, None]).reshape(n, c, height, width)
    total, product = channels_innermost(x), (channels_innermost(h), matrix.mT)
    out = total + torch.bmm(*product) if rounds else torch.baddbmm(total, *product)
    return out.add_(bias[:, None]).reshape(n, height, width, c).permute(0, 3, 1, 2)


class IMDB(DistillationBlock):
    """Information multi-distillation block; `attention=False` gives the RTC variant's. Shape as DistillationBlock."""

    def __init__(self, nf: int, attention: bool = True) -> None:
        super().__init__(nf)
        distilled, remaining = self.sizes
        self.c1 = conv3x3(nf, nf)
        self.c2 = conv3x3(remaining, nf)
        self.c3 = conv3x3(remaining, nf)
        self.c4 = conv3x3(remaining, distilled)
        self.cca = ContrastAwareChannelAttention(nf) if attention else nn.Identity()
        self.c5 = conv1x1(nf, nf)

    def forward(self, x: Tensor) -> Tensor:
        distilled = self.distil(x)
        if not is_watched(self.cca, self.c5):
            return self.fused_tail(x, distilled)
        return x + self.c5(self.cca(distilled))

    def fused_tail(self, x: Tensor, distilled: Tensor) -> Tensor:
        """x + c5(cca(distilled)) in one product with a matrix for each image."""
        matrix, bias = self.c5.weight.flatten(1), self.c5.bias
        gate = self.cca.gate if isinstance(self.cca, ContrastAwareChannelAttention) else None
        if runs_native(x, distilled, matrix, bias, gate):
            return distillation_tail(x, distilled, matrix, bias, gate)
        with float32_region(x.device.type):
            matrix = matrix.expand(len(x), -1, -1)
            if gate:
                # Of the covariance only the diagonal is used, yet beside channel_contrast forward takes 0.8 ms longer
                # and backward 4 ms less (batch 8 of 64×64, 20 channels, one core).
                mean, covariance = Moments.apply(full_precision(distilled))
                matrix = matrix * self.cca.gate_from(mean[:, 0], covariance.diagonal(dim1=1, dim2=2))[:, None]
        return add_product(x, matrix, bias[None], distilled)


class SeparableIMDB(SeparableDistillationBlock):
    """IMDB with every conv depthwise-separable, and one CCA applied both before and after the last of them.

    Shape as DistillationBlock.
    """

    def __init__(self, nf: int) -> None:
        super().__init__(nf)
        self.cca = ContrastAwareChannelAttention(nf, reduction=12)
        self.c5 = ScaledPointwise(nf, nf)

    def forward(self, x: Tensor) -> Tensor:
        distilled = self.distil(x)
        if not is_watched(self.cca, self.c5):
            return self.fused_tail(x, distilled)
        return x + self.cca(self.c5(self.cca(distilled)))

    def fused_tail(self, x: Tensor, distilled: Tensor) -> Tensor:
        """x + cca(c5(cca(distilled))) in one product with a matrix for each image.

        All of it is linear but the gates, and those need only channel means and deviations; the second gate's follow
        from the mean and covariance of `distilled`, so that no other feature map is ever written.
        """
        with float32_region(x.device.type):
            matrix, bias = self.c5.matrix_and_bias()
            if runs_native(x, distilled, matrix, bias, self.cca.gate):
                return distillation_tail(x, distilled, matrix, bias, self.cca.gate, twice=True)
            mean, covariance = Moments.apply(full_precision(distilled))
            gate = self.cca.gate_from(mean[:, 0], covariance.diagonal(dim1=1, dim2=2))
            matrix = matrix * gate[:, None]  # (n, c out, c in)
            mean = torch.baddbmm(bias, mean, matrix.mT)
            # channels mixed by A have covariance A Σ Aᵀ; the gate takes its diagonal
            gate = self.cca.gate_from(mean[:, 0], ((matrix @ covariance) * matrix).sum(dim=2))
            matrix, bias = gate[:, :, None] * matrix, gate * bias
        return add_product(x, matrix, bias, distilled)


def add_pointwise(total: Tensor, kernel: Tensor, h: Tensor) -> Tensor:
    """total + conv2d(h, kernel) for a 1×1 kernel, in one product where h is NCHW.

    Not under autocast, which would round the sum at every call.
    """
    if not h.is_contiguous() or torch.is_autocast_enabled(h.device.type):
        return total + F.conv2d(h, kernel)
    matrices = kernel.flatten(1).expand(len(h), -1, -1)
    return torch.baddbmm(total.flatten(2), matrices, h.flatten(2)).unflatten(2, h.shape[2:])


class IMDN(nn.Module):
    """Blocks in a row, every block's output kept, concatenated and fused.

    Args:
        nf: features, a positive multiple of 4.
        num_modules: blocks, at least 1.
        scale: 2, 3 or 4.
    Shape: (N, 3, H, W) RGB in [0, 1] -> (N, 3, scale·H, scale·W), not clamped.
    Raises:
        ValueError: a size the architecture does not allow.
    Source: arXiv 1909.11856.
    """

    block = IMDB

    def __init__(self, nf: int = 64, num_modules: int = 6, scale: int = 3) -> None:
        super().__init__()
        check_scale(scale)
        check_distillation(nf)
        require(num_modules >= 1, f"modules is {num_modules}; IMDN needs at least 1")
        self.head = conv3x3(3, nf)
        self.blocks = nn.ModuleList(self.block(nf) for _ in range(num_modules))
        self.fusion = nn.Sequential(conv1x1(num_modules * nf, nf), nn.LeakyReLU(0.05, inplace=True))
        self.trunk_conv = conv3x3(nf, nf)
        self.upsampler = pixel_shuffle_upsampler(nf, scale)

    def forward(self, x: Tensor) -> Tensor:
        features = in_full_precision(partial(run_conv, self.head), x)
        if not is_watched(self.fusion):
            merged = self.fuse_as_they_come(features)
        else:
            merged = self.fusion(torch.cat(self.outputs(features), dim=1))
        return in_full_precision(self.upsampler, run_conv(self.trunk_conv, merged) + features)

    def outputs(self, h: Tensor) -> list[Tensor]:
        kept = []
        for block in self.blocks:
            h = block(h)
            kept.append(h)
        return kept

    def fuse_as_they_come(self, h: Tensor) -> Tensor:
        """fusion(concatenation of all outputs), a block at a time, so that they need not be kept side by side."""
        conv, act = self.fusion
        total = conv.bias.reshape(1, -1, 1, 1)
        for block, kernel in zip(self.blocks, conv.weight.split(h.shape[1], dim=1)):
            h = block(h)
            total = add_pointwise(total, kernel, h)
        return act(total)

    def start_from_interpolation(self) -> None:
        interpolate_rgb(self.head, [self.trunk_conv], self.upsampler[0], self.upsampler[1].upscale_factor)


class IMDN_dw(IMDN):
    """IMDN with depthwise-separable blocks; head, fusion, trunk conv and upsampler stay plain.

    Arguments, shape and errors as IMDN. Source: the student's report; reduction 12 and the second CCA are what
    its printed costs imply.
    """

    block = SeparableIMDB

    def __init__(self, nf: int = 32, num_modules: int = 10, scale: int = 3) -> None:
        super().__init__(nf, num_modules, scale)


class IMDN_RTC(nn.Module):
    """The authors' AI-in-RTC 2019 winner: blocks without CCA, no concatenation, one residual around the trunk.

    Arguments, shape and errors as IMDN. Source: github.com/Zheng222/IMDN.
    """

    def __init__(self, nf: int = 12, num_modules: int = 16, scale: int = 3) -> None:
        super().__init__()
        check_scale(scale)
        check_distillation(nf)
        require(num_modules >= 1, f"modules is {num_modules}; IMDN_RTC needs at least 1")
        self.head = conv3x3(3, nf)
        self.blocks = nn.Sequential(*(IMDB(nf, attention=False) for _ in range(num_modules)))
        self.trunk_conv = conv1x1(nf, nf)
        self.upsampler = pixel_shuffle_upsampler(nf, scale)

    def forward(self, x: Tensor) -> Tensor:
        features = in_full_precision(partial(run_conv, self.head), x)
        return in_full_precision(self.upsampler, self.trunk_conv(self.blocks(features)) + features)

    def start_from_interpolation(self) -> None:
        interpolate_rgb(self.head, [self.trunk_conv], self.upsampler[0], self.upsampler[1].upscale_factor)
