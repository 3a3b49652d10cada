"""Scoring a network on a benchmark set by a named protocol."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from utils.bicubic import imresize
from utils.hardware import device_of, without_tf32
from utils.metrics import crop_to, mse_255, psnr_rgb, psnr_y, quantise, ssim_y
from utils.tiling import course_tiled

PROTOCOLS = ("course", "paper")


@dataclass
class Score:
    """One image's figures, ssim by the paper protocol only, and the (H, W, 3) uint8 sr that they are of, or None."""

    name: str
    psnr_db: float
    mse: float
    sr: np.ndarray | None
    ssim: float | None = None


def to_tensor(image: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1)[None].float() / 255


def check_protocol(protocol: str) -> None:
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; choose from {', '.join(PROTOCOLS)}")


def evaluate(model: nn.Module, images: Iterable, scale: int, protocol: str = "course") -> Iterator[Score]:
    """Scores every (name, lr, hr) of `images`, in order and one at a time.

    Args:
        model: in evaluation mode, on the device to use.
        images: triples of a name and two uint8 (H, W, 3) arrays, hr at least scale·lr.
        protocol: `course` (RGB, tiles, no border shaved) or `paper` (Y, whole image, `scale` shaved).
    Raises:
        ValueError: an unknown protocol, or an image too small for it, named.
    """
    check_protocol(protocol)
    device = device_of(model)
    super_resolve = partial(course_tiled, model, scale=scale) if protocol == "course" else model
    for name, lr, hr in images:
        with torch.inference_mode():
            with without_tf32():
                sr = super_resolve(to_tensor(lr, device))
            scored = measure(name, sr, to_tensor(hr, device), scale, protocol)
        yield scored


def measure(name: str, sr: Tensor, hr: Tensor, scale: int, protocol: str) -> Score:
    """Scores one image, whatever made it.

    Args:
        sr, hr: (1, 3, H, W) RGB in [0, 1], hr at least as large; what sr does not cover of it is left out.
        scale, protocol: as evaluate() takes them.
    Raises:
        ValueError: an unknown protocol, or an image too small for it, named.
    """
    check_protocol(protocol)
    hr = crop_to(hr, sr)
    image = quantise(sr)[0].byte().permute(1, 2, 0).cpu().numpy()
    try:
        mse = mse_255(sr, hr).item()
        if protocol == "course":
            return Score(name, psnr_rgb(sr, hr).item(), mse, image)
        return Score(name, psnr_y(sr, hr, border=scale).item(), mse, image, ssim_y(sr, hr, border=scale).item())
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def bicubic_psnr_db(images: Iterable, scale: int, protocol: str) -> float:
    """The baseline: average PSNR of `lr` enlarged by MATLAB's bicubic; inf where that is `hr`.

    Args:
        images, scale, protocol: as evaluate() takes them.
    """
    psnr_db = psnr_rgb if protocol == "course" else partial(psnr_y, border=scale)
    pairs = ((to_tensor(imresize(lr, scale)), to_tensor(hr)) for _, lr, hr in images)
    return average(psnr_db(sr, crop_to(hr, sr)).item() for sr, hr in pairs)


def average(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)
