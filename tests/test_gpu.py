"""What only a GPU runs: TEST_GPU=1 python -m pytest -n 0 tests/test_gpu.py"""

import numpy as np
import pytest
import torch

import train
from dataset import DevicePatches, Pair, PairedPatches
from models import MODELS, build_model
from utils.distributed import Ranks
from utils.metrics import psnr_rgb
from utils.soap import orthonormalise
from utils.tiling import super_resolve

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU and TEST_GPU=1")


def patches() -> PairedPatches:
    random = np.random.default_rng(0)
    images = [cheap_photo(random) for _ in range(3)]
    pairs = [Pair(str(i), image[::3, ::3].copy(), image) for i, image in enumerate(images)]
    return PairedPatches([(pairs, 1)], scale=3, patch_size=48, split="training")


def cheap_photo(random: np.random.Generator) -> np.ndarray:
    return random.integers(0, 256, (20, 20, 3), np.uint8).repeat(6, axis=0).repeat(6, axis=1)


def losses_and_weights(*flags: str, steps: int = 25) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a short training, batches cut on the GPU."""
    command = ["--data", "sample", "--device", "cuda", "--batch", "4", "--patch", "48", "--clip", "1", *flags]
    args, _ = train.parse_args([*command, "--init", "interpolation"])
    learner, _ = train.build(args, None)
    gradients = train.Gradients(train.accelerate(learner.model, Ranks(), args), learner.model, args)
    source, losses = DevicePatches(patches(), "cuda"), []
    with torch.backends.cudnn.flags(enabled=True, deterministic=True):  # kernels chosen by timing may differ
        for step in range(steps):
            losses.append(gradients(source[range(4 * step, 4 * step + 4)]).clone())
            learner.optimizer.step()
    recorded = [gradients.replayed] if args.graph else []
    if args.graph and args.optimizer == "soap":
        recorded.append(learner.optimizer.advance.replayed)
    assert all(replayed.graph for replayed in recorded)
    return torch.stack(losses).cpu(), torch.cat([p.detach().flatten() for p in learner.model.parameters()]).cpu()


@pytest.mark.parametrize("optimizer", ["adam", "soap"])
@pytest.mark.parametrize("model", ["IMDN_RTC", "IMDN_dw", "DRLN_slim"])
def test_a_graph_trains_as_single_kernels_do(model, optimizer):
    small = ("--model", model, "--nf", "12", "--modules", "2", "--optimizer", optimizer, "--lr", "1e-3")
    small = (*small, "--no-compile", "--no-bf16")
    plain, weights = losses_and_weights(*small, "--no-graph")
    replayed, same_weights = losses_and_weights(*small, "--graph")
    assert plain[-1] < plain[0]
    torch.testing.assert_close(replayed, plain, rtol=2e-3, atol=1e-5)
    torch.testing.assert_close(same_weights, weights, rtol=0, atol=5e-3)


@pytest.mark.parametrize("model", ["IMDN", "IMDN_dw"])
def test_training_compiled_and_in_bfloat16_follows_float32(model):
    small = ("--model", model, "--nf", "12", "--modules", "2", "--lr", "1e-3")
    plain, _ = losses_and_weights(*small, "--no-compile", "--no-bf16", "--no-graph")
    fast, _ = losses_and_weights(*small, "--compile", "--bf16", "--graph")
    torch.testing.assert_close(fast, plain, rtol=0.05, atol=0)


def test_patches_are_cut_alike_on_the_gpu():
    on_cpu, on_gpu = patches(), DevicePatches(patches(), "cuda")
    for expected, cut in zip(on_cpu[range(32)], on_gpu[range(32)]):
        assert torch.equal(cut.cpu(), expected)


def test_bases_are_orthonormalised_as_on_the_cpu():
    matrices = torch.randn(5, 9, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(orthonormalise(matrices.cuda()).cpu(), orthonormalise(matrices), rtol=0, atol=1e-5)


@pytest.mark.parametrize("model", list(MODELS))
def test_networks_answer_as_on_the_cpu(model):
    torch.manual_seed(0)
    network = build_model(model, nf=16, num_modules=6).eval()
    network.start_from_interpolation()
    image = torch.rand(1, 3, 40, 52)
    with torch.inference_mode():
        expected, answer = network(image), network.cuda()(image.cuda()).cpu()
    assert psnr_rgb(answer.clamp(0, 1), expected.clamp(0, 1)) > 60


def test_tiles_and_halves_on_the_gpu():
    torch.manual_seed(0)
    network = build_model("IMDN_RTC", nf=12, num_modules=2).eval()  # without attention, for which a tile is the world
    network.start_from_interpolation()
    image = np.random.default_rng(0).integers(0, 256, (90, 101, 3), np.uint8)
    expected = super_resolve(network, image, 3).astype(int)
    network.cuda()
    for flags in ({}, {"tile": 60, "batch": 1}, {"tile": 60, "batch": 3}):
        assert np.abs(expected - super_resolve(network, image, 3, **flags)).max() <= 1
    for dtype in (torch.bfloat16, torch.float16):
        assert np.abs(expected - super_resolve(network, image, 3, tile=60, batch=4, dtype=dtype)).max() <= 2


def test_a_run_and_its_resumption_on_the_gpu(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["--model", "IMDN_RTC", "--nf", "12", "--modules", "1", "--data", "sample", "--batch", "4", "--patch", "48"]
    small += ["--valid-patch", "96", "--device", "cuda", "--optimizer", "soap", "--ema", "0.9", "--iterations", "12"]
    first = train.main([*small, "--epochs", "1", "--save-dir", "run"])
    last = train.main(["--resume", "run/last.pth", "--epochs", "2", "--device", "cuda"])
    assert last["epoch"] == 2 and last["valid_psnr_db"] > first["valid_psnr_db"] - 0.5
