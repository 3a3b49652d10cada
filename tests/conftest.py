"""Paths of the reference data, and a tiny decoded DIV2K."""

import os
import shutil
from pathlib import Path

if not os.environ.get("TEST_GPU"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # tests compare bit for bit, on the CPU
os.environ["OMP_NUM_THREADS"] = "1"  # of NumPy, PyTorch and processes that tests start: pytest fills the cores

import numpy as np
import pytest
import torch

from utils.bicubic import imresize

REPOSITORY = Path(__file__).resolve().parents[1]


def reference(name: str) -> Path:
    """A file or folder of the reference data beside the repository; Set5 as a whole may be the one demo.py fetches."""
    beside, fetched = REPOSITORY.parent / "shared" / name, REPOSITORY / "Set5"
    return fetched if name == "data/set5" and fetched.exists() and not beside.exists() else beside


def needs_reference(name: str):
    """Skips a test where that is absent."""
    return pytest.mark.skipif(not reference(name).exists(), reason=f"reference data {name} is not here")


def smooth_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Random blobs: uint8 (H, W, 3), no two places alike."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (-(-height // 6), -(-width // 6), 3)).astype(np.uint8)
    return imresize(coarse, 6)[:height, :width].copy()


def write_decoded(root: Path, name: str, stems: list[str], size: tuple[int, int], scale: int = 3) -> None:
    hr_folder, lr_folder = root / f"{name}_HR", root / f"{name}_LR_bicubic" / f"X{scale}"
    for folder in (hr_folder, lr_folder):
        folder.mkdir(parents=True)
    for seed, stem in enumerate(stems):
        hr = smooth_image(*size, seed=seed)
        np.save(hr_folder / f"{stem}.npy", hr)
        np.save(lr_folder / f"{stem}x{scale}.npy", imresize(hr, 1 / scale))


@pytest.fixture(scope="session")
def decoded_once(tmp_path_factory) -> Path:
    """DIV2K_decoded with three training and two validation images; not to be changed."""
    root = tmp_path_factory.mktemp("decoded") / "DIV2K_decoded"
    write_decoded(root, "DIV2K_train", ["0001", "0002", "0010"], (48, 60))
    write_decoded(root, "DIV2K_valid", ["0801", "0802"], (36, 36))
    return root


@pytest.fixture
def decoded(decoded_once: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(decoded_once, tmp_path / "DIV2K_decoded"))


def authors_state(model) -> dict[str, torch.Tensor]:
    """The state dict as the IMDN authors would have saved it."""
    names = {"head": "fea_conv", "fusion.0": "c.0", "trunk_conv": "LR_conv", "upsampler.0": "upsampler.0"}
    state = {}
    for name, tensor in model.state_dict().items():
        module, kind = name.rsplit(".", 1)
        if module.startswith("blocks."):
            _, index, rest = module.split(".", 2)
            module = f"IMDB{int(index) + 1}.{rest.replace('cca.gate', 'cca.conv_du')}"
        state[f"{names.get(module, module)}.{kind}"] = tensor
    return state
