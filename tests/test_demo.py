import csv
import errno
import json
import math
import os
import re
import shutil
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
import torch
from conftest import needs_reference, reference, smooth_image
from natsort import natsorted
from PIL import Image, PngImagePlugin
from test_models import COSTS

import demo
from dataset import SET5, find_pairs
from models import build_model
from utils.bicubic import imresize
from utils.checkpoint import load_model, save_weights
from utils.download import DownloadError
from utils.ensemble import SelfEnsemble
from utils.export import OnnxNetwork
from utils.files import files_below
from utils.images import read_rgb, write_rgb
from utils.layout import TEACHER
from utils.photo import ORIENTATION, Photo, read_photo, write_photo
from utils.tiling import receptive_margin, super_resolve

SIZES = {"nf": 8, "num_modules": 1, "scale": 3}
RUN = {"model": "IMDN_RTC", "hyperparameters": SIZES, "commands": [{"command": "python train.py", "commit": "0"}]}
RUN |= {"curve": [{"iteration": 9, "hours": 0.1, "valid_psnr_db": 30.0, "set5_psnr_db": db} for db in (31.0, None)]}
RUN |= {"data": {"sets": ["DIV2K_decoded"]}, "metrics": {"valid_psnr_db": 30.0}}

SHORTAGES = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 TiB."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
)


@pytest.fixture
def published(tmp_path, monkeypatch) -> Path:
    """checkpoint/ with one tiny network that interpolates; the working directory is elsewhere and empty."""
    torch.manual_seed(0)
    model = build_model("IMDN_RTC", **SIZES)
    model.start_from_interpolation()
    folder = tmp_path / "checkpoint"
    save_weights(folder / "tiny.safetensors", model, RUN)
    monkeypatch.setattr(demo, "PUBLISHED", folder)
    monkeypatch.setattr(demo, "DEFAULT_CHECKPOINT", folder / "tiny.safetensors")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return folder


def make_set5(root: Path) -> None:
    for name, (height, width) in (dict.fromkeys(SET5, (36, 30)) | {"baby": (24, 27)}).items():
        hr = smooth_image(height, width)
        write_rgb(root / "original" / f"{name}.png", hr)
        write_rgb(root / "LRbicx3" / f"{name}x3.png", imresize(hr, 1 / 3))


@pytest.fixture
def set5(published) -> Path:
    make_set5(Path("Set5"))
    return Path("Set5")


def run(*flags: object) -> int:
    return demo.main([*map(str, flags), "--device", "cpu"])


def run_json(capsys, *flags: object) -> dict:
    assert run(*flags, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_the_score_sheet(set5, capsys):
    assert run() == 0
    sheet = capsys.readouterr().out
    for part in (
        "IMDN_RTC nf=8",
        "  baby  ",
        "Average PSNR (RGB)",
        "Bicubic: ",
        "FLOPs: ",
        "PARAMS: ",
        "ranking score",
        "Kaggle score",
    ):
        assert part in sheet
    assert "Budget: missed: average PSNR" in sheet


def test_the_verdict_names_the_condition_that_missed():
    result = {"model": "M", "hyperparameters": {}, "protocol": "course", "images": "Set5", "per_image": {}}
    result |= {"bicubic_psnr_db": 28.6}
    result |= {"params_m": 0.1, "makes_budget": True, "ranking_score": 1.0, "kaggle_score": 1.0, "ensemble": False}
    assert "You will get this 10 points." in demo.format_sheet(result | {"average_psnr_db": 31.6, "flops_g": 11.0})
    slow = demo.format_sheet(result | {"average_psnr_db": 31.6, "flops_g": 11.1})
    assert "missed: FLOPs 11.100 G" in slow and "average PSNR 31" not in slow.split("missed")[1]
    bad = demo.format_sheet(result | {"average_psnr_db": 31.5, "flops_g": 11.0})
    assert "missed: average PSNR 31.500 dB is not above 31.5 dB" in bad


def test_json_is_one_object_with_the_documented_keys(set5, capsys):
    result = run_json(capsys)
    assert set(result) == {
        "model", "hyperparameters", "scale", "protocol", "ensemble", "images", "per_image", "average_psnr_db",
        "bicubic_psnr_db", "flops_g", "params_m", "makes_budget", "ranking_score", "kaggle_score",
    }  # fmt: skip
    assert list(result["per_image"]) == list(SET5)
    assert result["average_psnr_db"] == pytest.approx(np.mean(list(result["per_image"].values())))
    assert result["ranking_score"] == pytest.approx(
        math.exp(result["average_psnr_db"] - 20) / (result["flops_g"] * result["params_m"])
    )


def test_the_paper_protocol_measures_ssim_on_any_folder(set5, capsys):
    shutil.copytree("Set5/original", "photos")
    (Path("photos") / "woman.png").rename("photos/queen.png")
    course, paper = run_json(capsys), run_json(capsys, "--protocol", "paper")
    folder = run_json(capsys, "--protocol", "paper", "--benchmark", "photos")
    assert 0 < paper["ssim"] < 1 and "ssim" not in course
    assert "ranking_score" in course and not {"ranking_score", "makes_budget", "kaggle_score"} & (paper | folder).keys()
    assert list(paper["per_image"].values())[:4] == [folder["per_image"][name] for name in SET5[:4]]
    assert (paper["images"], folder["images"]) == ("Set5", "photos")
    made_here = run_json(capsys, "--benchmark", "Set5/original")  # whose LR images are not the course's
    assert made_here["images"] == "original, LR by bicubic" and "makes_budget" not in made_here
    assert run("--protocol", "paper") == 0
    sheet = capsys.readouterr().out
    assert "Average SSIM (Y)" in sheet and "Kaggle" not in sheet


@pytest.mark.parametrize("protocol", ["course", "paper"])
def test_saved_sr_images_score_as_the_network_did(protocol, set5, capsys):
    flags = ("--protocol", protocol)
    network = run_json(capsys, *flags, "--save-sr", "out/sr")
    assert natsorted(file.name for file in Path("out/sr").iterdir()) == [f"{name}.png" for name in SET5]
    for ending in ("", "x3", "_IMDN"):
        for file in list(Path("out/sr").iterdir()):
            file.rename(file.with_stem(file.stem.removesuffix("x3") + ending))
        files = run_json(capsys, *flags, "--sr", "out/sr")
        assert files.pop("sr") == str(Path("out/sr"))
        assert files.items() <= network.items() and "flops_g" not in files
        assert ("kaggle_score" in files) == (protocol == "course")
    assert run(*flags, "--sr", "out/sr") == 0
    sheet = capsys.readouterr().out
    assert "sr ×3, " in sheet and "Bicubic: " in sheet and "FLOPs" not in sheet and "Budget" not in sheet


def test_the_course_s_file_of_sr_images(set5, capsys):
    assert run("--save-sr", "sr", "--csv", "network.csv") == 0
    assert run("--sr", "sr", "--csv", "files.csv") == 0
    assert Path("files.csv").read_text() == Path("network.csv").read_text()
    shutil.copytree("Set5/original", "others/Set5")  # whose LR images are not the course's, though it is called so
    capsys.readouterr()
    assert "kaggle_score" not in run_json(capsys, "--sr", "sr", "--benchmark", "others/Set5")


def test_sr_images_beside_longer_names_are_found(set5, capsys):
    for name in ("1", "10", "1a", "a", "ab"):
        write_rgb(Path(f"sr/{name}.png"), smooth_image(12, 12))
    for name in ("1", "a"):
        write_rgb(Path(f"hr/{name}.png"), smooth_image(12, 12))
    assert run_json(capsys, "--sr", "sr", "--benchmark", "hr")["per_image"] == {"1": None, "a": None}


def test_other_scales_and_folders_of_sr_images_are_scored(set5, capsys):
    for scale in (2, 4):
        for file in Path("Set5/original").iterdir():
            hr = read_rgb(file)
            height, width = (length // scale * scale for length in hr.shape[:2])
            write_rgb(Path(f"sr/{file.name}"), hr[:height, :width])
        result = run_json(capsys, "--benchmark", "Set5/original", "--sr", "sr", "--scale", scale)
        assert (result["scale"], result["average_psnr_db"]) == (scale, None)  # equal images


def test_sr_images_that_cannot_be_scored_are_named(set5, capsys):
    def refused(*flags: str) -> str:
        assert run("--sr", "sr", *flags) == 1
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "sr is not a folder" in refused()
    Path("sr").mkdir()
    assert "sr holds no images" in refused()
    for name in SET5[:4]:
        write_rgb(Path(f"sr/{name}_IMDN.png"), read_rgb(Path(f"Set5/original/{name}.png")))
    assert "sr lacks woman_IMDN of Set5; every image is scored" in refused()
    write_rgb(Path("sr/woman_IMDN.png"), smooth_image(36, 33))
    assert "woman_IMDN.png is 33×36, but 3 times its LR is 30×36: it is of another LR" in refused()
    for name in SET5:
        write_rgb(Path(f"sr/{name}.png"), read_rgb(Path(f"Set5/original/{name}.png")))
    assert "several images for each of Set5, such as baby.png and baby_IMDN.png" in refused()
    for name in ("1", "2", "10"):
        write_rgb(Path(f"numbered/{name}.png"), smooth_image(12, 12))
        write_rgb(Path(f"sr/{name}_net.png"), smooth_image(12, 12))
    assert run("--sr", "sr", "--benchmark", "numbered") == 0
    capsys.readouterr()
    Path("sr/1_net.png").unlink()
    assert "sr lacks 1_net of numbered, LR by bicubic; every image" in refused("--benchmark", "numbered")
    Path("sr/2_net.png").unlink()
    assert "sr lacks 1_net and 1 more of numbered, LR by bicubic; every image" in refused("--benchmark", "numbered")
    write_rgb(Path("tiny/a.png"), smooth_image(6, 6))
    shutil.rmtree("sr")
    write_rgb(Path("sr/a.png"), smooth_image(6, 6))
    assert "error: a: border 3 leaves no pixels" in refused("--benchmark", "tiny", "--protocol", "paper")


def test_saved_sr_images_replace_nothing_unasked(set5, capsys):
    assert run("--save-sr", "sr") == 0
    written = Path("sr/baby.png").read_bytes()
    Path("sr/baby.png").write_text("mine")
    assert run("--save-sr", "sr") == 1
    assert "sr holds baby.png already; --overwrite" in capsys.readouterr().err
    assert Path("sr/baby.png").read_text() == "mine"
    assert run("--save-sr", "sr", "--overwrite") == 0
    assert Path("sr/baby.png").read_bytes() == written
    Path("sr/head.png").rename("sr/head.BMP")
    assert run("--save-sr", "sr", "--overwrite") == 1
    assert "sr holds head.BMP already; give another folder" in capsys.readouterr().err
    for folder in ("Set5/original", "Set5/LRbicx3", "Set5"):
        assert run("--save-sr", folder, "--overwrite") == 1
        assert f"{folder} is the benchmark's; give another folder" in capsys.readouterr().err
    assert run("--save-sr", "Set5/original", "--overwrite", "--benchmark", "Set5/original") == 1
    assert "is the benchmark's; give another folder" in capsys.readouterr().err
    assert run("--save-sr", "sr/baby.png") == 1
    assert "--save-sr sr/baby.png: sr/baby.png is not a folder that can be written" in capsys.readouterr().err


def test_equal_images_have_no_infinity_in_json():
    assert demo.to_json({"per_image": [{"a": math.inf, "b": 1.5}]}) == '{"per_image": [{"a": null, "b": 1.5}]}'


def test_csv_holds_one_row_an_image(set5, capsys):
    result = run_json(capsys, "--csv", "ID_result.csv")
    rows = list(csv.reader(Path("ID_result.csv").read_text().splitlines()))
    assert rows[0] == ["Id", "Loss"] and [row[0] for row in rows[1:]] == list("01234")
    for row, psnr_db in zip(rows[1:], result["per_image"].values(), strict=True):
        assert 10 * math.log10(255**2 / float(row[1])) == pytest.approx(psnr_db)
    assert sum(float(row[1]) for row in rows[1:]) == pytest.approx(result["kaggle_score"])


def test_csv_of_other_scores_than_the_course_s_is_refused(set5, capsys):
    (set5 / "original/baby.png").unlink()
    (set5 / "LRbicx3/babyx3.png").unlink()
    assert run("--csv", "ID_result.csv") == 1
    assert "this is Set5, 4 images ×3\n" in capsys.readouterr().err
    assert not Path("ID_result.csv").exists()


def test_all_prints_one_table_and_plots_it(set5, published, capsys):
    save_weights(published / "another.safetensors", build_model("IMDN_dw", **SIZES), RUN | {"model": "IMDN_dw"})
    assert run("--all", "--plot", "plot.png", "--curves", "curves.png") == 0
    out = capsys.readouterr().out
    rows = [line.split(" | ") for line in out.splitlines() if line.startswith("| IMDN_") and "| 8 | 1 |" in line]
    assert sorted(row[0] for row in rows) == ["| IMDN_RTC", "| IMDN_dw"]
    assert "| DRLN_slim | 36 | 8 | ×3 | 10.885 | 0.117399 | – | 32.002 |" in out
    assert cv2.imread("plot.png").shape[0] > 200 and cv2.imread("curves.png").shape[0] > 200
    results = run_json(capsys, "--all")["results"]
    assert {f"{result['average_psnr_db']:.3f}" for result in results} == {row[6] for row in rows}
    assert run("--all", "--protocol", "paper") == 0
    assert "DRLN_slim" not in capsys.readouterr().out


def test_a_named_network_is_that_of_checkpoint(set5, published, monkeypatch, capsys):
    model = build_model("IMDN_dw", **SIZES)
    save_weights(published / "IMDN_dw_nf8_m1_x3.safetensors", model, RUN | {"model": "IMDN_dw"})
    assert run_json(capsys, "--model", "IMDN_dw", "--nf", 8, "--modules", 1)["model"] == "IMDN_dw"
    assert run_json(capsys, "--model", "IMDN_dw")["model"] == "IMDN_dw"  # the only one of it
    save_weights(
        published / "IMDN_dw_nf8_m2_x3.safetensors",
        model,
        RUN | {"model": "IMDN_dw", "hyperparameters": SIZES | {"num_modules": 2}},
    )
    assert run("--model", "IMDN_dw") == 1
    assert (
        "several weights of model=IMDN_dw; --model, --nf, --modules and --scale choose among IMDN_dw_nf8_m1_x3"
        in capsys.readouterr().err
    )
    capsys.readouterr()
    monkeypatch.setattr(demo, "DEFAULT_CHECKPOINT", published / "IMDN_dw_nf8_m1_x3.safetensors")
    for fits in (("--scale", 3), ("--model", "IMDN_dw")):  # several, the default one among them
        assert run_json(capsys, *fits)["hyperparameters"]["num_modules"] == 1
    assert run("--model", "DRLN_slim") == 1
    assert "holds no weights of model=DRLN_slim; " in capsys.readouterr().err


def test_without_a_scale_that_of_three_is_taken(set5, published, capsys):
    for scale in (2, 3, 4):
        sizes = SIZES | {"scale": scale}
        described = RUN | {"model": "IMDN_dw", "hyperparameters": sizes}
        save_weights(published / f"IMDN_dw_nf8_m1_x{scale}.safetensors", build_model("IMDN_dw", **sizes), described)
    assert [run_json(capsys, "--model", "IMDN_dw", *flags)["scale"] for flags in ((), ("--scale", 2))] == [3, 2]
    assert run_json(capsys, "--scale", 4)["scale"] == 4
    assert run("--model", "IMDN_RTC", "--scale", 4) == 1
    error = capsys.readouterr().err
    assert "holds no weights of model=IMDN_RTC scale=4; " in error and "_x4" in error and "_x2" not in error


def test_the_ensemble_is_scored_and_costs_eight_times_as_much(set5, capsys):
    once, eight = run_json(capsys), run_json(capsys, "--ensemble")
    assert eight["average_psnr_db"] != once["average_psnr_db"] and eight["ensemble"]
    assert eight["flops_g"] == pytest.approx(8 * once["flops_g"]) and eight["params_m"] == once["params_m"]
    assert "ranking_score" not in eight  # the report's is of one view
    assert run("--all", "--ensemble") == 0
    assert "×8 self-ensemble" in capsys.readouterr().out


def test_curves_need_weights_that_hold_one(set5, published, capsys):
    for curve in ([], [{"iteration": 9, "hours": 0.1, "set5_psnr_db": None}]):  # trained where Set5 was not at hand
        save_weights(published / "tiny.safetensors", build_model("IMDN_RTC", **SIZES), RUN | {"curve": curve})
        assert run("--all", "--curves", "curves.png") == 1
        assert "no weights here hold the curve" in capsys.readouterr().err and not Path("curves.png").exists()


def test_all_training_tells_how_each_was_made(published, capsys):
    score = {"average_psnr_db": 31.25, "ssim": 0.9}
    legs = [{"command": "python train.py --epochs 9", "commit": "0123456789abcdef", "from_iteration": 70}]
    legs.append(legs[0] | {"from_iteration": 80, "processes": 2})
    metadata = RUN | {"commands": legs, "iterations": 12000, "hours": 1.5, "hardware": "a CPU", "seed": 3}
    metadata["metrics"] = {"valid_psnr_db": 30.0, "Set5 course": score, "Set5 paper": score}
    save_weights(published / "tiny.safetensors", build_model("IMDN_RTC", **SIZES), metadata)
    assert run("--all", "--training") == 0
    out = capsys.readouterr().out
    assert "| tiny | 31.250 | 31.250, 0.9000 | – | 12,000 | 1.50 | a CPU | 3 |" in out
    assert "from iteration 70, commit 0123456789ab: python train.py --epochs 9" in out
    assert "from iteration 80, commit 0123456789ab, 2 processes of torchrun: python train.py --epochs 9" in out
    save_weights(published / "other.safetensors", build_model("IMDN_RTC", **SIZES), {"model": "IMDN_RTC"})
    assert run("--all", "--training") == 0
    said = capsys.readouterr()
    assert "other does not say how it was trained" in said.err and said.out == out


def test_all_training_does_not_repeat_another_network_s_legs(published, capsys):
    leg = {"command": "python train.py --epochs 9", "commit": "0" * 40, "from_iteration": 0}
    metadata = RUN | {"commands": [leg], "iterations": 70, "hours": 1.5, "hardware": "a CPU", "seed": 3, "metrics": {}}
    network = build_model("IMDN_RTC", **SIZES)
    save_weights(published / "tiny.safetensors", network, metadata)
    copied = leg | {"hardware": "a CPU"}  # as train.py copies it
    more = {"commands": [copied, leg | {"from_iteration": 70}], "started_from": {"network": "tiny", "iterations": 70}}
    save_weights(published / "wide.safetensors", network, metadata | more)
    for commands, times in (
        ([leg], 1),
        ([leg, leg | {"from_iteration": 71}], 1),  # tiny was trained on
        ([leg | {"commit": "1" * 40}], 2),  # and anew
    ):
        save_weights(published / "tiny.safetensors", network, metadata | {"commands": commands})
        assert run("--all", "--training") == 0
        out = capsys.readouterr().out
        assert out.count("from iteration 0,") == times
        assert ("  the first legs of tiny, 1 in all, and then\n  from iteration 70" in out) == (times == 1)


def test_cost_only_needs_neither_weights_nor_images(published, capsys):
    assert run("--model", "IMDN_dw", "--nf", 40, "--modules", 6, "--cost-only") == 0
    total, table = capsys.readouterr().out.split("\n\n")
    assert total.startswith("IMDN_dw nf=40 num_modules=6 scale=3\nFLOPs: 10.2157584 G\nPARAMS: 0.081345 M\n")
    assert "| `trunk_conv` | 1.887 | 18.5% | 0.014440 | 2.62 |" in table
    for flags in ((), ("--model", "IMDN_dw")):
        assert run_json(capsys, *flags, "--cost-only")["flops_g"] == 9.984547072
    assert run_json(capsys, "--checkpoint", published / "tiny.safetensors", "--cost-only")["model"] == "IMDN_RTC"


@pytest.mark.parametrize(("network", "cost"), COSTS.items())
def test_cost_only_prints_every_digit(network, cost, capsys):
    name, nf, modules = network
    assert run("--model", name, "--nf", nf, "--modules", modules, "--cost-only") == 0
    flops, params = (line.split()[1] for line in capsys.readouterr().out.splitlines()[1:3])
    assert (float(flops), float(params)) == cost


def test_set5_is_fetched_where_absent(published, monkeypatch, capsys):
    monkeypatch.setattr(demo, "fetch_set5", make_set5)
    assert run() == 0
    assert "on Set5" in capsys.readouterr().out and Path("Set5/original/baby.png").exists()


def test_other_scales_score_on_set5_with_lr_made_from_it(set5, published, capsys):
    save_weights(
        published / "x2.safetensors",
        build_model("IMDN_RTC", nf=8, num_modules=1, scale=2),
        RUN | {"hyperparameters": SIZES | {"scale": 2}},
    )
    result = run_json(capsys, "--checkpoint", published / "x2.safetensors")
    assert result["images"] == "Set5" and len(result["per_image"]) == 5


def test_no_network_is_said_and_other_photos_are_scored(published, monkeypatch, capsys):
    def fail(folder):
        raise DownloadError("no network")

    monkeypatch.setattr(demo, "fetch_set5", fail)
    assert run() == 0
    out, err = capsys.readouterr()
    assert "could not be fetched (no network)" in err and "on scikit-image" in out and "astronaut" in out
    assert "Budget" not in out and "Kaggle" not in out
    assert run("--csv", "ID_result.csv") == 1
    assert "--csv needs Set5, which could not be fetched (no network)" in capsys.readouterr().err
    assert run("--save-sr", "sr") == 1
    assert "--save-sr needs Set5, which could not be fetched (no network)" in capsys.readouterr().err
    assert not any(Path(name).exists() for name in ("Set5", "ID_result.csv", "sr"))
    assert run("--all") == 0
    out, err = capsys.readouterr()
    assert "report" not in out and "could not be fetched" not in err  # told above, and tried once
    assert run("--all", "--plot", "plot.png") == 1
    assert "and there are none here" in capsys.readouterr().err and not Path("plot.png").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--checkpoint", "none.safetensors"], "none.safetensors does not exist"),
        (["--nf", "12"], "holds no weights of nf=12; --all lists what it holds"),
        (["--model", "IMDN_RTC", "--nf", "12"], "holds no weights of model=IMDN_RTC nf=12; the nearest are tiny"),
        (["--checkpoint", "Set5"], "Set5 is a folder; give a file"),
        (["--checkpoint", "model.onnx"], "model.onnx cannot be read as a checkpoint: it is for demo.py --backend onnx"),
        (["--set5", "nowhere"], "nowhere is not a folder; a Set5 folder holds LRbicx3/"),
        (["--benchmark", "nowhere"], "nowhere is not a folder"),
        (["--model", "IMDN", "--nf", "6", "--cost-only"], "multiple of 4"),
        (["--input", "nowhere.png", "--output", "a.png"], "nowhere.png does not exist"),
        (["--input", "Set5/original/baby.png", "--output", "a.gif"], "use one of"),
        (["--input", "empty", "--output", "out"], "holds no images"),
        (["--input", "Set5/*/x*.png", "--output", "out"], "does not exist, and matches no image as a pattern"),
        (["--csv", "folder.csv"], "--csv folder.csv is a folder; give a file"),
        (["--input", "Set5", "--output", "Set5/original/baby.png"], "must be a folder"),
        (["--input", "Set5", "--output", "new.png"], "must be a folder"),
        (
            ["--compare", "c.png", "--hr", "Set5/original/baby.png", "--crop", "0", "0", "99"],
            "not inside the 27×24 picture",
        ),
        (["--compare", "c.png", "--hr", "Set5/original/baby.png", "--input", "Set5/LRbicx3/headx3.png"], "not 3 times"),
        (["--compare", "Set5/original/baby.png", "--hr", "Set5/original/baby.png"], "is the photo itself"),
        (["--compare", "c.png", "--input", "Set5/LRbicx3"], "LRbicx3 is a folder; --compare draws one photo"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_1(set5, flags, says, capsys):
    Path("empty").mkdir()
    Path("folder.csv").mkdir()
    Path("model.onnx").write_bytes(b"\x08\x0a")
    assert run(*flags) == 1
    err = capsys.readouterr().err
    assert says in err and err.startswith("error: ") and err.count("\n") == 1


def test_upscaling_a_file(set5, capsys):
    assert run("--input", "Set5/LRbicx3/babyx3.png", "--output", "out/a.png") == 0
    lr, sr = read_rgb(Path("Set5/LRbicx3/babyx3.png")), read_rgb(Path("out/a.png"))
    assert sr.shape == (24, 27, 3)
    assert np.abs(sr.astype(int) - imresize(lr, 3)).mean() < 20  # it starts as interpolation
    assert run("--input", "Set5/LRbicx3/babyx3.png", "--output", "folder") == 0
    assert f"1 written, 0 failed: {Path('folder/babyx3.png')}" in capsys.readouterr().out


def test_upscaling_a_folder_names_what_fails_and_does_the_rest(set5, capsys):
    Path("Set5/LRbicx3/broken.png").write_text("not an image")
    assert run("--input", "Set5/LRbicx3", "--output", "out") == 1
    assert sorted(p.name for p in Path("out").iterdir()) == [f"{name}x3.png" for name in SET5]
    assert "broken.png: not an image" in capsys.readouterr().err


def test_an_image_is_never_written_over_itself(set5, capsys):
    before = Path("Set5/LRbicx3/babyx3.png").read_bytes()
    assert run("--input", "Set5/LRbicx3", "--output", "Set5/LRbicx3") == 1
    assert Path("Set5/LRbicx3/babyx3.png").read_bytes() == before
    assert capsys.readouterr().err == "error: --output Set5/LRbicx3 is --input itself; give another folder\n"
    assert run("--input", "Set5/LRbicx3/babyx3.png", "--output", "Set5/LRbicx3", "--overwrite") == 1
    assert "is the input itself" in capsys.readouterr().err
    assert Path("Set5/LRbicx3/babyx3.png").read_bytes() == before


def test_comparison_with_and_without_ground_truth(set5, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr(
        "utils.pictures.draw_comparison", lambda path, panels, crop, shape: drawn.append((panels, crop, shape))
    )
    assert run("--compare", "c.png", "--hr", "Set5/original/baby.png") == 0
    assert re.fullmatch(r"c\.png: bicubic \d+\.\d{3} dB, ours \d+\.\d{3} dB\n", capsys.readouterr().out)
    assert run("--compare", "c.png", "--input", "Set5/LRbicx3/babyx3.png", "--crop", 3, 2, 9) == 0
    assert capsys.readouterr().out == "c.png: LR, bicubic and ours\n"
    assert [title for title, *_ in drawn[0][0]] == ["LR", "bicubic", "ours", "HR"] and drawn[0][2] == (24, 27)
    assert [title for title, *_ in drawn[1][0]] == ["LR", "bicubic", "ours"] and drawn[1][1] == (3, 2, 9)
    write_rgb(Path("odd.png"), np.pad(read_rgb(Path("Set5/original/baby.png")), ((0, 2), (0, 1), (0, 0))))
    assert run("--compare", "c.png", "--hr", "odd.png", "--input", "Set5/LRbicx3/babyx3.png") == 0  # cropped to fit
    assert np.array_equal(drawn[2][0][3][1], drawn[0][0][3][1])
    for taller, code in ((8, 0), (9, 1)):  # as the course's, and as none
        write_rgb(Path("taller.png"), np.pad(read_rgb(Path("Set5/original/baby.png")), ((0, taller), (0, 0), (0, 0))))
        assert run("--compare", "c.png", "--hr", "taller.png", "--input", "Set5/LRbicx3/babyx3.png") == code
    assert np.array_equal(drawn[3][0][3][1], drawn[0][0][3][1]) and len(drawn) == 4
    psnrs_db = [psnr_db for _, _, psnr_db in drawn[0][0]]
    assert psnrs_db[0] is None and 10 < psnrs_db[1] < 60


def test_a_comparison_takes_alpha_and_16_bits(set5, monkeypatch):
    drawn = []
    monkeypatch.setattr("utils.pictures.draw_comparison", lambda path, panels, crop, shape: drawn.append(panels[0][1]))
    rgb = smooth_image(8, 9)
    write_photo(Path("alpha.png"), Photo(rgb, alpha=rgb[..., 0]))
    write_photo(Path("deep.png"), Photo(rgb.astype(np.uint16) * 257))
    for name in ("alpha.png", "deep.png"):
        assert run("--compare", "c.png", "--input", name) == 0
    assert all(np.array_equal(lr, rgb) for lr in drawn) and len(drawn) == 2


def test_a_comparison_is_a_picture(set5):
    assert run("--compare", "c.png", "--hr", "Set5/original/head.png") == 0
    height, width, _ = cv2.imread("c.png").shape
    assert width > 3 * height


def test_one_image_that_fails_does_not_stop_the_folder(set5, monkeypatch, capsys):
    def fail_once(model, image, *_):
        if image.shape[0] == 8:
            raise ValueError("too small")
        return image

    monkeypatch.setattr(demo, "super_resolve", fail_once)
    assert run("--input", "Set5/LRbicx3", "--output", "out") == 1
    assert "babyx3.png: too small" in capsys.readouterr().err and len(list(Path("out").iterdir())) == 4


def test_a_full_disk_stops_the_folder(set5, monkeypatch, capsys):
    def fail(path, photo, made_from):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    write_rgb(Path("out/babyx3.png"), smooth_image(8, 9))
    monkeypatch.setattr(demo, "write_photo", fail)
    assert run("--input", "Set5/LRbicx3", "--output", "out") == 1
    out, err = capsys.readouterr()
    first, second = (line for line in err.splitlines() if line.startswith("error"))
    assert "babyx3.png exists" in first and "0 written, 2 failed" in out
    assert "No space left on device: 'out/birdx3.png'; those after it were not tried" in second


def test_pictures_go_into_a_folder_where_the_output_names_none(published, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("a.png", "b.png"):
        write_rgb(tmp_path / "home/in" / name, smooth_image(8, 9))
    assert run("--input", "~/in/a.png", "--output", "one") == 0 and Path("one/a.png").is_file()
    assert run("--input", "~/in/*.png", "--output=~/out") == 0 and (tmp_path / "home/out/b.png").is_file()


@pytest.mark.parametrize("flag", ("--output", "--compare"))
def test_a_target_that_cannot_be_written_is_told_before_the_work(published, monkeypatch, capsys, flag):
    write_rgb(Path("a.png"), smooth_image(8, 9))
    monkeypatch.setattr(demo, "super_resolve", lambda *_: pytest.fail("worked in vain"))
    assert run("--input", "a.png", flag, "a.png/x.png") == 1
    assert f"{flag} a.png/x.png: a.png is not a folder that can be written to" in capsys.readouterr().err


def test_the_page_opens_on_the_default_network(published, monkeypatch):
    shutil.copy(published / "tiny.safetensors", published / "another.safetensors")
    monkeypatch.setattr(demo, "build_page", list)
    assert demo.open_page(demo.parse_args(["--web", "--device", "cpu"])) == ["tiny", "another"]


def test_publishing_measures_and_keeps_the_run(set5, published, capsys):
    flags = ["--publish", "--checkpoint", published / "tiny.safetensors", "--benchmark", "Set5/original"]
    assert run(*flags, "--data-note", "blobs") == 0
    model, metadata = load_model(published / "IMDN_RTC_nf8_m1_x3.safetensors")
    assert metadata["commands"] == RUN["commands"] and metadata["data"] == {"sets": ["DIV2K_decoded"], "note": "blobs"}
    metrics = metadata["metrics"]
    shutil.copytree("Set5/original", "other/set5")
    assert run(*flags[:-1], "other/set5", "--overwrite") == 1
    assert "--benchmark other/set5: Set5 is scored in any case" in capsys.readouterr().err
    capsys.readouterr()
    assert set(metrics) == {"valid_psnr_db", "Set5 course", "Set5 paper", "original paper"}
    assert metrics["Set5 course"]["average_psnr_db"] == run_json(capsys)["average_psnr_db"]
    assert metrics["Set5 paper"] == metrics["original paper"] and metrics["Set5 paper"]["ssim"] > 0
    assert run(*flags) == 1
    out, err = capsys.readouterr()
    assert f"before {metrics['Set5 course']['average_psnr_db']:.3f} dB" in out and "--overwrite replaces it" in err
    assert load_model(published / "IMDN_RTC_nf8_m1_x3.safetensors")[1]["data"]["note"] == "blobs"
    assert run(*flags, "--overwrite") == 0
    assert "note" not in load_model(published / "IMDN_RTC_nf8_m1_x3.safetensors")[1]["data"]


def test_only_runs_of_train_py_on_set5_are_published(set5, published, monkeypatch, capsys):
    save_weights(
        published / "bare.safetensors",
        build_model("IMDN_RTC", **SIZES),
        {"model": "IMDN_RTC", "hyperparameters": SIZES},
    )
    assert run("--publish", "--checkpoint", published / "bare.safetensors") == 1
    assert "does not say how it was trained" in capsys.readouterr().err
    assert not (published / "IMDN_RTC_nf8_m1_x3.safetensors").exists()


@pytest.mark.parametrize("suffix", (".jpg", ".webp", ".bmp", ".tiff"))
def test_other_formats_are_read(published, suffix):
    write_rgb(Path(f"in/a{suffix}"), smooth_image(8, 9))
    assert run("--input", "in", "--output", "out") == 0
    assert cv2.imread(f"out/a{suffix}").shape == (24, 27, 3)


@needs_reference("weights/IMDN_x3_official.pth")
@pytest.mark.parametrize(("protocol", "psnr_db", "tolerance"), (("course", 32.274, 0.001), ("paper", 34.364, 0.002)))
def test_the_authors_weights_reach_their_figures(protocol, psnr_db, tolerance, capsys):
    flags = [
        "--checkpoint",
        reference("weights/IMDN_x3_official.pth"),
        "--model",
        "IMDN",
        "--set5",
        reference("data/set5"),
    ]
    result = run_json(capsys, *flags, "--protocol", protocol)
    assert result["average_psnr_db"] == pytest.approx(psnr_db, abs=tolerance)
    if protocol == "paper":
        assert result["ssim"] == pytest.approx(0.9271, abs=0.0001)


def test_a_tree_is_mirrored_and_a_glob_s_files_go_into_a_folder(set5, capsys):
    for other in ("movie.GIF", "notes.txt", ".hidden"):
        Path("Set5", other).touch()
    assert run("--input", "Set5", "--output", "tree") == 0
    assert "10 written, 0 failed, 2 left out (.gif, .txt): tree" in capsys.readouterr().out
    assert {p.relative_to("tree") for p in Path("tree").rglob("*.png")} == {
        p.relative_to("Set5") for p in Path("Set5").rglob("*.png")
    }
    assert run("--input", "Set5/LRbicx3/[ab]*.png", "--output", "some") == 0
    assert sorted(p.name for p in Path("some").iterdir()) == ["babyx3.png", "birdx3.png", "butterflyx3.png"]


def test_what_an_earlier_run_wrote_into_the_input_folder_is_no_input(set5):
    assert run("--input", "Set5", "--output", Path.cwd() / "Set5/larger") == 0
    before = sorted(Path("Set5").rglob("*.png"))
    assert run("--input", Path.cwd() / "Set5", "--output", "Set5/larger", "--overwrite") == 0
    assert sorted(Path("Set5").rglob("*.png")) == before
    for _ in range(2):
        assert run("--input", "Set5/LRbicx3/**/*x3.png", "--output", "Set5/LRbicx3/of_a_glob", "--overwrite") == 0
    assert run("--input", "Set5/LRbicx3", "--output", ".") == 0  # a folder that holds the input's
    assert Path("babyx3.png").exists()


def test_existing_outputs_are_kept_without_overwrite(set5, capsys):
    Path("out.png").write_text("mine")
    flags = ["--input", "Set5/LRbicx3/babyx3.png", "--output", "out.png"]
    assert run(*flags) == 1
    assert Path("out.png").read_text() == "mine" and "--overwrite" in capsys.readouterr().err
    assert run(*flags, "--overwrite") == 0
    assert read_rgb(Path("out.png")).shape == (24, 27, 3)


def test_a_damaged_file_in_checkpoint_is_left_out(set5, published, capsys):
    (published / "broken.safetensors").write_bytes((published / "tiny.safetensors").read_bytes()[:99])
    assert run("--all") == 0
    out, err = capsys.readouterr()
    assert (
        "| IMDN_RTC |" in out
        and err.count("warning: left out: ") == err.count("broken.safetensors cannot be read") == 1
    )
    assert run("--model", "IMDN_RTC") == 0


@pytest.mark.parametrize("overwrite", ([], ["--overwrite"]))
def test_an_interrupted_folder_goes_on_where_it_was(overwrite, set5, monkeypatch, capsys):
    flags = ["--input", "Set5/LRbicx3", "--output", "out", *overwrite]
    photo = demo.read_photo(Path("Set5/LRbicx3/babyx3.png"))
    with monkeypatch.context() as patch:
        patch.setattr(demo, "read_photo", Mock(side_effect=[photo, KeyboardInterrupt]))
        with pytest.raises(SystemExit, match="^130$"):
            run(*flags)
    then = "begins anew" if overwrite else "goes on where it was"
    assert f"stopped; 1 written; the same command {then}" in capsys.readouterr().err
    assert run(*flags) == 0
    expected = "5 written, 0 failed" if overwrite else "4 written, 1 done before"
    assert expected in capsys.readouterr().out


def test_what_is_done_is_known_of_any_photo(published, capsys):
    image = Image.fromarray(smooth_image(9, 12))
    Path("in").mkdir()
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image.save("in/turned.jpg", exif=exif)
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "A" * 3_000_000, zip=True)  # more than Pillow opens
    image.save("in/text.png", pnginfo=text)
    for expected in ("2 written, 0 failed", "0 written, 2 done before"):
        assert run("--input", "in", "--output", "out") == 0
        assert expected in capsys.readouterr().out


def test_a_folder_upscaled_again_goes_on_where_it_was(set5, capsys):
    flags = ["--input", "Set5/LRbicx3", "--output", "out"]
    assert run(*flags) == 0
    Path("out/babyx3.png").unlink()
    Path("out/birdx3.png").write_text("mine")
    os.utime("Set5/LRbicx3/headx3.png", (0, 0))  # changed since
    capsys.readouterr()
    assert run(*flags) == 1
    out, err = capsys.readouterr()
    assert "1 written, 2 done before (--overwrite does them anew), 2 failed: out" in out
    assert all(f"out/{name}x3.png exists; give another --output, or --overwrite" in err for name in ("bird", "head"))
    assert Path("out/birdx3.png").read_text() == "mine"
    assert run(*flags, "--overwrite") == 0
    assert run(*flags) == 0
    assert "0 written, 5 done before (--overwrite does them anew), 0 failed: out" in capsys.readouterr().out
    shutil.rmtree("out")
    shutil.copytree("Set5/LRbicx3", "out")  # copies carry the time too
    assert run(*flags) == 1 and "0 written, 5 failed" in capsys.readouterr().out


@pytest.mark.parametrize("share", (None, 0.25, 0.5))
def test_teaching_replaces_training_images_by_the_network_s_or_averages_them(share, published, decoded, capsys):
    flags = ["--teach", decoded, "--output", "taught", "--model", "IMDN_RTC"]
    flags += ["--share", share] if share else []
    assert run(*flags) == 0
    assert "5 written, 0 done before" in capsys.readouterr().out
    assert (Path("taught") / TEACHER).read_text(encoding="utf-8").startswith("tiny.safetensors, sha256 ")
    network = load_model(demo.DEFAULT_CHECKPOINT)[0]
    before, after = (
        [*find_pairs(root, "training", 3), *find_pairs(root, "validation", 3)] for root in (decoded, Path("taught"))
    )
    assert [pair.name for pair in after] == ["0001", "0002", "0010", "0801", "0802"]
    for number, (pair, taught) in enumerate(zip(before, after, strict=True)):
        lr, hr = np.load(pair.lr), np.load(pair.hr)
        np.testing.assert_array_equal(np.load(taught.lr), lr)
        if number < 3:
            mean = hr + (share or 1) * (super_resolve(network, lr, 3) - hr.astype(float))
            assert (np.load(taught.hr) != hr).any()
            assert np.abs(np.load(taught.hr) - mean).max() <= 0.5
        else:
            np.testing.assert_array_equal(np.load(taught.hr), hr)
    assert run(*flags) == 0
    assert "0 written, 5 done before" in capsys.readouterr().out


def test_teaching_from_hr_takes_the_photos_as_lr(published, decoded, capsys):
    flags = ["--teach", decoded, "--output", "taught", "--model", "IMDN_RTC", "--from-hr"]
    assert run(*flags) == 0
    assert "3 written, 0 done before" in capsys.readouterr().out
    assert (Path("taught") / TEACHER).read_text(encoding="utf-8").endswith("HR as LR")
    network = load_model(demo.DEFAULT_CHECKPOINT)[0]
    assert find_pairs(Path("taught"), "validation", 3) == []
    before, after = (find_pairs(root, "training", 3) for root in (decoded, Path("taught")))
    for pair, taught in zip(before, after, strict=True):
        photo = np.load(pair.hr)
        np.testing.assert_array_equal(np.load(taught.lr), photo)
        np.testing.assert_array_equal(np.load(taught.hr), super_resolve(network, photo, 3))
    assert run(*flags) == 0
    assert "0 written, 3 done before" in capsys.readouterr().out


def test_taught_images_whose_photo_is_gone_are_told_of(published, decoded, capsys):
    flags = ["--teach", decoded, "--output", "taught", "--model", "IMDN_RTC"]
    assert run(*flags) == 0 and "warning" not in capsys.readouterr().err
    for file in decoded.rglob("0001*.npy"):
        file.unlink()
    assert run(*flags) == 0
    assert (
        f"warning: taught holds 2 files of photos that {decoded} no longer has, such as taught"
        in capsys.readouterr().err
    )


def test_a_stopped_teacher_goes_on_where_it_was(published, decoded, monkeypatch, capsys):
    flags = ["--teach", decoded, "--output", "taught", "--model", "IMDN_RTC"]
    calls = iter([super_resolve])  # the second image is stopped
    monkeypatch.setattr(demo, "super_resolve", lambda *args: next(calls, stop)(*args))
    with pytest.raises(SystemExit) as stopped:
        run(*flags)
    assert stopped.value.code == 130
    assert "stopped; the same command goes on where it was" in capsys.readouterr().err
    assert sorted(file.name for file in Path("taught").rglob("*_HR/*")) == ["0001.npy"]
    monkeypatch.undo()
    monkeypatch.chdir(published.parent / "work")
    assert run(*flags[:4], "--checkpoint", published / "tiny.safetensors") == 0
    assert "4 written, 1 done before" in capsys.readouterr().out


def stop(*_) -> None:
    raise KeyboardInterrupt


def test_a_pair_that_changed_is_taught_again(published, decoded, capsys):
    flags = ["--teach", decoded, "--output", "taught", "--model", "IMDN_RTC", "--share", "0.5"]
    assert run(*flags) == 0
    before, changed = np.load("taught/DIV2K_train_HR/0002.npy"), decoded / "DIV2K_train_HR/0002.npy"
    np.save(changed, 255 - np.load(changed))
    os.utime(changed, (0, 0))  # put back from an old copy
    assert run(*flags) == 0
    assert "1 written, 4 done before" in capsys.readouterr().out
    assert (np.load("taught/DIV2K_train_HR/0002.npy") != before).any()


def test_another_teacher_does_not_go_on_with_a_taught_set(published, decoded, capsys):
    flags = ["--teach", decoded, "--output", "taught", "--model", "IMDN_RTC"]
    assert run(*flags) == 0
    (done,) = Path("taught").rglob("0001.npy")
    before = np.load(done)
    for other, said in (
        (["--ensemble"], "×8 self-ensemble, share 1"),
        (["--share", "0.5"], "×3, share 0.5"),
        (["--tile", "100"], "tiles of 100"),
        (["--precision", "bfloat16"], "bfloat16"),
    ):
        assert run(*flags, *other) == 1
        assert f"{said}; give another folder" in capsys.readouterr().err
    np.testing.assert_array_equal(np.load(done), before)
    assert run(*flags[:3], decoded, *flags[4:]) == 1
    assert f"DIV2K_decoded holds images and no {TEACHER}" in capsys.readouterr().err
    assert run("--teach", "taught", "--output", "twice", "--model", "IMDN_RTC") == 1
    assert "--teach taught was taught before" in capsys.readouterr().err
    assert run(*flags[:3], "another", *flags[4:], "--ensemble") == 0
    (other,) = Path("another").rglob("0001.npy")
    assert (np.load(other) != before).any()


def test_what_cannot_be_taught_is_named(published, decoded, capsys):
    Path("file").touch()
    shutil.copytree(decoded / "DIV2K_valid_HR", "valid/DIV2K_valid_HR")
    shutil.copytree(decoded / "DIV2K_valid_LR_bicubic", "valid/DIV2K_valid_LR_bicubic")
    for folder, output, says in (
        ("nowhere", "taught", "--teach nowhere is not a folder"),
        ("valid", "taught", "valid holds no training images"),
        (decoded, "file", "--output file is a file"),
    ):
        assert run("--teach", folder, "--output", output, "--model", "IMDN_RTC") == 1
        assert says in capsys.readouterr().err
    np.save(decoded / "DIV2K_valid_HR/0802.npy", smooth_image(33, 36))
    assert run("--teach", decoded, "--output", "taught", "--model", "IMDN_RTC") == 1
    assert "validation pair 0802: HR is 36×33, not 3 times" in capsys.readouterr().err
    assert not Path("taught").exists()


def test_grey_alpha_and_16_bits_survive_upscaling(published):
    rgb = smooth_image(8, 9)
    photos = {
        "grey.png": Photo(np.repeat(rgb[..., :1], 3, axis=2), grey=True, is_one_channel=True),
        "alpha.webp": Photo(rgb, alpha=rgb[..., 0]),
        "deep.tif": Photo(rgb.astype(np.uint16) * 257, icc=bytes(16) + b"RGB " + bytes(108)),
    }
    for name, photo in photos.items():
        write_photo(Path("in") / name, photo)
    assert run("--input", "in", "--output", "out", "--ensemble") == 0
    for name, before in photos.items():
        after = read_photo(Path("out") / name)
        assert after.rgb.shape == (24, 27, 3) and after.rgb.dtype == before.rgb.dtype and after.icc == before.icc
        assert (after.grey, after.is_one_channel) == (before.grey, before.is_one_channel)
        assert (after.alpha is None) == (before.alpha is None)
        scale = 257 if before.rgb.dtype == np.uint16 else 1
        assert np.abs(after.rgb / scale - imresize(before.rgb, 3) / scale).mean() < 20


def test_a_cut_out_keeps_its_colour_at_the_edge(published):
    disc = np.zeros((40, 40), np.uint8)
    cv2.circle(disc, (20, 20), 12, 255, -1)
    write_photo(Path("in.png"), Photo(np.where(disc[..., None], 250, 0).astype(np.uint8).repeat(3, 2), disc))
    assert run("--input", "in.png", "--output", "out.png") == 0
    photo = read_photo(Path("out.png"))
    assert photo.rgb[photo.alpha > 0].min() > 240


def test_export_and_onnxruntime(set5, capsys):
    pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    assert run("--export", "tiny.onnx") == 0
    assert "tiny.onnx: differs from PyTorch by" in capsys.readouterr().out
    ours, theirs = run_json(capsys), run_json(capsys, "--backend", "onnxruntime", "--checkpoint", "tiny.onnx")
    assert theirs["average_psnr_db"] == pytest.approx(ours["average_psnr_db"], abs=0.001)
    assert (theirs["model"], theirs["flops_g"]) == (ours["model"], ours["flops_g"])
    flags = ["--backend", "onnxruntime", "--checkpoint", "tiny.onnx", "--input", "Set5/LRbicx3", "--output", "out"]
    assert run(*flags, "--ensemble") == 0 and len(list(Path("out").iterdir())) == 5
    network = OnnxNetwork(Path("tiny.onnx"))
    assert receptive_margin(SelfEnsemble(network)) == receptive_margin(network) > 0


def test_a_folder_is_written_in_one_format(published, capsys):
    for name in ("in/a.jpg", "in/below/b.c.png"):
        write_rgb(Path(name), smooth_image(6, 7))
    assert run("--input", "in", "--output", "out", "--format", "png") == 0
    assert sorted(map(str, files_below(Path("out")))) == ["out/a.png", "out/below/b.c.png"]
    assert run("--input", "in/a.jpg", "--output", "one", "--format", "webp") == 0 and Path("one/a.webp").exists()
    assert run("--input", "in/a.jpg", "--output", "b.png", "--format", "png") == 1
    write_rgb(Path("in/a.bmp"), smooth_image(6, 7))
    assert run("--input", "in", "--output", "other", "--format", "png") == 1
    said = capsys.readouterr().err
    assert "b.png says the format by itself; leave out --format" in said
    assert "would both be other/a.png; give each its own --output" in said and not Path("other").exists()


def test_a_glob_that_would_write_two_pictures_into_one_is_refused(published, capsys):
    for folder in ("p", "q"):
        write_rgb(Path(folder) / "x.png", smooth_image(8, 9))
    assert run("--input", "*/x.png", "--output", "out", "--overwrite") == 1
    assert "q/x.png and p/x.png would both be out/x.png" in capsys.readouterr().err
    assert not Path("out").exists()


@pytest.mark.parametrize("shortage", SHORTAGES)
def test_a_picture_too_large_for_memory_leaves_the_others(published, shortage, monkeypatch, capsys):
    for name in ("a", "b"):
        write_rgb(Path("in") / f"{name}.png", smooth_image(8, 9 if name == "a" else 10))

    def fail(model, rgb, *_):
        if rgb.shape[1] == 9:
            raise shortage
        return rgb

    monkeypatch.setattr(demo, "super_resolve", fail)
    assert run("--input", "in", "--output", "out") == 1
    out, err = capsys.readouterr()
    assert "1 written, 1 failed" in out and "a.png: out of memory; give a smaller --tile" in err
    assert [file.name for file in Path("out").iterdir()] == ["b.png"]


@pytest.mark.parametrize("shortage", SHORTAGES)
def test_too_little_memory_to_score_costs_one_line(published, shortage, monkeypatch, capsys):
    monkeypatch.setattr(demo, "evaluate", Mock(side_effect=shortage))
    assert run() == 1
    assert capsys.readouterr().err.endswith("\nerror: out of memory; take smaller pictures\n")
