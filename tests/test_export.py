import numpy as np
import pytest
import torch

from models import MODELS, build_model
from utils.checkpoint import CheckpointError
from utils.tiling import super_resolve

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnx", reason="onnx is not installed")

from utils.export import OnnxNetwork, export_onnx  # noqa: E402


def small(name: str, scale: int = 3) -> tuple[torch.nn.Module, dict]:
    torch.manual_seed(0)
    sizes = {"nf": 16 if name == "DRLN" else 8, "num_modules": 4, "scale": scale}
    return build_model(name, **sizes).eval(), {"model": name, "hyperparameters": sizes}


@pytest.mark.parametrize("name", MODELS)
def test_exported_networks_are_those_of_pytorch_at_any_size(name, tmp_path):
    model, metadata = small(name)
    assert export_onnx(model, tmp_path / "m.onnx", metadata) < 1e-4
    exported = OnnxNetwork(tmp_path / "m.onnx")
    assert exported.metadata == metadata
    for shape in ((1, 3, 5, 9), (3, 3, 40, 17)):
        lr = torch.rand(shape)
        with torch.inference_mode():
            assert (model(lr) - exported(lr)).abs().max() < 1e-4


@pytest.mark.parametrize("scale", (2, 3, 4))
def test_tiles_run_through_onnxruntime(scale, tmp_path):
    model, metadata = small("IMDN_RTC", scale)
    export_onnx(model, tmp_path / "m.onnx", metadata)
    image = np.random.default_rng(0).integers(0, 256, (70, 110, 3), np.uint8)
    ours, theirs = (super_resolve(m, image, scale, tile=100) for m in (model, OnnxNetwork(tmp_path / "m.onnx")))
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_a_wrong_export_is_not_written(tmp_path, monkeypatch):
    model, metadata = small("IMDN_RTC")
    monkeypatch.setattr("utils.export.largest_difference", lambda *_: 0.1)
    with pytest.raises(CheckpointError, match="differs from PyTorch"):
        export_onnx(model, tmp_path / "m.onnx", metadata)
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_not_exports_are_named(tmp_path):
    (tmp_path / "a.onnx").write_text("text")
    with pytest.raises(CheckpointError, match="a.onnx is not an ONNX file"):
        OnnxNetwork(tmp_path / "a.onnx")
    with pytest.raises(CheckpointError, match="b.onnx does not exist"):
        OnnxNetwork(tmp_path / "b.onnx")
