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


def super_resolve(model: nn.Module, lr: Tensor, scale: int, tile: int = 256, overlap: int = 16) -> Tensor:
    """Super-resolves an image of any size in bounded memory.

    Square tiles overlap; each gives its middle, away from the cuts. An image within one tile is not cut. Channel
    attention sees one tile at a time, so a network that has it gives slightly other pixels than on the whole image.

    Args:
        lr: (1, 3, H, W) RGB in [0, 1].
        tile: LR pixels a side, more than 2·overlap.
        overlap: LR pixels thrown away at each cut.
    Returns:
        (1, 3, scale·H, scale·W), not clamped.
    Raises:
        ValueError: the tile is not larger than both its margins.
    """
    if tile <= 2 * overlap:
        raise ValueError(f"tile {tile} is not larger than twice the overlap {overlap}")
    height, width = lr.shape[-2:]
    sr = lr.new_empty(1, 3, height * scale, width * scale)
    for top, rows in cuts(height, tile, overlap):
        for left, columns in cuts(width, tile, overlap):
            piece = model(lr[..., top : top + tile, left : left + tile])
            kept = piece[..., scaled(rows, -top, scale), scaled(columns, -left, scale)]
            sr[..., scaled(rows, 0, scale), scaled(columns, 0, scale)] = kept
    return sr


def cuts(length: int, tile: int, overlap: int) -> list[tuple[int, slice]]:
    """(start of a tile, the part of the axis it gives): the parts cover the axis once."""
    if length <= tile:
        return [(0, slice(0, length))]
    starts = [*range(0, length - tile, tile - 2 * overlap), length - tile]
    bounds = [0, *(start + overlap for start in starts[1:]), length]
    return [(start, slice(a, b)) for start, a, b in zip(starts, bounds, bounds[1:])]


def scaled(part: slice, offset: int, scale: int) -> slice:
    return slice((part.start + offset) * scale, (part.stop + offset) * scale)
