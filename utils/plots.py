"""The report's four plots, drawn from the log alone."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from utils.files import atomic_path

PLOTS = {
    "lrs": ("learning rate", "learning_rate"),
    "losses": ("training loss", "train_loss"),
    "psnr": ("validation PSNR (dB)", "valid_psnr_db"),
    "set5": ("Set5 PSNR, RGB (dB)", "set5_psnr_db"),
}


def draw_plots(entries: list[dict], folder: Path) -> None:
    """Writes lrs.png, losses.png, psnr.png and set5.png; one without data is left out."""
    for name, (label, key) in PLOTS.items():
        points = [(entry["iteration"], entry[key]) for entry in entries if entry[key] is not None]
        if not points:
            continue
        figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
        axes.plot(*zip(*points), marker="." if len(points) < 50 else None)
        axes.set(xlabel="iteration", ylabel=label, yscale="log" if name in ("lrs", "losses") else "linear")
        axes.grid(alpha=0.3)
        with atomic_path(Path(folder) / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=100)
        plt.close(figure)
