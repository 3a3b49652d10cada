"""Images that no photo looks like, for training and for tests of what networks make of them."""

from collections.abc import Mapping

import numpy as np


def unlike_photos(photos: Mapping[str, np.ndarray], side: int) -> dict[str, np.ndarray]:
    """Noise, checkerboards, stripes and noisy photos, by name; the same each time.

    A network with attention that has seen photos alone can answer such LR with values of a million; a few such patches
    among those of photos make these far smaller.

    Args:
        photos: uint8 (H, W, 3), by name.
        side: of the images, pixels: uint8 (side, side, 3).
    """
    rng = np.random.default_rng(0)
    images = {}
    for channels in (1, 3):
        for cell in (1, 2, 3):
            shape = (-(-side // cell), -(-side // cell), channels)
            for kind, levels in (("uniform", rng.integers(0, 256, shape)), ("binary", 255 * rng.integers(0, 2, shape))):
                images[f"{kind}_{channels}_{cell}"] = levels.repeat(cell, axis=0).repeat(cell, axis=1)
        for period in (1, 2, 3, 4):  # in black and white, or in two corners of the RGB cube
            colours = np.array([[0], [255]]) if channels == 1 else 255 * (rng.permutation(8)[:2, None] // (4, 2, 1) % 2)
            bands = np.arange(side) // period
            images[f"checkerboard_{channels}_{period}"] = colours[(bands[:, None] + bands) % 2]
            images[f"stripes_{channels}_{period}"] = colours[np.broadcast_to(bands % 2, (side, side))]
    for name, photo in photos.items():
        for sigma in (25, 50, 75, 100, 150):
            crop = photo.take(range(side), axis=0, mode="wrap").take(range(side), axis=1, mode="wrap")
            images[f"{name}_{sigma}"] = crop + sigma * rng.standard_normal((side, side, 3))
    for name, image in images.items():
        images[name] = np.empty((side, side, 3), np.uint8)
        images[name][:] = image[:side, :side].clip(0, 255)
    return images
