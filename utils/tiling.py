"""Running a network over a whole image in pieces."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from utils.hardware import device_of, without_tf32


def next_power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def course_tiled(model: nn.Module, lr: Tensor, scale: int) -> Tensor:
    """Super-resolves one image as the report's demo.py does.

    The image is mirrored at the bottom and the right up to powers of two, cut into square tiles of at most 256 pixels,
    super-resolved and cropped. The report averages tiles where they overlap; none do, as they divide such sides.

    Args:
        model: network of that scale.
        lr: (1, 3, H, W) RGB in [0, 1].
    Returns:
        (1, 3, scale·H, scale·W), not clamped.
    """
    height, width = lr.shape[-2:]
    padded = mirror_to(mirror_to(lr, next_power_of_two(height), -2), next_power_of_two(width), -1)
    tile = min(256, *padded.shape[-2:])
    rows = [torch.cat([model(part) for part in row.split(tile, -1)], -1) for row in padded.split(tile, -2)]
    return torch.cat(rows, -2)[..., : height * scale, : width * scale]


def mirror_to(image: Tensor, length: int, dim: int) -> Tensor:
    """Appends the flipped image along `dim`, cut at `length`; at most twice the image."""
    missing = length - image.shape[dim]
    return torch.cat((image, image.flip(dim).narrow(dim, 0, missing)), dim=dim)


@dataclass(frozen=True)
class Span:
    """One tile along one axis, in LR pixels: [start, stop), blended with its neighbours at `before` and `after`."""

    start: int
    stop: int
    before: tuple[int, int] | None  # the zone shared with the tile before, where this one's weight rises from 0 to 1
    after: tuple[int, int] | None  # the zone shared with the next, where it falls

    def weights(self, scale: int) -> Tensor:
        """(scale·length,): 0 in the margins, 1 inside, ramps between; the tiles' weights add up to 1 everywhere."""
        position = (torch.arange(self.start * scale, self.stop * scale) + 0.5) / scale
        weight = torch.ones_like(position)
        if self.before:
            weight = weight.minimum(((position - self.before[0]) / (self.before[1] - self.before[0])).clamp(0, 1))
        if self.after:
            weight = weight.minimum(((self.after[1] - position) / (self.after[1] - self.after[0])).clamp(0, 1))
        return weight


def plan_spans(length: int, longest: int, margin: int, blend: int = 8) -> list[Span]:
    """As few tiles of about the same length as cover an axis.

    Neighbours share 2·margin + blend pixels: each gives up `margin` at its cut, where it lacks context, and between
    the margins they are blended.
    """
    if length <= longest:
        return [Span(0, length, None, None)]
    shared = 2 * margin + blend
    shortest = max(2 * shared, 3 * blend) + 1  # no two zones of blending overlap
    if longest < shortest:
        raise ValueError(f"a tile of {longest} is too short, its overlaps would meet; give at least {shortest}")
    count = -(-(length - shared) // (longest - shared))
    size = -(-(length + shared * (count - 1)) // count)
    starts = [round(i * (length - size) / (count - 1)) for i in range(count)]
    zones: list[tuple[int, int] | None] = [None]
    for start, following in zip(starts, starts[1:]):
        middle = (following + start + size) // 2
        zones.append((middle - blend // 2, middle - blend // 2 + blend))
    zones.append(None)
    return [Span(start, start + size, before, after) for start, before, after in zip(starts, zones, zones[1:])]


def receptive_margin(model: nn.Module) -> int:
    """LR pixels that an output pixel depends on beyond its own, on each side, were every conv and pooling in a row.

    Layers marked `global_pool` look at the whole tile, whatever the margin; they are left out. A network that sees far
    by other layers, or by one with a stride or that it runs several times, says its margin itself, as `tile_margin`.
    """
    if (margin := getattr(model, "tile_margin", None)) is not None:
        return margin
    margin = 0
    for module in model.children():
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
            kernel, dilation = of_both_axes(module.kernel_size), of_both_axes(getattr(module, "dilation", 1))
            margin += max(step * (length // 2) for length, step in zip(kernel, dilation))
        elif isinstance(module, nn.ConvTranspose2d):
            sides = zip(module.kernel_size, module.dilation, module.stride)
            # what it reaches is in the pixels it writes
            margin += max(-(-(step * (length - 1) + 1) // (2 * stride)) for length, step, stride in sides)
        elif not getattr(module, "global_pool", False):
            margin += receptive_margin(module)
    return margin


def of_both_axes(value: int | Sequence[int]) -> Sequence[int]:
    """What a layer takes for both axes at once, or for each."""
    return (value, value) if isinstance(value, int) else value


def bytes_per_pixel(model: nn.Module) -> int:
    """What one LR pixel needs at the network's widest place, about: four float32 maps of its widest conv."""
    widest = area = 1  # pixels for each LR pixel, more after every pixel shuffle
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            widest = max(widest, area * max(module.in_channels, module.out_channels))
        elif isinstance(module, nn.ConvTranspose2d):
            area *= module.stride[0] * module.stride[1]
            widest = max(widest, area * max(module.in_channels, module.out_channels))
        elif isinstance(module, nn.PixelShuffle):
            area *= module.upscale_factor**2
    return 16 * widest


TILE_BYTES = 768 << 20  # of one tile; the same everywhere, as attention makes pixels depend on the tile


def tiles_at_once(tile_bytes: int, device: torch.device) -> int:
    """How many tiles half of a GPU's free memory holds; one on the CPU, where more are no faster."""
    return max(1, torch.cuda.mem_get_info(device)[0] // 2 // tile_bytes) if device.type == "cuda" else 1


@torch.inference_mode()
def super_resolve(
    model: nn.Module,
    image: np.ndarray,
    scale: int,
    tile: int | None = None,
    batch: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> np.ndarray:
    """Super-resolves an image of any size in bounded memory.

    Overlapping tiles of one size run in batches and are blended, a row of tiles at a time. Where no layer looks at
    the whole image the result is the whole image's; channel attention sees a tile at a time.

    Args:
        model: in evaluation mode, on the device to use.
        image: (H, W, 3) RGB, uint8 or uint16.
        tile: longest side in LR pixels; by default of some 768 MB, lower where the picture is wide, or for a deep
            network four margins and 32 more.
        batch: tiles at once; by default what fits in free memory.
        dtype: float32, or bfloat16 or float16 for autocast.
    Returns:
        (scale·H, scale·W, 3) of the image's type; clamped and rounded.
    Raises:
        ValueError: another array or scale, a tile too short for its overlaps, or values that `dtype` does not hold.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"the image is {image.dtype} {image.shape}, not (H, W, 3) RGB of uint8 or uint16")
    device = device_of(model)
    height, width = image.shape[:2]
    margin = receptive_margin(model)
    longest = tile or max(min(math.isqrt(TILE_BYTES // bytes_per_pixel(model)), 1024), 4 * margin + 32)
    strip_bytes = 2 * 12 * scale**2 * width  # of one LR row: float32 RGB, as it is summed up and as it is finished
    tallest = tile or min(longest, max(TILE_BYTES // strip_bytes, 4 * margin + 32))
    rows, columns = plan_spans(height, tallest, margin), plan_spans(width, longest, margin)
    batch = batch or tiles_at_once(rows[0].stop * columns[0].stop * bytes_per_pixel(model), device)
    peak = float(np.iinfo(image.dtype).max)
    out = np.empty((height * scale, width * scale, 3), image.dtype)
    carried = None  # what the tiles so far gave to the zone shared with the next row
    for row in rows:
        strip = super_resolve_row(model, image[row.start : row.stop], columns, scale, batch, dtype)
        if len(rows) > 1:
            strip *= row.weights(scale).to(device)[:, None]
        top = (row.before[0] if row.before else row.start) * scale
        bottom = (row.after[0] if row.after else row.stop) * scale
        strip = strip[:, top - row.start * scale :]
        if carried is not None:
            strip[:, : carried.shape[1]] += carried
        finished = strip[:, : bottom - top].clamp(0, 1).mul_(peak).round_().permute(1, 2, 0)
        out[top:bottom] = (finished.byte() if image.dtype == np.uint8 else finished).cpu().numpy()
        carried = strip[:, bottom - top : row.after[1] * scale - top].clone() if row.after else None
        del strip, finished  # or they would be in memory beside those of the next row
    return out


def super_resolve_row(
    model: nn.Module, image: np.ndarray, columns: Sequence[Span], scale: int, batch: int, dtype: torch.dtype
) -> Tensor:
    """A row of tiles, blended: (H, W, 3) integers -> (3, scale·H, scale·W) float32, on the device."""
    device = device_of(model)
    height, width = image.shape[:2]
    strip = torch.zeros(height * scale, width * scale, 3, device=device).permute(2, 0, 1)
    for first in range(0, len(columns), batch):
        spans = columns[first : first + batch]
        lr = np.stack([image[:, span.start : span.stop] for span in spans])
        lr = torch.from_numpy(lr.astype(np.int32) if lr.dtype == np.uint16 else lr).to(device)
        lr = lr.permute(0, 3, 1, 2).float() / float(np.iinfo(image.dtype).max)
        if device.type == "cuda" and dtype == torch.float32:
            lr = lr.contiguous()  # cuDNN's float32 convs are slower in channels_last
        with without_tf32(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            tiles = model(lr).float()
        if tiles.shape != (expected := (len(lr), 3, scale * lr.shape[2], scale * lr.shape[3])):
            raise ValueError(f"the network makes {tuple(tiles.shape)} of {tuple(lr.shape)}, not {expected}")
        if not tiles.isfinite().all():
            if dtype == torch.float16:
                raise ValueError("the network's values overflow float16 on this picture; take bfloat16 or float32")
            raise ValueError("the network's values on this picture are not finite: its weights may be damaged")
        if len(columns) == 1:
            return tiles[0]
        for span, sr in zip(spans, tiles):
            strip[..., span.start * scale : span.stop * scale] += sr * span.weights(scale).to(device)
    return strip
