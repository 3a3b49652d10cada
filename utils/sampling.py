"""Which patches are drawn: random numbers by index, and weights of the places in the images."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from utils.cores import usable_cores
from utils.distributed import Ranks
from utils.progress import progress

CELL = 16  # LR pixels a side; sums for each position, not each cell of them, would take 256 times the memory
LEAST_DETAIL = 0.05  # grey levels, where photos' LR has 6 on average: flat images can be drawn from, too


def random_uniform(seed: int, indices: np.ndarray, draws: int) -> np.ndarray:
    """Numbers in [0, 1) that depend on (seed, index) alone: (n,) -> (draws, n).

    A hash instead of a generator: any index costs the same, whole batches at once.
    Source: SplitMix64's finaliser (Steele et al., OOPSLA 2014).
    """
    counters = indices.astype(np.uint64) * np.uint64(draws) + np.arange(draws, dtype=np.uint64)[:, None]
    key = np.array([seed], np.uint64)
    for salt in (0x9E3779B97F4A7C15, 0xD1B54A32D192ED03):
        key = (key + np.uint64(salt)) * np.uint64(0xBF58476D1CE4E5B9)
        key ^= key >> np.uint64(31)
    z = (counters + key) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def lost_detail(lr: np.ndarray) -> np.ndarray:
    """(H, W) float32: what an LR image (H, W, 3) loses when it is halved and enlarged again, grey levels.

    It stands for what HR lost when it became LR, and takes the LR alone.
    """
    height, width = lr.shape[:2]
    half = cv2.resize(lr, (max(width // 2, 1), max(height // 2, 1)), interpolation=cv2.INTER_AREA)
    lost = cv2.absdiff(lr, cv2.resize(half, (width, height), interpolation=cv2.INTER_CUBIC))
    return cv2.transform(lost.astype(np.float32), np.full((1, 3), 1 / 3, np.float32))


def cell_weights(lr: np.ndarray, size: int, power: float) -> np.ndarray:
    """(rows, columns) of cells: the lost detail of each LR patch of `size`, to a power, summed over its positions."""
    rows, columns = (n - size + 1 for n in lr.shape[:2])
    means = cv2.blur(lost_detail(lr), (size, size), anchor=(0, 0))[:rows, :columns]
    cells = np.zeros((-(-rows // CELL) * CELL, -(-columns // CELL) * CELL))
    cells[:rows, :columns] = np.maximum(means, LEAST_DETAIL) ** power
    return cells.reshape(len(cells) // CELL, CELL, -1, CELL).sum(axis=(1, 3))


def detail_of(lr: Sequence[np.ndarray], size: int, power: float) -> list[np.ndarray]:
    """`cell_weights` of each LR image, by all the cores that this process may take."""
    ranks = Ranks()
    with ThreadPoolExecutor(max(1, usable_cores() // ranks.local_world)) as pool:
        weights = pool.map(lambda index: cell_weights(lr[index], size, power), range(len(lr)))
        options = {"desc": "detail", "total": len(lr), "unit": "image", "leave": False}
        return list(progress(weights, **options, disable=not ranks.is_first))


def scale_to_share(weights: np.ndarray, first: int, share: float) -> None:
    """Scales those from number `first` on, in place, so that they make up `share` of the sum; 0: as they are."""
    if share:
        weights[first:] *= share / (1 - share) * weights[:first].sum() / weights[first:].sum()


class Cells:
    """The patch positions of all images in squares, to be drawn by weight; only the running sum of these is kept.

    Args:
        grids: the weights of each image's cells, (rows, columns).
        positions: (n, 2), how many rows and columns of patch positions each image has.
        side: of a cell, in positions.
        photo_count, noise: the images after the first `photo_count` make up the share `noise`.
    """

    def __init__(
        self, grids: Sequence[np.ndarray], positions: np.ndarray, *, side: int, photo_count: int, noise: float
    ) -> None:
        self.positions, self.side = positions, side
        self.columns = np.array([grid.shape[1] for grid in grids])
        self.starts = np.cumsum([0, *(grid.size for grid in grids)])
        weights = np.concatenate([grid.ravel() for grid in grids])
        scale_to_share(weights, self.starts[photo_count], noise)
        self.cumulative = np.cumsum(weights)
        self.cumulative /= self.cumulative[-1]

    def choose(self, choice: np.ndarray) -> tuple[np.ndarray, ...]:
        """Numbers in [0, 1) -> each cell's image, top and left, rows and columns, in LR pixels."""
        cell = np.searchsorted(self.cumulative, choice, side="right")
        image = np.searchsorted(self.starts, cell, side="right") - 1
        top, left = self.side * np.array(np.divmod(cell - self.starts[image], self.columns[image]))
        rows, columns = (self.positions[image].T - (top, left)).clip(max=self.side)
        return image, top, left, rows, columns

    def shares(self, ends: Sequence[int]) -> np.ndarray:
        """Of what is drawn, the share of the images up to each of these numbers, from the one before it on."""
        return np.diff(self.cumulative[self.starts[ends] - 1], prepend=0)
