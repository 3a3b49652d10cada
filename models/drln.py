"""DRLN (arXiv 1906.12021), densely residual Laplacian network, and the report's three slimmed versions of it."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn as nn
from torch import Tensor

from models.blocks import (
    ActivatedSeparableConv,
    Layers,
    ScaledPointwise,
    SeparableConv,
    SeparableDistillationBlock,
    bilinear_channel,
    check_distillation,
    check_scale,
    conv1x1,
    conv3x3,
    damp,
    float32_region,
    full_precision,
    in_precision_of,
    interpolate_rgb,
    linear_of,
    pass_through,
    pixel_shuffle_upsampler,
    require,
    run_conv,
)
from models.kernels.guards import is_conv, must_run_apart

DILATIONS = (3, 5, 7)
RGB_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K


def mean_shift(sign: int) -> nn.Conv2d:
    """Adds sign·RGB_MEAN, as a frozen 1×1 conv: the printed costs count it."""
    conv = conv1x1(3, 3)
    conv.weight.data = torch.eye(3).reshape(3, 3, 1, 1)
    conv.bias.data = sign * torch.tensor(RGB_MEAN)
    return conv.requires_grad_(False)


class LaplacianAttention(nn.Module):
    """Gates each channel by a pyramid of three dilated convs over its average.

    The pooled map is 1×1, so only the centre tap of each 3×3 kernel meets data; the others see zero padding. Where
    nothing watches the layers or was put in their place, those taps alone are multiplied.
    Shape: (N, nf, H, W) -> the same.
    """

    def __init__(self, nf: int, hidden: int, act: nn.Module) -> None:
        super().__init__()
        self.global_pool = True  # for utils.tiling: no margin around a tile makes up for the mean of a whole image
        self.average_pool = nn.AdaptiveAvgPool2d(1)
        self.branches = nn.ModuleList(
            nn.Conv2d(nf, hidden, 3, padding=dilation, dilation=dilation) for dilation in DILATIONS
        )
        self.act = act
        self.expand = nn.Sequential(nn.Conv2d(3 * hidden, nf, 3, padding=1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        with float32_region(x.device.type):
            mean = self.average_pool(full_precision(x))
            if not self.reads_centres() or must_run_apart(self):
                mean = in_precision_of(self.branches[0], mean)
                gate = self.expand(torch.cat([self.act(branch(mean)) for branch in self.branches], dim=1))
            else:
                hidden = torch.cat([linear_of(branch, mean.flatten(1)) for branch in self.branches], dim=1)
                expand, sigmoid = self.expand
                gate = sigmoid(linear_of(expand, self.act(hidden)))[:, :, None, None]
        return x * gate.to(x.dtype)

    def reads_centres(self) -> bool:
        """Whether `linear_of` computes what the convs do, between activations that take any shape."""
        if len(self.branches) != len(DILATIONS) or type(self.expand) is not nn.Sequential or len(self.expand) != 2:
            return False
        conv, sigmoid = self.expand
        acts = type(self.act) in (nn.ReLU, nn.LeakyReLU) and type(sigmoid) is nn.Sigmoid
        branches = all(is_conv(branch, 3, dilation=dilation) for branch, dilation in zip(self.branches, DILATIONS))
        return acts and branches and is_conv(conv, 3)


class ResidualBlock(nn.Module):
    """conv, ReLU, conv, add the input, ReLU: (N, channels, H, W) -> the same."""

    def __init__(self, channels: int, conv: Callable[[int, int], nn.Module] = conv3x3) -> None:
        super().__init__()
        self.body = Layers(conv(channels, channels), nn.ReLU(), conv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + x)


class DRLM(nn.Module):
    """Densely residual Laplacian module: residual blocks, each on the concatenation of all before it.

    Shape: (N, nf, H, W) -> the same.
    """

    def __init__(self, nf: int, residual_blocks: int, hidden: int) -> None:
        super().__init__()
        self.residual = nn.ModuleList(ResidualBlock(nf * 2**i) for i in range(residual_blocks))
        self.compress = nn.Sequential(conv1x1(nf * 2**residual_blocks, nf), nn.ReLU())
        self.attention = LaplacianAttention(nf, hidden, nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        for block in self.residual:
            x = torch.cat((x, block(x)), dim=1)
        return self.attention(self.compress(x))


class DenseGroups(nn.Module):
    """Blocks in groups, all outputs of a group kept.

    After every block, what the group before gave (to the first group: the head's features) and the outputs of this one
    so far are concatenated and compressed, for the next block to read. What is compressed last is what the group gives.
    A running sum of the head's features and of all that groups gave is what the first block of the next one reads.
    Shape: (N, nf, H, W) -> the same.
    Args:
        sizes: blocks of each group.
        block: makes a block.
        compress: makes the conv from k·nf to nf, given k.
        second_reads_residual: groups (from 0) whose second block reads what the first one read.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        block: Callable[[], nn.Module],
        compress: Callable[[int], nn.Module],
        second_reads_residual: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleList(block() for _ in range(size)) for size in sizes)
        self.compressions = nn.ModuleList(nn.ModuleList(compress(2 + i) for i in range(size)) for size in sizes)
        self.second_reads_residual = tuple(second_reads_residual)

    def forward(self, head: Tensor) -> Tensor:
        residual = compressed = head
        for g, (blocks, compressions) in enumerate(zip(self.blocks, self.compressions)):
            kept, h = [compressed], residual
            for i, (block, compress) in enumerate(zip(blocks, compressions)):
                kept.append(block(h))
                compressed = compress(torch.cat(kept, dim=1))
                h = residual if i == 0 and g in self.second_reads_residual else compressed
            residual = compressed + residual
        return residual + head

    def group_ends(self) -> list[nn.Module]:
        return [compressions[-1] for compressions in self.compressions]


def upsampler_at_high_resolution(nf: int, scale: int) -> nn.Sequential:
    """conv nf→s²·nf, ReLU, PixelShuffle (×4 in two steps), then a 3×3 conv nf→3 at high resolution."""
    steps = (2, 2) if scale == 4 else (scale,)
    layers: list[nn.Module] = []
    for step in steps:
        layers += [conv3x3(nf, step**2 * nf), nn.ReLU(), nn.PixelShuffle(step)]
    return Layers(*layers, conv3x3(nf, 3))


class MeanShiftedDRLN(nn.Module):
    """What the four share: the mean taken off, head, trunk, upsampler, the mean put back.

    Shape: (N, 3, H, W) RGB in [0, 1] -> (N, 3, scale·H, scale·W), not clamped.
    """

    def __init__(self, nf: int, trunk: nn.Module, upsampler: nn.Sequential) -> None:
        super().__init__()
        self.subtract_mean = mean_shift(-1)
        self.head = conv3x3(3, nf)
        self.trunk = trunk
        self.upsampler = upsampler
        self.add_mean = mean_shift(+1)

    def forward(self, x: Tensor) -> Tensor:
        with float32_region(x.device.type):
            features = run_conv(self.head, self.subtract_mean(in_precision_of(self.head, x)))
        refined = self.trunk(features)
        with float32_region(x.device.type):
            return self.add_mean(self.upsampler(in_precision_of(self.head, refined)))

    @torch.no_grad()
    def start_from_interpolation(self) -> None:
        """Makes a network with `upsampler_at_high_resolution` start near bilinear interpolation.

        Six channels carry ±RGB through the upsampler's ReLUs, as relu(x) − relu(−x) = x. The running residual begins
        with the head's features and they are added again after the trunk, hence the half in the tail.

        Raises:
            ValueError: fewer than six features.
        """
        nf = self.head.out_channels
        require(nf >= 6, f"nf is {nf}; starting from interpolation needs at least 6")
        for channel in range(6):
            pass_through(self.head, channel % 3, channel, sign=1.0 if channel < 3 else -1.0)
        for conv in last_convs(self.trunk.group_ends()):
            damp(conv, 0.01)
        *upsampling, tail = (m for m in self.upsampler if isinstance(m, nn.Conv2d))
        for conv in upsampling:
            scale = math.isqrt(conv.out_channels // conv.in_channels)
            conv.weight[: 6 * scale**2] = 0
            conv.bias[: 6 * scale**2] = 0
            for channel in range(6):
                bilinear_channel(conv, channel, channel, scale)
        damp(tail, 0.1)
        tail.weight[:, :6] = 0
        for channel in range(6):
            tail.weight[channel % 3, channel, 1, 1] = 0.5 if channel < 3 else -0.5


class DRLN(MeanShiftedDRLN):
    """The paper's network. Its groups hold three blocks, the last two of 20 blocks four.

    Args:
        nf: features, a positive multiple of 16.
        num_modules: blocks; a sum of threes and, at the end, up to two fours: 3, 4, or from 6 on.
        scale: 2, 3 or 4.
    Raises:
        ValueError: a size the architecture does not allow.
    Source: arXiv 1906.12021; in the authors' code the fifth block reads what the fourth does.
    """

    def __init__(self, nf: int = 64, num_modules: int = 20, scale: int = 3) -> None:
        check_scale(scale)
        require(nf >= 16 and nf % 16 == 0, f"nf is {nf}; DRLN needs a positive multiple of 16")
        require(num_modules in (3, 4) or num_modules >= 6, f"modules is {num_modules}; DRLN needs 3, 4, or 6 and more")
        fours = num_modules % 3
        sizes = [3] * ((num_modules - 4 * fours) // 3) + [4] * fours
        trunk = DenseGroups(
            sizes,
            block=lambda: DRLM(nf, residual_blocks=3, hidden=nf // 16),
            compress=lambda k: Layers(conv3x3(k * nf, nf), nn.ReLU()),
            second_reads_residual=(1,),
        )
        super().__init__(nf, trunk, upsampler_at_high_resolution(nf, scale))


class DRLN_narrow(MeanShiftedDRLN):
    """The report's first attempt: groups of two, the third residual block of each DRLM left out.

    Args:
        nf: features, at least 1; 6 to start from interpolation.
        num_modules: blocks, a positive multiple of 2.
        scale: 2, 3 or 4.
    Raises:
        ValueError: a size the architecture does not allow.
    Source: the student's report.
    """

    def __init__(self, nf: int = 12, num_modules: int = 4, scale: int = 3) -> None:
        check_scale(scale)
        require(nf >= 1, f"nf is {nf}; DRLN_narrow needs at least 1")
        require(num_modules >= 2 and num_modules % 2 == 0, f"modules is {num_modules}; an even number is needed")
        trunk = DenseGroups(
            [2] * (num_modules // 2),
            block=lambda: DRLM(nf, residual_blocks=2, hidden=max(1, nf // 12)),
            compress=lambda k: Layers(conv3x3(k * nf, nf), nn.ReLU()),
        )
        super().__init__(nf, trunk, upsampler_at_high_resolution(nf, scale))


class SeparableDRLM(nn.Module):
    """The second attempt's block: one residual block, concatenated and compressed, by depthwise-separable convs.

    Shape: (N, nf, H, W) -> the same.
    """

    def __init__(self, nf: int) -> None:
        super().__init__()
        self.residual = ResidualBlock(nf, SeparableConv)
        self.compress = ActivatedSeparableConv(2 * nf, nf, negative_slope=0.0)
        self.attention = LaplacianAttention(nf, max(1, nf // 16), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(self.compress(torch.cat((x, self.residual(x)), dim=1)))


class DRLN_dw(MeanShiftedDRLN):
    """The report's second attempt: depthwise-separable convs between head and upsampler, groups of three.

    The report gives its cost (10.58146676 GFLOPs, 0.09062 M) and that the compression convs are separable, not the
    block's layout; this is the closest that follows the text (10.773 GFLOPs, 0.092320 M).

    Args:
        nf: features, at least 1; 6 to start from interpolation.
        num_modules: blocks, at least 1; the last group takes what is left.
        scale: 2, 3 or 4.
    Raises:
        ValueError: a size the architecture does not allow.
    Source: the student's report.
    """

    def __init__(self, nf: int = 20, num_modules: int = 11, scale: int = 3) -> None:
        check_scale(scale)
        require(nf >= 1, f"nf is {nf}; DRLN_dw needs at least 1")
        require(num_modules >= 1, f"modules is {num_modules}; DRLN_dw needs at least 1")
        sizes = [min(3, num_modules - first) for first in range(0, num_modules, 3)]
        trunk = DenseGroups(
            sizes,
            block=lambda: SeparableDRLM(nf),
            compress=lambda k: ActivatedSeparableConv(k * nf, nf, negative_slope=0.0),
        )
        super().__init__(nf, trunk, upsampler_at_high_resolution(nf, scale))


class DistillationDRLM(SeparableDistillationBlock):
    """The third attempt's block: an IMDB's splits on depthwise-separable convs, then Laplacian attention.

    Shape as DistillationBlock.
    """

    def __init__(self, nf: int) -> None:
        super().__init__(nf, negative_slope=0.01, last_act=True)
        self.c5 = nn.Sequential(ScaledPointwise(nf, nf), nn.LeakyReLU(0.01))
        self.attention = LaplacianAttention(nf, max(1, nf // 16), nn.LeakyReLU(0.01))

    def tail(self, x: Tensor, distilled: Tensor) -> Tensor:
        return self.attention(self.c5(distilled))


class PairedTrunk(nn.Module):
    """The third attempt's wiring: blocks in pairs, the first compression seeing only the second block.

    Shape: (N, nf, H, W) -> the same.
    """

    def __init__(self, nf: int, pairs: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(DistillationDRLM(nf) for _ in range(2 * pairs))
        self.first_compression = ActivatedSeparableConv(nf, nf, 0.01)
        widths = ((2 + i % 2) * nf for i in range(2 * (pairs - 1)))
        self.compressions = nn.ModuleList(ActivatedSeparableConv(width, nf, 0.01) for width in widths)

    def forward(self, head: Tensor) -> Tensor:
        read = self.blocks[1](self.blocks[0](head))
        compressed = self.first_compression(read)
        residual = compressed + head
        blocks, compressions = self.blocks[2:], self.compressions
        for first, second, inner, outer in zip(blocks[::2], blocks[1::2], compressions[::2], compressions[1::2]):
            kept = torch.cat((compressed, first(read)), dim=1)
            compressed = outer(torch.cat((kept, second(inner(kept))), dim=1))
            residual = read = compressed + residual
        return residual + head

    def group_ends(self) -> list[nn.Sequential]:
        return [self.first_compression, *self.compressions[1::2]]


class DRLN_slim(MeanShiftedDRLN):
    """The report's third attempt, the one handed in: distillation blocks, separable convs, pixel shuffle to RGB.

    Args:
        nf: features, a positive multiple of 4.
        num_modules: blocks, a positive multiple of 2.
        scale: 2, 3 or 4.
    Raises:
        ValueError: a size the architecture does not allow.
    Source: the student's report.
    """

    def __init__(self, nf: int = 36, num_modules: int = 8, scale: int = 3) -> None:
        check_scale(scale)
        check_distillation(nf)
        require(num_modules >= 2 and num_modules % 2 == 0, f"modules is {num_modules}; DRLN_slim needs an even number")
        upsampler = Layers(*pixel_shuffle_upsampler(nf, scale), conv1x1(3, 3))
        super().__init__(nf, PairedTrunk(nf, num_modules // 2), upsampler)

    def start_from_interpolation(self) -> None:
        interpolate_rgb(self.head, last_convs(self.trunk.group_ends()), self.upsampler, copies=2)
        for channel in range(3):
            pass_through(self.upsampler[2], channel, channel)


def last_convs(modules: Sequence[nn.Module]) -> list[nn.Conv2d]:
    return [[m for m in module.modules() if isinstance(m, nn.Conv2d)][-1] for module in modules]
