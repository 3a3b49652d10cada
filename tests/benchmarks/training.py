"""Training steps a second: the report's loop and this project's, data included.

By default a round is ten steps, in one of which SOAP turns its bases.

python -m tests.benchmarks.training
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

import train
from dataset import DevicePatches, Pair, PairedPatches
from models import build_model
from models.kernels.guards import layers_apart
from tests.benchmarks.harness import paired_medians, parse_args, report
from utils.distributed import Ranks
from utils.memory import keep_freed_memory

NETWORKS = (("IMDN_RTC", 12, 5), ("IMDN", 20, 6), ("IMDN_dw", 40, 6), ("DRLN_slim", 36, 8))
PATCH, SCALE = 192, 3


def photos() -> list[Pair]:
    random = np.random.default_rng(0)
    hr = random.integers(0, 256, (8, 600, 600, 3), np.uint8)
    return [Pair(str(i), image[::SCALE, ::SCALE].copy(), image) for i, image in enumerate(hr)]


def reports_step(name: str, nf: int, modules: int, batch: int, device: str):
    """float32, NCHW, one module at a time, and the loss read at every step."""
    model = build_model(name, nf=nf, num_modules=modules).to(device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    patches = PairedPatches([(photos(), 1)], scale=SCALE, patch_size=PATCH, split="training")
    step = iter(range(10**9))

    def run() -> None:
        i = next(step)
        lr, hr = (part.contiguous().to(device) / 255 for part in patches[range(i * batch, (i + 1) * batch)])
        with layers_apart():
            sr = model(lr)
        loss = F.l1_loss(sr, hr)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return run


def engine_step(name: str, nf: int, modules: int, batch: int, device: str, optimizer: str):
    """What train.py runs with no flag but the network's, or with --optimizer soap."""
    flags = [
        "--model",
        name,
        "--nf",
        nf,
        "--modules",
        modules,
        "--batch",
        batch,
        "--device",
        device,
        "--data",
        "sample",
    ]
    args, _ = train.parse_args([*map(str, flags), "--optimizer", optimizer])
    learner, _ = train.build(args, None)
    gradients = train.Gradients(train.accelerate(learner.model, Ranks(), args), learner.model, args)
    patches = PairedPatches([(photos(), 1)], scale=SCALE, patch_size=PATCH, split="training")
    if device.startswith("cuda"):
        patches = DevicePatches(patches, device)
    step = iter(range(10**9))

    def run() -> None:
        i = next(step)
        gradients(patches[range(i * batch, (i + 1) * batch)])
        learner.optimizer.step()

    return run


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv, __doc__, rounds=5, steps=10, largest_batch=64)
    if args.device == "cpu":
        keep_freed_memory()
    rows = []
    for name, nf, modules in NETWORKS:
        for batch in (b for b in (1, 4, 16, 64) if b <= args.largest_batch):
            settings = (name, nf, modules, batch, args.device)
            torch.compiler.reset()  # else what was compiled for the rows before counts towards torch.compile's limit
            ways = {"report": reports_step(*settings)}
            ways |= {o: engine_step(*settings, o) for o in ("adam", "soap")}
            times = paired_medians(ways, args.device, args.rounds, args.steps)
            row = {"network": f"{name} {nf}/{modules}", "batch": batch, "report (it/s)": round(1 / times["report"], 2)}
            for o in ("adam", "soap"):
                row[f"{o} (it/s)"] = round(1 / times[o], 2)
                row[f"{o} ratio"] = round(times["report"] / times[o], 2)
            rows.append(row)
    report(f"Training step, {PATCH}×{PATCH} patches", rows, args)


if __name__ == "__main__":
    main()
