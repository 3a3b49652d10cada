"""What is known of a training run: in its state, and in the weights that it leaves."""

import argparse
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from utils.layout import TEACHER
from utils.train_flags import DESCRIBED


@dataclass
class Run:
    """What a training state holds beside the tensors.

    Attributes:
        base: what the weights had behind them where --init names a file: iterations, hours, their curve and, where a
            network of other sizes or scale came first, which one, the iterations up to its end (None: it does not
            say) and what came before it in turn.
        commands: each leg's command, commit, hardware, torch, number of processes and the iteration it began at.
        seconds: of this run so far, all its legs.
        trained_on: a number made of the training images' names and sizes; None in states of before it was noted.
        validated_on: names of the validation images, which the best is the best on.
        start_psnr_db: of the weights that --init names, on the same images; None without such weights.
    """

    hyperparameters: dict[str, int]
    base: dict = field(default_factory=lambda: {"iterations": 0, "hours": 0.0, "curve": [], "started_from": None})
    commands: list[dict[str, str | int]] = field(default_factory=list)
    history: list[dict] = field(default_factory=list)
    best_psnr_db: float = float("-inf")
    epoch: int = 0
    seconds: float = 0.0
    trained_on: int | None = None
    validated_on: list[str] = field(default_factory=list)
    start_psnr_db: float | None = None


def learning_curve(run: Run) -> list[dict]:
    """The evaluations of all legs; iterations and hours count from the first one."""
    curve = list(run.base["curve"])
    for entry in run.history:
        if entry["valid_psnr_db"] is None:
            continue
        point = {
            "iteration": run.base["iterations"] + entry["iteration"],
            "hours": round(run.base["hours"] + entry["hours"], 4),
        }
        for key in ("valid_psnr_db", "set5_psnr_db"):
            point[key] = None if entry[key] is None else round(entry[key], 4)
        curve.append(point)
    return curve


def describe_run(run: Run, photo_count: int, gflops: float, mparams: float, args: argparse.Namespace) -> dict:
    """What published weights say of themselves."""
    last = run.history[-1]
    return {
        "model": args.model,
        "hyperparameters": run.hyperparameters,
        "commands": run.commands,
        "seed": args.seed,
        "data": {
            "sets": args.data,
            "repeat": args.repeat,
            "images": photo_count,
            "teachers": {
                root: file.read_text(encoding="utf-8") for root in args.data if (file := Path(root, TEACHER)).exists()
            },
        },
        "iterations": run.base["iterations"] + last["iteration"],
        "started_from": run.base["started_from"],
        "flags": {flag: getattr(args, flag) for flag in DESCRIBED},
        "hours": round(run.base["hours"] + last["hours"], 4),
        "curve": learning_curve(run),
        "hardware": " and ".join(dict.fromkeys(map(hardware_of, run.commands))),
        "gflops": gflops,
        "mparams": mparams,
        "metrics": {key: last[key] for key in ("valid_psnr_db", "set5_psnr_db")},
    }


def hardware_of(leg: dict) -> str:
    """Of a leg, by its first process: for two processes "2 × AMD EPYC, 1 thread"."""
    processes = leg.get("processes", 1)
    return leg["hardware"] if processes == 1 else f"{processes} × {leg['hardware']}"


def git_commit() -> str:
    """The commit that runs, `-dirty` where files differ from it; `unknown` outside a checkout of this project."""
    folder = Path(__file__).resolve().parents[1]
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    # git may not look above this folder: a repository around a copy of the project has commits of its own
    here_alone = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
    try:
        ran = subprocess.run(command, cwd=folder, env=here_alone, capture_output=True, text=True, check=True)
        return ran.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
