"""DRLN (arXiv 1906.12021), densely residual Laplacian network, and the report's three slimmed versions.

All four share one wiring: blocks in groups; a block's output is concatenated with what the group has so far and
compressed back to nf; each group's output is added to a running residual.
"""

import torch
import torch.nn as nn
from torch import Tensor

from models.blocks import DistillationBlock, check_scale, conv1x1, conv3x3, pixel_shuffle_upsampler, require
from models.blocks import separable_conv

RGB_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K


class MeanShift(nn.Conv2d):
    """Adds sign·RGB_MEAN, as a frozen 1×1 conv: the costs the report prints count it."""

    def __init__(self, sign: int) -> None:
        super().__init__(3, 3, 1)
        self.weight.data = torch.eye(3).reshape(3, 3, 1, 1)
        self.bias.data = sign * torch.tensor(RGB_MEAN)
        self.requires_grad_(False)


class LaplacianAttention(nn.Module):
    """Gates each channel by a pyramid of three dilated convs over its average.

    The pooled map is 1×1, so only the centre tap of each 3×3 kernel meets data; the others see zero padding.
    """

    def __init__(self, nf: int, hidden: int, act: nn.Module) -> None:
        super().__init__()
        self.average_pool = nn.AdaptiveAvgPool2d(1)
        self.branches = nn.ModuleList(conv3x3(nf, hidden, dilation=dilation) for dilation in (3, 5, 7))
        self.act = act
        self.expand = nn.Sequential(conv3x3(3 * hidden, nf), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            mean = self.average_pool(x.float())
            gate = self.expand(torch.cat([self.act(branch(mean)) for branch in self.branches], dim=1))
        return x * gate.to(x.dtype)


class ResidualBlock(nn.Module):
    """conv, ReLU, conv, add the input, ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv3x3(channels, channels), nn.ReLU(inplace=True), conv3x3(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + x)


class DRLM(nn.Module):
    """Densely residual Laplacian module: residual blocks, each on the concatenation of all before it."""

    def __init__(self, nf: int, residual_blocks: int, hidden: int) -> None:
        super().__init__()
        self.residual = nn.ModuleList(ResidualBlock(nf * 2**i) for i in range(residual_blocks))
        self.compress = nn.Sequential(conv1x1(nf * 2**residual_blocks, nf), nn.ReLU(inplace=True))
        self.attention = LaplacianAttention(nf, hidden, nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        for block in self.residual:
            x = torch.cat((x, block(x)), dim=1)
        return self.attention(self.compress(x))
