"""Decode a tree of images to .npy files (uint8, HWC, RGB) that training memory-maps.

    python png2npy.py --pathFrom DIV2K --pathTo DIV2K_decoded
    python png2npy.py --pathFrom Flickr2K --pathTo Flickr2K_decoded
    python png2npy.py --pathFrom Flickr2K --pathTo Flickr2K_decoded --make-lr 3   # LR was not downloaded
    python png2npy.py --pathFrom DIV2K --pathTo DIV2K_shrunk --make-lr 3 --shrink 0.75 0.5   # a second set
    python png2npy.py --check DIV2K_decoded                                       # is it all there?

The tree is mirrored, one .npy an image. Files that are done are skipped, so a stopped run goes on where it was;
an image changed since is done again, after a word on LR of another scale that was made of it. What cannot be used is
named at the end, and the exit code is then 1.
"""

import argparse
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from natsort import natsorted

from utils.bicubic import imresize
from utils.cores import usable_cores
from utils.files import CANNOT_WRITE, check_writable, is_made_from, is_output
from utils.flags import FlagParser, at_least_1, number_that, quoted, stop, warn
from utils.images import list_images, other_files, read_rgb
from utils.layout import (
    TEACHER,
    arrays_below,
    hr_folder_of,
    is_test_hr,
    is_training_hr,
    lr_folder_of,
    lr_name,
    read_array,
    sets_below,
    what_is_wrong,
    write_array,
)
from utils.progress import progress

MULTIPLE = 12  # of every scale: shrunk HR images are cropped to it, and then are the same for each


@dataclass(frozen=True)
class Job:
    """An image, and the .npy to write of it.

    Attributes:
        shrink: factor by which HR is resized first; None: not at all.
        multiple: what HR's sides are then cropped to, so that LR can be made of it.
        lr_scale: of the LR image to write; None: HR.
        hr: where an LR image's HR is or will be.
    """

    image: Path
    npy: Path
    shrink: float | None = None
    multiple: int = 1
    lr_scale: int | None = None
    hr: Path | None = None


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = FlagParser(__doc__)
    parser.add_argument("--pathFrom", type=Path, help="tree of images, such as DIV2K")
    parser.add_argument("--pathTo", type=Path, help="tree of .npy files to write")
    parser.add_argument("--check", type=Path, metavar="DIR", help="verify a decoded tree instead: files, pairs, sizes")
    parser.add_argument(
        "--make-lr",
        type=int,
        choices=(2, 3, 4),
        help="also write X_LR_bicubic/X{N} for each X_HR, where missing; HR is cropped to a multiple of it",
    )
    parser.add_argument(
        "--shrink",
        type=number_that(float, lambda factor: 0.05 <= factor <= 0.95, "must be from 0.05 to 0.95"),
        nargs="+",
        metavar="F",
        help="write the training images at F times their size, and their LR, instead",
    )
    parser.add_argument("--workers", type=at_least_1, default=usable_cores(), help="threads (default: all cores)")
    args = parser.parse_args(argv)
    if args.check:
        if args.pathFrom or args.pathTo or args.make_lr or args.shrink:
            parser.error("--check stands alone")
        if not args.check.is_dir():
            parser.error(f"--check {args.check} is not a folder")
        return args
    if not (args.pathFrom and args.pathTo):
        parser.error("--pathFrom and --pathTo are both needed, or --check")
    if not args.pathFrom.is_dir():
        parser.error(f"--pathFrom {args.pathFrom} is not a folder")
    if args.pathTo.is_file():
        parser.error(f"--pathTo {args.pathTo} is a file; it must be a folder")
    if args.shrink and not args.make_lr:
        parser.error("--shrink needs --make-lr: no LR images are downloaded for it")
    return args


def decoding_jobs(source: Path, target: Path) -> list[Job]:
    images = [file for file in list_images(source, recursive=True) if not is_output(file, source, target)]
    return [Job(file, target / file.relative_to(source).with_suffix(".npy")) for file in images]


def shrinking_jobs(jobs: list[Job], factors: Sequence[float]) -> list[Job]:
    """One job for each factor and image of an X_HR folder that training reads; `_F` follows the image's name."""
    return [
        Job(job.image, job.npy.with_name(f"{job.npy.stem}_{factor:g}.npy"), factor, MULTIPLE)
        for factor in natsorted(set(factors))
        for job in jobs
        if is_training_hr(job.npy.parent)
    ]


def with_lr_jobs(jobs: list[Job], scale: int) -> list[Job]:
    """The jobs, and one for each image of an X_HR folder whose LR image is not in the source tree.

    HR is cropped to the scale, unless there are LR images of another scale, which it must go on to fit.
    """
    decoded = defaultdict(list)
    for job in jobs:
        decoded[job.npy.parent].append(job.npy)
    have_lr = {}  # names, of each X_HR
    for folder, files in decoded.items():
        if folder.name.endswith("_HR"):
            names = {npy.stem for npy in files}
            have_lr[folder] = {lr_name(npy, scale, names) for npy in decoded.get(lr_folder_of(folder, scale), ())}
    others = {folder.parent for folder in decoded if folder.name != f"X{scale}"}
    made = []
    jobs = [*jobs]
    for number, job in enumerate(jobs):
        folder, name = job.npy.parent, job.npy.stem
        if folder in have_lr and name not in have_lr[folder]:
            lr_folder = lr_folder_of(folder, scale)
            multiple = job.multiple if lr_folder.parent in others else max(job.multiple, scale)
            jobs[number] = cropped = replace(job, multiple=multiple)
            made.append(replace(cropped, npy=lr_folder / f"{name}x{scale}.npy", lr_scale=scale, hr=job.npy))
    return jobs + made


def same_target(jobs: list[Job]) -> list[str]:
    """Images that would be written over one another, such as a.png and a.jpg."""
    first: dict[Path, Path] = {}
    return [
        f"{job.image}: would overwrite the .npy of {other}"
        for job in jobs
        if (other := first.setdefault(job.npy, job.image)) != job.image
    ]


def convert(job: Job) -> str | None:
    """Returns what is wrong with the image, or None.

    Raises:
        OSError: nothing more can be written.
    """
    try:
        array = read_rgb(job.image)
        if job.shrink:
            array = imresize(array, job.shrink)
        height, width = (n // job.multiple * job.multiple for n in array.shape[:2])
        if not (height and width):
            size = f"{array.shape[1]}×{array.shape[0]}" + (f" at --shrink {job.shrink:g}" if job.shrink else "")
            return f"{job.image}: {size} is smaller than {job.multiple} pixels"
        if job.hr and is_made_from(job.hr, job.image):  # it may have been decoded whole, or for another scale
            height, width = read_array(job.hr, mmap_mode="r").shape[:2]
        if job.lr_scale and (height % job.lr_scale or width % job.lr_scale):
            is_older = job.multiple % job.lr_scale == 0  # else it was cropped above
            advice = "it was decoded before, so use another --pathTo" if is_older else "crop it"
            return f"{job.image}: {width}×{height} is not a multiple of {job.lr_scale}; {advice}"
        array = np.ascontiguousarray(array[:height, :width])
        if job.lr_scale:
            array = imresize(array, 1 / job.lr_scale)
        write_array(job.npy, array, made_from=job.image)
    except OSError as error:
        if error.errno in CANNOT_WRITE:
            raise
        return f"{job.image}: {error}"
    except MemoryError:
        return f"{job.image}: out of memory; take fewer --workers"
    except (ValueError, EOFError) as error:
        return f"{job.image}: {error}"
    return None


def in_parallel(work: Callable, items: Sequence, workers: int) -> list:
    """What `work` returns of each item, in their order, with a progress bar; what it raises ends the others soon."""
    with ThreadPoolExecutor(workers) as pool:  # decoding and numpy's loops release the interpreter lock
        try:
            futures = [pool.submit(work, item) for item in items]
            for future in progress(as_completed(futures), total=len(futures), unit="image"):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [future.result() for future in futures]


def read_size(npy: Path) -> tuple[int, int] | str:
    """(H, W) of a decoded image whose every byte was read, or what is wrong with it."""
    try:
        array = read_array(npy)
    except (ValueError, OSError, MemoryError) as error:
        return f"{npy}: not a whole .npy file ({error})"
    wrong = what_is_wrong(array)
    return f"{npy}: {wrong}" if wrong else array.shape[:2]


def check_tree(root: Path, workers: int) -> int:
    """Reads every file, counts each folder, and compares LR folders with their HR; returns the exit code."""
    files = natsorted(arrays_below(root), key=str)
    if not files:
        return report([f"{root}: holds no .npy files"])
    sizes = dict(zip(files, in_parallel(read_size, files, workers)))
    problems = [size for size in sizes.values() if isinstance(size, str)]
    folders = natsorted({file.parent for file in files}, key=str)
    for folder in folders:
        print(f"{sum(file.parent == folder for file in files):6} {folder.relative_to(root)}")
        if found := hr_folder_of(folder):
            hr_folder, scale = found
            problems += check_pairs(hr_folder, folder, scale, sizes)
    problems += [
        f"{folder}: has no LR images; png2npy.py --make-lr makes them"
        for folder in folders
        if folder.name.endswith("_HR") and not lr_folder_of(folder, 3).parent.is_dir()
    ]
    found = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    print(f"{len(files)} files, {found}: {root}")
    tell_sets(root)
    return report(problems)


def tell_sets(root: Path) -> None:
    """Tells where train.py would find nothing to train on, as in a flat folder of photos, or pass photos over."""
    folders = {file.parent for file in arrays_below(root)}
    if not folders:  # no photo could be read
        return
    sets = sets_below(root)
    for folder in natsorted(folders, key=str):
        within_hr = any(above.name.endswith("_HR") for above in folder.relative_to(root).parents)
        if within_hr and not hr_folder_of(folder) and folder.parent not in sets:
            warn(f"train.py does not look into {folder}, within an X_HR; move its photos up and decode again")
    if not sets:
        warn(f"train.py trains on folders called X_train_HR or X_HR, and {root} has none")
    elif root not in sets:
        print(f"these are sets of their own: train.py --data {' '.join(map(quoted, sets))}")


def check_pairs(hr_folder: Path, lr_folder: Path, scale: int, sizes: dict[Path, tuple[int, int] | str]) -> list[str]:
    """What is wrong between the readable files of an HR and an LR folder."""
    hr = {file.stem: size for file, size in sizes.items() if file.parent == hr_folder}
    lr_files = [file for file in sizes if file.parent == lr_folder]
    names = {file: lr_name(file, scale, hr) for file in lr_files}
    lr = {name: sizes[file] for file, name in names.items()}
    twice = {name for name, count in Counter(names.values()).items() if count > 1}
    problems = [f"{lr_folder}: holds two images called {name}; delete one" for name in natsorted(twice)]
    problems += [f"{hr_folder / name}.npy: no partner in {lr_folder}" for name in natsorted(hr.keys() - lr.keys())]
    problems += [f"{lr_folder}: {name} has no partner in {hr_folder}" for name in natsorted(lr.keys() - hr.keys())]
    for name in natsorted(hr.keys() & lr.keys()):
        if not isinstance(hr[name], str) and not isinstance(lr[name], str):
            (height, width), (lr_height, lr_width) = hr[name], lr[name]
            if (height, width) != (scale * lr_height, scale * lr_width):
                expected = f"{scale} times the {lr_width}×{lr_height} of {lr_folder}"
                problems.append(f"{hr_folder / name}.npy: {width}×{height}, not {expected}")
    return problems


def main(argv: Sequence[str] | None = None) -> int:
    try:
        args = parse_args(argv)
        return check_tree(args.check, args.workers) if args.check else decode(args)
    except OSError as error:  # such as a folder that may not be read, or a full disk
        return report([str(error)])
    except KeyboardInterrupt:
        stop("" if args.check else "the same command goes on where it was")


def decode(args: argparse.Namespace) -> int:
    """Writes what is missing in --pathTo; returns the exit code."""
    check_writable(args.pathTo, f"--pathTo {args.pathTo}")
    if (args.pathTo / TEACHER).exists():
        return report([f"--pathTo {args.pathTo} holds the images of a teacher; give another folder"])
    whole = jobs = decoding_jobs(args.pathFrom, args.pathTo)
    others = other_files(args.pathFrom, args.pathTo)
    if not jobs:
        remedy = "; unpack archives, and convert pictures to PNG" if others else ""
        return report([f"no image found in {args.pathFrom}{others}; it needs folders such as DIV2K_train_HR{remedy}"])
    if args.make_lr:
        if not any(job.npy.parent.name.endswith("_HR") for job in jobs):
            folder = args.pathFrom.resolve()
            above = f"; give the one above it: --pathFrom {quoted(folder.parent)}"
            inside = f"{args.pathFrom / folder.name}"
            move = f"; move its photos into {inside}_train_HR and {inside}_valid_HR"
            instead = above if folder.name.endswith("_HR") else move
            return report([f"--make-lr: {args.pathFrom} has no folder such as X_train_HR{instead}"])
        if args.shrink and not (jobs := shrinking_jobs(whole, args.shrink)):
            return report([f"--shrink: {args.pathFrom} holds validation images alone"])
        jobs = with_lr_jobs(jobs, args.make_lr)
    if clashes := same_target([*whole, *jobs]):
        return report(clashes)
    pending = [job for job in jobs if not is_made_from(job.npy, job.image)]
    if stale := lr_of_before(pending, {job.npy for job in jobs}):
        return report(stale)
    cv2.setNumThreads(1)  # one core an image
    try:
        problems = [problem for problem in in_parallel(convert, pending, args.workers) if problem]
    except OSError as error:
        raise OSError(f"{error}; the same command goes on where it was") from error
    done = len(jobs) - len(pending)
    failed = len(set(problems))  # images: where HR cannot be read, its LR failed for the same reason
    print(f"{len(pending) - len(problems)} written, {done} done before, {failed} failed{others}: {args.pathTo}")
    tell_sets(args.pathTo)
    tell_leftovers([*whole, *jobs], args.pathTo)
    return report(problems)


def lr_of_before(pending: list[Job], targets: set[Path]) -> list[str]:
    """What is wrong where LR arrays would stay as they are beside HR that is decoded anew: a line for each folder."""
    decoded = defaultdict(set)
    for job in pending:
        if job.npy.parent.name.endswith("_HR"):
            decoded[job.npy.parent].add(job.npy.stem)
    problems = []
    for hr_folder, names in decoded.items():
        made = {}  # what was made of these images, of each scale
        for lr_folder in lr_folder_of(hr_folder, 3).parent.glob("X[0-9]*"):
            if found := hr_folder_of(lr_folder):
                files = natsorted(lr_folder.glob("[!.]*.npy"), key=str)
                made[lr_folder, found[1]] = [file for file in files if lr_name(file, found[1], names) in names]
        is_one_scale = sum(map(bool, made.values())) == 1
        for (lr_folder, scale), files in made.items():
            if stale := [file.name for file in files if file not in targets]:
                what = f"{len(stale)} of its images, such as {stale[0]}, are of HR that is to be decoded anew"
                advice = f"give --make-lr {scale}" if is_one_scale else f"delete them, then give --make-lr {scale}"
                problems.append(f"{lr_folder}: {what}; {advice}, to make them anew too")
    return problems


def tell_leftovers(jobs: list[Job], root: Path) -> None:
    """Tells of HR images that no photo gives any more, whole or shrunk, as after one was moved or removed."""
    targets = {job.npy for job in jobs}
    sets = {npy.parent.parent for npy in targets if npy.parent.name.endswith("_HR")}
    folders = [folder for one in sets for folder in one.glob("[!.]*_HR") if not is_test_hr(folder)]
    left = [
        npy
        for folder in folders
        for npy in folder.glob("[!.]*.npy")
        if npy not in targets and npy.with_stem(re.sub(r"_0\.\d+$", "", npy.stem)) not in targets
    ]
    if left:
        warn(
            f"{root} holds {len(left)} HR images that no photo in --pathFrom gives, such as {min(left)}; if theirs were"
            " moved or removed, delete them and their LR, or train.py uses them"
        )


def report(problems: list[str]) -> int:
    """Names what went wrong; returns the exit code."""
    for problem in natsorted(set(problems)):
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # file names need not fit the terminal's encoding
    sys.exit(main())
