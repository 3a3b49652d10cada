"""The weights in checkpoint/, on the course's Set5, by every path."""

from pathlib import Path

import pytest
import torch
from conftest import needs_reference, reference

from dataset import SET5, BenchmarkSet
from tests.benchmarks.noise import images as noise_images
from utils.checkpoint import load_model, read_weights
from utils.evaluation import average, evaluate, to_tensor

PUBLISHED = sorted((Path(__file__).resolve().parents[1] / "checkpoint").glob("*.safetensors"))


class InHalfPrecision(torch.nn.Module):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.model(x)


def as_modules(model: torch.nn.Module) -> torch.nn.Module:
    for module in model.modules():
        if hasattr(module, "fused"):
            module.fused = False
    return model


PATHS = {  # how a network runs, on which images, and by how many dB their average may differ
    "as loaded": (lambda model: model, SET5, 0.001),
    "one module at a time": (as_modules, SET5, 0.001),
    "channels_last": (lambda model: model.to(memory_format=torch.channels_last), SET5, 0.001),
    "bfloat16": (InHalfPrecision, ("butterfly",), 0.02),  # which loses most; all five take a minute on some processors
}


@needs_reference("data/set5")
@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_weights_score_what_they_say(path, name):
    change, images, tolerance = PATHS[name]
    _, metadata = read_weights(path)
    set5 = BenchmarkSet.from_set5(reference("data/set5"), metadata["hyperparameters"]["scale"])
    chosen = [item for item in set5 if item[0] in images]
    scores = evaluate(change(load_model(path)[0]), chosen, metadata["hyperparameters"]["scale"])
    published = metadata["metrics"]["Set5 course"]["per_image"]
    assert average(s.psnr_db for s in scores) == pytest.approx(average(published[n] for n in images), abs=tolerance)


@torch.inference_mode()
@pytest.mark.parametrize("noise", noise_images())
@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_weights_stay_within_bounds_on_noise(path, noise):
    assert load_model(path)[0](to_tensor(noise_images()[noise])).abs().max() < 5  # a photo gives about 1
