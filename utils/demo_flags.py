"""demo.py's flags: what there is, what goes with what, and what cannot be."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from natsort import natsorted

from models import MODELS
from utils.evaluation import PROTOCOLS
from utils.flags import FlagParser, at_least_1, number_that, warn
from utils.hardware import check_device
from utils.images import IMAGE_SUFFIXES

DEFAULT_MODEL = "IMDN_dw"
DEFAULT_WEIGHTS = "IMDN_dw_nf32_m10_x3.safetensors"  # in checkpoint/
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# The flag that says what demo.py does -> those that go with it; where none is given it scores one network.
SIZES = {"model", "nf", "modules", "scale"}
RUNS = SIZES | {"checkpoint", "backend", "ensemble"}
TILES = {"tile", "batch", "precision"}  # scoring has tiles of its own, in float32
MODES = {
    "cost_only": SIZES | {"checkpoint", "json"},
    "training": {"all"},
    "all": {"ensemble", "protocol", "set5", "benchmark", "json", "plot", "curves"},
    "publish": {"checkpoint", "set5", "benchmark", "data_note", "overwrite"},
    "sr": {"scale", "protocol", "set5", "benchmark", "csv", "json"},
    "export": SIZES | {"checkpoint"},
    "web": RUNS - {"backend"} | TILES | {"port"},
    "teach": RUNS | TILES | {"output", "share", "from_hr"},
    "compare": RUNS | TILES | {"input", "hr", "crop"},
    "input": RUNS | TILES | {"output", "format", "overwrite"},
    "save_sr": RUNS | {"protocol", "set5", "benchmark", "csv", "json", "overwrite"},
    "scoring": RUNS | {"protocol", "set5", "benchmark", "csv", "json"},
}

FIGURE = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")
WRITES = {"plot": FIGURE, "curves": FIGURE, "compare": FIGURE, "csv": (".csv",), "export": (".onnx",)}


def make_parser(description: str) -> FlagParser:
    parser = FlagParser(description)
    add_network_flags(parser)
    add_scoring_flags(parser)
    add_upscaling_flags(parser)
    add_other_flags(parser)
    parser.add_argument("--device", help="default: cuda where there is a GPU, else cpu")
    return parser


def add_network_flags(parser: FlagParser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument("--checkpoint", type=Path, help=f"weights (default: checkpoint/{DEFAULT_WEIGHTS})")
    group.add_argument("--all", action="store_true", help="every file in checkpoint/")
    group.add_argument(
        "--model",
        choices=list(MODELS),
        help="the network to choose in checkpoint/, to count, or that a --checkpoint holds which does not say so",
    )
    group.add_argument("--nf", type=int, help="features of --model")
    group.add_argument("--modules", type=int, help="blocks of --model")
    group.add_argument(
        "--scale", type=int, choices=(2, 3, 4), help="of the network or of --sr (default: 3, or as --checkpoint says)"
    )
    group.add_argument("--ensemble", action="store_true", help="average over the 8 flips and rotations of its input")
    group.add_argument(
        "--cost-only",
        action="store_true",
        help="print FLOPs, PARAMS and activations, in all and by part; score nothing",
    )


def add_scoring_flags(parser: FlagParser) -> None:
    group = parser.add_argument_group("scoring")
    group.add_argument("--protocol", choices=PROTOCOLS, default="course", help="course: RGB; paper: Y and SSIM")
    group.add_argument(
        "--set5", type=Path, help="folder with original/ and, for ×3, LRbicx3/ (default: Set5, else fetched)"
    )
    group.add_argument("--benchmark", type=Path, help="folder of HR images; LR by MATLAB's bicubic")
    group.add_argument(
        "--sr",
        type=Path,
        metavar="DIR",
        help="score the SR images of this folder, of any program, instead of a network's; they are called as the HR"
        " images are, or so with one ending for all",
    )
    group.add_argument("--save-sr", type=Path, metavar="DIR", help="write the SR images that are scored, as PNG")
    group.add_argument("--csv", type=Path, help="write Id,Loss rows, as ID_result.csv")
    group.add_argument("--json", action="store_true", help="print one JSON object instead of the sheet")
    group.add_argument("--plot", type=Path, metavar="PNG", help="with --all: draw PSNR against FLOPs, ×3")
    group.add_argument("--curves", type=Path, metavar="PNG", help="with --all: draw PSNR against training, ×3")
    group.add_argument("--training", action="store_true", help="with --all: how each was trained, from its metadata")
    group.add_argument(
        "--publish", action="store_true", help="score --checkpoint by both protocols and copy it to checkpoint/"
    )
    group.add_argument("--data-note", help="with --publish: what the training data was, in words")


def add_upscaling_flags(parser: FlagParser) -> None:
    group = parser.add_argument_group("upscaling")
    group.add_argument("--input", type=Path, help="image, folder, or glob in quotes")
    group.add_argument(
        "--teach",
        type=Path,
        metavar="DIR",
        help="decoded set to write to --output, each training image as the network makes it of its LR",
    )
    group.add_argument(
        "--share",
        type=number_that(float, lambda part: 0 < part <= 1, "must be above 0 and at most 1"),
        default=1.0,
        help="with --teach: the network's part in each image (default 1; the rest is the HR's)",
    )
    group.add_argument(
        "--from-hr", action="store_true", help="with --teach: take the HR photos as LR, which is more to learn from"
    )
    group.add_argument("--output", type=Path, help="image or folder to write")
    formats = [suffix[1:] for suffix in IMAGE_SUFFIXES]
    group.add_argument("--format", choices=formats, help="of the images in that folder (default: of each input)")
    group.add_argument(
        "--overwrite", action="store_true", help="replace what --output, --save-sr or checkpoint/ holds already"
    )
    group.add_argument("--tile", type=at_least_1, help="longest side of a tile, LR pixels (default: some 768 MB)")
    group.add_argument("--batch", type=at_least_1, help="tiles at once (default: what memory allows)")
    group.add_argument("--precision", choices=list(DTYPES), default="float32", help="bfloat16, float16: on a GPU")
    group.add_argument("--compare", type=Path, metavar="PNG", help="draw LR, bicubic and ours, of --input or --hr")
    group.add_argument("--hr", type=Path, help="ground truth for --compare; without --input, LR is made from it")
    group.add_argument("--crop", type=int, nargs=3, metavar=("X", "Y", "SIDE"), help="what to enlarge, HR pixels")


def add_other_flags(parser: FlagParser) -> None:
    group = parser.add_argument_group("elsewhere")
    group.add_argument("--export", type=Path, metavar="ONNX", help="write the network as an ONNX file of any size")
    group.add_argument("--web", action="store_true", help="open a local page to try the networks on (needs gradio)")
    port = number_that(int, lambda n: 0 < n < 2**16, "must be from 1 to 65535")
    group.add_argument("--port", type=port, help="with --web: its port (default: the first free one from 7860)")
    group.add_argument(
        "--backend", choices=("torch", "onnxruntime"), default="torch", help="onnxruntime: --checkpoint is an ONNX file"
    )


def read_flags(description: str, argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags, and what they ask for as `mode`; refused where they contradict one another or the machine."""
    parser = make_parser(description)
    args = parser.parse_args(argv)
    args.mode, others = mode_and_flags(parser, args)
    check_flags(parser, args, others)
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        check_device(args.device)
    except ValueError as error:
        parser.error(f"--device {args.device}: {error}")
    if args.precision != "float32" and args.device == "cpu":
        warn(f"--precision {args.precision} is for GPUs; on a CPU float32 is usually faster")
    return args


def mode_and_flags(parser: FlagParser, args: argparse.Namespace) -> tuple[str, set[str]]:
    """The first flag of MODES that is given, or `scoring`; and the other flags that are."""
    given = {flag for flag, value in vars(args).items() if value != parser.get_default(flag)} - {"device"}
    mode = next((mode for mode in MODES if mode in given), "scoring")
    return mode, given - {mode}


def check_flags(parser: FlagParser, args: argparse.Namespace, others: set[str]) -> None:
    """Refuses flags that contradict one another or do nothing together; `others` are given beside that of the mode."""
    mode = args.mode

    def spelt(*flags: str) -> str:
        return ", ".join(f"--{flag.replace('_', '-')}" for flag in flags)

    if args.training and not args.all:
        parser.error("--training goes with --all")
    if args.plot and args.all and (args.ensemble or args.benchmark or args.protocol != "course"):
        parser.error("--plot draws scores on Set5 by the course protocol; no --ensemble, --benchmark, --protocol paper")
    if stray := natsorted(others - MODES[mode]):
        if mode == "scoring":
            parser.error(f"{spelt(stray[0])} goes with {spelt(*(m for m in MODES if stray[0] in MODES[m]))}")
        parser.error(f"{spelt(stray[0])} does not go with {spelt(mode)}, which takes {spelt(*natsorted(MODES[mode]))}")
    if args.csv and (args.benchmark or args.ensemble or args.protocol != "course" or args.scale in (2, 4)):
        parser.error("--csv is the course's file, of Set5 ×3 by its protocol; leave out what asks for other scores")
    if mode == "publish" and not args.checkpoint:
        parser.error("--publish needs --checkpoint, a best.safetensors of train.py's")
    if mode in ("teach", "input") and not args.output:
        parser.error(f"--{mode} needs --output")
    if mode == "teach" and not (args.checkpoint or args.model):
        parser.error("--teach needs --checkpoint or --model, the network that teaches")
    if mode == "compare" and not (args.input or args.hr):
        parser.error("--compare needs --input or --hr")
    if args.backend == "onnxruntime":
        if not (args.checkpoint and args.checkpoint.suffix.lower() == ".onnx"):
            parser.error("--backend onnxruntime needs --checkpoint, an .onnx file that --export wrote")
        if args.model or args.nf or args.modules or args.scale:
            parser.error(
                "--backend onnxruntime: the .onnx file says which network it holds; leave out --model and its sizes"
            )
        if args.device not in (None, "cpu"):
            parser.error("--backend onnxruntime computes on the CPU; leave out --device")
        if args.precision != "float32":
            parser.error("--backend onnxruntime computes in float32; leave out --precision")
    for flag, suffixes in WRITES.items():
        if (path := getattr(args, flag)) and path.suffix.lower() not in suffixes:
            parser.error(f"--{flag} {path}: its name must end in {' or '.join(suffixes)}")
    if args.from_hr and args.share < 1:
        parser.error("--from-hr has no HR of its own to average with; leave out --share")
    if args.set5 and args.benchmark and mode != "publish":
        parser.error("--set5 and --benchmark: give one")


def sizes(args: argparse.Namespace) -> dict[str, int | None]:
    return {"nf": args.nf, "num_modules": args.modules, "scale": args.scale}
