"""Train a network on decoded DIV2K and Flickr2K, or on the photos that scikit-image ships.

    python train.py --model IMDN_dw --nf 40 --modules 6
    python train.py --model IMDN_dw --nf 40 --modules 6 --optimizer soap --lr 3e-3 --init interpolation \
        --schedule cosine --epochs 20 --ema 0.999 --clip 1
    python train.py --resume runs/IMDN_dw_nf40_m6_x3/last.pth

Writes to --save-dir: last.pth and best.pth (training states; best by validation PSNR), best.safetensors (the weights
alone, for demo.py), log.jsonl (one line an evaluation) and the plots drawn from it.
"""

import argparse
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from dataset import BenchmarkSet, DataError, PairedPatches, find_pairs, sample_pairs
from models import MODELS, build_model, complete_hyperparameters
from utils.checkpoint import CheckpointError, load_state, network_name, save_state, save_weights
from utils.cost import count_cost
from utils.ema import EMA
from utils.evaluation import average, evaluate
from utils.log import read_log, write_log
from utils.metrics import psnr_rgb
from utils.plots import draw_plots
from utils.schedule import learning_rate_at

DOWNLOADS = """\
  wget https://data.vision.ee.ethz.ch/cvl/DIV2K/{DIV2K_train_HR,DIV2K_train_LR_bicubic_X3,DIV2K_valid_HR,DIV2K_valid_LR_bicubic_X3}.zip
  wget http://cv.snu.ac.kr/research/EDSR/Flickr2K.tar"""

# Flags that a resumed run takes from its checkpoint and that cannot change on the way.
FIXED = ("model", "nf", "modules", "scale", "optimizer", "batch", "patch", "seed", "ema", "iterations")


class TrainingError(RuntimeError):
    """A run that cannot start or go on; the message says what to do."""


# ---------------------------------------------------------------------------------------------------------------------
# Flags


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    network = parser.add_argument_group("network (sizes default to the report's best row)")
    network.add_argument("--model", choices=list(MODELS), default="IMDN_dw")
    network.add_argument("--nf", type=int, help="features")
    network.add_argument("--modules", type=int, help="blocks")
    network.add_argument("--scale", type=int, choices=(2, 3, 4), default=3)
    network.add_argument(
        "--init", choices=("default", "interpolation"), default="default", help="start from random, or from bilinear"
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        nargs="+",
        default=["DIV2K_decoded", "Flickr2K_decoded"],
        help="decoded sets (folders that png2npy.py wrote), or `sample`",
    )
    data.add_argument("--repeat", nargs="+", type=int, default=[10, 1], help="weight of each set (default: 10 1)")
    data.add_argument("--patch", type=int, default=192, help="HR pixels")
    data.add_argument("--valid-patch", type=int, default=240, help="HR pixels")
    data.add_argument("--valid-repeat", type=int, default=5, help="validation patches an image")
    data.add_argument("--set5", type=Path, default=Path("Set5"), help="folder with LRbicx3/ and original/, if present")
    data.add_argument("--workers", type=int, help="loader processes (default: 4 with a GPU, else 0)")
    optimisation = parser.add_argument_group("optimisation (defaults are the report's)")
    optimisation.add_argument("--batch", type=int, default=16)
    optimisation.add_argument("--epochs", type=int, default=2000)
    optimisation.add_argument("--iterations", type=int, default=1000, help="an epoch")
    optimisation.add_argument("--optimizer", choices=("adam", "soap"), default="adam")
    optimisation.add_argument("--lr", type=float, default=1e-3, help="peak learning rate")
    optimisation.add_argument(
        "--schedule",
        choices=("report", "cosine"),
        default="report",
        help="report: cosine over --anneal-epochs, then constant; cosine: warm-up, then cosine over the whole run",
    )
    optimisation.add_argument("--lr-min", type=float, help="floor (default: 3e-4 for report, 1e-6 for cosine)")
    optimisation.add_argument("--anneal-epochs", type=int, default=1000, help="of --schedule report")
    optimisation.add_argument("--warmup", type=int, help="iterations (default: 0 for report, 100 for cosine)")
    optimisation.add_argument("--precondition-every", type=int, default=10, help="steps between SOAP's eigenbases")
    optimisation.add_argument("--ema", type=float, default=0.0, help="decay of the averaged weights; 0: none")
    optimisation.add_argument("--clip", type=float, default=0.0, help="largest gradient norm; 0: none")
    optimisation.add_argument("--seed", type=int, default=0)
    run = parser.add_argument_group("run")
    run.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    run.add_argument("--bf16", action="store_true", help="bfloat16 autocast")
    run.add_argument("--channels-last", action=argparse.BooleanOptionalAction, default=True)
    run.add_argument("--eval-every", type=int, default=1, help="epochs")
    run.add_argument("--save-dir", type=Path, help="default: runs/MODEL_nfN_mN_xN")
    run.add_argument("--resume", type=Path, help="training state to go on from; its flags hold unless given again")
    return parser


def parse_args(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, dict | None]:
    """The flags, and the state to resume from or None. A resumed run's own flags are the defaults."""
    parser = make_parser()
    args = parser.parse_args(argv)
    state = None
    if args.resume:
        try:
            state = load_state(args.resume)
        except CheckpointError as error:
            parser.error(f"--resume: {error}")
        saved = {key: value for key, value in state["args"].items() if key not in ("resume", "device", "workers")}
        parser.set_defaults(**saved | {"save_dir": args.resume.parent})
        args = parser.parse_args(argv)
        for flag in FIXED:
            if getattr(args, flag) != saved[flag]:
                parser.error(f"--{flag} {getattr(args, flag)}: the resumed run has {saved[flag]}, and it cannot change")
    check_args(parser, args)
    return args, state


def check_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses what argparse cannot see; fills in defaults that depend on other flags."""
    args.set5 = Path(args.set5)
    for flag in (
        "batch",
        "epochs",
        "iterations",
        "patch",
        "valid_patch",
        "valid_repeat",
        "eval_every",
        "anneal_epochs",
        "precondition_every",
    ):
        if getattr(args, flag) < 1:
            parser.error(f"--{flag.replace('_', '-')} {getattr(args, flag)}: needs at least 1")
    if args.lr <= 0:
        parser.error(f"--lr {args.lr}: must be positive")
    if not 0 <= args.ema < 1:
        parser.error(f"--ema {args.ema}: must be at least 0 and below 1")
    if args.clip < 0:
        parser.error(f"--clip {args.clip}: must not be negative")
    if args.workers is not None and args.workers < 0:
        parser.error(f"--workers {args.workers}: must not be negative")
    if args.data == ["sample"]:
        args.repeat = [1]
    elif "sample" in args.data:
        parser.error("--data sample stands alone")
    if len(args.repeat) < len(args.data) or min(args.repeat) < 1:
        parser.error(f"--repeat {args.repeat}: give a weight of at least 1 for each of --data {' '.join(args.data)}")
    try:
        args.device = str(torch.device(args.device))
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device {args.device}: {str(error).splitlines()[0]}")
    cosine = args.schedule == "cosine"
    if args.lr_min is None:
        args.lr_min = 1e-6 if cosine else 3e-4
    if args.warmup is None:
        args.warmup = 100 if cosine else 0
    if args.workers is None:
        args.workers = 0 if args.device == "cpu" else 4


# ---------------------------------------------------------------------------------------------------------------------
# Pieces


def open_data(args: argparse.Namespace) -> tuple[PairedPatches, PairedPatches, BenchmarkSet | None]:
    """Training patches, validation patches and Set5 (None where absent)."""
    if args.data == ["sample"]:
        sets = {split: [(sample_pairs(split, args.scale), 1)] for split in ("training", "validation")}
    else:
        missing = [root for root in args.data if not Path(root).is_dir()]
        if missing:
            raise DataError(
                f"no data in {', '.join(missing)}. Download the sets, then decode them with png2npy.py:\n{DOWNLOADS}\n"
                "or try it with nothing downloaded: --data sample"
            )
        sets = {
            split: [(find_pairs(Path(root), split, args.scale), repeat) for root, repeat in zip(args.data, args.repeat)]
            for split in ("training", "validation")
        }
        for split, found in sets.items():
            if not any(pairs for pairs, _ in found):
                raise DataError(
                    f"no {split} images in {', '.join(args.data)}; needed: DIV2K_train_HR, DIV2K_valid_HR or the like"
                )
    samples = args.epochs * args.iterations * args.batch
    train = PairedPatches(
        sets["training"], scale=args.scale, patch_size=args.patch, split="training", length=samples, seed=args.seed
    )
    valid = PairedPatches(
        [(pairs, args.valid_repeat) for pairs, _ in sets["validation"]],
        scale=args.scale,
        patch_size=args.valid_patch,
        split="validation",
    )
    set5 = BenchmarkSet.from_set5(args.set5, args.scale) if args.set5.is_dir() else None
    return train, valid, set5


def to_float(batch: torch.Tensor, args: argparse.Namespace) -> torch.Tensor:
    """uint8 -> [0, 1] on the device, in its memory format."""
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    return batch.to(args.device, non_blocking=True).to(torch.float32, memory_format=layout) / 255


def make_optimizer(model: nn.Module, args: argparse.Namespace) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if args.optimizer == "soap":
        from pytorch_optimizer import SOAP

        return SOAP(parameters, lr=args.lr, weight_decay=0.0, precondition_frequency=args.precondition_every)
    return torch.optim.Adam(parameters, lr=args.lr)


def learning_rate(step: int, args: argparse.Namespace) -> float:
    epochs = args.anneal_epochs if args.schedule == "report" else args.epochs
    decay_steps = epochs * args.iterations
    return learning_rate_at(step, peak=args.lr, floor=args.lr_min, decay_steps=decay_steps, warmup_steps=args.warmup)


@torch.inference_mode()
def validate(model: nn.Module, valid: PairedPatches, args: argparse.Namespace) -> float:
    """Mean RGB PSNR over the validation patches, dB."""
    values = []
    for lr, hr in DataLoader(valid, batch_size=args.batch):
        values += psnr_rgb(model(to_float(lr, args)), to_float(hr, args)).tolist()
    return average(values)


def batches(train: PairedPatches, start: int, args: argparse.Namespace) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches from iteration `start` on, as if the run had never stopped."""
    loader = DataLoader(
        train,
        batch_size=args.batch,
        sampler=range(start * args.batch, len(train)),
        num_workers=args.workers,
        pin_memory=args.device.startswith("cuda"),
        persistent_workers=args.workers > 0,
    )
    return iter(loader)


def train_epoch(
    model: nn.Module,
    ema: EMA | None,
    optimizer: torch.optim.Optimizer,
    source: Iterator,
    epoch: int,
    args: argparse.Namespace,
) -> float:
    """One epoch; returns the mean loss, which stays on the device until then."""
    model.train()
    total = torch.zeros((), device=args.device)
    first = (epoch - 1) * args.iterations
    seconds_a_line = 0.1 if sys.stderr.isatty() else 30  # a log file keeps every state of the bar
    bar = tqdm(
        range(first, first + args.iterations),
        desc=f"epoch {epoch}/{args.epochs}",
        unit="it",
        leave=False,
        mininterval=seconds_a_line,
    )
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args)
        lr, hr = (to_float(batch, args) for batch in next(source))
        with torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=args.bf16):
            sr = model(lr)
        loss = F.l1_loss(sr.float(), hr)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if args.clip:
            nn.utils.clip_grad_norm_(model.parameters(), args.clip)
        optimizer.step()
        if ema:
            ema.update(model, step + 1)
        total += loss.detach()
    mean = (total / args.iterations).item()
    if not torch.isfinite(torch.tensor(mean)):
        raise TrainingError(
            f"the loss became {mean} in epoch {epoch}; last.pth holds the epoch before."
            " Resume with a lower --lr, or with --clip 1"
        )
    return mean


def git_commit() -> str:
    """The commit that runs, `-dirty` where files differ from it; `unknown` outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def hardware(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


# ---------------------------------------------------------------------------------------------------------------------
# The run


def train(args: argparse.Namespace, state: dict | None) -> dict:
    """Trains to the last epoch; returns the last log entry."""
    # data and network
    train_set, valid_set, set5 = open_data(args)
    hyperparameters = complete_hyperparameters(args.model, nf=args.nf, num_modules=args.modules, scale=args.scale)
    torch.manual_seed(args.seed)
    model = build_model(args.model, **hyperparameters)
    gflops, mparams = count_cost(model)
    if args.init == "interpolation":
        model.start_from_interpolation()
    model = model.to(args.device)
    if args.channels_last:
        model = model.to(memory_format=torch.channels_last)
    ema = EMA(model, args.ema) if args.ema else None
    optimizer = make_optimizer(model, args)
    args.save_dir = Path(args.save_dir or f"runs/{network_name(args.model, hyperparameters)}")
    log_file = args.save_dir / "log.jsonl"
    if state is None and log_file.exists():
        raise TrainingError(
            f"{args.save_dir} holds another run; give another --save-dir, or --resume {args.save_dir}/last.pth"
        )

    # resume
    history, best_psnr_db, first_epoch, seconds, commands = [], float("-inf"), 1, 0.0, []
    if state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if ema:
            ema.model.load_state_dict(state["ema"])
        history, best_psnr_db, seconds = state["history"], state["best_psnr_db"], state["seconds"]
        commands = state["commands"]
        first_epoch = state["epoch"] + 1
    if first_epoch > args.epochs:
        raise TrainingError(f"this run has ended at epoch {first_epoch - 1}; give --epochs above that to go on")
    commands = [*commands, {"command": "python train.py " + shlex.join(sys.argv[1:]), "commit": git_commit()}]
    write_log(log_file, history)
    source = batches(train_set, (first_epoch - 1) * args.iterations, args)
    name = network_name(args.model, hyperparameters)
    print(
        f"{name}: {gflops:.3f} GFLOPs, {mparams:.6f} M parameters on {hardware(args.device)}\n"
        f"{len(train_set.pairs)} training and {len(valid_set.pairs)} validation images"
        + ("" if set5 else f"; no Set5 in {args.set5}, so it is not scored (python demo.py fetches it)")
    )

    # loop
    evaluated = ema.model if ema else model
    started = time.monotonic()
    for epoch in range(first_epoch, args.epochs + 1):
        train_loss = train_epoch(model, ema, optimizer, source, epoch, args)
        if epoch % args.eval_every and epoch < args.epochs:
            continue
        evaluated.eval()
        entry = {
            "epoch": epoch,
            "iteration": epoch * args.iterations,
            "learning_rate": learning_rate(epoch * args.iterations - 1, args),
            "train_loss": train_loss,
            "valid_psnr_db": validate(evaluated, valid_set, args),
            "set5_psnr_db": average(s.psnr_db for s in evaluate(evaluated, set5, args.scale)) if set5 else None,
            "hours": (seconds + time.monotonic() - started) / 3600,
        }
        history.append(entry)
        is_best = entry["valid_psnr_db"] > best_psnr_db
        best_psnr_db = max(best_psnr_db, entry["valid_psnr_db"])
        state = {
            "name": args.model,
            "hyperparameters": hyperparameters,
            "args": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
            "epoch": epoch,
            "model": model.state_dict(),
            "ema": ema.model.state_dict() if ema else None,
            "optimizer": optimizer.state_dict(),
            "best_psnr_db": best_psnr_db,
            "history": history,
            "commands": commands,
            "seconds": seconds + time.monotonic() - started,
        }
        save_state(args.save_dir / "last.pth", state)
        if is_best:
            save_state(args.save_dir / "best.pth", state)
            save_weights(
                args.save_dir / "best.safetensors",
                evaluated,
                describe_run(state, args, len(train_set.pairs), gflops, mparams),
            )
        write_log(log_file, history)
        draw_plots(read_log(log_file), args.save_dir)
        print(format_entry(entry, best_psnr_db, args.epochs), flush=True)
    return history[-1]


def describe_run(state: dict, args: argparse.Namespace, images: int, gflops: float, mparams: float) -> dict:
    """What published weights say of themselves."""
    return {
        "model": state["name"],
        "hyperparameters": state["hyperparameters"],
        "commands": state["commands"],
        "seed": args.seed,
        "data": {"sets": args.data, "repeat": args.repeat[: len(args.data)], "images": images},
        "iterations": state["epoch"] * args.iterations,
        "batch": args.batch,
        "patch": args.patch,
        "optimizer": args.optimizer,
        "schedule": args.schedule,
        "hours": round(state["history"][-1]["hours"], 3),
        "hardware": hardware(args.device),
        "torch": torch.__version__,
        "gflops": gflops,
        "mparams": mparams,
        "metrics": {key: state["history"][-1][key] for key in ("valid_psnr_db", "set5_psnr_db")},
    }


def format_entry(entry: dict, best_psnr_db: float, epochs: int) -> str:
    set5 = "" if entry["set5_psnr_db"] is None else f"  Set5 {entry['set5_psnr_db']:.3f} dB"
    return (
        f"epoch {entry['epoch']}/{epochs}  rate {entry['learning_rate']:.2e}  loss {entry['train_loss']:.5f}"
        f"  validation {entry['valid_psnr_db']:.3f} dB (best {best_psnr_db:.3f}){set5}"
    )


def main(argv: Sequence[str] | None = None) -> dict:
    args, state = parse_args(argv)
    if args.bf16 and args.device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        print("warning: this CPU has no bfloat16 arithmetic; --bf16 will be slower than float32", file=sys.stderr)
    try:
        return train(args, state)
    except (DataError, TrainingError, ValueError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(f"stopped; go on with: python train.py --resume {args.save_dir}/last.pth")


if __name__ == "__main__":
    main()
