"""Layers shared by two or more network families, and the checks on their sizes."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from models.kernels.chain import ChainStage, SeparableConv, conv_chain, runs_native
from models.kernels.guards import is_conv, must_run_apart

SCALES = (2, 3, 4)


def require(condition: bool, message: str) -> None:
    """Raises ValueError with the message, unless the condition holds."""
    if not condition:
        raise ValueError(message)


def check_scale(scale: int) -> None:
    """Raises ValueError for a scale that no network here has."""
    require(scale in SCALES, f"scale is {scale}; allowed: 2, 3, 4")


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """(N, in, H, W) -> (N, out, H, W), with bias."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


def run_conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A conv of a map, where it is 3×3 by C++ on the CPU, if that is faster.

    No subclass of nn.Conv2d does this itself, as tools such as thop look layers up by their exact class.
    """
    return conv_chain(x, [ChainStage(conv)]) if runs_native(x, conv) else conv(x)


class Layers(nn.Sequential):
    """Layers in a row, the 3×3 convs among them by `run_conv`. Shape: what the first takes -> what the last gives."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = run_conv(layer, x) if isinstance(layer, nn.Conv2d) else layer(x)
        return x


def conv1x1(in_channels: int, out_channels: int) -> nn.Conv2d:
    """(N, in, H, W) -> (N, out, H, W), with bias: a matrix for each pixel."""
    return nn.Conv2d(in_channels, out_channels, 1)


class ActivatedSeparableConv(nn.Sequential):
    """A separable conv and the LeakyReLU after it, on the CPU in one pass: (N, in, H, W) -> (N, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, negative_slope: float) -> None:
        super().__init__(SeparableConv(in_channels, out_channels), nn.LeakyReLU(negative_slope))

    def stage(self) -> ChainStage:
        """Both as one; with another activation instead, what no kernel knows."""
        conv, act = self
        return ChainStage(conv, slope=act.negative_slope) if type(act) is nn.LeakyReLU else ChainStage(self)

    def forward(self, x: Tensor) -> Tensor:
        stage = self.stage()
        if not must_run_apart(self[1]) and runs_native(x, stage.conv):
            return conv_chain(x, [stage])
        return super().forward(x)


class ScaledPointwise(nn.Sequential):
    """Depthwise 1×1 then pointwise 1×1, both with bias: (N, in, H, W) -> (N, out, H, W).

    No more than the pointwise conv alone could do: the report made every conv separable, and its costs count both.
    The two are multiplied into one conv, where nothing watches them or was put in their place.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(nn.Conv2d(in_channels, in_channels, 1, groups=in_channels), conv1x1(in_channels, out_channels))

    def is_one_conv(self) -> bool:
        """Whether `matrix_and_bias` tells all that it does."""
        return len(self) == 2 and is_conv(self[0], 1, depthwise=True) and is_conv(self[1], 1)

    def matrix_and_bias(self) -> tuple[Tensor, Tensor]:
        """(out, in) and (out,)."""
        depthwise, pointwise = self
        matrix = pointwise.weight.flatten(1)
        with float32_region(matrix.device.type):
            return matrix * depthwise.weight.flatten(), matrix @ depthwise.bias + pointwise.bias

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_one_conv() or must_run_apart(self):
            return super().forward(x)
        matrix, bias = self.matrix_and_bias()
        return F.conv2d(x, matrix[:, :, None, None], bias)


def pixel_shuffle_upsampler(nf: int, scale: int) -> nn.Sequential:
    """3×3 conv to 3·scale² channels, then rearranged: (N, nf, H, W) -> (N, 3, scale·H, scale·W)."""
    return Layers(conv3x3(nf, 3 * scale**2), nn.PixelShuffle(scale))


def linear_of(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """What a conv makes of maps of one pixel: (N, C) -> (N, out). Only the centre of its kernel meets data."""
    centre = conv.kernel_size[0] // 2
    return F.linear(x, conv.weight[:, :, centre, centre].to(x.dtype), conv.bias.to(x.dtype))


def float32_region(device_type: str) -> AbstractContextManager:
    """Switches autocast off inside.

    bfloat16's 8 bits are as coarse as the image, which the head's features, added again after the trunk, and the
    upsampler carry; and a mean over thousands of pixels loses the contrast in them.
    """
    if device_type == "meta":  # on which costs are counted; it has no autocast
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


def full_precision(x: Tensor) -> Tensor:
    """float32 from half precision; float32 and float64 as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def in_precision_of(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """`x` as this conv takes it outside autocast: in float32, or in half where the network itself was made so.

    As it is where another layer was put in the conv's place.
    """
    return x.to(getattr(conv, "weight", x).dtype)


def check_distillation(nf: int) -> None:
    require(nf >= 4 and nf % 4 == 0, f"nf is {nf}; a distillation block needs a positive multiple of 4")


class DistillationBlock(nn.Module):
    """The IMDB's three-fold split: each step keeps a quarter of the channels and refines the rest.

    Subclasses set the convs, c1 to c3 before the three splits and c4 of what is left, and `tail`, what follows the
    concatenation of the four kept quarters. Shape: (N, nf, H, W) -> the same.

    It is computed in one piece, on the CPU by C++, and can then be differentiated once. In `layers_apart`, or where
    hooks, a trace or a dispatch mode watch the layers (to count their costs, for one), each runs as a module.
    """

    c1: nn.Module
    c2: nn.Module
    c3: nn.Module
    c4: nn.Module

    def __init__(self, nf: int, negative_slope: float = 0.05) -> None:
        super().__init__()
        check_distillation(nf)
        self.sizes = (nf // 4, nf - nf // 4)
        self.act = nn.LeakyReLU(negative_slope)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(x, self.distil(x))

    def tail(self, x: Tensor, distilled: Tensor) -> Tensor:
        """From the block's input and the kept quarters, (N, nf, H, W) each, its output."""
        raise NotImplementedError

    def stages(self) -> list[ChainStage]:
        last = self.c4.stage() if type(self.c4) is ActivatedSeparableConv else ChainStage(self.c4)
        return [ChainStage(c, self.sizes[0], self.act.negative_slope) for c in (self.c1, self.c2, self.c3)] + [last]

    def distil(self, x: Tensor) -> Tensor:
        """The four kept quarters, concatenated: (N, nf, H, W) -> the same."""
        if type(self.act) is nn.LeakyReLU and not must_run_apart(self.act, self.c4):
            stages = self.stages()
            if runs_native(x, *(stage.conv for stage in stages)):
                return conv_chain(x, stages)
        d1, rest = self.act(self.c1(x)).split(self.sizes, dim=1)
        d2, rest = self.act(self.c2(rest)).split(self.sizes, dim=1)
        d3, rest = self.act(self.c3(rest)).split(self.sizes, dim=1)
        return torch.cat((d1, d2, d3, self.c4(rest)), dim=1)


class SeparableDistillationBlock(DistillationBlock):
    """The same with depthwise-separable convs.

    Args:
        last_act: whether c4 has a LeakyReLU too.
    """

    def __init__(self, nf: int, negative_slope: float = 0.05, last_act: bool = False) -> None:
        super().__init__(nf, negative_slope)
        distilled, remaining = self.sizes
        self.c1 = SeparableConv(nf, nf)
        self.c2 = SeparableConv(remaining, nf)
        self.c3 = SeparableConv(remaining, nf)
        self.c4 = (
            ActivatedSeparableConv(remaining, distilled, negative_slope)
            if last_act
            else SeparableConv(remaining, distilled)
        )


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


def damp(conv: nn.Conv2d, factor: float) -> None:
    """Scales a conv's output down, but not to zero: what feeds it still receives a gradient."""
    with torch.no_grad():
        conv.weight *= factor
        conv.bias.zero_()


@torch.no_grad()
def bilinear_channel(conv: nn.Conv2d, source: int, target: int, scale: int, gain: float = 1.0) -> None:
    """Makes the scale² outputs that PixelShuffle gathers into channel `target` upscale input `source` bilinearly."""
    conv.weight[target * scale**2 : (target + 1) * scale**2, source] = gain * bilinear_kernels(scale).to(conv.weight)


@torch.no_grad()
def interpolate_rgb(
    head: nn.Conv2d, trunk_convs: Sequence[nn.Conv2d], upsampler: nn.Sequential, copies: int = 1
) -> None:
    """Makes a network of head, trunk around a skip, and upsampler start near bilinear interpolation.

    The head passes RGB through its first three channels, the trunk adds almost nothing to the skip, and the
    upsampler's kernels for those channels are bilinear. The rest keeps the framework's initialisation.

    Args:
        trunk_convs: the last conv of each residual branch between head and upsampler.
        upsampler: begins as `pixel_shuffle_upsampler`.
        copies: how many times the head's features are added up on the way.
    """
    for channel in range(3):
        pass_through(head, channel, channel)
    for conv in trunk_convs:
        damp(conv, 0.01)
    conv, shuffle = upsampler[0], upsampler[1]
    damp(conv, 0.1)
    conv.weight[:, :3] = 0
    for channel in range(3):
        bilinear_channel(conv, channel, channel, shuffle.upscale_factor, gain=1 / copies)
