"""Two processes that torchrun starts on this machine, over gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import train
from utils.checkpoint import load_state
from utils.distributed import Ranks

REPOSITORY = Path(__file__).resolve().parents[1]
FLAGS = ["--model", "IMDN_dw", "--nf", "8", "--modules", "1", "--patch", "24", "--valid-patch", "24", "--batch", "4"]
FLAGS += ["--iterations", "5", "--device", "cpu", "--set5", "nowhere", "--repeat", "1", "--ema", "0.9", "--clip", "1"]


def torchrun(*flags: object, processes: int = 2) -> subprocess.CompletedProcess:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.run(
        [*launcher, "train.py", *map(str, flags)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["train_loss"] for line in (folder / "log.jsonl").open()]


def test_two_processes_learn_what_one_does(decoded, tmp_path):
    flags = [*FLAGS, "--data", str(decoded), "--epochs", "3"]
    alone = train.main([*flags, "--save-dir", str(tmp_path / "one")])
    ended = torchrun(*flags, "--save-dir", tmp_path / "two")
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    one, two = (load_state(tmp_path / name / "last.pth") for name in ("one", "two"))
    for a, b in zip(one["model"].values(), two["model"].values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert two["run"]["history"][-1]["valid_psnr_db"] == pytest.approx(alone["valid_psnr_db"], abs=0.01)
    # and one process goes on where two were
    resumed = train.main(["--resume", str(tmp_path / "two/last.pth"), "--epochs", "4"])
    assert resumed["epoch"] == 4


def test_a_rank_that_fails_ends_the_job(tmp_path):
    ended = torchrun(*FLAGS, "--data", tmp_path / "nothing")
    assert ended.returncode != 0 and "no data in" in ended.stderr


def test_a_batch_that_cannot_be_divided_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(SystemExit):
        train.parse_args([*FLAGS, "--data", "sample"])
    assert "--batch 4: not a multiple of the 3 processes" in capsys.readouterr().err


def test_shares_are_everything_once(monkeypatch):
    shares = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "3")
        shares.append(Ranks().share(range(8)))
    assert sorted(index for share in shares for index in share) == list(range(8))
