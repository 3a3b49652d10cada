"""The report's four plots, drawn from the log alone, and its panel of images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from utils.files import atomic_path

PLOTS = {
    "lrs": ("learning rate", "learning_rate"),
    "losses": ("training loss", "train_loss"),
    "psnr": ("validation PSNR (dB)", "valid_psnr_db"),
    "set5": ("Set5 PSNR, RGB (dB)", "set5_psnr_db"),
}


def draw_panel(images: Sequence[tuple[str, np.ndarray, float]], path: Path) -> None:
    """Draws (name, (H, W, 3) uint8, PSNR in dB) side by side."""
    figure = Figure(figsize=(3 * len(images), 3.3), layout="constrained")
    axes = figure.subplots(1, len(images), squeeze=False)
    for axis, (name, image, psnr_db) in zip(axes[0], images):
        axis.imshow(image)
        axis.set_title(name.encode(errors="replace").decode(), parse_math=False)  # any name a file can have
        axis.set(xlabel=f"{psnr_db:.2f} dB", xticks=[], yticks=[])
    save_figure(figure, path)


def draw_plots(entries: list[dict], folder: Path) -> None:
    """Writes lrs.png, losses.png, psnr.png and set5.png; one without data is left out."""
    for name, (label, key) in PLOTS.items():
        points = [(entry["iteration"], entry[key]) for entry in entries if entry[key] is not None]
        if not points:
            continue
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot(*zip(*points), marker="." if len(points) < 50 else None)
        can_be_log = name in ("lrs", "losses") and min(value for _, value in points) > 0
        axes.set(xlabel="iteration", ylabel=label, yscale="log" if can_be_log else "linear")
        axes.grid(alpha=0.3)
        save_figure(figure, Path(folder) / f"{name}.png")


def save_figure(figure: Figure, path: Path) -> None:
    """Writes it whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100)
