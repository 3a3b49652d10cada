r"""Train a network on decoded DIV2K and Flickr2K, or on the photos that scikit-image ships.

    python train.py --model IMDN_dw --nf 40 --modules 6
    python train.py --recipe long --model IMDN_dw --nf 40 --modules 6 --epochs 40 --init interpolation --save-dir runs/a
    python train.py --resume runs/a/last.pth

Writes to --save-dir: last.pth and best.pth (training states; best by validation PSNR), best.safetensors (the weights
alone, for demo.py), log.jsonl (one line an epoch) and the plots drawn from it.
"""

import argparse
import itertools
import math
import shlex
import signal
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn as nn
from torch.nn.parallel import DistributedDataParallel

from dataset import (
    BenchmarkSet,
    DataError,
    DevicePatches,
    Pair,
    PairedPatches,
    describe,
    find_pairs,
    prefetch,
    sample_pairs,
)
from models import build_model
from models.blocks import SeparableConv
from models.kernels import chain, tail
from models.kernels.guards import WIDE
from utils.checkpoint import network_name, read_weights, save_state, save_weights, take_weights
from utils.cost import count_cost
from utils.cuda_graph import Replayed
from utils.distributed import Ranks
from utils.ema import EMA
from utils.evaluation import Score, evaluate
from utils.files import check_writable, locked
from utils.flags import first_line, quoted, stop, warn
from utils.hardware import hardware, without_tf32
from utils.images import list_images
from utils.layers import unfuse_if_edited
from utils.layout import sets_below
from utils.log import read_log, write_log
from utils.losses import LOSSES
from utils.memory import available_bytes, is_memory_shortage, keep_freed_memory, memory_shortage
from utils.metrics import ROUNDING_MSE, psnr_rgb
from utils.mixed_precision import MixedPrecision
from utils.plots import draw_panel, draw_plots
from utils.progress import progress
from utils.record import Run, describe_run, git_commit
from utils.schedule import learning_rate_at
from utils.soap import SOAP
from utils.train_flags import (
    COSINE_FLOOR,
    COSINE_WARMUP,
    DEFAULT_DATA,
    REPORT_FLOOR,
    init_file,
    read_flags,
    sizes,
    warn_of_flags,
)

# X3 stands for any scale.
DOWNLOADS = """\
  wget https://data.vision.ee.ethz.ch/cvl/DIV2K/DIV2K_{train_HR,train_LR_bicubic_X3,valid_HR,valid_LR_bicubic_X3}.zip
  wget http://cv.snu.ac.kr/research/EDSR/Flickr2K.tar"""

REDRAW_SECONDS = 120  # drawing takes about a second, and an epoch on a GPU may take ten


class TrainingError(RuntimeError):
    """A run that cannot start or go on; the message says what to do."""


def parse_args(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, dict | None]:
    """The flags, and the state to resume from or None."""
    return read_flags(__doc__, argv)


# ---------------------------------------------------------------------------------------------------------------------
# Data


class Sets(NamedTuple):
    """What a run trains on, validates on and scores: Set5, None where absent."""

    training: PairedPatches
    validation: PairedPatches
    set5: BenchmarkSet | None


def find_images(args: argparse.Namespace) -> dict[str, list[tuple[list[Pair], int]]]:
    """By split, each set's images and its --repeat.

    Raises:
        DataError: a set without training images, or none with validation images.
    """
    if args.data == ["sample"]:
        return {split: [(sample_pairs(split, args.scale), 1)] for split in ("training", "validation")}
    found = {
        split: [(find_pairs(Path(root), split, args.scale), repeat) for root, repeat in zip(args.data, args.repeat)]
        for split in ("training", "validation")
    }
    if without := [Path(root) for root, (pairs, _) in zip(args.data, found["training"]) if not pairs]:
        moved = "; where the resumed run's sets lie elsewhere now, name them all by --data" if args.resume else ""
        raise DataError(why_empty(without[0], args.scale) + moved)
    if not any(pairs for pairs, _ in found["validation"]):
        raise DataError(
            f"none of --data {' '.join(args.data)} holds validation images, in a folder X_valid_HR; move some photos"
            " into one, and decode them"
        )
    return found


def open_data(found: dict[str, list[tuple[list[Pair], int]]], args: argparse.Namespace) -> Sets:
    """Opens the images that `find_images` found, and --set5.

    Raises:
        DataError: images that cannot be used.
    """
    options = {"scale": args.scale, "patch_size": args.patch, "seed": args.seed}
    training = PairedPatches(found["training"], split="training", detail=args.detail, noise=args.noise, **options)
    validation = PairedPatches(
        [(pairs, args.valid_repeat) for pairs, _ in found["validation"]],
        scale=args.scale,
        patch_size=args.valid_patch,
        split="validation",
    )
    try:
        set5 = BenchmarkSet.from_set5(args.set5, args.scale) if args.set5.is_dir() else None
    except DataError as error:
        raise DataError(f"--set5 {args.set5}: {error}; to train without it: --set5 none") from error
    return Sets(training, validation, set5)


def why_empty(root: Path, scale: int) -> str:
    """Why a set has no training images, and what to do."""
    if root.name in DEFAULT_DATA and not root.exists():
        downloads = DOWNLOADS.replace("X3", f"X{scale}")
        here = [str(other) for name in DEFAULT_DATA if is_enough(other := root.with_name(name), scale)]
        alone = f"train on {here[0]} alone: --data {here[0]}" if here else ""
        instead = alone or "try it with nothing downloaded: --data sample"
        return f"no training images in {root}. Download and decode (png2npy.py) the sets:\n{downloads}\nor {instead}"
    if not root.is_dir():
        return f"--data {root} is not a folder"
    whole = root.absolute()
    if whole.name.endswith("_HR") and any(root.glob("[!.]*.npy")):
        return f"--data {root} is one folder of a set; name the one above it: --data {quoted(whole.parent)}"
    if sets := sets_below(root):
        return f"--data {root} holds sets in folders of their own; name them: --data {' '.join(map(quoted, sets))}"
    if list_images(root, recursive=True):
        tree = root.parent if root.name.endswith("_HR") else root
        tree = tree if tree.name else tree.resolve()  # of "."
        move = f"move them into {tree}/{tree.name}_train_HR and {tree}/{tree.name}_valid_HR, then "
        flags = f"--pathFrom {quoted(tree)} --pathTo {quoted(Path(f'{tree}_decoded'))}"
        decode = f"decode them: python png2npy.py {flags}"
        lr = f"(--make-lr {scale} where LR images are missing)"
        return f"--data {root} holds images; {move if list_images(tree) else ''}{decode} {lr}"
    return f"--data {root} holds no training images: .npy files in a folder X_train_HR or X_HR, from png2npy.py"


def is_enough(root: Path, scale: int) -> bool:
    """Whether one set has what a run needs, training and validation images."""
    try:
        return all(find_pairs(root, split, scale) for split in ("training", "validation"))
    except DataError:
        return False


def place(train_set: PairedPatches, ranks: Ranks, args: argparse.Namespace) -> PairedPatches | DevicePatches:
    """Puts the decoded images where --cache says; auto takes the fastest place that they fill by half at most."""
    needed, cache = train_set.lr.nbytes() + train_set.hr.nbytes(), args.cache
    if cache == "auto":
        if args.device.startswith("cuda") and needed < torch.cuda.mem_get_info(args.device)[0] / 2:
            cache = "device"
        else:
            cache = "ram" if needed * ranks.local_world < available_bytes() / 2 else "disk"
    if cache != "disk" and needed > 1e9 and ranks.is_first:
        where = "RAM" if cache == "ram" else "the GPU"
        print(f"reading {needed / 1e9:.1f} GB of decoded images into {where}; --cache disk leaves them", flush=True)
    if cache == "device":
        return DevicePatches(train_set, args.device)
    if cache == "ram":
        train_set.lr.load()
        train_set.hr.load()
    return train_set


def batches(
    train_set: PairedPatches | DevicePatches, first: int, ranks: Ranks, args: argparse.Namespace
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """This rank's share of the batches from iteration `first` on, as if the run had never stopped."""
    steps = itertools.count(first)
    shares = (ranks.share(range(step * args.batch, (step + 1) * args.batch)) for step in steps)
    if isinstance(train_set, DevicePatches):
        return (train_set[share] for share in shares)
    return prefetch(train_set, shares, args.workers, pin=args.device.startswith("cuda"))


# ---------------------------------------------------------------------------------------------------------------------
# The step


@dataclass
class Learner:
    """What learns: the network, its average where there is one, and the optimiser of its weights."""

    model: nn.Module
    ema: EMA | None
    optimizer: torch.optim.Optimizer

    @property
    def evaluated(self) -> nn.Module:
        """What is scored and published."""
        return self.ema.model if self.ema else self.model


def make_optimizer(model: nn.Module, args: argparse.Namespace) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if args.optimizer == "soap":
        flags = {"precondition_every": args.precondition_every, "cautious": args.cautious, "graph": args.graph}
        return SOAP(parameters, lr=args.lr, **flags)
    return torch.optim.Adam(parameters, lr=args.lr, fused=args.device.split(":")[0] in ("cpu", "cuda"))


def learning_rate(step: int, args: argparse.Namespace) -> float:
    """Of optimiser step `step`, counted from 0, by --schedule."""
    is_report = args.schedule == "report"
    epochs = args.anneal_epochs if is_report else args.epochs
    floor, warmup = (REPORT_FLOOR, 0) if is_report else (COSINE_FLOOR, COSINE_WARMUP)
    decay_steps = epochs * args.iterations
    return learning_rate_at(
        step,
        peak=args.lr,
        floor=min(floor, args.lr) if args.lr_min is None else args.lr_min,
        decay_steps=decay_steps,
        warmup_steps=min(warmup, decay_steps // 10) if args.warmup is None else args.warmup,
    )


def may_run_native(model: nn.Module, args: argparse.Namespace) -> bool:
    """Whether the compiled convs of models/kernels/chain.py, in NCHW, are the faster ones for this run."""
    is_narrow = args.nf < WIDE
    is_separable = any(isinstance(layer, SeparableConv) for layer in model.modules())
    return args.device == "cpu" and not args.bf16 and not args.compile and (is_narrow or is_separable)


def is_faster_in_channels_last(model: nn.Module, args: argparse.Namespace) -> bool:
    if args.device.startswith("cuda"):
        return args.bf16  # cuDNN's float32 convs are slower in it
    return not (may_run_native(model, args) and chain.compiled()[0])


def to_float(batch: torch.Tensor, args: argparse.Namespace) -> torch.Tensor:
    """uint8 -> [0, 1] on the device, in its memory format."""
    # elsewhere than on CUDA the copy may read memory that is freed by then (pytorch/pytorch#189690, of Apple's GPUs)
    image = batch.to(args.device, non_blocking=args.device.startswith("cuda")) / 255
    return image if args.channels_last else image.contiguous()


def accelerate(model: nn.Module, ranks: Ranks, args: argparse.Namespace) -> nn.Module:
    """The module that training calls, in bfloat16 where asked to: compiled, or as it is with a line of warning.

    It is synchronised over the ranks, and its output is float32.
    """
    torch.backends.cudnn.benchmark = True  # batches have one shape; without_tf32 has it off for images, which do not
    called = uncompiled = MixedPrecision(model, torch.device(args.device).type, args.bf16)
    if args.compile:
        before = [buffer.clone() for buffer in model.buffers()]  # a batch norm's statistics, say
        try:
            called = torch.compile(uncompiled, dynamic=False)
            size = args.patch // args.scale
            example = torch.zeros((args.batch // ranks.world, size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
            called(to_float(example, args)).sum().backward()
        except Exception as error:  # whatever the compiler or its toolchain raises
            if is_memory_shortage(error):
                raise
            called = uncompiled
            if ranks.local == 0:  # of every machine, as their compilers differ
                reason = first_line(error)[:150]
                warn(f"torch.compile failed, training goes on without it: {reason}")
        finally:
            model.zero_grad()
            for buffer, value in zip(model.buffers(), before):
                buffer.copy_(value)
    if ranks.world > 1:
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")  # of 1×1 kernels: the same
        devices = [torch.device(args.device)] if args.device.startswith("cuda") else None
        return DistributedDataParallel(called, device_ids=devices, gradient_as_bucket_view=True)
    return called


class Gradients:
    """Takes a batch, leaves its clipped gradients in the network's weights and returns its loss."""

    def __init__(self, called: nn.Module, model: nn.Module, args: argparse.Namespace) -> None:
        self.called, self.model, self.args = called, model, args
        self.batch: Sequence[torch.Tensor] = ()  # where a graph reads every batch
        self.replayed = Replayed(lambda: self.compute(self.batch)) if args.graph else None

    def __call__(self, batch: Sequence[torch.Tensor]) -> torch.Tensor:
        if not self.replayed:
            return self.compute(batch)
        self.batch = self.batch or [torch.empty_like(part, device=self.args.device) for part in batch]
        for own, part in zip(self.batch, batch):
            own.copy_(part, non_blocking=True)
        return self.replayed()

    def compute(self, batch: Sequence[torch.Tensor]) -> torch.Tensor:
        """The loss, a scalar, of uint8 LR (N, 3, H, W) and HR (N, 3, scale·H, scale·W).

        Raises:
            TrainingError: the network's output has another shape than HR.
        """
        lr, hr = (to_float(part, self.args) for part in batch)
        sr = self.called(lr)
        if sr.shape != hr.shape:  # which losses would broadcast
            name, made = type(self.model).__name__, f"makes {tuple(sr.shape)} of {tuple(lr.shape)}"
            raise TrainingError(f"{name} {made}, not {tuple(hr.shape)}: RGB, --scale {self.args.scale} times as large")
        loss = LOSSES[self.args.loss](sr, hr)
        self.model.zero_grad()
        loss.backward()
        if self.args.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.args.clip)
        return loss.detach()


def train_epoch(
    gradients: Gradients, learner: Learner, source: Iterator, epoch: int, ranks: Ranks, args: argparse.Namespace
) -> float:
    """One epoch; returns the mean loss, which stays on the device until then.

    Raises:
        TrainingError: the loss or the weights became infinite.
    """
    model, optimizer = learner.model, learner.optimizer
    model.train()
    # dropout, say: a resumed run goes on as it would have, and the ranks draw unlike one another
    torch.manual_seed((args.seed + epoch * ranks.world + ranks.rank) % 2**63)
    total = torch.zeros((), device=args.device)
    first = (epoch - 1) * args.iterations
    bar = progress(
        range(first, first + args.iterations),
        desc=f"epoch {epoch}/{args.epochs}",
        unit="it",
        leave=False,
        disable=not ranks.is_first,
    )
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args)
        total += gradients(next(source))  # forward, loss, backward and clipping
        optimizer.step()
        ranks.follow_first(model.parameters())
        if learner.ema:
            learner.ema.update(step + 1)
    # a batch norm's statistics are each rank's own, and scores are averaged over the ranks
    buffers = [*model.buffers(), *learner.evaluated.buffers()]
    ranks.follow_first(buffer for buffer in buffers if buffer.is_floating_point())
    (summed,) = ranks.sum((total.item(),), args.device)
    mean = summed / (args.iterations * ranks.world)
    loss_is_finite = math.isfinite(mean)
    weights_are_finite = all(p.isfinite().all() for p in model.parameters())  # the last step's have been in no loss yet
    if not (loss_is_finite and weights_are_finite):
        raise diverged("the weights became infinite" if loss_is_finite else f"the loss became {mean}", epoch, args)
    return mean


def diverged(what: str, epoch: int, args: argparse.Namespace) -> TrainingError:
    """The error of a run that is lost, and how to go on from what was saved before."""
    states = [args.save_dir / name for name in ("last.pth", "best.pth")]
    names = " or ".join(quoted(state) for state in states if state.exists())
    kept = f"go on by --resume {names}" if names else "start again"
    return TrainingError(f"{what} in epoch {epoch}; {kept} with a lower --lr, or with --clip 1")


# ---------------------------------------------------------------------------------------------------------------------
# Scores and plots


@torch.inference_mode()
def validate(model: nn.Module, valid: PairedPatches, ranks: Ranks, args: argparse.Namespace) -> float:
    """Mean RGB PSNR over the validation patches, dB: each at most 58.9 dB, as an exact one has infinite."""
    values, highest = [], -10 * math.log10(ROUNDING_MSE)
    share = ranks.share(range(len(valid)))
    for start in range(0, len(share), args.batch):
        lr, hr = (to_float(batch, args) for batch in valid[share[start : start + args.batch]])
        with without_tf32():
            values += psnr_rgb(model(lr), hr).clamp(max=highest).tolist()
    total, count = ranks.sum((sum(values), len(values)), args.device)
    return total / count


def score(
    model: nn.Module, set5: BenchmarkSet, with_panel: bool, ranks: Ranks, args: argparse.Namespace
) -> tuple[float, list[Score]]:
    """Mean RGB PSNR over Set5 by the course protocol, dB; and for the panel, on the first rank, every image's score."""
    scores_all = with_panel and ranks.is_first
    scores = list(evaluate(model, set5 if scores_all else ranks.share(list(set5)), args.scale))
    shared = ranks.share(scores) if scores_all else scores
    total, count = ranks.sum((sum(s.psnr_db for s in shared), len(shared)), args.device)
    return total / count, scores if scores_all else []


def draw(panel: list[Score], args: argparse.Namespace) -> None:
    """Redraws the plots and Set5's panel; where that fails, training goes on."""
    try:
        draw_plots(read_log(args.save_dir / "log.jsonl"), args.save_dir)
        if panel:
            draw_panel([(s.name, s.sr, s.psnr_db) for s in panel], args.save_dir / "panel.png")
    except (OSError, ValueError) as error:
        warn(f"{first_line(error)}; training goes on")


def open_tensorboard(first_iteration: int, args: argparse.Namespace) -> Callable[[dict], None]:
    """What writes log entries to --save-dir/tensorboard; without --tensorboard, nothing.

    Entries of an earlier run from `first_iteration` on are replaced.
    """
    if not args.tensorboard:
        return lambda entry: None
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(args.save_dir / "tensorboard", purge_step=first_iteration)

    def write(entry: dict) -> None:
        for name in ("learning_rate", "train_loss", "valid_psnr_db", "set5_psnr_db"):
            if entry[name] is not None:
                writer.add_scalar(name, entry[name], entry["iteration"])
        writer.flush()

    return write


def format_entry(entry: dict, best_psnr_db: float, epochs: int) -> str:
    line = f"epoch {entry['epoch']}/{epochs}  rate {entry['learning_rate']:.2e}  loss {entry['train_loss']:.5f}"
    if entry["valid_psnr_db"] is not None:
        line += f"  validation {entry['valid_psnr_db']:.3f} dB (best {best_psnr_db:.3f})"
    if entry["set5_psnr_db"] is not None:
        line += f"  Set5 {entry['set5_psnr_db']:.3f} dB"
    return f"{line}  {60 * entry['hours']:.1f} min"


# ---------------------------------------------------------------------------------------------------------------------
# The run


def build(args: argparse.Namespace, state: dict | None) -> tuple[Learner, Run]:
    """What learns, and its run: new, from --init, or as the state left them.

    Raises:
        TrainingError, CheckpointError: an --init that this network cannot take.
    """
    torch.manual_seed(args.seed)
    run = Run(sizes(args))
    model = build_model(args.model, **run.hyperparameters)
    if state:
        run = Run(**state["run"])
    elif args.init == "interpolation":
        if not hasattr(model, "start_from_interpolation"):
            raise TrainingError(f"{args.model} has no start_from_interpolation(); leave out --init interpolation")
        model.start_from_interpolation()
    elif file := init_file(args):
        taken, metadata = take_weights(model, args.model, file, args.scale)
        other = run.hyperparameters | metadata.get("hyperparameters", {})
        told = "" if other == run.hyperparameters else f", which holds {network_name(args.model, other)}"
        print(f"{taken} of {len(model.state_dict())} tensors start from {file}{told}")
        run.base = {key: metadata.get(key, nothing) for key, nothing in run.base.items()}
        run.commands = [{"hardware": metadata["hardware"], **leg} for leg in metadata.get("commands", [])]
        if not run.commands:  # others' weights, which do not say how they were trained
            run.base |= {"started_from": {"network": file.name, "iterations": None}}
        elif other != run.hyperparameters:  # whose scores are not this network's
            started_from = {"network": network_name(args.model, other), "iterations": run.base["iterations"]}
            run.base |= {"curve": [], "started_from": started_from | {"before": run.base["started_from"]}}
    if args.channels_last is None:
        args.channels_last = is_faster_in_channels_last(model, args)
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    model = model.to(args.device, memory_format=layout)
    unfuse_if_edited(model)
    ema = EMA(model, args.ema) if args.ema else None
    optimizer = make_optimizer(model, args)
    if state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if args.optimizer == "soap":  # whose state would bring the earlier leg's flags back
            for group in optimizer.param_groups:
                group |= {"precondition_every": args.precondition_every, "cautious": args.cautious}
        else:  # fused Adam walks moments and weights side by side, so they must lie alike
            for parameter, moments in optimizer.state.items():
                for key in ("exp_avg", "exp_avg_sq"):
                    moments[key] = torch.empty_like(parameter).copy_(moments[key])
        if ema:
            ema.model.load_state_dict(state["ema"])
    return Learner(model, ema, optimizer), run


def check_can_go_on(run: Run, state: dict | None, ranks: Ranks, args: argparse.Namespace) -> None:
    """Raises TrainingError where a run would write over another, has ended, or is not at one epoch on all ranks."""
    (epochs,) = ranks.sum((run.epoch,), args.device)
    if epochs != run.epoch * ranks.world:
        raise TrainingError(
            f"rank {ranks.rank} has a state of epoch {run.epoch}, others have not; every machine needs the same"
            f" {args.save_dir}/last.pth"
        )
    if ranks.is_first and state is None and (args.save_dir / "last.pth").exists():
        raise TrainingError(
            f"{args.save_dir} holds another run; delete it, give another --save-dir, or go on with it:"
            f" --resume {quoted(args.save_dir / 'last.pth')}"
        )
    best = [file for name in ("best.safetensors", "best.pth") if (file := args.save_dir / name).exists()]
    # a run that --resume auto started may have been killed after best.*, before its first last.pth and log
    was_killed = args.is_auto and not (args.save_dir / "log.jsonl").exists()
    if ranks.is_first and state is None and best and not was_killed:
        resume = f", or go on with it: --resume {quoted(best[-1])}" if best[-1].suffix == ".pth" else ""
        raise TrainingError(f"{best[0]} would be replaced; move it, or give another --save-dir{resume}")
    if run.epoch >= args.epochs:
        took = f" after {run.seconds / 60:.3g} minutes, which --minutes counts" if args.minutes else ""
        more = "--minutes that hold another epoch" if args.minutes else "--epochs above that"
        raise TrainingError(
            f"this run has ended at epoch {run.epoch}{took}; give {more} to go on, or start another from its"
            f" weights: --init {quoted(args.save_dir / 'best.safetensors')} with its own --save-dir and --seed"
        )
    log = args.save_dir / "log.jsonl"
    if ranks.is_first and state and log.exists() and (later := len(log.read_text().splitlines()) - run.epoch) > 0:
        epochs = "epoch" if later == 1 else "epochs"
        warn(f"{args.save_dir} holds {later} later {epochs}, which will be replaced; copy it to keep them")


def check_same_images(sets: Sets, ranks: Ranks, args: argparse.Namespace) -> None:
    """Raises TrainingError where ranks, on machines of their own, have other images: their scores are averaged."""
    set5 = sets.set5 and [name for name, *_ in sets.set5]
    mark = zlib.crc32(repr((mark_of(sets.training), mark_of(sets.validation), set5)).encode())
    (marks,) = ranks.sum((mark,), args.device)
    if marks != mark * ranks.world:
        training, validation = sets.training.photo_count, sets.validation.photo_count
        folder = f"{'a' if sets.set5 else 'no'} {args.set5}"
        raise TrainingError(
            f"rank {ranks.rank} has {training} training and {validation} validation images and {folder}, others have"
            " not the same, or of other names or sizes; every machine needs the same sets"
        )


def mark_of(patches: PairedPatches) -> int:
    """A number that is another one for other images, by their names and sizes."""
    return zlib.crc32(repr([[pair.name for pair in patches.pairs], patches.hr.shapes.tolist()]).encode())


def introduce(model: nn.Module, run: Run, cost: tuple[float, float], sets: Sets, args: argparse.Namespace) -> None:
    """Prints the network, its cost (GFLOPs, M parameters), the hardware, the images and the share of each set."""
    name, (gflops, mparams) = network_name(args.model, run.hyperparameters), cost
    print(f"{name}: {gflops:.3f} GFLOPs, {mparams:.6f} M parameters on {hardware(args.device)}")
    fetch = " (python demo.py fetches it)" if args.set5 == Path("Set5") else ""
    missing = "" if sets.set5 else f"; no folder {args.set5}, so Set5 is not scored{fetch}"
    print(f"{sets.training.photo_count} training and {len(sets.validation.pairs)} validation images{missing}")
    if small := sets.training.left_out:
        print(f"{len(small)} more are smaller than --patch {args.patch} and left out, such as {describe(small[0])}")
    names = [*args.data, "noise"] if args.noise else args.data
    if len(names) > 1:
        shares = zip(names, sets.training.set_shares(), strict=True)
        print("patches: " + ", ".join(f"{share:.1%} {Path(name).name}" for name, share in shares))
    if may_run_native(model, args) and (reason := chain.compiled()[1] or tail.compiled()[1]):
        print(f"layers run one at a time, which is slower: {reason}")


def note_images(run: Run, sets: Sets, ranks: Ranks) -> None:
    """Notes what the run trains and validates on; what was best on other images no longer counts."""
    mark = mark_of(sets.training)
    if run.trained_on not in (None, mark) and ranks.is_first:
        warn("other training images than before, or in another order; from here on patches are drawn from these")
    run.trained_on = mark
    images = [pair.name for pair in sets.validation.pairs]
    if run.validated_on and run.validated_on != images:
        if ranks.is_first:
            best = f"best.* ({run.best_psnr_db:.3f} dB on those) will be replaced by the best on these"
            warn(f"other validation images than before; {best}")
        run.best_psnr_db, run.start_psnr_db = float("-inf"), None
    run.validated_on = images


def score_start(learner: Learner, run: Run, sets: Sets, ranks: Ranks, args: argparse.Namespace) -> None:
    """Scores and prints the weights that --init names: training is worth it only where it beats them."""
    model = learner.evaluated.eval()
    run.start_psnr_db = validate(model, sets.validation, ranks, args)
    if math.isnan(run.start_psnr_db):
        raise TrainingError(
            f"--init {args.init}: these weights give nan on the validation images; give those of an earlier epoch"
        )
    on_set5 = f"  Set5 {score(model, sets.set5, False, ranks, args)[0]:.3f} dB" if sets.set5 else ""
    print(f"start  validation {run.start_psnr_db:.3f} dB{on_set5}", flush=True)


def warn_of_same_patches(file: Path, args: argparse.Namespace) -> None:
    """Tells where the run of --init's file drew the very patches that this one will draw."""
    metadata = read_weights(file)[1]
    network, flags, data = (metadata.get(key, {}) for key in ("hyperparameters", "flags", "data"))
    before = [metadata.get("seed"), network.get("scale"), data.get("sets"), data.get("repeat")]
    before += [flags.get(name) for name in ("patch", "detail", "noise")]
    if before == [args.seed, args.scale, args.data, args.repeat, args.patch, args.detail, args.noise]:
        warn(f"{file} learned from the same patches in this order; take another --seed")


def warn_of_a_jump(before: dict, step: int, args: argparse.Namespace) -> None:
    """Tells where the flags of a resumed run change its rate: a stretched cosine goes back up."""
    was, now = learning_rate(step, argparse.Namespace(**before)), learning_rate(step, args)
    if abs(now - was) > 0.01 * was:
        warn(
            f"these flags change the learning rate from {was:.2e} to {now:.2e}; --init, with the weights and a"
            " --save-dir of its own, begins another schedule instead"
        )


def warn_if_the_start_was_better(run: Run) -> None:
    if run.start_psnr_db is not None and run.best_psnr_db < run.start_psnr_db:
        warn(
            f"the best epoch has {run.best_psnr_db:.3f} dB, the weights it started from {run.start_psnr_db:.3f} dB;"
            " train longer, or with a lower --lr"
        )


def train(args: argparse.Namespace, state: dict | None, ranks: Ranks) -> dict:
    """Trains to the last epoch; returns the last log entry.

    Raises:
        TrainingError, DataError, CheckpointError, OSError: what keeps it from its end; the message says what to do.
    """
    started = time.monotonic()
    check_writable(args.save_dir, f"--save-dir {args.save_dir}")
    found = find_images(args)  # before what takes seconds: a path may be mistyped
    learner, run = build(args, state)
    started -= run.seconds  # earlier legs count
    with locked(args.save_dir) if ranks.is_first else nullcontext():
        check_can_go_on(run, state, ranks, args)
        sets = open_data(found, args)
        check_same_images(sets, ranks, args)
        cost = count_cost(learner.model)
        if ranks.is_first:
            introduce(learner.model, run, cost, sets, args)
            if state:
                warn_of_a_jump(state["args"], run.epoch * args.iterations, args)
        note_images(run, sets, ranks)
        if state is None and (file := init_file(args)):
            if ranks.is_first:
                warn_of_same_patches(file, args)
            score_start(learner, run, sets, ranks, args)
        leg = {"command": "python train.py " + shlex.join(args.argv), "commit": git_commit()}
        leg |= {"hardware": hardware(args.device), "torch": str(torch.__version__), "processes": ranks.world}
        run.commands.append({**leg, "from_iteration": run.base["iterations"] + run.epoch * args.iterations})
        train_epochs(learner, run, sets, cost, started, ranks, args)
        if ranks.is_first:
            if (best := args.save_dir / "best.safetensors").exists():
                print(f"weights of the best epoch: {best}")
            warn_if_the_start_was_better(run)
    return run.history[-1]


def train_epochs(
    learner: Learner,
    run: Run,
    sets: Sets,
    cost: tuple[float, float],
    started: float,
    ranks: Ranks,
    args: argparse.Namespace,
) -> None:
    """Trains, evaluates, saves and tells, an epoch at a time; hours count from `started`, monotonic seconds."""

    def hours() -> float:
        return (time.monotonic() - started) / 3600

    log_to_tensorboard = open_tensorboard(run.epoch * args.iterations + 1, args) if ranks.is_first else None
    gradients = Gradients(accelerate(learner.model, ranks, args), learner.model, args)
    source = batches(place(sets.training, ranks, args), run.epoch * args.iterations, ranks, args)
    evaluated = learner.evaluated
    first_epoch, first_hours, drawn = run.epoch, hours(), time.monotonic()
    evaluation_hours = 0.0  # of the latest
    while run.epoch < args.epochs:
        epoch = run.epoch + 1
        train_loss = train_epoch(gradients, learner, source, epoch, ranks, args)
        trained_hours = hours()
        if args.minutes:
            pace = (trained_hours - first_hours) / (epoch - first_epoch)
            ahead = evaluation_hours * (2 if epoch % args.eval_every == 0 else 1)  # this epoch's and the last one's
            args.epochs = epochs_in_time(epoch, trained_hours + ahead, pace, ranks, args)
            # once an evaluation is in the pace
            if ranks.is_first and epoch == min(first_epoch + args.eval_every + 1, args.epochs):
                warn_of_few_epochs(args)
        is_due = epoch % args.eval_every == 0 or epoch == args.epochs
        if is_redrawn := is_due and (epoch == args.epochs or time.monotonic() - drawn > REDRAW_SECONDS):
            drawn = time.monotonic()
        evaluated.eval()
        set5_psnr_db, panel = None, []
        if is_due and sets.set5:
            set5_psnr_db, panel = score(evaluated, sets.set5, is_redrawn, ranks, args)
        entry = {
            "epoch": epoch,
            "iteration": epoch * args.iterations,
            "learning_rate": learner.optimizer.param_groups[0]["lr"],
            "train_loss": train_loss,
            "valid_psnr_db": validate(evaluated, sets.validation, ranks, args) if is_due else None,
            "set5_psnr_db": set5_psnr_db,
            "hours": hours(),
        }
        if is_due and math.isnan(entry["valid_psnr_db"]):
            raise diverged("the validation PSNR became nan", epoch, args)
        if is_due:
            evaluation_hours = entry["hours"] - trained_hours
        is_best = is_due and entry["valid_psnr_db"] > run.best_psnr_db
        if is_best:
            run.best_psnr_db = entry["valid_psnr_db"]
        run.history.append(entry)
        run.epoch, run.seconds = epoch, entry["hours"] * 3600
        if ranks.is_first:
            save(learner, run, sets.training.photo_count, cost, is_best, args)
            if is_redrawn:
                draw(panel, args)
            log_to_tensorboard(entry)
            print(format_entry(entry, run.best_psnr_db, args.epochs), flush=True)
    ranks.meet()


def warn_of_few_epochs(args: argparse.Namespace) -> None:
    if args.epochs < 20:
        epochs = "1 epoch" if args.epochs == 1 else f"{args.epochs} epochs"
        warn(
            f"--minutes {args.minutes:g} leaves {epochs} of {args.iterations} iterations, and the rate follows the time"
            " by epochs; take fewer --iterations"
        )


def epochs_in_time(epoch: int, hours: float, pace: float, ranks: Ranks, args: argparse.Namespace) -> int:
    """How many epochs fit into --minutes where `epoch` of them, with the last evaluation, take `hours` and each other
    takes `pace` hours.
    """
    hours, pace = (total / ranks.world for total in ranks.sum((hours, pace), args.device))  # so that all agree
    return epoch + max(0, int((args.minutes / 60 - hours) / pace))


def save(
    learner: Learner, run: Run, photo_count: int, cost: tuple[float, float], is_best: bool, args: argparse.Namespace
) -> None:
    """Writes the states, the best weights and the log."""
    state = {
        "name": args.model,
        "hyperparameters": run.hyperparameters,
        "args": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        "run": asdict(run),
        "model": learner.model.state_dict(),
        "ema": learner.ema.model.state_dict() if learner.ema else None,
        "optimizer": learner.optimizer.state_dict(),
    }
    if is_best:
        save_weights(args.save_dir / "best.safetensors", learner.evaluated, describe_run(run, photo_count, *cost, args))
        save_state(args.save_dir / "best.pth", state)
    save_state(args.save_dir / "last.pth", state)  # after best.*: a run killed between them repeats the epoch
    write_log(args.save_dir / "log.jsonl", run.history)


def main(argv: Sequence[str] | None = None) -> dict:
    keep_freed_memory()
    try:
        args, state = parse_args(argv)
    except OSError as error:  # a file that cannot be looked at
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        stop("nothing was begun")
    ranks = Ranks()
    if ranks.is_first:
        warn_of_flags(args, state)
    with ranks.joined(args.device), nullcontext() if ranks.is_first else redirect_stdout(None):
        return train_or_stop(args, state, ranks)


def train_or_stop(args: argparse.Namespace, state: dict | None, ranks: Ranks) -> dict:
    """Trains; what ends a run early becomes one line and an exit code."""
    try:
        with memory_shortage("take a smaller --batch or --patch, or --cache disk" + ", or --no-graph" * args.graph):
            return train(args, state, ranks)
    except (TrainingError, MemoryError, ValueError, OSError) as error:  # DataError, CheckpointError are ValueErrors
        sys.exit(f"error: {error}")
    except RuntimeError as error:
        if ranks.world == 1:
            raise
        sys.exit(f"error: rank {ranks.rank} of {ranks.world} stopped: {first_line(error)}")
    except KeyboardInterrupt:
        file = args.save_dir / "last.pth"
        stop(f"go on with: python train.py --resume {quoted(file)}" if file.exists() else "nothing was saved yet")


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # file names need not fit the terminal's encoding
    if Ranks().world == 1:  # several may be waiting for one another, where Python handles no signals
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of what removes a half-written file
    main()
