"""What a run computes on, in words, and its arithmetic."""

import platform
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn as nn

from utils.flags import first_line


def hardware(device: str) -> str:
    """A CUDA GPU's name; else the CPU's, and how many threads PyTorch takes or the other device."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    if torch.device(device).type != "cpu":
        return f"{cpu_name()}, {device}"
    threads = torch.get_num_threads()
    return f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''}"


def check_device(device: str) -> None:
    """Raises ValueError with a short line where PyTorch does not compute on this device."""
    try:
        torch.device(device)
    except RuntimeError as error:  # which lists some twenty
        raise ValueError("no device of PyTorch; take cpu, cuda or cuda:1, say") from error
    try:
        torch.ones(1, device=device).item()  # a GPU that PyTorch has no kernels for still makes empty tensors
    except (RuntimeError, AssertionError) as error:
        raise ValueError(textwrap.shorten(first_line(error), 240, placeholder=" ...")) from error


def device_of(model: nn.Module) -> torch.device:
    """Of its parameters; a network without any, as of an ONNX file, says it by `device`."""
    return getattr(model, "device", None) or next(model.parameters()).device


def has_bf16(device: str) -> bool:
    """Whether its arithmetic has bfloat16, not counting what is emulated."""
    if device.startswith("cuda"):
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    return device != "cpu" or (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


@contextmanager
def without_tf32() -> Iterator[None]:
    """Inside it a GPU's float32 convs and products are of float32: TF32 moves a PSNR's third decimal.

    PyTorch's default is TF32 for convs alone, but containers may set it for products as well. Both by the older flags:
    PyTorch refuses these to a program that sets `torch.backends.cuda.matmul.fp32_precision`.
    """
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def cpu_name() -> str:
    """As Linux tells it; elsewhere what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or f"{platform.machine()} CPU"
