"""Pictures for people: networks side by side, PSNR against cost, and against training."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter

from utils.metrics import BUDGET_GFLOPS, BUDGET_PSNR_DB
from utils.plots import save_figure
from utils.tables import REPORT, network_key

LABEL_HEIGHT_DB = 0.032  # of one line of draw_psnr_against_flops

Crop = tuple[int, int, int]  # left, top, side


def most_different_crop(a: np.ndarray, b: np.ndarray, side: int) -> Crop:
    """The square where two images of (H, W, 3) uint8 differ most; no larger than they are."""
    side = min(side, *a.shape[:2])
    difference = cv2.absdiff(a, b).sum(axis=2, dtype=np.float32)
    sums = cv2.integral(difference)
    windows = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    top, left = np.unravel_index(windows.argmax(), windows.shape)
    return int(left), int(top), side


def draw_comparison(
    path: Path, panels: Sequence[tuple[str, np.ndarray, float | None]], crop: Crop, shape: tuple[int, int]
) -> None:
    """Draws the last panel's whole image with the crop marked, then the crop of every panel with its PSNR.

    Args:
        panels: (title, (H, W, 3) uint8, PSNR in dB or None); a smaller image, the LR, is enlarged by nearest.
        crop: in pixels of `shape`.
        shape: (H, W) of the high-resolution images.
    """
    left, top, side = crop
    widths = [min(max(shape[1] / shape[0], 1 / 3), 3), *[1] * len(panels)]  # a panorama would take metres
    figure = Figure(figsize=(2.6 * sum(widths), 3), layout="constrained")
    axes = figure.subplots(1, len(widths), width_ratios=widths)
    axes[0].imshow(panels[-1][1])
    axes[0].add_patch(Rectangle((left, top), side, side, fill=False, edgecolor="red", linewidth=1.5))
    for axis, (title, image, psnr_db) in zip(axes[1:], panels):
        whole = cv2.resize(image, shape[::-1], interpolation=cv2.INTER_NEAREST)
        axis.imshow(whole[top : top + side, left : left + side], interpolation="nearest")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("" if psnr_db is None else f"whole image: {psnr_db:.2f} dB")
    for axis in axes:
        axis.set(xticks=[], yticks=[])
    save_figure(figure, path)


def draw_psnr_against_flops(path: Path, results: Sequence[dict]) -> None:
    """Draws Set5 PSNR against FLOPs for these results, the report's networks and its budget.

    Networks far beyond the budget stand at the right edge, with their FLOPs.

    Args:
        results: each with model, hyperparameters, flops_g and average_psnr_db.
    """
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    edge = 1.3 * BUDGET_GFLOPS
    reports = [(cost, psnr_db, key) for key, (cost, _, psnr_db) in REPORT.items()]
    ours = [(result["flops_g"], result["average_psnr_db"], network_key(result)) for result in results]
    for points, label, marker, color, column, side in (
        (reports, "report", "x", "0.45", 0.68 * BUDGET_GFLOPS, "left"),
        (ours, "this repository", "o", "tab:red", 1.03 * BUDGET_GFLOPS, "right"),
    ):
        near = [point for point in points if point[0] <= edge]
        axes.scatter([x for x, _, _ in near], [y for _, y, _ in near], marker=marker, color=color, label=label)
        label_networks(axes, near, color, column, side)
        for cost, psnr_db, (model, nf, modules) in (point for point in points if point[0] > edge):
            axes.scatter(edge, psnr_db, marker=">", color=color, clip_on=False)
            text = f"{model} {nf}/{modules}, {cost:.1f} G"
            axes.annotate(
                text, (edge, psnr_db), (-8, -3), textcoords="offset points", ha="right", fontsize=7, color=color
            )
    axes.axvline(
        BUDGET_GFLOPS, linestyle=":", color="tab:blue", label=f"budget: {BUDGET_GFLOPS} G, {BUDGET_PSNR_DB} dB"
    )
    axes.axhline(BUDGET_PSNR_DB, linestyle=":", color="tab:blue")
    axes.set(xlim=(0, edge), xlabel="FLOPs (G), one 256×256 input", ylabel="Set5 ×3 PSNR, RGB (dB)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper left")
    save_figure(figure, path)


def label_networks(
    axes: Axes, points: Sequence[tuple[float, float, tuple[str, int, int]]], color: str, column: float, side: str
) -> None:
    """Writes the networks' names in a column beside their points, moved up where they would touch the one below.

    Args:
        points: (x, y, (model, nf, modules)).
        column: x of the names, of points in the right half of what it leaves.
        side: on which the column is, "left" or "right"; of points at one height the nearest to it has the lowest name.
    """
    outwards = 1 if side == "right" else -1
    below = float("-inf")
    for x, y, (model, nf, modules) in sorted(points, key=lambda p: (round(p[1] / LABEL_HEIGHT_DB), -outwards * p[0])):
        below = max(y, below + LABEL_HEIGHT_DB)
        if x > column / 2:
            at, unit = column, "data"
        else:  # at the point: from afar its line would cross what is between
            at, unit = 8 * outwards, "offset points"
        axes.annotate(
            f"{model} {nf}/{modules}",
            (x, y),
            xytext=(at, below),
            textcoords=(unit, "data"),
            ha="left" if side == "right" else "right",
            va="center",
            fontsize=7,
            color=color,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.4, "shrinkA": 0, "shrinkB": 0},
        )


def draw_learning_curves(path: Path, curves: dict[str, Sequence[dict]]) -> None:
    """Draws each network's Set5 PSNR against iterations and against hours, beside the report's figure for it.

    One row of panels for each model; PSNR begins 1.2 dB below the best of all.

    Args:
        curves: by network, as "IMDN_dw 40/6": points with iteration, hours and set5_psnr_db.
    """
    rows: dict[str, list[str]] = {}
    for network in curves:
        rows.setdefault(network.split()[0], []).append(network)
    paired = matplotlib.color_sequences["tab20"]
    colors = [*paired[::2], *paired[1::2]]  # the light ones last
    reports = {f"{name} {nf}/{modules}": psnr_db for (name, nf, modules), (_, _, psnr_db) in REPORT.items()}
    figure = Figure(figsize=(9, 0.6 + 1.9 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), 2, sharex="col", sharey=True, squeeze=False)
    for networks, panels in zip(rows.values(), grid):
        for axes, key in zip(panels, ("iteration", "hours")):
            for color, network in zip(itertools.cycle(colors), networks):
                points = [(point[key], point["set5_psnr_db"]) for point in curves[network]]
                axes.plot(*zip(*points), marker=".", markersize=3, linewidth=1, color=color, label=network)
                if network in reports:
                    axes.axhline(reports[network], color=color, linestyle=":", linewidth=1)
            axes.grid(alpha=0.3)
        panels[1].legend(fontsize=8, loc="lower right")
    best = max(point["set5_psnr_db"] for curve in curves.values() for point in curve)
    grid[0, 0].set_ylim(best - 1.2, max([best, *(reports[name] for name in curves if name in reports)]) + 0.1)
    grid[0, 0].xaxis.set_major_formatter(EngFormatter(sep=""))
    for axes, label in zip(grid[-1], ("iterations", "hours of training")):
        axes.set(xlabel=label)
    figure.supylabel("Set5 ×3 PSNR, RGB (dB); dotted: report", fontsize=10)
    save_figure(figure, path)
