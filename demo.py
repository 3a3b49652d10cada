"""Score a network on Set5, count its cost, upscale images with it, or have it teach another.

python demo.py                                              # published weights, the report's score sheet
python demo.py --all                                        # everything in checkpoint/, one table
python demo.py --all --training                             # how each of them was trained
python demo.py --protocol paper --benchmark B100            # Y-PSNR and SSIM on any folder of images
python demo.py --protocol paper --benchmark B100 --sr sr    # the same of SR images that any program made
python demo.py --model IMDN_dw --nf 40 --modules 6 --cost-only
python demo.py --input photo.jpg --output photo_x3.png
python demo.py --compare comparison.png --hr photo.png      # LR, bicubic, ours and HR side by side
python demo.py --teach DIV2K_decoded --output DIV2K_taught --checkpoint IMDN_x3.pth   # a set for train.py
python demo.py --checkpoint runs/IMDN_dw_nf40_m6_x3/best.safetensors --publish --benchmark B100
"""

import argparse
import csv
import glob
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from itertools import takewhile
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
from natsort import natsorted

from dataset import (
    LARGEST_EXCESS,
    BenchmarkSet,
    DataError,
    Pair,
    check_sizes,
    downscaled,
    find_pairs,
    open_array,
    read_named,
    read_sr,
)
from models import build_model, complete_hyperparameters
from utils.bicubic import imresize
from utils.checkpoint import CheckpointError, load_model, network_name, read_weights, save_weights
from utils.cost import cost_by_part, count_cost
from utils.demo_flags import DEFAULT_MODEL, DEFAULT_WEIGHTS, DTYPES, WRITES, read_flags, sizes
from utils.download import DownloadError, fetch_set5
from utils.ensemble import SelfEnsemble
from utils.evaluation import PROTOCOLS, Score, average, bicubic_psnr_db, evaluate, measure, to_tensor
from utils.export import OnnxNetwork, export_onnx
from utils.files import CANNOT_WRITE, atomic_path, check_writable, is_made_from, is_output
from utils.flags import first_line, stop, warn
from utils.images import IMAGE_SUFFIXES, list_images, other_files, write_rgb
from utils.layout import TEACHER, arrays_below, write_array
from utils.memory import memory_shortage
from utils.metrics import kaggle_score, missed_conditions, psnr_rgb, ranking_score
from utils.photo import Photo, check_holds, eight_bits, is_enlarged, read_photo, spread_colours, write_photo
from utils.progress import progress
from utils.tables import cost_table, is_reports_benchmark, results_table, training_table
from utils.tiling import super_resolve
from utils.web import Upscaler, build_page, serve

PUBLISHED = Path(__file__).parent / "checkpoint"
DEFAULT_CHECKPOINT = PUBLISHED / DEFAULT_WEIGHTS
DEFAULT_SET5 = Path("Set5")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags, and what they ask for as `mode`."""
    return read_flags(__doc__, argv)


# ---------------------------------------------------------------------------------------------------------------------
# Networks


def open_network(args: argparse.Namespace) -> tuple[nn.Module, dict]:
    """The network of --checkpoint on --device, and its metadata."""
    if args.backend == "onnxruntime":
        model = OnnxNetwork(args.checkpoint)
        return prepare(model, args), model.metadata
    model, metadata = load_model(args.checkpoint or published_file(args), args.model, **sizes(args))
    return prepare(model, args), metadata


def prepare(model: nn.Module, args: argparse.Namespace) -> nn.Module:
    """The network as it runs: on --device, and with --ensemble on eight views of its input."""
    if not isinstance(model, OnnxNetwork):  # whose device is the CPU
        model = model.to(args.device)
    return SelfEnsemble(model) if args.ensemble else model


def published_file(args: argparse.Namespace) -> Path:
    """The weights in checkpoint/ of --model, --nf, --modules and --scale, as far as they are given.

    The default ones where they fit, else the only ones, of ×3 where no scale is given.
    """
    named = {"model": args.model, **sizes(args)}
    if not (wanted := {key: value for key, value in named.items() if value is not None}):
        return DEFAULT_CHECKPOINT
    networks = {
        file: {"model": metadata.get("model"), **metadata.get("hyperparameters", {})}
        for file, metadata in published_weights().items()
    }
    found = [file for file, network in networks.items() if wanted.items() <= network.items()]
    if DEFAULT_CHECKPOINT in found:
        return DEFAULT_CHECKPOINT
    if args.scale is None:
        found = [file for file in found if networks[file].get("scale") == 3] or found
    if len(found) == 1:
        return found[0]
    if found:
        how_many, these = "several", f"--model, --nf, --modules and --scale choose among {names_of(found)}"
    else:
        in_common = {file: len(wanted.items() & network.items()) for file, network in networks.items()}
        nearest = [file for file, count in in_common.items() if count == max(in_common.values())]
        is_near = any(in_common.values())
        how_many, these = "no", f"the nearest are {names_of(nearest)}" if is_near else "--all lists what it holds"
    raise CheckpointError(
        f"{PUBLISHED} holds {how_many} weights of {in_words(wanted)}; {these}; --checkpoint names other files,"
        " --cost-only needs none"
    )


def names_of(files: Sequence[Path]) -> str:
    return ", ".join(file.stem for file in files)


def published_weights() -> dict[Path, dict]:
    """The files in checkpoint/ and their metadata; what cannot be read is told of and left out."""
    published = {}
    for file in natsorted(PUBLISHED.glob("[!.]*.safetensors")):
        try:
            published[file] = read_weights(file)[1]
        except CheckpointError as error:
            warn(f"left out: {error}")
    if not published:
        raise CheckpointError(f"{PUBLISHED} holds no weights")
    return published


def in_words(named: dict) -> str:
    return " ".join(f"{key}={value}" for key, value in named.items())


def print_cost(args: argparse.Namespace) -> None:
    if args.checkpoint:
        metadata = load_model(args.checkpoint, args.model, **sizes(args))[1]
        name, hyperparameters = metadata["model"], metadata["hyperparameters"]
    else:
        name = args.model or DEFAULT_MODEL
        hyperparameters = complete_hyperparameters(name, **sizes(args))
    model = build_model(name, **hyperparameters)
    flops_g, params_m = count_cost(model)
    parts = cost_by_part(model)
    activations_m = round(sum(part["activations_m"] for part in parts), 6)
    if args.json:
        cost = {"flops_g": flops_g, "params_m": params_m, "activations_m": activations_m, "parts": parts}
        print(to_json({"model": name, "hyperparameters": hyperparameters, **cost}))
    else:
        print(f"{name} {in_words(hyperparameters)}\nFLOPs: {flops_g:.13g} G\nPARAMS: {params_m:.6f} M")
        print(f"Activations: {activations_m:.3f} M\n\n{cost_table(parts)}")


# ---------------------------------------------------------------------------------------------------------------------
# Scoring


def open_benchmark(args: argparse.Namespace, scale: int) -> BenchmarkSet:
    """The images to score on: --benchmark, or Set5."""
    if not args.benchmark:
        return open_set5(args, scale, args.protocol)
    benchmark = BenchmarkSet.from_folder(args.benchmark, scale)
    if args.protocol == "course":  # which has LR images of its own
        benchmark.name += ", LR by bicubic"
    return benchmark


def open_set5(args: argparse.Namespace, scale: int, protocol: str) -> BenchmarkSet:
    """--set5, or Set5, fetched where absent; scikit-image's photos with no network."""
    root = args.set5 or DEFAULT_SET5
    if not args.set5 and not root.exists() and (failure := fetch_failure(root.absolute())):
        for flag, needs_it in (("--csv", args.csv), ("--sr", args.sr), ("--save-sr", args.save_sr)):
            if needs_it:
                raise DataError(f"{flag} needs Set5, which could not be fetched ({failure}); give --set5 DIR")
        return BenchmarkSet.sample(scale)
    return BenchmarkSet.from_set5(root, scale, make_lr=protocol == "paper")


@cache  # one attempt, however many scales and protocols are scored
def fetch_failure(root: Path) -> str | None:
    """Tries to fetch Set5 into a folder, and tells of it; why that failed, or None."""
    print(f"Set5 is not here; fetching it into {root}/", file=sys.stderr)
    try:
        fetch_set5(root)
    except DownloadError as error:
        print(f"Set5 could not be fetched ({error}); --set5 DIR scores one that is here,", file=sys.stderr)
        print("else scores are those of scikit-image's photos", file=sys.stderr)
        return str(error)


def score_beside_bicubic(model: nn.Module, metadata: dict, args: argparse.Namespace) -> dict:
    benchmark = open_benchmark(args, metadata["hyperparameters"]["scale"])
    return beside_bicubic(score(model, metadata, benchmark, args, args.protocol), benchmark)


def beside_bicubic(result: dict, benchmark: BenchmarkSet) -> dict:
    images = progress(benchmark, desc="bicubic", leave=False)
    return result | {"bicubic_psnr_db": bicubic_psnr_db(images, result["scale"], result["protocol"])}


def score(model: nn.Module, metadata: dict, benchmark: BenchmarkSet, args: argparse.Namespace, protocol: str) -> dict:
    """Scores one network; the keys are those of --json, where score_beside_bicubic adds bicubic's."""
    hyperparameters = metadata["hyperparameters"]
    scale = hyperparameters["scale"]
    flops_g, params_m = count_cost(build_model(metadata["model"], **hyperparameters))
    asked = {"scale": scale, "protocol": protocol, "ensemble": args.ensemble, "images": benchmark.name}
    check_csv(asked, args)
    if args.save_sr:
        check_can_save_sr(benchmark, args)
    scores = collect(evaluate(model, progress(benchmark, leave=False), scale, protocol), args)
    result = {
        "model": metadata["model"],
        "hyperparameters": hyperparameters,
        **asked,
        **summarise(scores),
        "flops_g": (8 if args.ensemble else 1) * flops_g,
        "params_m": params_m,
    }
    return result | (verdict(result, scores) if is_reports_benchmark(result) else {})


def score_files(args: argparse.Namespace) -> dict:
    """Scores the images of --sr; the keys are those of --json."""
    scale = args.scale or 3
    benchmark = open_benchmark(args, scale)
    asked = {"scale": scale, "protocol": args.protocol, "ensemble": False, "images": benchmark.name}
    check_csv(asked, args)
    images = progress(read_sr(args.sr, benchmark, scale), total=len(benchmark), leave=False)
    measured = (measure(name, to_tensor(sr), to_tensor(hr), scale, args.protocol) for name, sr, hr in images)
    scores = collect(measured, args)
    result = {"sr": str(args.sr), **asked, **summarise(scores)}
    if is_reports_benchmark(asked):
        result["kaggle_score"] = kaggle_score([s.mse for s in scores])
    return beside_bicubic(result, benchmark)


def collect(scores: Iterable[Score], args: argparse.Namespace) -> list[Score]:
    """Takes scores as they come, their SR to --save-sr and let go, and writes --csv."""
    collected = []
    for scored in scores:
        if args.save_sr:
            write_rgb(args.save_sr / f"{scored.name}.png", scored.sr)
        collected.append(replace(scored, sr=None))
    if args.csv:
        write_csv(args.csv, collected)
    return collected


def summarise(scores: Sequence[Score]) -> dict:
    """Averages of per-image scores, and these."""
    measured = [s for s in scores if s.ssim is not None]
    return {
        "per_image": {s.name: s.psnr_db for s in scores},
        "average_psnr_db": average(s.psnr_db for s in scores),
        **({"ssim": average(s.ssim for s in measured)} if measured else {}),
    }


def verdict(result: dict, scores: Sequence[Score]) -> dict:
    """The report's judgement, which is of Set5 ×3 by the course protocol alone."""
    psnr_db, flops_g = result["average_psnr_db"], result["flops_g"]
    return {
        "makes_budget": not missed_conditions(psnr_db, flops_g),
        "ranking_score": ranking_score(psnr_db, flops_g, result["params_m"]),
        "kaggle_score": kaggle_score([s.mse for s in scores]),
    }


def check_csv(asked: dict, args: argparse.Namespace) -> None:
    """Raises DataError where --csv, the course's file, would hold other scores than the course's."""
    if args.csv and not is_reports_benchmark(asked):
        raise DataError("--csv is the course's file, of Set5 ×3; this is {images} ×{scale}".format(**asked))


def check_can_save_sr(benchmark: BenchmarkSet, args: argparse.Namespace) -> None:
    """Raises DataError where --save-sr would replace what is there: SR without --overwrite, HR and LR in any case."""
    folder, root = args.save_sr, args.set5 or DEFAULT_SET5
    if not folder.exists():
        return
    sources = [args.benchmark] if args.benchmark else [root, root / "original", *root.glob("LRbicx*")]
    if any(folder.samefile(source) for source in sources):
        raise DataError(f"--save-sr {folder} is the benchmark's; give another folder")
    for file in list_images(folder):
        is_replaced = file.suffix == ".png"
        if file.stem in benchmark.names and not (is_replaced and args.overwrite):
            remedy = "--overwrite replaces it" if is_replaced else "give another folder"
            raise DataError(f"--save-sr {folder} holds {file.name} already; {remedy}")


def write_csv(path: Path, scores: Sequence[Score]) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("Id", "Loss"))
        writer.writerows(enumerate(s.mse for s in scores))


def format_sheet(result: dict) -> str:
    colour = "RGB" if result["protocol"] == "course" else "Y"
    if "sr" in result:
        scored = f"{result['sr']} ×{result['scale']}"
    else:
        scored = f"{result['model']} {in_words(result['hyperparameters'])}"
    ensemble = ", ×8 self-ensemble" if result["ensemble"] else ""
    lines = [f"{scored}, {result['protocol']} protocol on {result['images']}{ensemble}"]
    lines += [f"  {name:<16}{psnr_db:8.4f} dB" for name, psnr_db in result["per_image"].items()]
    lines += [f"Average PSNR ({colour}): {result['average_psnr_db']:.3f} dB"]
    lines += [f"Bicubic: {result['bicubic_psnr_db']:.3f} dB"]
    if "ssim" in result:
        lines += [f"Average SSIM (Y): {result['ssim']:.4f}"]
    if "flops_g" in result:
        lines += [f"FLOPs: {result['flops_g']:.13g} G", f"PARAMS: {result['params_m']:.6f} M"]
    if "makes_budget" in result:
        missed = missed_conditions(result["average_psnr_db"], result["flops_g"])
        lines += [
            f"Budget: {'missed: ' + '; '.join(missed) if missed else 'You will get this 10 points.'}",
            f"Overall ranking score: {result['ranking_score']:.3f}",
        ]
    if "kaggle_score" in result:
        lines += [f"Kaggle score: {result['kaggle_score']:.6f}"]
    return "\n".join(lines)


def show(result: dict, args: argparse.Namespace) -> None:
    print(to_json(result) if args.json else format_sheet(result))


def to_json(result: dict) -> str:
    """JSON has no infinity: the PSNR of equal images becomes null."""
    return json.dumps(json.loads(json.dumps(result), parse_constant=lambda _: None))


# ---------------------------------------------------------------------------------------------------------------------
# What checkpoint/ holds


def score_all(args: argparse.Namespace) -> None:
    files = list(published_weights())
    results, benchmarks, curves = [], {}, {}
    for file in progress(files, leave=False):
        model, metadata = load_model(file)
        scale = metadata["hyperparameters"]["scale"]
        if scale not in benchmarks:
            benchmarks[scale] = open_benchmark(args, scale)
        results.append(score(prepare(model, args), metadata, benchmarks[scale], args, args.protocol))
        if scale == 3:  # as the report
            name = "{} {nf}/{num_modules}".format(metadata["model"], **metadata["hyperparameters"])
            if curve := [point for point in metadata.get("curve", []) if point["set5_psnr_db"] is not None]:
                curves[name] = curve
    if args.plot:
        if not (drawn := [result for result in results if is_reports_benchmark(result)]):
            raise DataError("--plot draws scores on Set5 ×3 by the course protocol, and there are none here")
        from utils.pictures import draw_psnr_against_flops  # here: importing Matplotlib takes long

        draw_psnr_against_flops(args.plot, drawn)
    if args.curves:
        if not curves:
            raise DataError("--curves: no weights here hold the curve of their training on Set5")
        from utils.pictures import draw_learning_curves

        draw_learning_curves(args.curves, curves)
    if args.json:
        print(to_json({"results": results}))
    else:
        colour = "RGB" if args.protocol == "course" else "Y"
        ensemble = ", ×8 self-ensemble" if args.ensemble else ""
        print(f"{results[0]['images']}, {args.protocol} protocol ({colour}){ensemble}\n\n{results_table(results)}")


def print_training() -> None:
    """How everything in checkpoint/ was trained: a table, then each leg's command and commit.

    Legs that a network shares with the one it began as are counted, not told again.
    """
    published = {file.stem: metadata for file, metadata in published_weights().items()}
    for name in [name for name, metadata in published.items() if not metadata.get("commands")]:
        print(f"{name} does not say how it was trained", file=sys.stderr)
        del published[name]
    print(training_table(published))
    for name, metadata in published.items():
        print(f"\n{name}, on {metadata['data'].get('note', ', '.join(metadata['data']['sets']))}")
        legs, origin = metadata["commands"], (metadata.get("started_from") or {}).get("network")
        shared = legs_in_common(legs, published[origin]["commands"]) if origin in published else 0
        if shared:
            print(f"  the first legs of {origin}, {shared} in all, and then")
        for leg in legs[shared:]:
            torchrun = f", {n} processes of torchrun" if (n := leg.get("processes", 1)) > 1 else ""
            print(f"  from iteration {leg['from_iteration']}, commit {leg['commit'][:12]}{torchrun}: {leg['command']}")


def legs_in_common(legs: Sequence[dict], others: Sequence[dict]) -> int:
    """How many legs two networks share from the first on."""
    told = [[(leg["from_iteration"], leg["commit"], leg["command"]) for leg in each] for each in (legs, others)]
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*told)))


def publish(args: argparse.Namespace) -> None:
    """Copies --checkpoint to checkpoint/ with its metrics: Set5 by both protocols, --benchmark by the paper's.

    Where weights are there already it needs --overwrite, and tells both scores in any case.
    """
    model, metadata = open_network(args)
    if not metadata.get("commands"):
        raise CheckpointError(
            f"{args.checkpoint} does not say how it was trained; give a best.safetensors of train.py's"
        )
    target = PUBLISHED / f"{network_name(metadata['model'], metadata['hyperparameters'])}.safetensors"
    before = read_weights(target)[1].get("metrics", {}) if target.exists() else {}
    before = {name.lower(): scores for name, scores in before.items()}  # as "b100 paper"
    scale, metrics = metadata["hyperparameters"]["scale"], {}
    benchmark_name = Path(os.path.abspath(args.benchmark)).name if args.benchmark else ""  # a link's own name
    if benchmark_name.lower() == "set5":
        raise DataError(f"--benchmark {args.benchmark}: Set5 is scored in any case; give another folder")
    benchmark = BenchmarkSet.from_folder(args.benchmark, scale) if args.benchmark else None
    for protocol in PROTOCOLS:
        metrics[f"Set5 {protocol}"] = score(model, metadata, open_set5(args, scale, protocol), args, protocol)
    if wrong := {result["images"] for result in metrics.values()} - {"Set5"}:
        raise DataError(f"scored on {wrong.pop()}, not on Set5; give its folder with --set5")
    if benchmark:
        metrics[f"{benchmark_name} paper"] = score(model, metadata, benchmark, args, "paper")
    kept = ("per_image", "average_psnr_db", "ssim")
    metadata["metrics"] |= {name: {key: r[key] for key in kept if key in r} for name, r in metrics.items()}
    if args.data_note:
        metadata["data"]["note"] = args.data_note
    for name, result in metrics.items():
        replaced = f", before {before[name.lower()]['average_psnr_db']:.3f} dB" if name.lower() in before else ""
        print(f"{target.name}: {name} {result['average_psnr_db']:.3f} dB{replaced}")
    if target.exists() and not args.overwrite:
        raise DataError(f"{target} exists and was left as it is; --overwrite replaces it")
    save_weights(target, model.cpu(), metadata)


# ---------------------------------------------------------------------------------------------------------------------
# Upscaling


def upscaling_jobs(source: Path, target: Path, format: str | None = None) -> list[tuple[Path, Path]]:
    """(image, file to write): a folder's tree is mirrored, a glob's files go into a folder, an image gives an image.

    Args:
        format: suffix, without its dot, of what is written into a folder; None: each image's own.
    Raises:
        DataError: nothing to read, or a target that cannot take it.
    """
    if source.is_dir():
        if target.is_dir() and target.samefile(source):
            raise DataError(f"--output {target} is --input itself; give another folder")
        files, root = list_images(source, recursive=True), source
        files = [f for f in files if not is_output(f, source, target)]
    elif source.is_file():
        is_folder = target.is_dir() or not target.suffix
        if not is_folder and target.suffix.lower() not in IMAGE_SUFFIXES:
            raise DataError(
                f"--output {target}: use one of {', '.join(IMAGE_SUFFIXES)}, or a folder (a new one without a dot)"
            )
        if format and not is_folder:
            raise DataError(f"--output {target} says the format by itself; leave out --format")
        written = target / source.name if is_folder else target
        return [(source, written.with_suffix(f".{format}") if format else written)]
    elif any(character in str(source) for character in "*?["):
        files, root = [Path(f) for f in natsorted(glob.glob(str(source), recursive=True)) if Path(f).is_file()], None
        above = Path(*takewhile(lambda part: not glob.has_magic(part), source.parts))
        files = [f for f in files if not is_output(f, above, target)]
        if not files:
            raise DataError(f"--input {source} does not exist, and matches no image as a pattern")
    else:
        raise DataError(f"--input {source} does not exist")
    if not files:
        raise DataError(f"--input {source} holds no images{other_files(source, target)}")
    if target.is_file() or (target.suffix.lower() in IMAGE_SUFFIXES and not target.is_dir()):
        raise DataError(f"--input is several images, so --output {target} must be a folder, not a file")
    jobs = [(file, target / file.relative_to(root or file.parent)) for file in files]
    if format:
        jobs = [(file, written.with_suffix(f".{format}")) for file, written in jobs]
    first: dict[Path, Path] = {}
    for file, written in jobs:
        if (other := first.setdefault(written, file)) != file:
            remedy = "give a folder to mirror" if file.name == other.name else "give each its own --output"
            raise DataError(f"--input {source}: {file} and {other} would both be {written}; {remedy}")
    return jobs


def enlarge(model: nn.Module, image: np.ndarray, scale: int, args: argparse.Namespace) -> np.ndarray:
    """(H, W, 3) -> (scale·H, scale·W, 3) of its type, in tiles as the flags say."""
    with memory_shortage("give a smaller --tile or --batch"):
        return super_resolve(model, image, scale, args.tile, args.batch, DTYPES[args.precision])


def upscale_photo(model: nn.Module, scale: int, photo: Photo, args: argparse.Namespace) -> Photo:
    """Colours by the network, alpha by bicubic."""
    if photo.alpha is None:
        return replace(photo, rgb=enlarge(model, photo.rgb, scale, args))
    rgb = enlarge(model, spread_colours(photo.rgb, photo.alpha), scale, args)
    return replace(photo, rgb=rgb, alpha=imresize(photo.alpha, scale))


def upscale(model: nn.Module, scale: int, jobs: list[tuple[Path, Path]], args: argparse.Namespace) -> int:
    """Upscales --input into --output, by `upscaling_jobs`; returns the exit code, 1 where an image failed.

    Of a folder or a pattern, images that an earlier run wrote are done, so that a stopped run goes on where it was.
    """
    problems, written, kept, megapixels, started = [], 0, 0, 0.0, time.monotonic()
    bar = progress(jobs, unit="image")
    for source, target in bar:
        try:
            if target.exists() and target.samefile(source):
                raise DataError(f"{target} is the input itself; write somewhere else")
            if target.exists() and not args.overwrite:
                is_done = is_made_from(target, source) and is_enlarged(target, source, scale)
                if is_done and not args.input.is_file():
                    kept += 1
                    continue
                raise DataError(f"{target} exists; give another --output, or --overwrite to replace it")
            photo = read_photo(source)
            check_holds(target.suffix.lower(), photo, scale)
            larger = upscale_photo(model, scale, photo, args)
            write_photo(target, larger, made_from=source)
            written += 1
            megapixels += larger.rgb.shape[0] * larger.rgb.shape[1] / 1e6
            bar.set_postfix_str(f"{megapixels / (time.monotonic() - started):.2f} Mpx/s", refresh=False)
        except (ValueError, OSError, MemoryError) as error:
            problem = first_line(error)
            problems.append(problem if str(target) in problem else f"{source}: {problem}")
            if getattr(error, "errno", None) in CANNOT_WRITE:
                problems[-1] += "; those after it were not tried"
                break
        except KeyboardInterrupt:
            then = "begins anew" if args.overwrite else "goes on where it was"
            stop("" if args.input.is_file() else f"{written} written; the same command {then}")
    where = jobs[0][1] if len(jobs) == 1 else args.output
    before = f", {kept} done before (--overwrite does them anew)" if kept else ""
    others = other_files(args.input, args.output) if args.input.is_dir() else ""
    print(f"{written} written{before}, {len(problems)} failed{others}: {where}")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def read_colours(path: Path) -> np.ndarray:
    """Any photo that --input takes as (H, W, 3) uint8: alpha left out (what it hides, filled), 16 bits rounded."""
    photo = read_named(path, read_photo)
    return eight_bits(photo.rgb if photo.alpha is None else spread_colours(photo.rgb, photo.alpha))


@torch.inference_mode()
def compare(model: nn.Module, scale: int, args: argparse.Namespace) -> None:
    """Draws --compare: LR, bicubic, ours and, where given, HR, with each one's PSNR (RGB, whole image)."""
    from utils.pictures import draw_comparison, most_different_crop  # here: importing Matplotlib takes long

    for photo in (args.input, args.hr):
        if photo and photo.is_dir():
            raise DataError(f"{photo} is a folder; --compare draws one photo")
        if photo and args.compare.exists() and photo.exists() and args.compare.samefile(photo):
            raise DataError(f"--compare {args.compare} is the photo itself; write somewhere else")
    whole = read_colours(args.hr) if args.hr else None
    if args.hr and min(whole.shape[:2]) < scale:
        raise DataError(f"{args.hr} is {whole.shape[1]}×{whole.shape[0]}, too small to shrink by {scale}")
    lr = read_colours(args.input) if args.input else downscaled(whole, scale)[0]
    shape = (lr.shape[0] * scale, lr.shape[1] * scale)
    if args.hr and not all(0 <= have - want <= LARGEST_EXCESS for have, want in zip(whole.shape, shape)):
        found, expected = f"{whole.shape[1]}×{whole.shape[0]}", f"{shape[1]}×{shape[0]}"
        raise DataError(f"{args.hr} is {found}, not {scale} times {args.input}: {expected}")
    hr = whole[: shape[0], : shape[1]] if args.hr else None
    bicubic = imresize(lr, scale)
    ours = enlarge(model, lr, scale, args)
    crop = tuple(args.crop) if args.crop else most_different_crop(bicubic, ours, side=max(8, min(shape) // 4))
    left, top, side = crop
    if side < 1 or min(left, top) < 0 or left + side > shape[1] or top + side > shape[0]:
        raise DataError(f"--crop {left} {top} {side} is not inside the {shape[1]}×{shape[0]} picture")
    panels = [("LR", lr, None)]
    for title, image in (("bicubic", bicubic), ("ours", ours)):
        psnr_db = None if hr is None else psnr_rgb(to_tensor(image), to_tensor(hr)).item()
        panels.append((title, image, psnr_db))
    if hr is not None:
        panels.append(("HR", hr, None))
    draw_comparison(args.compare, panels, crop, shape)
    scores = ", ".join(f"{title} {psnr_db:.3f} dB" for title, _, psnr_db in panels if psnr_db is not None)
    print(f"{args.compare}: {scores or 'LR, bicubic and ours'}")


# ---------------------------------------------------------------------------------------------------------------------
# Teaching


def teach(model: nn.Module, scale: int, args: argparse.Namespace) -> None:
    """Writes the decoded set --teach to --output, each training HR replaced by the network's SR of its LR.

    What a photo holds beyond what its LR tells is noise to a network that learns from it; by a --share below 1, the
    network's part, some of it stays. Validation images stay as they are. By --from-hr the photos themselves are the LR,
    and the set is of training images alone. Files that are done are kept, so a stopped run goes on where it was; a pair
    changed since is done again.

    Raises:
        DataError: no pairs of this scale, one that cannot be used, or an --output that is not this teacher's.
        OSError: nothing more can be written.
    """
    pairs = open_untaught(scale, args)
    claim_output(scale, args)
    kept = 0
    try:
        for pair, split in progress(pairs, unit="image"):
            lr, hr = (args.output / file.relative_to(args.teach) for file in (pair.lr, pair.hr))
            source = pair.hr if args.from_hr else pair.lr
            if is_made_from(lr, source) and is_made_from(hr, pair.hr):
                kept += 1
                continue
            write_array(lr, open_array(source), source)
            if split == "validation":
                target = open_array(pair.hr)
            elif args.from_hr:
                target = enlarge(model, open_array(source), scale, args)
            else:
                target = soften(model, pair, scale, args)
            write_array(hr, target, pair.hr)
    except KeyboardInterrupt:
        stop("the same command goes on where it was")
    except OSError as error:
        raise OSError(f"{error}; the same command goes on where it was") from error
    print(f"{len(pairs) - kept} written, {kept} done before: {args.output}")
    targets = {args.output / file.relative_to(args.teach) for pair, _ in pairs for file in (pair.lr, pair.hr)}
    others = [file for file in arrays_below(args.output) if file not in targets]
    if others:
        warn(
            f"{args.output} holds {len(others)} files of photos that {args.teach} no longer has, such as {others[0]};"
            " delete them, or training uses them"
        )


def open_untaught(scale: int, args: argparse.Namespace) -> list[tuple[Pair, str]]:
    """The pairs of --teach with their splits, training first (by --from-hr alone), sizes checked."""
    splits = ("training",) if args.from_hr else ("training", "validation")
    pairs = [(pair, split) for split in splits for pair in find_pairs(args.teach, split, scale)]
    if (record := args.teach / TEACHER).exists():
        raise DataError(
            f"--teach {args.teach} was taught before, as {record} says; give the set as png2npy.py wrote it"
        )
    if not any(split == "training" for _, split in pairs):
        raise DataError(f"--teach {args.teach} holds no training images; it takes a set that png2npy.py decoded")
    for pair, split in pairs:
        check_sizes(pair, open_array(pair.lr).shape, open_array(pair.hr).shape, scale, split)
    return pairs


def claim_output(scale: int, args: argparse.Namespace) -> None:
    """Writes down in --output which network teaches; images that another one taught are not mixed with its own."""
    if args.output.is_file():
        raise DataError(f"--output {args.output} is a file; it must be a folder")
    teacher = args.checkpoint or published_file(args)
    record = f"{teacher.name}, sha256 {hashlib.sha256(teacher.read_bytes()).hexdigest()}, ×{scale}"
    record += ", ×8 self-ensemble" if args.ensemble else ""
    record += ", HR as LR" if args.from_hr else f", share {args.share:g}"
    record += f", tiles of {args.tile}" if args.tile else ""  # which attention depends on
    record += f", {args.precision}" if args.precision != "float32" else ""
    path = args.output / TEACHER
    written = path.read_text(encoding="utf-8") if path.exists() else None
    if written != record and arrays_below(args.output):
        found = f"was taught by {written}" if written else f"holds images and no {TEACHER}"
        raise DataError(f"--output {args.output} {found}, not by {record}; give another folder")
    with atomic_path(path) as temporary:
        temporary.write_text(record, encoding="utf-8")


def soften(model: nn.Module, pair: Pair, scale: int, args: argparse.Namespace) -> np.ndarray:
    """(H, W, 3) uint8: the mean of a pair's HR and the network's SR, the latter weighted by --share."""
    sr = enlarge(model, open_array(pair.lr), scale, args)
    hr = open_array(pair.hr).astype(np.float32)
    return np.rint((1 - args.share) * hr + args.share * sr).astype(np.uint8)


# ---------------------------------------------------------------------------------------------------------------------
# The page


def open_page(args: argparse.Namespace):
    """The page with every network of checkpoint/, the default one first, or with the one that flags name."""
    is_named = any(size is not None for size in (args.model, *sizes(args).values()))
    one = args.checkpoint or (published_file(args) if is_named else None)
    files = [one] if one else sorted(published_weights(), key=lambda file: file != DEFAULT_CHECKPOINT)
    return build_page({file.stem: upscaler(*load_model(file, args.model, **sizes(args)), args) for file in files})


def upscaler(model: nn.Module, metadata: dict, args: argparse.Namespace) -> Upscaler:
    scale = metadata["hyperparameters"]["scale"]
    model = prepare(model, args)
    return lambda photo: (upscale_photo(model, scale, photo, args), scale)


# ---------------------------------------------------------------------------------------------------------------------
# The run


def check_paths(args: argparse.Namespace) -> None:
    """Raises OSError where --benchmark, --sr or --teach is no folder, or what will be written could not be."""
    for flag in ("benchmark", "sr", "teach"):
        if (path := getattr(args, flag)) and not path.is_dir():
            raise NotADirectoryError(f"--{flag} {path} is not a folder")
    if args.save_sr:
        check_writable(args.save_sr, f"--save-sr {args.save_sr}")
    for flag in ("output", *WRITES):
        if path := getattr(args, flag):
            check_writable(path if path.is_dir() else path.parent, f"--{flag} {path}")
            if flag in WRITES and path.is_dir():
                raise IsADirectoryError(f"--{flag} {path} is a folder; give a file")
    if args.publish:
        check_writable(PUBLISHED, "--publish")


def run(args: argparse.Namespace) -> int:
    check_paths(args)
    match args.mode:
        case "cost_only":
            print_cost(args)
        case "training":
            print_training()
        case "all":
            score_all(args)
        case "publish":
            publish(args)
        case "sr":
            show(score_files(args), args)
        case "web":
            import_module("gradio")  # whose absence is told before the networks are opened
            serve(open_page(args), args.port)
        case _:
            return run_network(args)
    return 0


def run_network(args: argparse.Namespace) -> int:
    """What one network is opened for."""
    jobs = upscaling_jobs(args.input, args.output, args.format) if args.mode == "input" else []
    model, metadata = open_network(args)
    scale = metadata["hyperparameters"]["scale"]
    match args.mode:
        case "export":
            difference = export_onnx(model.cpu(), args.export, metadata)
            print(f"{args.export}: differs from PyTorch by {difference:.1e} at most")
        case "compare":
            compare(model, scale, args)
        case "teach":
            teach(model, scale, args)
        case "input":
            return upscale(model, scale, jobs, args)
        case _:  # save_sr, scoring
            show(score_beside_bicubic(model, metadata, args), args)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        smaller = "a smaller --nf or --modules" if args.mode == "cost_only" else "smaller pictures"
        with memory_shortage(f"take {smaller}" + ", or --device cpu" * (args.device != "cpu")):
            return run(args)
    except ModuleNotFoundError as error:
        print(f"error: {error}; install it with: pip install {error.name}", file=sys.stderr)
        return 1
    except (ValueError, OSError, MemoryError, ImportError) as error:  # DataError, CheckpointError are ValueErrors
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        stop()


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # file names need not fit the terminal's encoding
    sys.exit(main())
