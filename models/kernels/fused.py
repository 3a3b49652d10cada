"""The slow parts of an IMDN done with fewer and larger products, the same results as its layers give."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.blocks import float32_region, full_precision, linear_of
from models.kernels.tail import distillation_tail, runs_native


def fused_tail(
    x: Tensor, distilled: Tensor, matrix: Tensor, bias: Tensor, gate: nn.Sequential | None, twice: bool = False
) -> Tensor:
    """x + c5(distilled) without a gate, x + c5(cca(distilled)) with one, x + cca(c5(cca(distilled))) with it `twice`.

    In one product with a matrix for each image: all of it is linear but the gates, and those need only channel means
    and deviations; a second gate's follow from the mean and covariance of `distilled`, so that no other feature map is
    ever written. With a gate it can be differentiated once.

    Args:
        x, distilled: (N, C, H, W).
        matrix, bias: of c5: (C, C) and (C,).
        gate: of the CCA: 1×1 conv, ReLU, 1×1 conv, sigmoid.
    Returns:
        (N, C, H, W).
    """
    if runs_native(x, distilled, matrix, bias, gate):
        return distillation_tail(x, distilled, matrix, bias, gate, twice)
    with float32_region(x.device.type):
        matrix, bias = full_precision(matrix).expand(len(x), -1, -1), full_precision(bias)[None]
        if gate:
            # Without `twice` only the covariance's diagonal is used, yet beside channel_contrast forward takes 0.8 ms
            # longer and backward 4 ms less (batch 8 of 64×64, 20 channels, one core).
            mean, covariance = Moments.apply(full_precision(distilled))
            first = gate_from(gate, mean[:, 0], covariance.diagonal(dim1=1, dim2=2))
            matrix = matrix * first[:, None]  # (n, c out, c in)
        if twice:
            mean = torch.baddbmm(bias, mean, matrix.mT)
            # channels mixed by A have covariance A Σ Aᵀ; the gate takes its diagonal
            second = gate_from(gate, mean[:, 0], ((matrix @ covariance) * matrix).sum(dim=2))
            matrix, bias = second[:, :, None] * matrix, second * bias
    return add_product(x, matrix, bias, distilled)


def gate_from(gate: nn.Sequential, mean: Tensor, variance: Tensor) -> Tensor:
    """The gate of a CCA where a map's moments are known: (N, C), (N, C) -> (N, C)."""
    reduce, act, expand, sigmoid = gate
    return sigmoid(linear_of(expand, act(linear_of(reduce, mean + standard_deviation(variance)))))


def standard_deviation(variance: Tensor) -> Tensor:
    """Square root with a zero, not infinite, gradient where the variance is zero."""
    return variance.clamp_min(1e-12).sqrt()


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


def autocasts(x: Tensor) -> bool:
    """Whether products of `x` are taken in half precision; on the meta device there is no autocast to ask."""
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)


def channels_innermost(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H·W, C), a view where x is in channels_last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def add_product(x: Tensor, matrix: Tensor, bias: Tensor, h: Tensor) -> Tensor:
    """x plus a 1×1 conv of h that is another for each image: (N, out, in) and (N or 1, out).

    Not in one product under autocast, which would round the sum at every block.
    """
    n, c, height, width = x.shape
    matrix, bias = matrix.to(x.dtype), bias.to(x.dtype)
    rounds = autocasts(x)
    if h.is_contiguous():
        total, product = x.contiguous().flatten(2), (matrix, h.flatten(2))
        out = total + torch.bmm(*product) if rounds else torch.baddbmm(total, *product)
        return out.add_(bias[:, :, None]).reshape(n, c, height, width)
    total, product = channels_innermost(x), (channels_innermost(h), matrix.mT)
    out = total + torch.bmm(*product) if rounds else torch.baddbmm(total, *product)
    return out.add_(bias[:, None]).reshape(n, height, width, c).permute(0, 3, 1, 2)


def add_pointwise(total: Tensor, kernel: Tensor, h: Tensor) -> Tensor:
    """total + conv2d(h, kernel) for a 1×1 kernel, in one product where h is NCHW.

    Not under autocast, which would round the sum at every call.
    """
    if not h.is_contiguous() or autocasts(h):
        return total + F.conv2d(h, kernel)
    matrices = kernel.flatten(1).expand(len(h), -1, -1)
    return torch.baddbmm(total.flatten(2), matrices, h.flatten(2)).unflatten(2, h.shape[2:])
