"""Upscaled megapixels a second and peak memory: the report's way, whole images one layer at a time, and this project's,
tiles with several layers at a time; and the same tiles by onnxruntime, where onnx and onnxruntime are installed.

Each measurement runs in a process of its own, so that peak memory is its own.

python -m tests.benchmarks.inference
"""

import json
import multiprocessing
import resource
import statistics
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from queue import Empty

import numpy as np
import torch

from models import build_model
from models.kernels.guards import layers_apart
from tests.benchmarks.harness import parse_args, report, seconds
from utils.export import OnnxNetwork, export_onnx
from utils.tiling import super_resolve

NETWORKS = (("IMDN_RTC", 12, 5), ("IMDN", 20, 6), ("IMDN_dw", 32, 10), ("DRLN_slim", 36, 8))
SIZES = ((1280, 720), (3840, 2160))  # of the output
SCALE = 3


def measure(queue, network: tuple[str, int, int], width: int, height: int, way: str, device: str, rounds: int) -> None:
    name, nf, modules = network
    model = build_model(name, nf=nf, num_modules=modules).eval().to(device)
    image = np.random.default_rng(0).integers(0, 256, (height // SCALE, width // SCALE, 3), np.uint8)

    @torch.inference_mode()
    def whole() -> np.ndarray:
        lr = torch.from_numpy(image).to(device).permute(2, 0, 1)[None].contiguous().float() / 255
        with layers_apart():
            return (model(lr)[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()

    if way == "onnxruntime":
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "network.onnx")
            sizes = {"nf": nf, "num_modules": modules, "scale": SCALE}
            export_onnx(model, file, {"model": name, "hyperparameters": sizes})
            model = OnnxNetwork(file)
    run = whole if way == "whole" else lambda: super_resolve(model, image, SCALE)
    run()
    time = statistics.median(seconds(run, device) for _ in range(rounds))
    on_gpu = device.startswith("cuda")
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    queue.put(json.dumps({"seconds": time, "peak_mb": peak / 2**20}))


def result_of(process: multiprocessing.Process, queue: multiprocessing.Queue) -> str:
    """What the process put into the queue; ends the benchmark where it died without, as for lack of memory."""
    while True:
        try:
            return queue.get(timeout=1)
        except Empty:
            if process.exitcode:
                raise SystemExit(f"error: a measurement ended with exit code {process.exitcode}") from None


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv, __doc__, rounds=3, largest_width=3840)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])  # imported once; nothing has run in it
    sizes = [size for size in SIZES if size[0] <= args.largest_width] or [(args.largest_width, args.largest_width)]
    ways = ["whole", "tiles"]
    if args.device == "cpu" and find_spec("onnx") and find_spec("onnxruntime"):
        ways.append("onnxruntime")
    rows = []
    for network in NETWORKS:
        for width, height in sizes:
            found = {}
            for way in ways:
                queue = context.Queue()
                settings = (queue, network, width, height, way, args.device, args.rounds)
                process = context.Process(target=measure, args=settings)
                process.start()
                found[way] = json.loads(result_of(process, queue))
                process.join()
            megapixels = width * height / 1e6
            rows.append(
                {
                    "network": "{} {}/{}".format(*network),
                    "output": f"{width}×{height}",
                    **{f"{way} (Mpx/s)": round(megapixels / found[way]["seconds"], 3) for way in ways},
                    "tiles to whole": round(found["whole"]["seconds"] / found["tiles"]["seconds"], 2),
                    **{f"{way}, peak (MB)": round(found[way]["peak_mb"]) for way in ways[:2]},
                }
            )
    report("Inference", rows, args)


if __name__ == "__main__":
    main()
