"""IMDN (arXiv 1909.11856, ACM MM 2019), its RTC variant, and the report's depthwise-separable one."""

import torch
import torch.nn as nn
from torch import Tensor

from models.blocks import (
    ContrastAwareChannelAttention,
    DistillationBlock,
    check_scale,
    conv1x1,
    conv3x3,
    interpolate_rgb,
    pixel_shuffle_upsampler,
    require,
    separable_conv,
)


class IMDB(DistillationBlock):
    """Information multi-distillation block; `attention=False` gives the RTC variant's."""

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
        return x + self.c5(self.cca(self.distil(x)))


class SeparableIMDB(DistillationBlock):
    """IMDB with every conv depthwise-separable, and one CCA applied both before and after the last of them."""

    def __init__(self, nf: int) -> None:
        super().__init__(nf)
        distilled, remaining = self.sizes
        self.c1 = separable_conv(nf, nf)
        self.c2 = separable_conv(remaining, nf)
        self.c3 = separable_conv(remaining, nf)
        self.c4 = separable_conv(remaining, distilled)
        self.cca = ContrastAwareChannelAttention(nf, reduction=12)
        self.c5 = separable_conv(nf, nf, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cca(self.c5(self.cca(self.distil(x))))


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
        require(num_modules >= 1, f"modules is {num_modules}; IMDN needs at least 1")
        self.head = conv3x3(3, nf)
        self.blocks = nn.ModuleList(self.block(nf) for _ in range(num_modules))
        self.fusion = nn.Sequential(conv1x1(num_modules * nf, nf), nn.LeakyReLU(0.05, inplace=True))
        self.trunk_conv = conv3x3(nf, nf)
        self.upsampler = pixel_shuffle_upsampler(nf, scale)

    def forward(self, x: Tensor) -> Tensor:
        features = self.head(x)
        outputs, h = [], features
        for block in self.blocks:
            h = block(h)
            outputs.append(h)
        h = self.trunk_conv(self.fusion(torch.cat(outputs, dim=1)))
        return self.upsampler(h + features)

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
        require(num_modules >= 1, f"modules is {num_modules}; IMDN_RTC needs at least 1")
        self.head = conv3x3(3, nf)
        self.blocks = nn.Sequential(*(IMDB(nf, attention=False) for _ in range(num_modules)))
        self.trunk_conv = conv1x1(nf, nf)
        self.upsampler = pixel_shuffle_upsampler(nf, scale)

    def forward(self, x: Tensor) -> Tensor:
        features = self.head(x)
        return self.upsampler(self.trunk_conv(self.blocks(features)) + features)

    def start_from_interpolation(self) -> None:
        interpolate_rgb(self.head, [self.trunk_conv], self.upsampler[0], self.upsampler[1].upscale_factor)
