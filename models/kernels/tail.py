"""What ends a distillation block on the CPU, as compiled C++: gates, 1×1 conv and residual, forward and backward."""

import ctypes
from functools import cache
from pathlib import Path

import torch
import torch.nn as nn
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.kernels.guards import WIDE, is_conv, is_eager, is_plain
from models.kernels.native import load_functions

SOURCE = Path(__file__).with_suffix(".cpp")


class CTail(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("channels", "hidden", "gates")),
        *((name, ctypes.c_void_p) for name in ("matrix", "bias", "reduce", "reduce_bias", "expand", "expand_bias")),
    ]


class CMaps(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("images", "pixels")]


@cache
def compiled() -> tuple[ctypes.CDLL | None, str]:
    """The kernels, or None and why they cannot be built."""
    tail, pointer, threads = ctypes.POINTER(CTail), ctypes.c_void_p, ctypes.c_int
    forward, backward = ([tail, CMaps, *[pointer] * count, threads] for count in (4, 5))
    return load_functions(SOURCE, tail_forward=forward, tail_backward=backward)


def runs_native(x: Tensor, distilled: Tensor, matrix: Tensor, bias: Tensor, gate: nn.Sequential | None) -> bool:
    """Whether `distillation_tail` can stand for the layers, and is worth it: on plain float32 NCHW tensors that fit,
    where the kernels could be built; not where PyTorch's 1×1 conv alone is as fast. Hooks of c5 and CCA do not run.
    """
    channels = x.shape[1]
    return (
        is_eager(x)
        and x.shape == distilled.shape
        and distilled.is_contiguous()
        and matrix.shape == (channels, channels)
        and (channels < WIDE if gate is None else is_gate(gate, channels))
        and all(map(is_plain, (x, distilled, matrix, bias, *parameters_of(gate))))
        and compiled()[0] is not None
    )


def is_gate(gate: nn.Module, channels: int) -> bool:
    """Whether it is that of a CCA: a 1×1 conv, ReLU, a 1×1 conv back to so many channels, sigmoid."""
    if type(gate) is not nn.Sequential or len(gate) != 4:
        return False
    reduce, act, expand, sigmoid = gate
    if type(act) is not nn.ReLU or type(sigmoid) is not nn.Sigmoid or not (is_conv(reduce, 1) and is_conv(expand, 1)):
        return False
    return reduce.in_channels == expand.out_channels == channels and reduce.out_channels == expand.in_channels


def parameters_of(gate: nn.Sequential | None) -> list[Tensor]:
    """Weight and bias of its two convs."""
    return [t for conv in (gate[0], gate[2]) for t in (conv.weight, conv.bias)] if gate else []


def distillation_tail(
    x: Tensor, distilled: Tensor, matrix: Tensor, bias: Tensor, gate: nn.Sequential | None, twice: bool = False
) -> Tensor:
    """`fused_tail` of fused.py by C++, for arguments of which `runs_native` holds; differentiable once."""
    gates = 0 if gate is None else 1 + twice
    return Tail.apply(gates, x, distilled, matrix, bias, *parameters_of(gate))


class Tail(torch.autograd.Function):
    """Source of the computation: tail.cpp. Parameters: matrix and bias, then those of the gates."""

    @staticmethod
    def forward(ctx, gates: int, x: Tensor, distilled: Tensor, *parameters: Tensor) -> Tensor:
        x, parameters = x.contiguous(), [p.contiguous() for p in parameters]
        n, channels, height, width = x.shape
        out, moments = torch.empty_like(x), x.new_empty(n, channels + channels**2 if gates else 0)
        pointers = (t.data_ptr() for t in (x, distilled, out, moments))
        tail, maps = c_tail(gates, parameters), CMaps(n, height * width)
        compiled()[0].tail_forward(tail, maps, *pointers, torch.get_num_threads())
        ctx.save_for_backward(distilled, moments, *parameters)
        ctx.gates = gates
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        distilled, moments, *parameters = ctx.saved_tensors
        n, _, height, width = distilled.shape
        gradient = gradient.contiguous()
        distilled_gradient = torch.empty_like(distilled) if ctx.needs_input_grad[2] else None
        sizes = [p.numel() for p in parameters]
        gradients = gradient.new_empty(sum(sizes))
        tensors = (distilled, moments, gradient, distilled_gradient, gradients)
        pointers = (None if t is None else t.data_ptr() for t in tensors)
        tail, maps = c_tail(ctx.gates, parameters), CMaps(n, height * width)
        compiled()[0].tail_backward(tail, maps, *pointers, torch.get_num_threads())
        of_parameters = (g.view_as(p) for g, p in zip(gradients.split(sizes), parameters))
        return None, gradient, distilled_gradient, *of_parameters


def c_tail(gates: int, parameters: list[Tensor]) -> CTail:
    """The tail as C++ reads it; whoever calls keeps the tensors alive."""
    hidden = len(parameters[2]) if gates else 0
    return CTail(len(parameters[1]), hidden, gates, *(p.data_ptr() for p in parameters))
