import copy
import errno
import itertools
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import authors_state, smooth_image

import train
from dataset import PairedPatches, find_pairs
from models import MODELS, build_model
from models.kernels.guards import layers_apart
from utils import train_flags
from utils.checkpoint import load_model, load_state, save_state, save_weights
from utils.distributed import Ranks
from utils.files import locked
from utils.images import write_rgb
from utils.layout import TEACHER
from utils.mixed_precision import MixedPrecision
from utils.tables import origins_of

REPOSITORY = Path(__file__).resolve().parents[1]
TINY = ["--model", "IMDN_dw", "--nf", "8", "--modules", "1", "--patch", "24", "--valid-patch", "24", "--batch", "2"]
TINY += ["--iterations", "3", "--device", "cpu", "--set5", "nowhere"]


def run(decoded, save_dir, *flags) -> dict:
    return train.main([*TINY, "--data", str(decoded), "--repeat", "1", "--save-dir", str(save_dir), *flags])


def states_equal(a: object, b: object) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(states_equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(states_equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


SOAP = ["--optimizer", "soap", "--cautious", "--precondition-every", "2"]
RECIPE = [*SOAP, "--loss", "fourier", "--detail", "1", "--noise", "0.1", "--workers", "2"]


@pytest.mark.parametrize("choice", (["--optimizer", "adam"], RECIPE, ["--bf16"]))
def test_resumed_equals_never_stopped_bit_for_bit(decoded, tmp_path, choice):
    flags = [*choice, "--schedule", "cosine", "--warmup", "2", "--ema", "0.9", "--clip", "1", "--epochs", "4"]
    run(decoded, tmp_path / "whole", *flags)

    class Stop(Exception):
        pass

    def stop_after_two(entry, *_):
        if entry["epoch"] == 2:
            raise Stop
        return ""

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(train, "format_entry", stop_after_two)
        run(decoded, tmp_path / "stopped", *flags)
    assert load_state(tmp_path / "stopped/last.pth")["run"]["epoch"] == 2
    train.main(["--resume", str(tmp_path / "stopped/last.pth"), "--device", "cpu"])
    whole, stopped = (load_state(tmp_path / name / "last.pth") for name in ("whole", "stopped"))
    for key in ("model", "ema", "optimizer"):
        assert states_equal(whole[key], stopped[key]), key
    for key in ("epoch", "best_psnr_db"):
        assert whole["run"][key] == stopped["run"][key]
    logs = [[json.loads(line) for line in (tmp_path / name / "log.jsonl").open()] for name in ("whole", "stopped")]
    for a, b in zip(*logs, strict=True):
        assert {**a, "hours": 0} == {**b, "hours": 0}


class Drop(torch.nn.Sequential):
    """A network whose training draws at random and keeps statistics."""

    def __init__(self, nf: int = 8, num_modules: int = 1, scale: int = 3) -> None:
        upsampler = [torch.nn.Conv2d(nf, 3 * scale**2, 3, padding=1), torch.nn.PixelShuffle(scale)]
        super().__init__(torch.nn.Conv2d(3, nf, 3, padding=1), torch.nn.BatchNorm2d(nf), torch.nn.Dropout(), *upsampler)


def test_what_is_drawn_in_training_is_as_if_the_run_had_never_stopped(decoded, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "Drop", Drop)
    monkeypatch.setattr(torch, "compile", lambda model, **options: model)
    flags = ["--model", "Drop", "--compile", "--epochs"]
    run(decoded, tmp_path / "whole", *flags, "2")
    run(decoded, tmp_path / "half", *flags, "1")
    train.main(["--resume", str(tmp_path / "half/last.pth"), "--epochs", "2", "--device", "cpu", "--compile"])
    whole, resumed = (load_state(tmp_path / name / "last.pth")["model"] for name in ("whole", "half"))
    assert states_equal(whole, resumed) and whole["1.num_batches_tracked"] == 6


def test_soap_changes_its_ways_on_resume(decoded, tmp_path):
    run(decoded, tmp_path, "--optimizer", "soap", "--epochs", "1")
    resume = ["--resume", str(tmp_path / "last.pth"), "--device", "cpu", "--epochs"]
    train.main([*resume, "2", "--cautious", "--precondition-every", "5"])
    (group,) = load_state(tmp_path / "last.pth")["optimizer"]["param_groups"]
    assert group["cautious"] and group["precondition_every"] == 5
    train.main([*resume, "3", "--no-cautious"])
    (group,) = load_state(tmp_path / "last.pth")["optimizer"]["param_groups"]
    assert not group["cautious"] and group["precondition_every"] == 5


@pytest.mark.parametrize("how", ("SIGKILL", "SIGTERM"))
def test_killed_and_resumed(decoded, tmp_path, how):
    """kill in the middle of a run, then --resume: the weights of a run never stopped."""
    flags = ["--epochs", "6", "--ema", "0.9"]
    command = [sys.executable, "train.py", *TINY, "--data", str(decoded), "--repeat", "1", *flags]
    process = subprocess.Popen(
        [*command, "--save-dir", str(tmp_path / "killed")], cwd=REPOSITORY,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (tmp_path / "killed/last.pth").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(getattr(signal, how))
    process.wait()
    if how == "SIGTERM":
        assert process.returncode == 143 and not list((tmp_path / "killed").glob(".*"))
    assert load_state(tmp_path / "killed/last.pth")["run"]["epoch"] < 6
    train.main(["--resume", str(tmp_path / "killed/last.pth"), "--device", "cpu"])
    run(decoded, tmp_path / "whole", *flags)
    killed, whole = (load_state(tmp_path / name / "last.pth") for name in ("killed", "whole"))
    assert states_equal(killed["model"], whole["model"]) and states_equal(killed["ema"], whole["ema"])


def test_a_run_leaves_what_the_docstring_says(decoded, tmp_path, capsys):
    (decoded / TEACHER).write_text("a larger network")
    entry = run(decoded, tmp_path, "--epochs", "2", "--schedule", "cosine")
    assert {f.name for f in tmp_path.iterdir() if f.is_file()} == {
        "last.pth", "best.pth", "best.safetensors", "log.jsonl", "lrs.png", "losses.png", "psnr.png",
    }  # fmt: skip
    out = capsys.readouterr().out
    assert "epoch 2/2" in out and "validation" in out and "Set5 is not scored" in out
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").open()]
    assert [line["epoch"] for line in lines] == [1, 2] and lines[-1] == entry
    model, metadata = load_model(tmp_path / "best.safetensors")
    assert metadata["model"] == "IMDN_dw" and metadata["hyperparameters"] == {"nf": 8, "num_modules": 1, "scale": 3}
    assert metadata["iterations"] in (3, 6) and metadata["metrics"]["valid_psnr_db"] > 0
    assert metadata["data"]["teachers"] == {str(decoded): "a larger network"}
    resumed, _ = load_model(tmp_path / "best.pth")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters()))


def test_the_best_is_chosen_by_validation_never_by_set5(decoded, tmp_path, monkeypatch):
    valid, set5 = iter((30.0, 29.0)), iter(((20.0, []), (40.0, [])))
    monkeypatch.setattr(train, "validate", lambda *_: next(valid))
    monkeypatch.setattr(train, "score", lambda *_: next(set5))
    monkeypatch.setattr(train.BenchmarkSet, "from_set5", lambda *_: "Set5")
    run(decoded, tmp_path / "run", "--epochs", "2", "--set5", str(tmp_path))
    assert load_state(tmp_path / "run/best.pth")["run"]["epoch"] == 1
    assert load_state(tmp_path / "run/last.pth")["run"]["epoch"] == 2


def test_noise_changes_what_is_learnt_and_is_no_image_of_the_set(decoded, tmp_path, capsys):
    runs = [tmp_path / "photos", tmp_path / "noise"]
    for folder, share in zip(runs, ("0", "0.5")):
        run(decoded, folder, "--epochs", "1", "--noise", share)
        assert f"{len(find_pairs(decoded, 'training', 3))} training and 2 val" in capsys.readouterr().out
    (photos, described), (noise, as_noise) = (load_model(folder / "best.safetensors") for folder in runs)
    assert (described["flags"]["noise"], as_noise["flags"]["noise"]) == (0, 0.5)
    assert any((a != b).any() for a, b in zip(photos.parameters(), noise.parameters(), strict=True))


def test_the_sample_set_trains(tmp_path):
    entry = train.main(
        [*TINY, "--data", "sample", "--save-dir", str(tmp_path), "--epochs", "1", "--init", "interpolation"]
    )
    assert entry["valid_psnr_db"] > 20


@pytest.mark.parametrize(
    "flags",
    (
        ["--bf16"],
        ["--channels-last"],
        ["--workers", "2"],
        ["--model", "DRLN_slim", "--modules", "2"],
        ["--loss", "psnr"],
        ["--loss", "fourier"],
    ),
)
def test_other_paths_train(decoded, tmp_path, flags):
    assert math.isfinite(run(decoded, tmp_path, "--epochs", "1", *flags)["train_loss"])


def test_detail_changes_which_patches_are_drawn(decoded, tmp_path):
    losses = {power: run(decoded, tmp_path / power, "--epochs", "1", "--detail", power)["train_loss"] for power in "08"}
    assert math.isfinite(losses["8"]) and losses["8"] != losses["0"]


def test_learning_lowers_the_loss(decoded, tmp_path):
    run(decoded, tmp_path, "--epochs", "2", "--iterations", "60", "--lr", "3e-3")
    first, last = [json.loads(line)["train_loss"] for line in (tmp_path / "log.jsonl").open()]
    assert last < 0.7 * first


def test_no_data_says_where_to_get_it(tmp_path):
    with pytest.raises(SystemExit) as stopped:
        train.main([*TINY, "--data", str(tmp_path / "DIV2K_decoded"), "--save-dir", str(tmp_path / "run")])
    message = str(stopped.value)
    for part in ("DIV2K_decoded", "data.vision.ee.ethz.ch", "Flickr2K.tar", "or try it with nothing downloaded"):
        assert part in message and "alone" not in message


@pytest.mark.parametrize("have", train.DEFAULT_DATA)
def test_the_set_that_is_here_is_offered_where_it_is_enough(have, decoded, tmp_path):
    here = decoded.rename(tmp_path / have)
    flags = ["--save-dir", str(tmp_path / "run"), "--data", *(str(tmp_path / name) for name in train.DEFAULT_DATA)]
    with pytest.raises(SystemExit, match=re.escape(f"or train on {here} alone: --data {here}")):
        train.main([*TINY, *flags])
    shutil.rmtree(here / "DIV2K_valid_HR")
    with pytest.raises(SystemExit, match="or try it with nothing downloaded: --data sample"):
        train.main([*TINY, *flags])


def test_a_run_is_not_written_over(decoded, tmp_path):
    run(decoded, tmp_path, "--epochs", "1")
    with pytest.raises(SystemExit, match="holds another run"):
        run(decoded, tmp_path, "--epochs", "1")


def test_resuming_cannot_change_the_network_and_needs_epochs(decoded, tmp_path, capsys):
    run(decoded, tmp_path, "--epochs", "1")
    with pytest.raises(SystemExit):
        train.main(["--resume", str(tmp_path / "last.pth"), "--device", "cpu", "--nf", "12"])
    assert "--nf 12: the resumed run has 8" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="--epochs above"):
        train.main(["--resume", str(tmp_path / "last.pth"), "--device", "cpu"])
    assert train.main(["--resume", str(tmp_path / "last.pth"), "--device", "cpu", "--epochs", "2"])["epoch"] == 2
    assert len(load_state(tmp_path / "last.pth")["run"]["commands"]) == 2


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_state(decoded, tmp_path):
    run(decoded, tmp_path, "--epochs", "1")
    with pytest.raises(SystemExit, match=r"became (nan|inf) in epoch 2.*--lr"):
        train.main(["--resume", str(tmp_path / "last.pth"), "--device", "cpu", "--epochs", "3", "--lr", "1e30"])
    assert load_state(tmp_path / "last.pth")["run"]["epoch"] == 1


def test_weights_that_are_not_finite_are_not_saved(decoded, tmp_path, monkeypatch):
    step, steps = torch.optim.Adam.step, []

    def spoil(optimizer, *args):
        steps.append(1)
        if len(steps) == 6:  # the last of epoch 2, whose weights no loss has seen
            for parameter in optimizer.param_groups[0]["params"]:
                parameter.grad.fill_(math.inf)
        return step(optimizer, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", spoil)
    with pytest.raises(SystemExit, match=r"weights became infinite in epoch 2; go on by --resume .*last.pth"):
        run(decoded, tmp_path, "--epochs", "3")
    state = load_state(tmp_path / "last.pth")
    assert state["run"]["epoch"] == 1 and all(tensor.isfinite().all() for tensor in state["model"].values())


def test_moments_follow_the_weights_into_another_layout(decoded, tmp_path):
    flags = ["--model", "IMDN", "--batch", "1", "--iterations", "20"]
    run(decoded, tmp_path / "before", *flags, "--channels-last", "--epochs", "1")
    ends = []
    for layout in ("--channels-last", "--no-channels-last"):
        shutil.copytree(tmp_path / "before", tmp_path / layout)
        train.main(["--resume", str(tmp_path / layout / "last.pth"), "--device", "cpu", "--epochs", "2", layout])
        ends.append(load_state(tmp_path / layout / "last.pth")["model"])
    for name, tensor in ends[0].items():
        torch.testing.assert_close(tensor, ends[1][name], rtol=0, atol=1e-5, msg=name)


def test_the_rate_stays_below_its_peak_and_reaches_it():
    low = train.parse_args([*TINY, "--lr", "1e-4"])[0]
    assert train.learning_rate(0, low) == train.learning_rate(10**7, low) == 1e-4
    short = train.parse_args([*TINY, "--lr", "1e-3", "--schedule", "cosine", "--epochs", "10"])[0]
    assert max(train.learning_rate(step, short) for step in range(30)) == 1e-3


def test_a_warm_up_longer_than_the_run_is_said(decoded, tmp_path, capsys):
    run(decoded, tmp_path, "--epochs", "1", "--warmup", "4")
    assert "--warmup 4 is longer than the run" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_said_before_training(decoded, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"--save-dir .*sub: .*file is not a folder"):
        run(decoded, tmp_path / "file/sub", "--epochs", "1")
    monkeypatch.setattr(tempfile, "mkdtemp", Mock(side_effect=OSError("No space left on device")))
    with pytest.raises(SystemExit, match=r"--save-dir .*sub: .* is not a folder that can be written to"):
        run(decoded, tmp_path / "sub", "--epochs", "1")


def test_the_report_s_schedule_is_the_default():
    args, _ = train.parse_args([])
    assert train.learning_rate(0, args) == pytest.approx(1e-3)
    assert train.learning_rate(1_000_000, args) == train.learning_rate(1_999_999, args) == pytest.approx(3e-4)
    assert (args.batch, args.patch, args.iterations, args.optimizer, args.data) == (
        16, 192, 1000, "adam", ["DIV2K_decoded", "Flickr2K_decoded"],
    )  # fmt: skip
    assert args.repeat == [10, 1]


@pytest.fixture(scope="module")
def plain_loss(decoded_once) -> float:
    """Mean of the last 100 of 200 steps by a loop of float32 NCHW, one module at a time, one sample at a time."""
    torch.manual_seed(0)
    model = build_model("IMDN_dw", nf=8, num_modules=1)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    patches = PairedPatches([(find_pairs(decoded_once, "training", 3), 1)], scale=3, patch_size=24, split="training")
    losses = []
    for step in range(200):
        lr, hr = (torch.cat([patches[[i]][part] for i in (2 * step, 2 * step + 1)]) for part in (0, 1))
        with layers_apart():
            sr = model(lr.contiguous() / 255)
        loss = torch.nn.functional.l1_loss(sr, hr.contiguous() / 255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.mean(losses[100:])


@pytest.mark.parametrize("flags", ([], ["--bf16"], ["--cache", "ram"]))
def test_the_fast_path_learns_what_the_plain_one_does(decoded, tmp_path, flags, plain_loss):
    entry = run(decoded, tmp_path, "--epochs", "2", "--iterations", "100", *flags)
    assert entry["train_loss"] == pytest.approx(plain_loss, rel=0.02)


@pytest.mark.parametrize(("seconds", "times"), [(120, 1), (0, 3)])
def test_plots_are_drawn_now_and_then_and_at_the_end(decoded, tmp_path, monkeypatch, seconds, times):
    drawn = []
    monkeypatch.setattr(train, "REDRAW_SECONDS", seconds)
    monkeypatch.setattr(train, "draw_plots", lambda entries, folder: drawn.append(len(entries)))
    run(decoded, tmp_path, "--epochs", "3")
    assert len(drawn) == times and drawn[-1] == 3


def test_a_plot_that_cannot_be_written_ends_no_run(decoded, tmp_path, capsys):
    (tmp_path / "run/psnr.png").mkdir(parents=True)
    run(decoded, tmp_path / "run", "--epochs", "1")
    assert load_state(tmp_path / "run/last.pth")["run"]["epoch"] == 1
    assert "psnr.png" in (err := capsys.readouterr().err) and "warning" in err and "training goes on" in err


def test_one_command_starts_a_run_and_goes_on_with_it(decoded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = [*TINY, "--data", str(decoded), "--repeat", "1", "--resume", "auto"]
    assert train.main([*flags, "--epochs", "1"])["epoch"] == 1
    assert load_state(Path("runs/IMDN_dw_nf8_m1_x3/last.pth"))["run"]["epoch"] == 1
    assert train.main([*flags, "--epochs", "2"])["epoch"] == 2
    assert len((tmp_path / "runs/IMDN_dw_nf8_m1_x3/log.jsonl").read_text().splitlines()) == 2
    assert train.main([*flags, "--epochs", "3", "--save-dir", "runs/IMDN_dw_nf8_m1_x3/"])["epoch"] == 3
    with pytest.raises(SystemExit) as ended:  # not started again and again
        train.main([*flags, "--epochs", "3"])
    assert ended.value.code == 0


def test_what_is_compiled_enters_bfloat16_itself(decoded, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model, **options: compiled.append(model) or model)
    run(decoded, tmp_path, "--epochs", "1", "--compile", "--bf16")
    assert isinstance(compiled[0], MixedPrecision) and compiled[0].bf16  # not a network under autocast


def test_a_compiler_that_fails_costs_one_line(decoded, tmp_path, monkeypatch, capsys):
    def fail(model, **options):
        raise RuntimeError("no C++ compiler\nand a long explanation")

    monkeypatch.setattr(torch, "compile", fail)
    assert math.isfinite(run(decoded, tmp_path, "--epochs", "1", "--compile")["train_loss"])
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert warnings == ["warning: torch.compile failed, training goes on without it: no C++ compiler"]


@pytest.mark.parametrize("shortage", (torch.OutOfMemoryError("full"), RuntimeError("CUDA error: out of memory")))
@pytest.mark.parametrize("flags", ([], ["--compile"]))
def test_too_little_gpu_memory_costs_one_line(decoded, tmp_path, flags, shortage, monkeypatch, capsys):
    monkeypatch.setattr(MixedPrecision, "forward", Mock(side_effect=shortage))
    monkeypatch.setattr(torch, "compile", lambda model, **options: model)
    with pytest.raises(SystemExit, match="error: out of memory; take a smaller --batch or --patch"):
        run(decoded, tmp_path, "--epochs", "1", *flags)
    assert "warning" not in capsys.readouterr().err


def test_two_runs_do_not_write_into_one_folder(decoded, tmp_path):
    with locked(tmp_path / "run"):
        with pytest.raises(SystemExit, match="another process writes to .*run; wait for it"):
            run(decoded, tmp_path / "run", "--epochs", "1")
        assert (tmp_path / "run").is_dir()  # empty as yet, and the first one's
    assert not (tmp_path / "run").exists()
    run(decoded, tmp_path / "run", "--epochs", "1")


def test_the_best_is_sought_anew_on_other_validation_images(decoded, tmp_path, capsys):
    run(decoded, tmp_path / "run", "--epochs", "1")
    other = shutil.copytree(decoded, tmp_path / "other")
    for file in other.glob("DIV2K_valid*/**/*080[12]*.npy"):
        np.save(file.with_name(file.name.replace("080", "090")), 255 - np.load(file))
        file.unlink()
    state = load_state(tmp_path / "run/last.pth")
    state["run"]["best_psnr_db"] = 99.0
    save_state(tmp_path / "run/last.pth", state)
    resume = ["--resume", str(tmp_path / "run/last.pth"), "--device", "cpu", "--epochs"]
    train.main([*resume, "2"])
    assert load_state(tmp_path / "run/last.pth")["run"]["best_psnr_db"] == 99.0
    train.main([*resume, "3", "--data", str(other)])
    assert load_state(tmp_path / "run/last.pth")["run"]["best_psnr_db"] < 99.0
    assert "other validation images than before" in capsys.readouterr().err


def test_other_training_images_are_told_of(decoded, tmp_path, capsys):
    run(decoded, tmp_path / "run", "--epochs", "1")
    resume = ["--resume", str(tmp_path / "run/last.pth"), "--device", "cpu", "--epochs"]
    train.main([*resume, "2"])
    assert "warning" not in capsys.readouterr().err
    for file in decoded.glob("DIV2K_train*/**/0002*.npy"):
        file.unlink()
    train.main([*resume, "3"])
    assert "other training images than before" in capsys.readouterr().err


def test_a_flat_validation_image_has_a_finite_psnr(decoded):
    for file in decoded.glob("DIV2K_valid*/**/*0801*.npy"):
        np.save(file, np.full_like(np.load(file), 255))  # which Upsample reproduces
    valid = PairedPatches([(find_pairs(decoded, "validation", 3), 1)], scale=3, patch_size=24, split="validation")
    args = SimpleNamespace(batch=2, device="cpu", channels_last=False)
    nearest = torch.nn.Upsample(scale_factor=3)
    assert 29 < train.validate(nearest, valid, Ranks(), args) < 50


def test_a_validation_of_nan_ends_the_run_and_is_not_saved(decoded, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "validate", lambda *_: math.nan)
    with pytest.raises(SystemExit, match="error: the validation PSNR became nan in epoch 1; start again"):
        run(decoded, tmp_path, "--epochs", "1")
    assert not list(tmp_path.glob("*.pth"))


def test_a_damaged_state_points_to_the_one_beside_it(decoded, tmp_path, capsys):
    run(decoded, tmp_path, "--epochs", "1")
    for file, says in (
        (tmp_path / "last.pth", f"short; beside it is {tmp_path}/best.pth\n"),
        (tmp_path / "best.pth", f"short; beside it is {tmp_path}/last.pth\n"),
        (tmp_path / "lst.pth", f"does not exist; beside it is {tmp_path}/last.pth\n"),
        (tmp_path / "last", f"does not exist; beside it is {tmp_path}/last.pth\n"),
        (tmp_path, f"is a folder; give a file; in it is {tmp_path}/last.pth\n"),
    ):
        before = file.read_bytes() if file.is_file() else b""
        if before:
            file.write_bytes(before[:-100])
        with pytest.raises(SystemExit):
            train.main(["--resume", str(file)])
        assert capsys.readouterr().err.endswith(says)
        if before:
            file.write_bytes(before)
    with pytest.raises(SystemExit):
        train.main(["--resume", "."])
    assert capsys.readouterr().err == "error: --resume: . is a folder; give a file\n"


@pytest.mark.parametrize(("channels", "larger", "made"), ((3, 2, "2, 3, 16, 16"), (1, 3, "2, 1, 24, 24")))
def test_a_network_of_one_s_own_must_make_rgb_of_the_scale(channels, larger, made, decoded, tmp_path, monkeypatch):
    class Wrong(torch.nn.Sequential):
        def __init__(self, nf: int = 8, num_modules: int = 1, scale: int = 3) -> None:
            super().__init__(torch.nn.Conv2d(3, channels * larger**2, 1), torch.nn.PixelShuffle(larger))

    monkeypatch.setitem(MODELS, "Wrong", Wrong)
    says = rf"^error: Wrong makes \({made}\) of \(2, 3, 8, 8\), not \(2, 3, 24, 24\): RGB, --scale 3 times as large$"
    with pytest.raises(SystemExit, match=says):
        run(decoded, tmp_path, "--model", "Wrong")


def test_weights_that_give_nan_are_not_gone_on_from(decoded, tmp_path):
    network = build_model("IMDN_dw", nf=8, num_modules=1)
    torch.nn.utils.vector_to_parameters(torch.full((30000,), 1e30), network.parameters())  # finite, unlike its output
    described = {"model": "IMDN_dw", "hyperparameters": {"nf": 8, "num_modules": 1, "scale": 3}}
    save_weights(tmp_path / "w.safetensors", network, described)
    for optimizer in ("adam", "soap"):
        with pytest.raises(SystemExit, match="w.safetensors: these weights give nan on the validation images; give"):
            run(decoded, tmp_path / "run", "--init", str(tmp_path / "w.safetensors"), "--optimizer", optimizer)


@pytest.mark.parametrize("flags", ([], ["--resume", "auto"]))
@pytest.mark.parametrize("name", ("best.safetensors", "best.pth"))
def test_weights_in_the_way_are_not_replaced(decoded, tmp_path, name, flags):
    run(decoded, tmp_path / "first", "--epochs", "1")
    for file in (name, "log.jsonl"):
        shutil.copy(tmp_path / "first" / file, tmp_path)
    before = (tmp_path / name).read_bytes()
    says = f"error: .*{name} would be replaced; move it, or give another --save-dir"
    says += f", or go on with it: --resume .*{name}$" if name == "best.pth" else "$"
    with pytest.raises(SystemExit, match=says):
        run(decoded, tmp_path, "--epochs", "1", *flags)
    assert (tmp_path / name).read_bytes() == before
    (tmp_path / "log.jsonl").unlink()  # a job that was killed in its first save
    run(decoded, tmp_path, "--epochs", "1", "--resume", "auto")


def test_ranks_with_other_images_stop(decoded, tmp_path):
    marks = []

    def check(root, set5=None, others=None):
        pairs = [find_pairs(root, split, 3) for split in ("training", "validation")]
        patches = [PairedPatches([(each, 1)], scale=3, patch_size=24, split="training") for each in pairs]
        ranks = Mock(
            world=2, rank=1, sum=lambda values, _: marks.append(values[0]) or [values[0] + (others or values[0])]
        )
        train.check_same_images(train.Sets(*patches, set5), ranks, Mock(set5="Set5"))

    check(decoded)
    check(decoded, set5=[("baby", None, None)])
    other = shutil.copytree(decoded, tmp_path / "other")
    np.save(other / "DIV2K_valid_HR/0802.npy", np.zeros((36, 39, 3), np.uint8))
    np.save(other / "DIV2K_valid_LR_bicubic/X3/0802x3.npy", np.zeros((12, 13, 3), np.uint8))
    check(other)
    for file in other.rglob("0802*.npy"):
        file.unlink()
    check(other)
    assert len(set(marks)) == 4
    with pytest.raises(train.TrainingError, match="rank 1 has 3 training and 1 validation images and no Set5, others"):
        check(other, others=marks[0])


def test_an_older_state_warns_of_the_epochs_that_it_replaces(decoded, tmp_path, capsys):
    run(decoded, tmp_path / "run", "--epochs", "1")
    older = shutil.copy(tmp_path / "run/last.pth", tmp_path / "run/older.pth")
    resume = ["--device", "cpu", "--epochs", "2", "--resume"]
    train.main([*resume, str(tmp_path / "run/last.pth")])
    assert "will be replaced" not in capsys.readouterr().err
    train.main([*resume, str(older)])
    assert f"{tmp_path}/run holds 1 later epoch, which will be replaced" in capsys.readouterr().err


def test_a_resumed_run_takes_another_set(decoded, tmp_path):
    run(decoded, tmp_path / "run", "--epochs", "1")
    other = shutil.copytree(decoded, tmp_path / "other")
    resume = ["--resume", str(tmp_path / "run/last.pth"), "--device", "cpu", "--epochs", "2"]
    train.main([*resume, "--data", str(decoded), str(other)])
    assert load_state(tmp_path / "run/last.pth")["args"]["repeat"] == [1, 1]
    resume[-1] = "3"
    train.main([*resume, "--repeat", "3", "2"])
    resume[-1] = "4"
    train.main([*resume, "--data", str(other), str(decoded)])
    assert load_state(tmp_path / "run/last.pth")["args"]["repeat"] == [3, 2]
    shutil.rmtree(other)
    with pytest.raises(SystemExit, match="other is not a folder; where the resumed run's sets lie elsewhere now"):
        train.main([*resume[:-1], "5"])


def test_a_file_system_without_locks_is_written_to_as_well(decoded, tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(errno.ENOSYS, "Function not implemented")))
    run(decoded, tmp_path / "run", "--epochs", "1")
    assert (tmp_path / "run/last.pth").exists()


def test_the_shares_of_the_sets_are_told(decoded, tmp_path, capsys):
    other = shutil.copytree(decoded, tmp_path / "other")
    run(
        decoded,
        tmp_path / "run",
        "--epochs",
        "1",
        "--data",
        str(decoded),
        str(other),
        "--repeat",
        "3",
        "1",
        "--noise",
        "0.2",
    )
    assert "patches: 60.0% DIV2K_decoded, 20.0% other, 20.0% noise\n" in capsys.readouterr().out


def test_the_cache_is_the_fastest_place_with_room(decoded, monkeypatch):
    pairs = find_pairs(decoded, "training", 3)
    for flag, memory, in_ram in (("auto", 10**9, True), ("auto", 1000, False), ("disk", 10**9, False)):
        args, _ = train.parse_args(["--data", "sample", "--device", "cpu", "--cache", flag])
        monkeypatch.setattr(train, "available_bytes", lambda memory=memory: memory)
        placed = train.place(PairedPatches([(pairs, 1)], scale=3, patch_size=24, split="training"), train.Ranks(), args)
        assert all(isinstance(source, np.ndarray) == in_ram for source in placed.hr.sources)


def test_a_run_goes_on_from_other_weights(decoded, tmp_path, capsys):
    run(decoded, tmp_path / "a", "--epochs", "2")
    weights = tmp_path / "a/best.safetensors"
    flags = ["--init", str(weights), "--lr", "1e-9", "--loss", "mse"]
    run(decoded, tmp_path / "b", "--epochs", "1", *flags)
    before, after = (load_model(tmp_path / name / "best.safetensors") for name in ("a", "b"))
    for a, b in zip(before[0].parameters(), after[0].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert after[1]["iterations"] == before[1]["iterations"] + 3 and after[1]["flags"]["loss"] == "mse"
    assert [leg["from_iteration"] for leg in after[1]["commands"]] == [0, before[1]["iterations"]]
    first, *_, last = after[1]["curve"]
    assert after[1]["curve"][: len(before[1]["curve"])] == before[1]["curve"]
    assert (first["iteration"], last["iteration"]) == (3, after[1]["iterations"]) and first["hours"] <= last["hours"]
    assert after[1]["hours"] >= before[1]["hours"]
    run(decoded, tmp_path / "deeper", "--epochs", "1", "--modules", "2", *flags)
    assert f"tensors start from {weights}\n" in capsys.readouterr().out
    deeper = load_model(tmp_path / "deeper/best.safetensors")[1]
    assert deeper["iterations"] == before[1]["iterations"] + 3
    assert len(deeper["curve"]) == 1  # no other network's scores
    one_block = {"network": "IMDN_dw_nf8_m1_x3", "iterations": before[1]["iterations"], "before": None}
    assert deeper["started_from"] == one_block
    shallow, deep = (load_model(tmp_path / name / "best.safetensors")[0] for name in ("a", "deeper"))
    image = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(deep(image), shallow(image), rtol=0, atol=1e-5)  # new blocks begin by adding nothing
    weights = tmp_path / "deeper/best.safetensors"
    run(decoded, tmp_path / "deeper2", "--epochs", "1", "--modules", "2", "--init", str(weights))
    again = load_model(tmp_path / "deeper2/best.safetensors")[1]
    assert again["started_from"] == deeper["started_from"] and len(again["curve"]) == 2
    run(decoded, tmp_path / "deepest", "--epochs", "1", "--modules", "3", *flags[2:], "--init", str(weights))
    deepest = load_model(tmp_path / "deepest/best.safetensors")[1]["started_from"]
    assert deepest == {"network": "IMDN_dw_nf8_m2_x3", "iterations": deeper["iterations"], "before": one_block}
    assert list(origins_of(deepest)) == ["3 as IMDN_dw_nf8_m2_x3", f"{before[1]['iterations']} as IMDN_dw_nf8_m1_x3"]
    capsys.readouterr()
    run(decoded, tmp_path / "worse", "--epochs", "1", *flags, "--lr", "0.5", "--optimizer", "adam")
    out, err = capsys.readouterr()
    figure = before[1]["metrics"]["valid_psnr_db"]
    assert f"start  validation {figure:.3f} dB\n" in out  # the start is scored as it was
    assert f"dB, the weights it started from {figure:.3f} dB; train longer, or with a lower --lr" in err
    with pytest.raises(SystemExit, match="a training state; give the best.safetensors beside it"):
        run(decoded, tmp_path / "c", "--epochs", "1", "--init", str(tmp_path / "a/best.pth"))
    with pytest.raises(SystemExit, match="holds IMDN_dw, not DRLN_narrow"):
        run(decoded, tmp_path / "c", "--epochs", "1", "--model", "DRLN_narrow", "--modules", "2", *flags)
    with pytest.raises(SystemExit, match="nowhere.safetensors does not exist"):
        run(decoded, tmp_path / "d", "--epochs", "1", "--init", "nowhere.safetensors")


def test_a_network_that_cannot_start_from_interpolation_says_so(decoded, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "build_model", lambda name, **sizes: torch.nn.Conv2d(3, 3, 3))
    with pytest.raises(SystemExit, match="error: IMDN_dw has no start_from_interpolation"):
        run(decoded, tmp_path / "run", "--epochs", "1", "--init", "interpolation")


def test_a_run_goes_on_from_the_authors_weights(decoded, tmp_path):
    network = build_model("IMDN", nf=16, num_modules=2)
    torch.save(authors_state(network), tmp_path / "IMDN_x3.pth")
    flags = ["--model", "IMDN", "--nf", "16", "--modules", "2", "--init", str(tmp_path / "IMDN_x3.pth"), "--lr", "1e-9"]
    run(decoded, tmp_path / "run", "--epochs", "1", *flags)
    tuned, metadata = load_model(tmp_path / "run/best.safetensors")
    for a, b in zip(network.parameters(), tuned.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert metadata["iterations"] == 3 and len(metadata["commands"]) == 1
    assert metadata["started_from"] == {"network": "IMDN_x3.pth", "iterations": None}


def test_epochs_between_evaluations_are_saved_and_logged(decoded, tmp_path, monkeypatch, capsys):
    saved = []
    monkeypatch.setattr(train, "save_state", lambda path, state: saved.append((path.name, state["run"]["epoch"])))
    run(decoded, tmp_path, "--epochs", "3", "--eval-every", "2")
    assert [epoch for name, epoch in saved if name == "last.pth"] == [1, 2, 3]
    curve = load_model(tmp_path / "best.safetensors")[1]["curve"]
    assert curve and all(point["valid_psnr_db"] is not None for point in curve)  # evaluations alone
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").open()]
    assert [entry["valid_psnr_db"] is not None for entry in log] == [False, True, True]  # the last one is
    assert all(entry["train_loss"] > 0 for entry in log)
    assert ["validation" in line for line in capsys.readouterr().out.splitlines()[-4:-1]] == [False, True, True]


def test_a_stretched_cosine_is_told_of(decoded, tmp_path, capsys):
    run(decoded, tmp_path, "--epochs", "1", "--schedule", "cosine", "--warmup", "0")
    capsys.readouterr()
    train.main(["--resume", str(tmp_path / "last.pth"), "--epochs", "2"])
    assert "change the learning rate from 1.00e-06 to 5.01e-04" in capsys.readouterr().err
    train.main(["--resume", str(tmp_path / "last.pth"), "--epochs", "3", "--schedule", "report"])
    assert "from 1.00e-06 to 1.00e-03" in capsys.readouterr().err
    train.main(["--resume", str(tmp_path / "last.pth"), "--epochs", "4"])  # a longer run of the same schedule
    assert "warning" not in capsys.readouterr().err


def test_minutes_end_the_run_and_its_cosine(decoded, tmp_path, monkeypatch):
    seconds = itertools.count(step=1.0)  # one for each look at the clock
    monkeypatch.setattr(train, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    last = run(decoded, tmp_path, "--minutes", "1", "--schedule", "cosine", "--warmup", "0", "--lr-min", "1e-4")
    assert 5 < last["epoch"] < 60 and 50 < 3600 * last["hours"] < 63
    assert 1e-4 <= last["learning_rate"] < 2e-4
    rates = [json.loads(line)["learning_rate"] for line in (tmp_path / "log.jsonl").open()]
    assert rates[0] > 9e-4 and rates == sorted(rates, reverse=True)
    resume = ["--resume", str(tmp_path / "last.pth"), "--device", "cpu"]
    with pytest.raises(
        SystemExit, match="after .* minutes, which --minutes counts; give --minutes that hold another epoch"
    ):
        train.main(resume)
    with pytest.raises(SystemExit, match="give --minutes that hold another epoch"):
        train.main([*resume, "--minutes", "0.5"])
    longer = train.main([*resume, "--minutes", "2"])
    assert 110 < 3600 * longer["hours"] < 123
    last = train.main([*resume, f"--epochs={longer['epoch'] + 1}"])
    assert last["epoch"] == longer["epoch"] + 1
    longest = train.main([*resume, "--minutes", "3"])  # of a run that was counted in epochs
    assert longest["epoch"] > last["epoch"] and 3600 * longest["hours"] < 183


@pytest.mark.parametrize("every", ("1", "5", "10"))
def test_minutes_hold_the_last_evaluation(decoded, tmp_path, monkeypatch, every):
    now = [0.0]

    def takes(seconds: float, result: float):
        def pass_time(*_):
            now[0] += seconds
            return result

        return pass_time

    monkeypatch.setattr(train, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(train, "train_epoch", takes(1, 0.1))
    monkeypatch.setattr(train, "validate", takes(8, 20.0))
    for name in ("save", "draw"):
        monkeypatch.setattr(train, name, lambda *_: None)
    for seconds in range(90, 130, 7):
        flags = ["--schedule", "cosine", "--eval-every", every, "--minutes", str(seconds / 60)]
        last = run(decoded, tmp_path / str(seconds), *flags)
        assert seconds - 18 < 3600 * last["hours"] < seconds + 1


def test_slower_convs_are_told_of(decoded, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train.chain, "compiled", lambda: (None, "no C++ compiler"))
    run(decoded, tmp_path, "--epochs", "1")
    assert "layers run one at a time, which is slower: no C++ compiler" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "compiler", "expected"),
    (
        ([], True, False),
        ([], False, True),
        (["--nf", "64", "--modules", "1"], True, False),
        (["--model", "IMDN", "--modules", "1"], True, True),
        (["--bf16"], True, True),
        (["--compile"], True, True),
        (["--channels-last"], True, True),
    ),
)
def test_the_layout_is_that_of_the_faster_convs(flags, compiler, expected, monkeypatch):
    monkeypatch.setattr(train.chain, "compiled", lambda: (object(), "") if compiler else (None, "no C++ compiler"))
    monkeypatch.setattr(train, "unfuse_if_edited", lambda model: None)  # which would run that object
    args, _ = train.parse_args(["--data", "sample", "--device", "cpu", *flags])
    train.build(args, None)
    assert args.channels_last == expected


@pytest.mark.parametrize(
    ("has_bf16", "flags", "expected"), ((True, [], True), (True, ["--no-bf16"], False), (False, [], False))
)
def test_on_a_gpu_the_layout_goes_with_the_precision(has_bf16, flags, expected, monkeypatch):
    monkeypatch.setattr(train_flags, "check_device", lambda device: None)
    monkeypatch.setattr(train_flags, "has_bf16", lambda device: has_bf16)
    args, _ = train.parse_args(["--data", "sample", "--device", "cuda:0", *flags])
    assert (args.bf16, train.is_faster_in_channels_last(Mock(), args)) == (expected, expected)


def test_flags_reach_the_schedule():
    cosine = ["--data", "sample", "--schedule", "cosine", "--lr", "1", "--epochs", "2"]
    args, _ = train.parse_args(cosine)
    assert train.learning_rate(0, args) == pytest.approx(0.01) and train.learning_rate(2000, args) == 1e-6
    args, _ = train.parse_args([*cosine, "--warmup", "2", "--lr-min", "0.5"])
    assert train.learning_rate(0, args) == 0.5 and train.learning_rate(2, args) == 1
    assert train.learning_rate(args.epochs * args.iterations, args) == 0.5
    args, _ = train.parse_args(["--data", "sample", "--anneal-epochs", "1"])
    assert train.learning_rate(1000, args) == 3e-4 < train.learning_rate(999, args)


@pytest.mark.parametrize(
    ("flags", "is_warned"),
    [
        (["--epochs", "10"], True),
        (["--epochs", "9"], False),
        (["--epochs", "10", "--anneal-epochs", "5"], False),
        (["--epochs", "10", "--schedule", "cosine"], False),
        (["--minutes", "1e-5"], True),
    ],
)
def test_a_rate_that_does_not_end_with_the_run_is_warned_of(flags, is_warned, decoded, tmp_path, capsys):
    run(decoded, tmp_path, *flags, "--iterations", "1")
    warning = (
        "the rate of --schedule report falls over 1000 epochs, however long the run is; that of cosine ends with it"
    )
    assert (warning in capsys.readouterr().err) == is_warned


@pytest.mark.parametrize(
    ("flags", "is_warned"), [(["3e-4"], True), (["4e-4"], False), (["3e-4", "--schedule", "cosine"], False)]
)
def test_a_rate_that_never_falls_is_warned_of(flags, is_warned, decoded, tmp_path, capsys):
    run(decoded, tmp_path, "--epochs", "1", "--lr", *flags)
    assert ("the rate stays at --lr 0.0003" in capsys.readouterr().err) == is_warned


def test_a_run_by_a_recipe_goes_on_by_it(decoded, tmp_path, capsys):
    run(decoded, tmp_path, "--recipe", "short", "--lr", "1e-3", "--epochs", "1")
    for named in ([], ["--recipe", "short"]):
        args, _ = train.parse_args(["--resume", str(tmp_path / "last.pth"), "--device", "cpu", "--epochs", "3", *named])
        assert (args.recipe, args.loss, args.lr, args.patch, args.noise) == ("short", "psnr", 1e-3, 24, 0.05)
    with pytest.raises(SystemExit):
        train.parse_args(["--resume", str(tmp_path / "last.pth"), "--epochs", "3", "--recipe", "long"])
    assert "--recipe long: the resumed run has short, and it cannot change" in capsys.readouterr().err


def test_the_same_patches_once_more_are_warned_of(decoded, tmp_path, capsys):
    run(decoded, tmp_path / "first", "--epochs", "1")
    start = ["--init", str(tmp_path / "first/best.safetensors"), "--epochs", "1"]
    for number, (flags, is_warned) in enumerate(
        (([], True), *((flags, False) for flags in (["--seed", "1"], ["--patch", "36"], ["--noise", "0.5"])))
    ):
        run(decoded, tmp_path / f"{number}", *start, *flags)
        warning = "learned from the same patches in this order; take another --seed"
        assert (warning in capsys.readouterr().err) == is_warned


def test_the_average_is_scored_and_published(decoded, tmp_path, monkeypatch):
    scored = []
    monkeypatch.setattr(train, "validate", lambda model, *_: scored.append(copy.deepcopy(model.state_dict())) or 30.0)
    run(decoded, tmp_path, "--epochs", "1", "--ema", "0.9")
    state = load_state(tmp_path / "last.pth")
    published = load_model(tmp_path / "best.safetensors")[0].state_dict()
    assert not states_equal(state["model"], state["ema"])
    assert states_equal(state["ema"], scored[0]) and states_equal(dict(published), state["ema"])


def test_clipping_bounds_the_gradient(decoded, tmp_path, monkeypatch):
    norms = []
    step = torch.optim.Adam.step

    def spy(self, *arguments):
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    for name, flags in (("free", []), ("clipped", ["--clip", "0.01"])):
        run(decoded, tmp_path / name, "--epochs", "1", *flags)
    assert min(norms[:3]) > 0.011 and max(norms[3:]) <= 0.0101


def test_stopped_between_saves_the_best_is_not_lost(decoded, tmp_path, monkeypatch, capsys):
    run(decoded, tmp_path, "--epochs", "1")
    save_state = train.save_state

    def stop_at_last(path, state):
        if path.name == "last.pth":
            raise KeyboardInterrupt
        save_state(path, state)

    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="^130$"):
        patch.setattr(train, "save_state", stop_at_last)
        patch.setattr(train, "validate", lambda *_: 99.0)
        train.main(["--resume", str(tmp_path / "last.pth"), "--epochs", "2", "--device", "cpu"])
    assert f"stopped; go on with: python train.py --resume {tmp_path}/last.pth" in capsys.readouterr().err
    assert load_state(tmp_path / "best.pth")["run"]["best_psnr_db"] == 99.0
    assert load_state(tmp_path / "last.pth")["run"]["epoch"] == 1
    train.main(["--resume", str(tmp_path / "last.pth"), "--epochs", "2", "--device", "cpu"])
    assert load_state(tmp_path / "last.pth")["run"]["epoch"] == 2


def test_a_run_that_fails_at_once_can_be_started_again(decoded, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="^130$"):
        patch.setattr(train, "train_epoch", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        run(decoded, tmp_path / "run", "--epochs", "1")
    assert "stopped; nothing was saved yet" in capsys.readouterr().err
    run(decoded, tmp_path / "run", "--epochs", "1")


def test_resuming_takes_the_same_sizes_by_name(decoded, tmp_path, capsys):
    sizes = [*TINY[:2], *TINY[6:], "--nf", "4"]  # no --modules
    train.main([*sizes, "--data", str(decoded), "--save-dir", str(tmp_path), "--epochs", "1"])
    resumed = ["--resume", str(tmp_path / "last.pth"), "--epochs", "2", "--device", "cpu"]
    assert train.main([*resumed, "--nf", "4", "--modules", "10"])["epoch"] == 2
    with pytest.raises(SystemExit):
        train.main([*resumed, "--save-dir", "elsewhere"])
    assert "--save-dir elsewhere" in capsys.readouterr().err


def test_other_scales_train_beside_set5(tmp_path):
    write_rgb(tmp_path / "Set5/original/a.png", smooth_image(36, 36))
    flags = ["--data", "sample", "--scale", "2", "--set5", str(tmp_path / "Set5"), "--save-dir", str(tmp_path / "run")]
    assert train.main([*TINY, *flags, "--epochs", "1"])["set5_psnr_db"] > 0


def test_a_set5_of_another_layout_says_how_to_do_without(decoded, tmp_path):
    (tmp_path / "Set5/GTmod12").mkdir(parents=True)
    with pytest.raises(SystemExit, match="--set5 .*Set5: .* has no LRbicx3/.*; to train without it: --set5 none"):
        run(decoded, tmp_path / "run", "--set5", str(tmp_path / "Set5"))


def test_a_set_without_training_images_is_named_with_what_to_do(decoded, tmp_path):
    raw, empty, training = tmp_path / "raw", tmp_path / "Flickr2K_decoded", tmp_path / "training"
    write_rgb(raw / "DIV2K_train_HR/0001.png", smooth_image(24, 27))
    flat = tmp_path / "flat"
    write_rgb(flat / "a.png", smooth_image(24, 27))
    empty.mkdir()
    for folder in ("DIV2K_train_HR", "DIV2K_train_LR_bicubic"):
        shutil.copytree(decoded / folder, training / folder)
    both = tmp_path / "both"
    for name in ("DIV2K", "Flickr2K"):
        shutil.copytree(decoded, both / name)
    for sets, says in (
        ((decoded, empty), "Flickr2K_decoded holds no training images"),
        ((decoded, tmp_path / "absent"), "absent is not a folder"),
        ((raw,), f"holds images; decode them: python png2npy.py --pathFrom {raw} --pathTo {raw}_decoded"),
        ((raw / "DIV2K_train_HR",), f"holds images; decode them: python png2npy.py --pathFrom {raw} "),
        ((flat,), f"holds images; move them into {flat}/flat_train_HR and {flat}/flat_valid_HR, then decode them"),
        ((training,), "holds validation images, in a folder X_valid_HR"),
        ((both,), f"name them: --data {both / 'DIV2K'} {both / 'Flickr2K'}"),
    ):
        with pytest.raises(SystemExit, match=re.escape(says)):
            train.main([*TINY, "--save-dir", str(tmp_path / "run"), "--data", *map(str, sets)])


def test_set5_is_drawn_and_tensorboard_written(decoded, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    for name in ("a", "b"):
        write_rgb(tmp_path / f"Set5/original/{name}.png", smooth_image(24, 27))
        write_rgb(tmp_path / f"Set5/LRbicx3/{name}.png", smooth_image(8, 9))
    run(decoded, tmp_path / "run", "--epochs", "1", "--set5", str(tmp_path / "Set5"), "--tensorboard")
    assert (tmp_path / "run/panel.png").exists() and (tmp_path / "run/set5.png").exists()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    (entry,) = [json.loads(line) for line in (tmp_path / "run/log.jsonl").open()]
    assert set(events.Tags()["scalars"]) == {"learning_rate", "train_loss", "valid_psnr_db", "set5_psnr_db"}
    assert events.Scalars("set5_psnr_db")[0].value == pytest.approx(entry["set5_psnr_db"], rel=1e-5)
