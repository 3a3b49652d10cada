"""Running a network over a whole image in pieces."""

import torch
import torch.nn as nn
from torch import Tensor


def next_power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def tile_starts(length: int, tile: int) -> list[int]:
    """Starts of tiles side by side, the last one aligned to the far border."""
    return [*range(0, length - tile, tile), length - tile]


def course_tiled(model: nn.Module, lr: Tensor, scale: int, max_tile: int = 256) -> Tensor:
    """Super-resolves one image as the report's demo.py does.

    The image is mirrored at the bottom and the right up to powers of two, cut into square tiles no larger than
    `max_tile` that do not overlap except at the border, super-resolved, averaged where tiles overlap and cropped.

    Args:
        model: network of that scale.
        lr: (1, 3, H, W) RGB in [0, 1].
    Returns:
        (1, 3, scale·H, scale·W), not clamped.
    """
    height, width = lr.shape[-2:]
    padded = mirror_to(mirror_to(lr, next_power_of_two(height), -2), next_power_of_two(width), -1)
    tile = min(max_tile, *padded.shape[-2:])
    total = lr.new_zeros(1, 3, padded.shape[-2] * scale, padded.shape[-1] * scale)
    count = torch.zeros_like(total[:, :1])
    for top in tile_starts(padded.shape[-2], tile):
        for left in tile_starts(padded.shape[-1], tile):
            sr = model(padded[..., top : top + tile, left : left + tile])
            rows = slice(top * scale, (top + tile) * scale)
            columns = slice(left * scale, (left + tile) * scale)
            total[..., rows, columns] += sr
            count[..., rows, columns] += 1
    return (total / count)[..., : height * scale, : width * scale]


def mirror_to(image: Tensor, length: int, dim: int) -> Tensor:
    """Appends the flipped image along `dim`, cut at `length`; at most twice the image."""
    missing = length - image.shape[dim]
    return torch.cat((image, image.flip(dim).narrow(dim, 0, missing)), dim=dim)
