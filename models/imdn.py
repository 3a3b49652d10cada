"""IMDN (arXiv 1909.11856, ACM MM 2019), its RTC variant, and the report's depthwise-separable one."""

import torch
import torch.nn as nn
from torch import Tensor

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
    in_precision_of,
    interpolate_rgb,
    pixel_shuffle_upsampler,
    require,
    run_conv,
)
from models.kernels.fused import add_pointwise, fused_tail
from models.kernels.guards import is_conv, must_run_apart
from models.kernels.tail import is_gate


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
            gate = self.gate(in_precision_of(self.gate[0], mean + channel_contrast(precise, mean)))
        return x * gate.to(x.dtype)


def is_cca(module: nn.Module, channels: int) -> bool:
    """Whether it is the attention above, of so many channels, with no layer put in another's place."""
    return (
        type(module) is ContrastAwareChannelAttention
        and type(module.average_pool) is nn.AdaptiveAvgPool2d
        and is_gate(module.gate, channels)
    )


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

    def tail(self, x: Tensor, distilled: Tensor) -> Tensor:
        """x + c5(cca(distilled)), (N, nf, H, W) each; in one product where these are its layers, unwatched."""
        has_gate = type(self.cca) is not nn.Identity
        is_fused = is_conv(self.c5, 1) and (not has_gate or is_cca(self.cca, x.shape[1]))
        if not is_fused or must_run_apart(self.cca, self.c5):
            return x + self.c5(self.cca(distilled))
        gate = self.cca.gate if has_gate else None
        return fused_tail(x, distilled, self.c5.weight.flatten(1), self.c5.bias, gate)


class SeparableIMDB(SeparableDistillationBlock):
    """IMDB with its convs depthwise-separable, and one CCA (not separable) before and after the last of them.

    Shape as DistillationBlock.
    """

    def __init__(self, nf: int) -> None:
        super().__init__(nf)
        self.cca = ContrastAwareChannelAttention(nf, reduction=12)
        self.c5 = ScaledPointwise(nf, nf)

    def tail(self, x: Tensor, distilled: Tensor) -> Tensor:
        """x + cca(c5(cca(distilled))), (N, nf, H, W) each; in one product as IMDB's tail."""
        is_fused = type(self.c5) is ScaledPointwise and self.c5.is_one_conv() and is_cca(self.cca, x.shape[1])
        if not is_fused or must_run_apart(self.cca, self.c5):
            return x + self.cca(self.c5(self.cca(distilled)))
        return fused_tail(x, distilled, *self.c5.matrix_and_bias(), self.cca.gate, twice=True)


class DistillationNetwork(nn.Module):
    """What IMDN and IMDN_RTC share: head, trunk, the head's features added again, upsampler.

    Args:
        nf: features, a positive multiple of 4.
        num_modules: blocks, at least 1.
        scale: 2, 3 or 4.
    Shape: (N, 3, H, W) RGB in [0, 1] -> (N, 3, scale·H, scale·W), not clamped.
    Raises:
        ValueError: a size the architecture does not allow.
    """

    trunk_conv: nn.Conv2d

    def __init__(self, nf: int, num_modules: int, scale: int) -> None:
        super().__init__()
        check_scale(scale)
        check_distillation(nf)
        require(num_modules >= 1, f"modules is {num_modules}; {type(self).__name__} needs at least 1")
        self.head = conv3x3(3, nf)
        self.add_trunk(nf, num_modules)
        self.upsampler = pixel_shuffle_upsampler(nf, scale)

    def add_trunk(self, nf: int, num_modules: int) -> None:
        """Sets the blocks and, last, `trunk_conv`."""
        raise NotImplementedError

    def trunk(self, features: Tensor) -> Tensor:
        """(N, nf, H, W) -> the same."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        with float32_region(x.device.type):
            features = run_conv(self.head, in_precision_of(self.head, x))
        refined = self.trunk(features) + features
        with float32_region(x.device.type):
            return self.upsampler(in_precision_of(self.upsampler[0], refined))

    def start_from_interpolation(self) -> None:
        interpolate_rgb(self.head, [self.trunk_conv], self.upsampler)


class IMDN(DistillationNetwork):
    """Blocks in a row, every block's output kept, concatenated and fused.

    Arguments, shape and errors as DistillationNetwork. Source: arXiv 1909.11856.
    """

    block = IMDB

    def __init__(self, nf: int = 64, num_modules: int = 6, scale: int = 3) -> None:
        super().__init__(nf, num_modules, scale)

    def add_trunk(self, nf: int, num_modules: int) -> None:
        self.blocks = nn.ModuleList(self.block(nf) for _ in range(num_modules))
        self.fusion = nn.Sequential(conv1x1(num_modules * nf, nf), nn.LeakyReLU(0.05))
        self.trunk_conv = conv3x3(nf, nf)

    def trunk(self, features: Tensor) -> Tensor:
        is_known = type(self.fusion) is nn.Sequential and len(self.fusion) == 2 and is_conv(self.fusion[0], 1)
        is_known = is_known and self.fusion[0].in_channels == len(self.blocks) * features.shape[1]
        if not is_known or must_run_apart(self.fusion):
            merged = self.fusion(torch.cat(self.outputs(features), dim=1))
        else:
            merged = self.fuse_as_they_come(features)
        return run_conv(self.trunk_conv, merged)

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


class IMDN_dw(IMDN):
    """IMDN with depthwise-separable blocks; head, fusion, trunk conv and upsampler stay plain.

    Arguments, shape and errors as DistillationNetwork. Source: the student's report; reduction 12 and the second CCA
    are what its printed costs imply.
    """

    block = SeparableIMDB

    def __init__(self, nf: int = 32, num_modules: int = 10, scale: int = 3) -> None:
        super().__init__(nf, num_modules, scale)


class IMDN_RTC(DistillationNetwork):
    """The authors' AI-in-RTC 2019 winner: blocks without CCA, of which the last one's output alone goes on.

    Arguments, shape and errors as DistillationNetwork. Source: github.com/Zheng222/IMDN.
    """

    def __init__(self, nf: int = 12, num_modules: int = 16, scale: int = 3) -> None:
        super().__init__(nf, num_modules, scale)

    def add_trunk(self, nf: int, num_modules: int) -> None:
        self.blocks = nn.Sequential(*(IMDB(nf, attention=False) for _ in range(num_modules)))
        self.trunk_conv = conv1x1(nf, nf)

    def trunk(self, features: Tensor) -> Tensor:
        return self.trunk_conv(self.blocks(features))
