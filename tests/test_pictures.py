import json
import os
import re
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from utils.log import read_log, write_log
from utils.pictures import (
    LABEL_HEIGHT_DB,
    draw_learning_curves,
    draw_psnr_against_flops,
    label_networks,
    most_different_crop,
)
from utils.plots import draw_panel, draw_plots
from utils.tables import REPORT, results_table

POINTS = [{"iteration": i, "hours": i / 100, "set5_psnr_db": psnr_db} for i, psnr_db in ((1, 29.0), (2, 30.0))]


def result(name="IMDN_dw", nf=40, modules=6, **more) -> dict:
    sizes = {"nf": nf, "num_modules": modules, "scale": 3}
    base = {
        "model": name,
        "hyperparameters": sizes,
        "scale": 3,
        "protocol": "course",
        "images": "Set5",
        "ensemble": False,
    }
    return base | {"flops_g": 10.2157584, "params_m": 0.081345, "average_psnr_db": 31.5} | more


def test_table_sets_results_beside_the_report_cheapest_first():
    lines = results_table([result()]).splitlines()
    assert lines[0].endswith("| PSNR (dB) | report (dB) | difference |")
    assert "| IMDN_dw | 40 | 6 | ×3 | 10.216 | 0.081345 | 31.500 | 32.021 | -0.521 |" in lines
    assert "| IMDN | 64 | 6 | ×3 | 91.503 | 0.703059 | – | 32.274 | – |" in lines
    assert len(lines) == 2 + len(REPORT)
    flops = [float(line.split(" | ")[4]) for line in lines[2:]]
    assert flops == sorted(flops)


def test_table_of_another_protocol_stands_alone():
    table = results_table([result(protocol="paper", ssim=0.92345)])
    assert table.splitlines()[0].endswith("| PSNR (dB) | SSIM |")
    assert table.splitlines()[2:] == ["| IMDN_dw | 40 | 6 | ×3 | 10.216 | 0.081345 | 31.500 | 0.9234 |"]


def test_table_of_a_network_that_the_report_lacks():
    assert "| IMDN_dw | 44 | 6 | ×3 | 10.216 | 0.081345 | 31.500 | – | – |" in results_table([result(nf=44)])


def test_other_scales_follow_the_report_s_and_are_not_set_beside_it():
    lines = results_table([result(scale=4), result(scale=2), result(), result("IMDN", 64, scale=2)]).splitlines()
    assert "| IMDN | 64 | 6 | ×3 | 91.503 | 0.703059 | – | 32.274 | – |" in lines
    assert "| IMDN_dw | 40 | 6 | ×2 | 10.216 | 0.081345 | 31.500 | – | – |" in lines
    assert re.findall("×.", "".join(lines)) == ["×3"] * len(REPORT) + ["×2", "×2", "×4"]


def test_the_crop_is_where_images_differ_most():
    a = np.zeros((20, 30, 3), np.uint8)
    b = a.copy()
    b[7:11, 19:23] = 200
    assert most_different_crop(a, b, side=4) == (19, 7, 4)
    assert most_different_crop(a, b, side=99)[1:] == (0, 20)


def test_pictures_open(tmp_path):
    draw_psnr_against_flops(tmp_path / "p.png", [result()])
    draw_learning_curves(tmp_path / "c.png", {"IMDN_dw 40/6": POINTS, "mine 8/1": POINTS})
    for name in "pc":
        assert cv2.imread(str(tmp_path / f"{name}.png")).shape[0] > 200


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that would have been saved."""
    figures = []
    monkeypatch.setattr("utils.pictures.save_figure", lambda figure, path: figures.append(figure))
    return figures


def test_every_learning_curve_of_a_model_has_a_colour_of_its_own(drawn):
    draw_learning_curves(Path("c.png"), {f"mine 8/{i}": POINTS for i in range(15)})
    for axes in drawn[0].axes:
        assert len({line.get_color() for line in axes.lines}) == 15


def test_learning_curves_have_a_row_for_each_model_and_show_the_report(drawn):
    draw_learning_curves(Path("c.png"), {"IMDN_dw 40/6": POINTS, "mine 8/1": POINTS, "IMDN_dw 36/8": POINTS})
    lines = [[line.get_ydata()[-1] for line in axes.lines] for axes in drawn[0].axes]
    assert lines == [[30.0, REPORT["IMDN_dw", 40, 6][2], 30.0, REPORT["IMDN_dw", 36, 8][2]]] * 2 + [[30.0]] * 2
    for axes, heights in zip(drawn[0].axes, lines):
        assert all(axes.get_ylim()[0] < height < axes.get_ylim()[1] for height in heights)


def test_labels_of_close_points_stay_apart():
    axes = Figure().subplots()
    heights = {"C": 32.0, "A": 31.0, "B": 31.01}
    label_networks(axes, [(10, y, (name, 40, 6)) for name, y in heights.items()], "red", 12.0, "right")
    placed = {text.get_text(): text.xyann[1] for text in axes.texts}
    assert placed == {"A 40/6": 31.0, "B 40/6": 31.0 + LABEL_HEIGHT_DB, "C 40/6": 32.0}


@pytest.mark.parametrize(("side", "lowest"), (("right", "near the right"), ("left", "near the left")))
def test_of_points_at_one_height_the_nearest_to_the_names_has_the_lowest(side, lowest):
    axes = Figure().subplots()
    label_networks(axes, [(8, 31.0, ("near the left", 1, 1)), (10, 31.0, ("near the right", 1, 1))], "red", 9.0, side)
    placed = {text.get_text(): text.xyann[1] for text in axes.texts}
    assert placed.pop(f"{lowest} 1/1") == 31.0 and list(placed.values()) == [31.0 + LABEL_HEIGHT_DB]


def test_plots_leave_out_what_was_not_measured(tmp_path):
    entry = {"iteration": 3, "learning_rate": 1e-3, "train_loss": 0.1, "valid_psnr_db": 30.0, "set5_psnr_db": None}
    draw_plots([entry], tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_plots([entry | {"train_loss": -30.0}], tmp_path)  # --loss psnr has no logarithm
    assert {p.name for p in tmp_path.iterdir()} == {"lrs.png", "losses.png", "psnr.png"}


def test_log_is_one_json_object_a_line(tmp_path):
    entries = [{"epoch": 1, "train_loss": 0.5}, {"epoch": 2, "train_loss": 0.25}]
    write_log(tmp_path / "log.jsonl", entries)
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == entries
    assert read_log(tmp_path / "log.jsonl") == entries


def test_a_panel_takes_any_name_of_a_file(tmp_path):
    names = ("a$b_$.png", os.fsdecode(b"caf\xe9"))
    draw_panel([(name, np.zeros((8, 9, 3), np.uint8), 30.0) for name in names], tmp_path / "panel.png")
    assert (tmp_path / "panel.png").is_file()
