"""Score a network on Set5, count its cost, or upscale images with it.

    python demo.py                                              # published weights, the report's score sheet
    python demo.py --all                                        # everything in checkpoint/, one table
    python demo.py --protocol paper --benchmark B100            # Y-PSNR and SSIM on any folder of images
    python demo.py --model IMDN_dw --nf 40 --modules 6 --cost-only
    python demo.py --input photo.jpg --output photo_x3.png
"""

import argparse
import csv
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn as nn
from tqdm import tqdm

from dataset import BenchmarkSet, DataError, read_named
from models import MODELS, build_model, complete_hyperparameters
from utils.checkpoint import CheckpointError, load_model
from utils.cost import count_cost
from utils.download import DownloadError, fetch_set5
from utils.evaluation import PROTOCOLS, Score, average, evaluate, to_image, to_tensor
from utils.files import atomic_path
from utils.images import IMAGE_SUFFIXES, list_images, write_rgb
from utils.metrics import kaggle_score, missed_conditions, ranking_score
from utils.tables import results_table
from utils.tiling import super_resolve

PUBLISHED = Path(__file__).parent / "checkpoint"
DEFAULT_CHECKPOINT = PUBLISHED / "IMDN_dw_nf40_m6_x3.safetensors"
DEFAULT_SET5 = Path("Set5")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    network = parser.add_argument_group("network")
    network.add_argument("--checkpoint", type=Path, help=f"weights (default: checkpoint/{DEFAULT_CHECKPOINT.name})")
    network.add_argument("--all", action="store_true", help="every file in checkpoint/")
    network.add_argument("--model", choices=list(MODELS), help="for weights that do not say, or with --cost-only")
    network.add_argument("--nf", type=int, help="features, likewise")
    network.add_argument("--modules", type=int, help="blocks, likewise")
    network.add_argument("--scale", type=int, choices=(2, 3, 4), help="likewise")
    network.add_argument("--cost-only", action="store_true", help="print FLOPs and PARAMS of --model, score nothing")
    scoring = parser.add_argument_group("scoring")
    scoring.add_argument("--protocol", choices=PROTOCOLS, default="course", help="course: RGB, tiled; paper: Y and SSIM")
    images = scoring.add_mutually_exclusive_group()
    images.add_argument("--set5", type=Path, help="folder with LRbicx3/ and original/ (default: Set5, fetched if absent)")
    images.add_argument("--benchmark", type=Path, help="folder of HR images; LR by MATLAB's bicubic")
    scoring.add_argument("--csv", type=Path, help="write Id,Loss rows, as ID_result.csv")
    scoring.add_argument("--json", action="store_true", help="print one JSON object instead of the sheet")
    upscaling = parser.add_argument_group("upscaling")
    upscaling.add_argument("--input", type=Path, help="image or folder")
    upscaling.add_argument("--output", type=Path, help="image or folder to write")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    if args.cost_only and not args.model:
        parser.error("--cost-only needs --model")
    if (args.input is None) != (args.output is None):
        parser.error("--input and --output go together")
    if args.all and (args.checkpoint or args.model or args.input or args.csv):
        parser.error("--all scores checkpoint/; leave out --checkpoint, --model, --input and --csv")
    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device {args.device}: {str(error).splitlines()[0]}")
    return args


def sizes(args: argparse.Namespace) -> dict[str, int | None]:
    return {"nf": args.nf, "num_modules": args.modules, "scale": args.scale}


# ---------------------------------------------------------------------------------------------------------------------
# Scoring


def open_benchmark(args: argparse.Namespace, scale: int) -> BenchmarkSet:
    """The images to score on: --benchmark, --set5, or Set5, fetched where absent; scikit-image's with no network."""
    if args.benchmark:
        return BenchmarkSet.from_folder(args.benchmark, scale)
    root = args.set5 or DEFAULT_SET5
    if not args.set5 and not root.exists():
        try:
            print(f"Set5 is not here; fetching it into {root}/", file=sys.stderr)
            fetch_set5(root)
        except DownloadError as error:
            print(f"Set5 could not be fetched ({error}); scoring on scikit-image's photos instead", file=sys.stderr)
            return BenchmarkSet.sample(scale)
    if args.protocol == "paper" or not (root / f"LRbicx{scale}").is_dir() and scale != 3:
        benchmark = BenchmarkSet.from_folder(root / "original", scale)
        benchmark.name = root.name
        return benchmark
    return BenchmarkSet.from_set5(root, scale)


def score(checkpoint: Path, args: argparse.Namespace) -> dict:
    """Scores one file of weights; the keys are those of --json, and `images`, the benchmark's name."""
    model, metadata = load_model(checkpoint, args.model, **sizes(args))
    hyperparameters = metadata["hyperparameters"]
    benchmark = open_benchmark(args, hyperparameters["scale"])
    flops_g, params_m = count_cost(model)
    scores = evaluate(model.to(args.device), tqdm(benchmark, leave=False, disable=None), hyperparameters["scale"], args.protocol)
    if args.csv:
        write_csv(args.csv, scores)
    return {
        "model": metadata["model"],
        "hyperparameters": hyperparameters,
        "scale": hyperparameters["scale"],
        "protocol": args.protocol,
        "images": benchmark.name,
        **summarise(scores, flops_g, params_m),
    }


def summarise(scores: Sequence[Score], flops_g: float, params_m: float) -> dict:
    """The report's figures from per-image scores and costs."""
    psnr_db = average(s.psnr_db for s in scores)
    measured = [s for s in scores if s.ssim is not None]
    return {
        "per_image": {s.name: s.psnr_db for s in scores},
        "average_psnr_db": psnr_db,
        **({"ssim": average(s.ssim for s in measured)} if measured else {}),
        "flops_g": flops_g,
        "params_m": params_m,
        "makes_budget": not missed_conditions(psnr_db, flops_g),
        "ranking_score": ranking_score(psnr_db, flops_g, params_m),
        "kaggle_score": kaggle_score([s.mse for s in scores]),
    }


def write_csv(path: Path, scores: Sequence[Score]) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("Id", "Loss"))
        writer.writerows(enumerate(s.mse for s in scores))


def format_sheet(result: dict) -> str:
    architecture = " ".join(f"{key}={value}" for key, value in result["hyperparameters"].items())
    missed = missed_conditions(result["average_psnr_db"], result["flops_g"])
    colour = "RGB" if result["protocol"] == "course" else "Y"
    lines = [f"{result['model']} {architecture}, {result['protocol']} protocol on {result['images']}"]
    lines += [f"  {name:<16}{psnr_db:8.4f} dB" for name, psnr_db in result["per_image"].items()]
    lines += [f"Average PSNR ({colour}): {result['average_psnr_db']:.3f} dB"]
    if "ssim" in result:
        lines += [f"Average SSIM (Y): {result['ssim']:.4f}"]
    lines += [f"FLOPs: {result['flops_g']:.12g} G", f"PARAMS: {result['params_m']:.6f} M"]
    if result["protocol"] == "course":
        verdict = "missed: " + "; ".join(missed) if missed else "You will get this 10 points."
        lines += [
            f"Budget: {verdict}",
            f"Overall ranking score: {result['ranking_score']:.3f}",
            f"Kaggle score: {result['kaggle_score']:.6f}",
        ]
    return "\n".join(lines)


def to_json(result: dict) -> str:
    """JSON has no infinity: the PSNR of equal images becomes null."""
    def finite(value: object) -> object:
        if isinstance(value, dict):
            return {key: finite(item) for key, item in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(result))


def score_all(args: argparse.Namespace) -> None:
    files = sorted(PUBLISHED.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{PUBLISHED} holds no weights")
    results = [score(file, args) for file in tqdm(files, leave=False, disable=None)]
    print(to_json({"results": results}) if args.json else results_table(results))


def print_cost(args: argparse.Namespace) -> None:
    flops_g, params_m = count_cost(build_model(args.model, **sizes(args)))
    if args.json:
        hyperparameters = complete_hyperparameters(args.model, **sizes(args))
        print(to_json({"model": args.model, "hyperparameters": hyperparameters, "flops_g": flops_g, "params_m": params_m}))
    else:
        print(f"FLOPs: {flops_g:.12g} G\nPARAMS: {params_m:.6f} M")


# ---------------------------------------------------------------------------------------------------------------------
# Upscaling


def upscaling_jobs(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """(image, file to write): a folder gives a folder of the same names, an image gives an image.

    Raises:
        DataError: nothing to read, or a target that cannot take it.
    """
    if source.is_dir():
        files = list_images(source)
        if not files:
            raise DataError(f"--input {source} holds no images")
        if target.is_file():
            raise DataError(f"--input is a folder, so --output {target} must be one, not a file")
        return [(file, target / file.name) for file in files]
    if not source.is_file():
        raise DataError(f"--input {source} does not exist")
    if target.is_dir():
        return [(source, target / source.name)]
    if target.suffix.lower() not in IMAGE_SUFFIXES:
        raise DataError(f"--output {target}: use one of {', '.join(IMAGE_SUFFIXES)}")
    return [(source, target)]


@torch.inference_mode()
def upscale(model: nn.Module, scale: int, args: argparse.Namespace) -> int:
    """Upscales --input into --output; returns the exit code, 1 where an image failed."""
    jobs = upscaling_jobs(args.input, args.output)
    problems = []
    for source, target in tqdm(jobs, unit="image"):
        try:
            if target.exists() and target.samefile(source):
                raise DataError(f"{target} is the input itself; write somewhere else")
            lr = to_tensor(read_named(source), args.device)
            write_rgb(target, to_image(super_resolve(model, lr, scale)))
        except DataError as error:
            problems.append(error)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def run(args: argparse.Namespace) -> int:
    if args.cost_only:
        print_cost(args)
    elif args.all:
        score_all(args)
    elif args.input:
        model, metadata = load_model(args.checkpoint or DEFAULT_CHECKPOINT, args.model, **sizes(args))
        return upscale(model.to(args.device), metadata["hyperparameters"]["scale"], args)
    else:
        result = score(args.checkpoint or DEFAULT_CHECKPOINT, args)
        print(to_json(result) if args.json else format_sheet(result))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        return run(args)
    except (ValueError, OSError) as error:  # DataError and CheckpointError are ValueErrors
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
