"""The weights in checkpoint/, on the course's Set5, by every path: all of it as they load, by others one image."""

import re
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import needs_reference, reference

from dataset import SET5, BenchmarkSet
from models.kernels.guards import layers_apart
from tests.benchmarks.noise import images as noise_images
from utils.checkpoint import load_model, read_weights
from utils.evaluation import average, evaluate, to_tensor

PUBLISHED = sorted((Path(__file__).resolve().parents[1] / "checkpoint").glob("*.safetensors"))


NCHW, NHWC = torch.contiguous_format, torch.channels_last
PATHS = {  # in what a network runs, its layout, on which images, and by how many dB their average may differ
    "as loaded": (nullcontext, NCHW, SET5, 0.001),
    "one module at a time": (layers_apart, NCHW, ("butterfly",), 0.001),
    "channels_last": (nullcontext, NHWC, ("butterfly",), 0.001),
    "bfloat16": (partial(torch.autocast, "cpu", torch.bfloat16), NCHW, ("butterfly",), 0.02),  # it loses most
}


@needs_reference("data/set5")
@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_weights_score_what_they_say(path, name):
    way, layout, images, tolerance = PATHS[name]
    _, metadata = read_weights(path)
    set5 = BenchmarkSet.from_set5(reference("data/set5"), metadata["hyperparameters"]["scale"])
    chosen = [item for item in set5 if item[0] in images]
    with way():
        model = load_model(path)[0].to(memory_format=layout)
        scores = list(evaluate(model, chosen, metadata["hyperparameters"]["scale"]))
    published = metadata["metrics"]["Set5 course"]["per_image"]
    assert average(s.psnr_db for s in scores) == pytest.approx(average(published[n] for n in images), abs=tolerance)


@torch.inference_mode()
@pytest.mark.parametrize("noise", noise_images())
@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_weights_stay_within_bounds_on_noise(path, noise):
    assert load_model(path)[0](to_tensor(noise_images()[noise])).abs().max() < 5  # a photo gives about 1


def test_readme_sets_published_weights_beside_the_papers():
    text = (PUBLISHED[0].parents[1] / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ×(\d) \| (\w+) (\d+)/(\d+), ours \| (.*) \|$", text, re.MULTILINE)
    assert {scale for scale, *_ in rows} == {"2", "3", "4"}
    for scale, model, nf, modules, figures in rows:
        _, metadata = read_weights(PUBLISHED[0].with_name(f"{model}_nf{nf}_m{modules}_x{scale}.safetensors"))
        multi_adds = metadata["gflops"] / 2 * (1280 * 720 / int(scale) ** 2) / 256**2
        scores = {key.lower(): metric for key, metric in metadata["metrics"].items() if isinstance(metric, dict)}
        shown = [
            f"{scores[key]['average_psnr_db']:.2f}, {scores[key]['ssim']:.4f}" for key in ("set5 paper", "b100 paper")
        ]
        assert figures.split(" | ") == [f"{metadata['mparams']:.3f}", f"{multi_adds:.1f}", *shown]


def test_readme_tells_what_published_weights_to_choose():
    text = (PUBLISHED[0].parents[1] / "README.md").read_text(encoding="utf-8")
    table = text.split("| speed |\n")[1].split("\n\n")[0]
    rows = re.findall(r"^\| (\w+) (\d+)/(\d+) \| (.*) \| .* \| .* \|$", table, re.MULTILINE)
    assert len(rows) == len([path for path in PUBLISHED if path.stem.endswith("_x3")])
    for model, nf, modules, figures in rows:
        _, metadata = read_weights(PUBLISHED[0].with_name(f"{model}_nf{nf}_m{modules}_x3.safetensors"))
        psnr_db = metadata["metrics"]["Set5 course"]["average_psnr_db"]
        assert figures == f"{metadata['gflops']:.3f} | {psnr_db:.3f}"
