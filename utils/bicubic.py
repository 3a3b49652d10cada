"""MATLAB's imresize(image, scale, 'bicubic'), to the last bit of its integer output."""

from fractions import Fraction

import numpy as np


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
    out = image.astype(np.float64)
    for axis in (0, 1):
        n_out = -(-out.shape[axis] * exact.numerator // exact.denominator)  # ceil, exact
        indices, weights = resize_weights(out.shape[axis], n_out, float(exact))
        moved = np.moveaxis(out, axis, 0)
        total = np.zeros((n_out, *moved.shape[1:]))
        for tap in range(indices.shape[1]):
            weight = weights[:, tap].reshape(-1, *[1] * (moved.ndim - 1))
            total += weight * moved[indices[:, tap]]
        out = np.moveaxis(total, 0, axis)
    return np.clip(np.floor(out + 0.5), 0, np.iinfo(image.dtype).max).astype(image.dtype)
