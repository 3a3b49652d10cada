"""train.py's flags: what there is, what completes it, what is refused or warned of, and what a resumed run keeps."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import torch

from models import MODELS, complete_hyperparameters
from utils.checkpoint import CheckpointError, load_state, network_name, read_weights
from utils.distributed import Ranks
from utils.flags import (
    FlagParser,
    at_least_0,
    at_least_1,
    below_one,
    not_negative,
    number_that,
    positive,
    quoted,
    warn,
)
from utils.hardware import check_device, has_bf16
from utils.losses import LOSSES

# What --recipe puts before the flags that are given. A run's length is for --epochs, --iterations or --minutes to say.
RECIPES = {
    "long": "--optimizer soap --cautious --lr 6e-3 --lr-min 5e-5 --warmup 200 --schedule cosine --loss fourier"
    " --batch 8 --patch 96 --ema 0.999 --clip 1 --detail 1 --noise 0.02",
    "short": "--optimizer soap --cautious --lr 3e-4 --warmup 50 --schedule cosine --loss psnr"
    " --batch 8 --patch 192 --ema 0.999 --clip 1 --noise 0.05",
}

# Flags that a resumed run takes from its checkpoint and that cannot change on the way.
FIXED = ("recipe", "model", "nf", "modules", "scale", "init", "optimizer", "loss", "batch", "patch", "seed", "ema")
FIXED += ("iterations", "detail", "noise", "valid_patch", "valid_repeat", "save_dir")

# Flags that belong to the machine: a resumed run chooses them anew.
MACHINE = ("resume", "device", "workers", "cache", "compile", "graph", "channels_last")

# Flags whose values, the last leg's, are written into the published weights; None where --help tells what it was.
DESCRIBED = ("batch", "patch", "optimizer", "precondition_every", "cautious", "loss", "lr", "schedule", "lr_min")
DESCRIBED += ("anneal_epochs", "warmup", "epochs", "minutes", "iterations", "ema", "clip", "init", "bf16", "compile")
DESCRIBED += ("detail", "noise")

DEFAULT_DATA = ["DIV2K_decoded", "Flickr2K_decoded"]

AUTO = Path("auto")  # of --resume

REPORT_FLOOR = 3e-4  # the rate that --schedule report falls to
COSINE_FLOOR, COSINE_WARMUP = 1e-6, 100  # the rate that --schedule cosine falls to, and the iterations that it rises


def make_parser(description: str) -> FlagParser:
    parser = FlagParser(description)
    add_network_flags(parser)
    add_data_flags(parser)
    add_optimisation_flags(parser)
    add_run_flags(parser)
    return parser


def add_network_flags(parser: FlagParser) -> None:
    group = parser.add_argument_group("network (default sizes: those of its class in models/)")
    group.add_argument("--model", choices=list(MODELS), help="default: of --init's file, or IMDN_dw")
    group.add_argument("--nf", type=int, help="features (default: of --init's file, or the model's own)")
    group.add_argument("--modules", type=int, help="blocks (default: of --init's file, or the model's own)")
    group.add_argument("--scale", type=int, choices=(2, 3, 4), help="default: of --init's file, or 3")
    group.add_argument(
        "--init",
        default="default",
        help="`default`: random; `interpolation`: near bilinear; or a file of weights to go on from, such as another"
        " run's best.safetensors, of a network of other depth or scale too, or the IMDN authors' .pth",
    )


def add_data_flags(parser: FlagParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data",
        nargs="+",
        default=DEFAULT_DATA,
        help="decoded sets (folders that png2npy.py wrote), or `sample`",
    )
    group.add_argument(
        "--repeat",
        nargs="+",
        type=at_least_1,
        help="how many times as often each set's pixels are drawn (default: 10 1 for the default sets, else 1 each)",
    )
    group.add_argument(
        "--patch", type=at_least_1, default=192, help="side of a training patch, HR pixels; default %(default)s"
    )
    group.add_argument(
        "--detail",
        type=number_that(float, lambda power: 0 <= power <= 8, "must be from 0 to 8"),
        default=0.0,
        metavar="POWER",
        help="draw patches as often as they hold detail, to this power; try 1 (0: every crop as often)",
    )
    group.add_argument(
        "--noise",
        type=below_one,
        default=0.0,
        metavar="SHARE",
        help="this share of the patches are noise and patterns instead of photos: a network with attention may else"
        " answer such images with huge values; try 0.05",
    )
    group.add_argument(
        "--valid-patch", type=at_least_1, default=240, help="side of a validation patch, HR pixels; default %(default)s"
    )
    group.add_argument(
        "--valid-repeat", type=at_least_1, default=5, help="validation patches an image; default %(default)s"
    )
    group.add_argument(
        "--set5", type=Path, default=Path("Set5"), help="folder with original/ and, for ×3, LRbicx3/; scored if present"
    )
    group.add_argument(
        "--cache",
        choices=("auto", "disk", "ram", "device"),
        default="auto",
        help="where decoded images stay: memory-mapped, in RAM, or on the GPU (auto: the fastest that has room)",
    )
    group.add_argument("--workers", type=at_least_0, help="loader threads (default: 2 with a GPU, else 0)")


def add_optimisation_flags(parser: FlagParser) -> None:
    switch = argparse.BooleanOptionalAction
    group = parser.add_argument_group("optimisation (defaults are the report's)")
    group.add_argument(
        "--recipe",
        choices=list(RECIPES),
        help="settings that get further than the defaults, as if given first. "
        + "; ".join(f"{name}: {flags}" for name, flags in RECIPES.items()),
    )
    group.add_argument("--batch", type=at_least_1, default=16, help="of all processes together; default %(default)s")
    length = group.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=at_least_1, default=2000, help="default %(default)s")
    length.add_argument(
        "--minutes",
        type=positive,
        help="train for so long instead, earlier legs of a resumed run included: after every epoch the pace tells how"
        " many there will be, so that --schedule cosine ends with the time; take --iterations that make many",
    )
    group.add_argument("--iterations", type=at_least_1, default=1000, help="an epoch; default %(default)s")
    group.add_argument("--optimizer", choices=("adam", "soap"), default="adam", help="default %(default)s")
    group.add_argument(
        "--loss",
        choices=list(LOSSES),
        default="l1",
        help="fourier: l1 of the pixels and of their Fourier coefficients; psnr: minus the mean PSNR, for a last leg;"
        " default %(default)s",
    )
    group.add_argument("--lr", type=positive, default=1e-3, help="peak learning rate; default %(default)s")
    group.add_argument(
        "--schedule",
        choices=("report", "cosine"),
        default="report",
        help="report: cosine over --anneal-epochs, then constant; cosine: warm-up, then cosine over the whole run;"
        " default %(default)s",
    )
    group.add_argument(
        "--lr-min",
        type=not_negative,
        help=f"floor (default: {REPORT_FLOOR:g} for report, {COSINE_FLOOR:g} for cosine, --lr at most)",
    )
    group.add_argument(
        "--anneal-epochs", type=at_least_1, default=1000, help="of --schedule report; default %(default)s"
    )
    group.add_argument(
        "--warmup",
        type=at_least_0,
        help=f"iterations (default: 0 for report; {COSINE_WARMUP} for cosine, a tenth of the run at most)",
    )
    group.add_argument(
        "--precondition-every", type=at_least_1, default=10, help="steps between SOAP's eigenbases; default %(default)s"
    )
    group.add_argument(
        "--cautious",
        action=switch,
        default=False,
        help="SOAP moves no weight up the gradient of the present batch",
    )
    group.add_argument("--ema", type=below_one, default=0.0, help="decay of the averaged weights; 0: none")
    group.add_argument("--clip", type=not_negative, default=0.0, help="largest gradient norm; 0: none")
    seed = number_that(int, lambda n: 0 <= n < 2**63, "must be from 0 to 2^63 - 1")
    group.add_argument("--seed", type=seed, default=0)


def add_run_flags(parser: FlagParser) -> None:
    switch = argparse.BooleanOptionalAction
    group = parser.add_argument_group("run")
    group.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    group.add_argument("--bf16", action=switch, help="bfloat16 autocast (default: on GPUs that have it)")
    group.add_argument("--compile", action=switch, help="torch.compile (default: on GPUs)")
    group.add_argument(
        "--graph",
        action=switch,
        help="replay each step as a CUDA graph (default: on GPUs, where one process trains)",
    )
    group.add_argument("--channels-last", action=switch, help="layout in memory (default: what is faster)")
    group.add_argument("--eval-every", type=at_least_1, default=1, help="epochs")
    group.add_argument("--tensorboard", action=switch, default=False, help="also log to SAVE_DIR/tensorboard")
    group.add_argument("--save-dir", help="default: runs/MODEL_nfN_mN_xN")
    group.add_argument(
        "--resume",
        type=Path,
        help="training state to go on from, such as runs/NAME/last.pth; its flags hold where none are given anew, but"
        " for those of the machine. auto: last.pth of --save-dir, or a new run where there is none yet, for jobs that"
        " are started again and again by one command",
    )


def read_flags(description: str, argv: Sequence[str] | None) -> tuple[argparse.Namespace, dict | None]:
    """The flags, and the state to resume from or None. A resumed run's own flags are the defaults."""
    parser = make_parser(description)
    typed = list(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(typed)
    if args.recipe:
        args = parser.parse_args(RECIPES[args.recipe].split() + typed)
    args.argv, args.is_auto = typed, args.resume == AUTO
    try:
        complete_network(args)
    except ValueError as error:
        parser.error(str(error))
    if args.is_auto:
        args.resume = file if (file := save_dir(args) / "last.pth").exists() else None
    if not args.resume:
        check_args(parser, args)
        complete_args(parser, args)
        return args, None
    try:
        state = load_state(args.resume)
    except CheckpointError as error:
        parser.error(f"--resume: {error}{state_nearby(args.resume)}")
    args = resumed_args(parser, args, state)
    complete_args(parser, args)
    return args, state


def complete_network(args: argparse.Namespace) -> None:
    """Fills in what is not given of --model, --nf, --modules and --scale, from the file of --init or by default."""
    described, given = {}, {"nf": args.nf, "num_modules": args.modules, "scale": args.scale}
    if file := init_file(args):
        with suppress(CheckpointError):  # told when its weights are taken
            metadata = read_weights(file)[1]
            if metadata.get("model") in MODELS:
                described = {"model": metadata["model"], **metadata.get("hyperparameters", {})}
    args.model = args.model or described.get("model") or "IMDN_dw"
    if described.get("model") == args.model:
        given = {key: described.get(key) if value is None else value for key, value in given.items()}
    given["scale"] = given["scale"] or 3
    complete = complete_hyperparameters(args.model, **given)
    args.nf, args.modules, args.scale = (complete[key] for key in given)


def init_file(args: argparse.Namespace) -> Path | None:
    """The file of weights that --init names, if it names one."""
    return None if args.init in ("default", "interpolation") else Path(args.init)


def check_args(parser: FlagParser, args: argparse.Namespace) -> None:
    """Refuses what the types of single flags cannot see."""
    recipe = f"; --recipe {args.recipe} stands for {RECIPES[args.recipe]}" if args.recipe else ""
    if args.lr_min is not None and args.lr_min > args.lr:
        parser.error(f"--lr-min {args.lr_min}: above --lr {args.lr}, the peak{recipe}")
    if args.cautious and args.optimizer != "soap":
        parser.error(f"--cautious needs --optimizer soap; leave it out, or add --no-cautious{recipe}")
    for flag, other, value in (("precondition_every", "optimizer", "soap"), ("anneal_epochs", "schedule", "report")):
        if getattr(args, flag) != parser.get_default(flag) and getattr(args, other) != value:
            parser.error(f"--{flag.replace('_', '-')} needs --{other} {value}")
    if "sample" in args.data and len(args.data) > 1:
        parser.error("--data sample stands alone")
    if args.repeat is not None and len(args.repeat) != len(args.data):
        parser.error(f"--repeat {args.repeat}: give a weight for each of --data {' '.join(args.data)}")
    if (file := init_file(args)) and file.suffix.lower() not in (".safetensors", ".pth", ".pt"):
        parser.error(f"--init {args.init}: default, interpolation, or a file of weights (.safetensors, .pth)")
    for flag in ("patch", "valid_patch"):
        size = getattr(args, flag)
        if size % args.scale:
            nearest = max(size // args.scale, 1) * args.scale
            parser.error(f"--{flag.replace('_', '-')} {size}: not a multiple of --scale {args.scale}; {nearest} is")


def complete_args(parser: FlagParser, args: argparse.Namespace) -> None:
    """Fills in defaults that depend on other flags or on the machine, and refuses what this one does not have."""
    if args.repeat is None:
        args.repeat = [10, 1] if [Path(root).name for root in args.data] == DEFAULT_DATA else [1] * len(args.data)
    ranks = Ranks()
    if args.batch % ranks.world:
        parser.error(f"--batch {args.batch}: not a multiple of the {ranks.world} processes")
    if args.device == "cuda":
        args.device = f"cuda:{ranks.local}"
    try:
        check_device(args.device)
    except ValueError as error:
        parser.error(f"--device {args.device}: {error}")
    on_gpu = args.device.startswith("cuda")
    if args.cache == "device" and not on_gpu:
        parser.error("--cache device needs a GPU")
    if args.bf16 is None:
        args.bf16 = on_gpu and has_bf16(args.device)
    if args.compile is None:
        args.compile = on_gpu
    if args.graph and not (on_gpu and ranks.world == 1):
        parser.error("--graph needs a GPU, and one process")
    if args.graph is None:
        args.graph = on_gpu and ranks.world == 1
    if args.workers is None:
        args.workers = 2 if on_gpu else 0
    if args.tensorboard and ranks.is_first:
        try:
            import_module("torch.utils.tensorboard")
        except ImportError:
            parser.error("--tensorboard needs the package: pip install tensorboard")
    args.save_dir = save_dir(args)


def state_nearby(path: Path) -> str:
    """Where a training state lies instead of one that cannot be read, to be put behind why; "" where none does."""
    if path.suffix.lower() in (".safetensors", ".onnx"):  # the error itself says what to give
        return ""
    folder = path if path.is_dir() else path.parent
    others = [file for name in ("last.pth", "best.pth") if (file := folder / name) != path and file.exists()]
    return f"; {'in' if folder == path else 'beside'} it is {quoted(others[0])}" if others else ""


def resumed_args(parser: FlagParser, given: argparse.Namespace, state: dict) -> argparse.Namespace:
    """The flags of a state's run, and over them those that are given anew; new --minutes set --epochs, by the pace.

    Refuses what cannot change, and ends the process where --resume auto has nothing to do.
    """
    saved = {key: value for key, value in state["args"].items() if key not in MACHINE}
    saved = {"recipe": None, **saved, "save_dir": str(given.resume.parent)}
    names = {flag.split("=")[0] for flag in given.argv}
    if "--epochs" in names:
        saved["minutes"] = None
    if "--data" in names and len(given.data) != len(saved["data"]):
        saved["repeat"] = None  # it holds a weight for each set of before
    parser.set_defaults(**saved)
    kept = {name: getattr(given, name) for name in ("argv", "resume", "is_auto")}
    # without --recipe's flags: the state holds what they stand for
    args = argparse.Namespace(**vars(parser.parse_args(given.argv)) | kept)
    for flag in FIXED:
        value, before = getattr(args, flag), saved[flag]
        if value != before and not (flag == "save_dir" and Path(value).resolve() == Path(before).resolve()):
            name = flag.replace("_", "-")
            parser.error(f"--{name} {value}: the resumed run has {before}, and it cannot change")
    check_args(parser, args)
    epoch, seconds = state["run"]["epoch"], state["run"]["seconds"]
    if args.minutes and args.minutes != saved["minutes"]:  # by the pace so far
        args.epochs = epoch + max(0, int((60 * args.minutes - seconds) / seconds * epoch))
    if args.is_auto and epoch >= max(args.epochs, saved["epochs"]):
        parser.exit(0, f"{args.resume}: this run has ended at epoch {epoch}; nothing to do\n")
    return args


def sizes(args: argparse.Namespace) -> dict[str, int]:
    return complete_hyperparameters(args.model, nf=args.nf, num_modules=args.modules, scale=args.scale)


def save_dir(args: argparse.Namespace) -> Path:
    return Path(args.save_dir or f"runs/{network_name(args.model, sizes(args))}")


def warn_of_flags(args: argparse.Namespace, state: dict | None) -> None:
    """Tells of flags that are allowed and seldom meant."""
    if args.bf16 and not has_bf16(args.device):
        warn(f"{args.device} has no bfloat16 arithmetic; --bf16 is slower than float32")
    if state and could_take_bf16(args):
        print("this run goes on in float32, as it began; --bf16 is usually faster on this GPU", file=sys.stderr)
    is_long = args.minutes or 10 <= args.epochs < args.anneal_epochs  # what is shorter is a trial
    if args.schedule == "report" and args.lr_min is None and args.lr <= REPORT_FLOOR:
        above = f"--schedule report does not go below {REPORT_FLOOR:g}; give --lr-min, or --schedule cosine"
        warn(f"the rate stays at --lr {args.lr:g}: {above}")
    elif args.schedule == "report" and is_long:
        falls = f"falls over {args.anneal_epochs} epochs, however long the run is"
        warn(f"the rate of --schedule report {falls}; that of cosine ends with it")
    if args.warmup and args.warmup > args.epochs * args.iterations:
        warn(f"--warmup {args.warmup} is longer than the run, which never reaches --lr")


def could_take_bf16(args: argparse.Namespace) -> bool:
    """Whether the GPU has bfloat16, and the run does without it though this command does not say so."""
    is_asked = args.bf16 or "--no-bf16" in args.argv
    return args.device.startswith("cuda") and not is_asked and has_bf16(args.device)
