"""Two processes that torchrun starts on this machine, over gloo."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import cv2
import pytest
import torch
from conftest import smooth_image

import train
from utils.checkpoint import load_state, read_weights
from utils.distributed import Ranks
from utils.images import write_rgb

REPOSITORY = Path(__file__).resolve().parents[1]
FLAGS = ["--model", "IMDN_dw", "--nf", "8", "--modules", "1", "--patch", "24", "--valid-patch", "24", "--batch", "4"]
FLAGS += ["--iterations", "5", "--device", "cpu", "--set5", "nowhere", "--repeat", "1", "--ema", "0.9", "--clip", "1"]


def start(launcher_flags: list[str], flags: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *launcher_flags, "train.py", *flags],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(job: subprocess.Popen) -> None:
    _, errors = job.communicate(timeout=120)
    assert job.returncode == 0, errors[-2000:]


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["train_loss"] for line in (folder / "log.jsonl").open()]


def test_two_processes_learn_what_one_does(decoded, tmp_path):
    for name in "abc":
        write_rgb(tmp_path / f"Set5/original/{name}.png", smooth_image(24, 27))
        write_rgb(tmp_path / f"Set5/LRbicx3/{name}.png", smooth_image(8, 9))
    flags = [*FLAGS, "--data", str(decoded), "--epochs", "3", "--set5", str(tmp_path / "Set5")]
    alone = train.main([*flags, "--save-dir", str(tmp_path / "one")])
    finish(start(["--standalone", "--nproc-per-node", "2"], [*flags, "--save-dir", str(tmp_path / "two")]))
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    one, two = (load_state(tmp_path / name / "last.pth") for name in ("one", "two"))
    for a, b in zip(one["model"].values(), two["model"].values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    for figure in ("valid_psnr_db", "set5_psnr_db"):
        assert two["run"]["history"][-1][figure] == pytest.approx(alone[figure], abs=0.01)
    panels = [cv2.imread(str(tmp_path / name / "panel.png")) for name in ("one", "two")]
    assert panels[0].shape == panels[1].shape  # all of Set5, though two processes scored it
    hardware = read_weights(tmp_path / "one/best.safetensors")[1]["hardware"]
    assert read_weights(tmp_path / "two/best.safetensors")[1]["hardware"] == f"2 × {hardware}"
    # and one process goes on where two were
    resumed = train.main(["--resume", str(tmp_path / "two/last.pth"), "--epochs", "4", "--device", "cpu"])
    assert resumed["epoch"] == 4


def test_two_machines_learn_what_one_does(decoded, tmp_path):
    """The README's two-machine command, with an address for each on the loopback."""
    flags = [*FLAGS, "--data", str(decoded), "--epochs", "2", "--save-dir", str(tmp_path / "two")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", str(port)]
    machines = [["--node-rank", str(rank), "--local-addr", f"127.0.0.{rank + 1}"] for rank in range(2)]
    for job in [start([*common, *machine], flags) for machine in machines]:
        finish(job)
    train.main([*flags[:-1], str(tmp_path / "one")])
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


@pytest.mark.parametrize(
    ("ending", "says"),
    ((signal.SIGKILL, "SIGKILL"), (signal.SIGINT, "stopped; go on with: python train.py --resume")),
)
def test_a_rank_that_ends_ends_the_job(ending, says, decoded, tmp_path):
    flags = [*FLAGS, "--data", str(decoded), "--epochs", "100000", "--save-dir", str(tmp_path / "run")]
    job = start(["--standalone", "--nproc-per-node", "2"], flags)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run/last.pth").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    ranks = subprocess.run(["pgrep", "-P", str(job.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(ranks[-1]), ending)
    try:
        _, errors = job.communicate(timeout=60)
    finally:
        job.terminate()  # with its ranks
    assert job.returncode != 0 and says in errors


@pytest.mark.parametrize(
    ("error", "code", "says"),
    (
        ('SystemExit("error: a")', 1, "error: a\n"),
        ("SystemExit(130)", 130, ""),
        ('TypeError("b")', 1, "TypeError: b\n"),
    ),
)
def test_a_rank_that_fails_leaves_nothing_to_clean_up(error, code, says):
    script = "import atexit; from utils.distributed import end_at_once; atexit.register(print, 'cleaned up')\n"
    command = [sys.executable, "-c", f"{script}end_at_once({error})"]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "", says)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full here")
def test_a_rank_that_fails_on_a_full_disk_ends_too():
    script = "from utils.distributed import end_at_once; print('a'); end_at_once(SystemExit('error: full'))"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", script]
        ended = subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr) == (1, "error: full\n")


def test_ranks_at_unlike_epochs_are_refused():
    ranks = Mock(rank=1, world=2, is_first=False, sum=lambda values, device: [values[0] + 4])
    with pytest.raises(train.TrainingError, match="rank 1 has a state of epoch 0, others have not; every machine"):
        train.check_can_go_on(Mock(epoch=0), None, ranks, Mock(save_dir=Path("run")))


def test_all_ranks_follow_the_first(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "broadcast", lambda values, source: values.add_(1 + source))
    own = [torch.zeros(2, 3), torch.arange(4.0).reshape(1, 4, 1, 1).to(memory_format=torch.channels_last)]
    expected = [tensor + 1 for tensor in own]
    Ranks().follow_first(iter(own))
    assert all(map(torch.equal, own, expected))


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
