"""Convs in a row on the CPU, plain or separable, as compiled C++ where a compiler is at hand."""

import ctypes
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torch.nn as nn
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.kernels.guards import WIDE, has_hooks, is_conv, is_eager, is_plain
from models.kernels.native import load_functions

SOURCE = Path(__file__).with_suffix(".cpp")


class CShape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("images", "height", "width")]


class CStage(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("in_channels", "out_channels", "kept")),
        *((name, ctypes.c_void_p) for name in ("depthwise_weight", "depthwise_bias")),
        *((name, ctypes.c_void_p) for name in ("weight", "bias")),
        ("slope", ctypes.c_float),
        ("rest", ctypes.c_void_p),
    ]


@cache
def compiled() -> tuple[ctypes.CDLL | None, str]:
    """The kernels, or None and why they cannot be built."""
    size, pointer, threads = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int
    forward, backward = ([pointer, size, CShape, *[pointer] * count, threads] for count in (2, 5))
    return load_functions(SOURCE, chain_forward=forward, chain_backward=backward)


def layers_of(conv: nn.Module) -> list[nn.Conv2d]:
    """The depthwise conv, if it has one, and the one that gives its outputs."""
    return list(conv) if type(conv) in (nn.Sequential, SeparableConv) else [conv]


def tensors_of(conv: nn.Module) -> list[Tensor]:
    """Weight and bias of each of its layers."""
    return [t for layer in layers_of(conv) for t in (layer.weight, layer.bias)]


def runs_native(x: Tensor, *convs: nn.Module) -> bool:
    """Whether `conv_chain` can stand for these convs, and is worth it: on plain float32 tensors that fit, on the CPU,
    outside autocast, tracing, compiling and `torch.func`, with no hooks on them, where the kernels could be built. What
    it refuses is the layers' to run or to report.
    """
    return (
        is_eager(x)
        and all(is_stage(layers_of(conv)) for conv in convs)
        and x.shape[1] == layers_of(convs[0])[0].in_channels
        and not any(map(has_hooks, convs))
        and all(len(layers_of(conv)) == 2 or is_worth_it(conv) for conv in convs)
        and all(map(is_plain, (x, *(t for conv in convs for t in tensors_of(conv)))))
        and compiled()[0] is not None
    )


def is_worth_it(conv: nn.Conv2d) -> bool:
    """Not where PyTorch's is as fast, nor where the network is in channels_last: its other layers would convert."""
    return min(conv.weight.shape[:2]) < WIDE and conv.weight.is_contiguous()


@dataclass(frozen=True)
class ChainStage:
    """One conv of a chain.

    Attributes:
        conv: a 3×3 `nn.Conv2d`, or depthwise 3×3 and pointwise 1×1 in a row; with biases, keeping height and width.
        kept: its first output channels, which leave the chain here; None: all.
        slope: of the LeakyReLU after it, not negative; 1: none.
    """

    conv: nn.Module
    kept: int | None = None
    slope: float = 1.0


def conv_chain(x: Tensor, stages: Sequence[ChainStage]) -> Tensor:
    """Convs in a row, each reading what the one before it did not keep.

    It can be differentiated once; the layers themselves, in `layers_apart`, more often.

    Args:
        x: (N, C, H, W), for which `runs_native` holds.
        stages: the last one keeps everything.
    Returns:
        (N, all kept channels, H, W): what each stage kept, concatenated.
    """
    layers = [layers_of(stage.conv) for stage in stages]
    assert all(map(is_stage, layers)), "a stage is a 3×3 conv, or a depthwise 3×3 and a pointwise one"
    outputs = [of_stage[-1].out_channels for of_stage in layers]
    kept = [output if stage.kept is None else stage.kept for stage, output in zip(stages, outputs)]
    read = [of_stage[0].in_channels for of_stage in layers]
    left = [output - keep for output, keep in zip(outputs, kept)]
    assert [*read, 0] == [x.shape[1], *left], "each stage reads what the one before it leaves"
    assert all(stage.slope >= 0 for stage in stages), "the sign of an output must tell its slope"
    tensors = [tensors_of(stage.conv) for stage in stages]
    slopes = [stage.slope for stage in stages]
    return ConvChain.apply(x, kept, slopes, [len(of_stage) for of_stage in tensors], *sum(tensors, []))


def is_stage(layers: Sequence[nn.Module]) -> bool:
    """Whether the layers of a stage are such as the C++ assumes."""
    if len(layers) == 1:
        return is_conv(layers[0], 3)
    if not (len(layers) == 2 and is_conv(layers[0], 3, depthwise=True) and is_conv(layers[1], 1)):
        return False
    return layers[0].out_channels == layers[1].in_channels


class SeparableConv(nn.Sequential):
    """Depthwise 3×3 then pointwise 1×1, both with bias, nothing between them: (N, in, H, W) -> (N, out, H, W).

    On the CPU the two run in one pass.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels),
            nn.Conv2d(in_channels, out_channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        if runs_native(x, self):
            return conv_chain(x, [ChainStage(self)])
        return super().forward(x)


class ConvChain(torch.autograd.Function):
    """Source of the computation: chain.cpp. Parameters: `counts` of them for each stage, as `tensors_of`."""

    @staticmethod
    def forward(
        ctx, x: Tensor, kept: Sequence[int], slopes: Sequence[float], counts: Sequence[int], *parameters: Tensor
    ) -> Tensor:
        n, _, height, width = x.shape
        x, parameters = x.contiguous(), [p.contiguous() for p in parameters]
        by_stage = in_groups(parameters, counts)
        out = x.new_empty(n, sum(kept), height, width)
        rests = [x.new_empty(n, len(bias) - keep, height, width) for (*_, bias), keep in zip(by_stage, kept)]
        stages = c_stages(by_stage, kept, slopes, rests)
        compiled()[0].chain_forward(
            stages, len(stages), CShape(n, height, width), x.data_ptr(), out.data_ptr(), torch.get_num_threads()
        )
        # what an activation made tells its slope; without one, layers after this may work in place
        ctx.save_for_backward(x, None if set(slopes) == {1.0} else out, *rests, *parameters)
        ctx.kept, ctx.slopes, ctx.counts = kept, slopes, counts
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, out, *others = ctx.saved_tensors
        n, _, height, width = x.shape
        rests, parameters = others[: len(ctx.kept)], others[len(ctx.kept) :]
        stages = c_stages(in_groups(parameters, ctx.counts), ctx.kept, ctx.slopes, rests)
        x_gradient = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        gradient = gradient.contiguous()
        sizes = [p.numel() for p in parameters]
        gradients = x.new_empty(sum(sizes))
        values = gradient if out is None else out  # of no effect where every slope is 1
        pointers = (None if t is None else t.data_ptr() for t in (x, values, gradient, x_gradient, gradients))
        compiled()[0].chain_backward(stages, len(stages), CShape(n, height, width), *pointers, torch.get_num_threads())
        return x_gradient, None, None, None, *(g.view_as(p) for g, p in zip(gradients.split(sizes), parameters))


def in_groups(tensors: Sequence[Tensor], counts: Sequence[int]) -> list[Sequence[Tensor]]:
    ends = list(itertools.accumulate(counts))
    return [tensors[end - count : end] for end, count in zip(ends, counts)]


def c_stages(
    parameters: Sequence[Sequence[Tensor]], kept: Sequence[int], slopes: Sequence[float], rests: Sequence[Tensor]
) -> ctypes.Array:
    """The chain as C++ reads it; whoever calls keeps the tensors alive."""
    stages = []
    for of_stage, keep, slope, rest in zip(parameters, kept, slopes, rests):
        out_channels, in_channels = of_stage[-2].shape[:2]  # a plain conv's weight, or the pointwise one's
        depthwise = [None, None] if len(of_stage) == 2 else [t.data_ptr() for t in of_stage[:2]]
        pointers = [*depthwise, *(t.data_ptr() for t in of_stage[-2:])]
        stages.append(CStage(in_channels, out_channels, keep, *pointers, slope, rest.data_ptr()))
    return (CStage * len(stages))(*stages)
