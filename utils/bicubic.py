"""MATLAB's imresize(image, scale, 'bicubic'), to the last bit of its integer output."""

from fractions import Fraction

import numpy as np

BAND = 64  # rows of the output at a time: in float64 a photo takes gigabytes


def cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic kernel, a = -0.5."""
    x = np.abs(x)
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, inner, np.where(x <= 2, outer, 0.0))


def resize_weights(n_in: int, n_out: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Taps of one axis: (n_out, k) input indices and their weights, edges mirrored.

    When shrinking, the kernel is widened by 1/scale, which is MATLAB's antialiasing.
    """
    shrink = min(scale, 1.0)
    width = 4.0 / shrink
    centre = (np.arange(n_out) + 0.5) / scale - 0.5
    first = np.floor(centre - width / 2).astype(int)
    taps = first[:, None] + np.arange(int(np.ceil(width)) + 2)
    weights = cubic((centre[:, None] - taps) * shrink)
    weights /= weights.sum(axis=1, keepdims=True)
    period = taps % (2 * n_in)
    indices = np.where(period < n_in, period, 2 * n_in - 1 - period)
    used = weights.any(axis=0)
    return indices[:, used], weights[:, used]


def imresize(image: np.ndarray, scale: float | Fraction) -> np.ndarray:
    """Bicubic resize, antialiased when shrinking.

    Args:
        image: (H, W, C) or (H, W), uint8 or uint16.
        scale: output size over input size; 1/3 shrinks to a third.
    Returns:
        ceil(H·scale) × ceil(W·scale) of the same type.
    Raises:
        ValueError: the image is empty or of another type, or the scale not positive.
    Source: MATLAB imresize; Keys, "Cubic convolution interpolation" (1981).
    """
    if image.dtype not in (np.uint8, np.uint16) or image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(f"imresize takes a non-empty uint8 or uint16 (H, W[, C]), not {image.dtype} {image.shape}")
    if scale <= 0:
        raise ValueError(f"scale is {scale}; it must be positive")
    exact = Fraction(scale).limit_denominator(1000)
    rows, columns = (
        resize_weights(n, -(-n * exact.numerator // exact.denominator), float(exact))  # ceil, exact
        for n in image.shape[:2]
    )
    out = np.empty((len(rows[0]), len(columns[0]), *image.shape[2:]), image.dtype)
    for top in range(0, len(out), BAND):
        band = weighted_sum(image, *(part[top : top + BAND] for part in rows))
        band = weighted_sum(band.swapaxes(0, 1), *columns).swapaxes(0, 1)
        out[top : top + BAND] = np.clip(np.floor(band + 0.5), 0, np.iinfo(image.dtype).max)
    return out


def weighted_sum(image: np.ndarray, indices: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Resizes the first axis by its taps, (n_out, k) each: (n_in, …) -> (n_out, …) float64."""
    total = np.zeros((len(indices), *image.shape[1:]))
    for taps, weight in zip(indices.T, weights.T):
        total += weight.reshape(-1, *[1] * (image.ndim - 1)) * image[taps]
    return total
