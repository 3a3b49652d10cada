"""What a run computes on, in words, and its arithmetic."""

import platform
from contextlib import AbstractContextManager
from pathlib import Path

import torch


def hardware(device: str) -> str:
    """The GPU's name, or the CPU's and how many threads PyTorch takes."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''}"


def without_tf32() -> AbstractContextManager:
    """Inside it a GPU's float32 convs are of float32: TF32, PyTorch's default, moves a PSNR's third decimal."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def cpu_name() -> str:
    """As Linux tells it; elsewhere what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or f"{platform.machine()} CPU"
