"""Networks as ONNX files, and running them with onnxruntime."""

import json
import warnings
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from models import build_model
from utils.checkpoint import METADATA_KEY, CheckpointError
from utils.files import atomic_path
from utils.flags import first_line

TOLERANCE = 1e-4  # of an exported file against PyTorch, relative to the largest output where that is above 1
INSTALL = "pip install onnx onnxruntime"


class OnnxNetwork(nn.Module):
    """An ONNX file that is called as the network it was exported from.

    Attributes:
        device: where tensors come from and go to; onnxruntime runs on the CPU.
        layers: the network's, without weights, for what depends on them: receptive field and memory.
    """

    device = torch.device("cpu")

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ImportError as error:
            raise CheckpointError(f"running {path} needs onnxruntime: {INSTALL}") from error
        if not Path(path).is_file():
            raise CheckpointError(f"{path} does not exist")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            metadata = self.session.get_modelmeta().custom_metadata_map[METADATA_KEY]
        except Exception as error:  # onnxruntime's errors have no common base
            raise CheckpointError(
                f"{path} is not an ONNX file that demo.py --export wrote: {first_line(error)}"
            ) from error
        self.metadata = json.loads(metadata)
        with torch.device("meta"):
            self.layers = build_model(self.metadata["model"], **self.metadata["hyperparameters"])

    def forward(self, lr: Tensor) -> Tensor:
        (sr,) = self.session.run(None, {"lr": np.ascontiguousarray(lr.cpu().numpy())})
        return torch.from_numpy(sr)


def export_onnx(model: nn.Module, path: Path, metadata: dict) -> float:
    """Writes an ONNX file of dynamic batch, height and width, checked at a size it was not exported with.

    Args:
        model: in evaluation mode, on the CPU.
        metadata: JSON-able; holds at least `model` and `hyperparameters`.
    Returns:
        The largest difference from PyTorch, relative to the largest output where that is above 1.
    Raises:
        CheckpointError: onnx or onnxruntime is not installed, or a difference above TOLERANCE.
    """
    try:
        import onnx

        import_module("onnxruntime")  # of the check at the end
    except ImportError as error:
        raise CheckpointError(f"exporting needs onnx and onnxruntime: {INSTALL}") from error
    axes = {"lr": {0: "n", 2: "height", 3: "width"}, "sr": {0: "n", 2: "sr_height", 3: "sr_width"}}
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's deprecation notice
        torch.onnx.export(
            model,
            (torch.rand(2, 3, 32, 40),),
            temporary,
            input_names=["lr"],
            output_names=["sr"],
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )
        exported = onnx.load(temporary)
        onnx.helper.set_model_props(exported, {METADATA_KEY: json.dumps(metadata)})
        onnx.save(exported, temporary)
        difference = largest_difference(model, OnnxNetwork(temporary))
        if not difference < TOLERANCE:
            raise CheckpointError(
                f"the exported file differs from PyTorch by {difference:.1e}, more than {TOLERANCE:.0e}"
            )
    return difference


@torch.inference_mode()
def largest_difference(model: nn.Module, exported: OnnxNetwork) -> float:
    lr = torch.rand(1, 3, 27, 61, generator=torch.Generator().manual_seed(0))
    sr = model(lr)  # LR is noise, so it may be far outside [0, 1]
    return ((sr - exported(lr)).abs().max() / sr.abs().max().clamp(min=1)).item()
