"""Training state (.pth), published weights (.safetensors), and the IMDN authors' files."""

import io
import json
import math
import re
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from models import build_model, complete_hyperparameters
from utils.files import atomic_path
from utils.flags import first_line
from utils.layers import unfuse_if_edited

FORMAT = 3
STATE_KEYS = {"name", "hyperparameters", "args", "run", "model", "ema", "optimizer"}
METADATA_KEY = "super_resolution"


class CheckpointError(ValueError):
    """A file that cannot be used; the message names it and says what to do."""


def save_state(path: Path, state: dict) -> None:
    """Writes a training state; the file at `path` is the old one or the new one, never a part."""
    buffer = io.BytesIO()  # as torch.save answers a full disk with a RuntimeError
    torch.save({"format": FORMAT, **state}, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_state(path: Path) -> dict:
    """Reads a training state onto the CPU; only tensors and plain values are unpickled.

    Raises:
        CheckpointError: missing, unreadable, or not a training state of this project.
    """
    if path.suffix.lower() == ".safetensors":
        raise CheckpointError(f"{path} holds weights, no training state; give the last.pth beside it, or --init")
    state = _load_pth(path)
    if not is_state(state):
        raise CheckpointError(f"{path} is not a training state written by this version of train.py")
    return state


def is_state(content: object) -> bool:
    """Whether it is what `save_state` wrote."""
    return isinstance(content, dict) and content.get("format") == FORMAT and content.keys() >= STATE_KEYS


def check_is_file(path: Path) -> None:
    """Raises CheckpointError where it is not one."""
    try:
        if not path.is_file():
            raise CheckpointError(f"{path} is a folder; give a file" if path.is_dir() else f"{path} does not exist")
        path.open("rb").close()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


SAID_OF_DAMAGE = ("PytorchStreamReader", "inline_container", "corrupt", "[Errno 22]")  # by torch.load


def _load_pth(path: Path) -> object:
    check_is_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types on a damaged file
        reason = first_line(error)
        if path.suffix.lower() == ".onnx":
            reason = "it is for demo.py --backend onnxruntime"
        elif "weights_only" in reason or reason.isdigit():  # advice to load it unsafely; an opcode of no pickle's
            reason = "it holds more than tensors and plain values, or is no checkpoint at all"
        elif isinstance(error, EOFError) or any(words in reason for words in SAID_OF_DAMAGE):
            reason = "it is damaged, or a copy that was cut short"
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {reason}") from error


def network_name(model: str, hyperparameters: dict[str, int]) -> str:
    """The name of a network's run and weights, such as IMDN_dw_nf40_m6_x3."""
    return "{}_nf{nf}_m{num_modules}_x{scale}".format(model, **hyperparameters)


def save_weights(path: Path, model: nn.Module, metadata: dict) -> None:
    """Writes published weights, float32, that describe themselves.

    Args:
        path: ends in .safetensors.
        metadata: JSON-able; holds at least `model` (a key of MODELS) and `hyperparameters` (nf, num_modules, scale).
    """
    whole = {"memory_format": torch.contiguous_format}
    # clones, as a layer that is used twice shares its weights
    tensors = {name: tensor.detach().float().cpu().clone(**whole) for name, tensor in model.state_dict().items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(tensors, metadata={METADATA_KEY: json.dumps(metadata)}))


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict]:
    """(state dict, metadata) of published weights, of a training state (its EMA) or of a bare state dict.

    A training state's metadata is its network alone and `training_state`, True. A bare state dict has none, {}, but
    for the IMDN authors' files, whose tensors tell.
    Raises:
        CheckpointError: missing, unreadable, or without weights.
    """
    path = Path(path)
    if path.suffix.lower() == ".safetensors":
        state, metadata = _read_safetensors(path)
        return (state, metadata) if metadata else (from_authors_names(state), authors_metadata(state))
    content = _load_pth(path)
    if is_state(content):
        return content["ema"] or content["model"], {
            "model": content["name"],
            "hyperparameters": content["hyperparameters"],
            "training_state": True,
        }
    for key in ("params_ema", "params", "state_dict"):  # as BasicSR and others wrap theirs
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if isinstance(content, dict) and content and all(isinstance(v, Tensor) for v in content.values()):
        return from_authors_names(content), authors_metadata(content)
    raise CheckpointError(f"{path} holds neither a training state nor a state dict")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    check_is_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            if not isinstance(metadata, dict):
                raise CheckpointError(f"{path} says nothing of its network: its {METADATA_KEY} is {metadata!r:.50}")
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118, a file is not iterable
    except (SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read as .safetensors: {error}") from error


def from_authors_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames the tensors of an IMDN file by its authors (github.com/Zheng222/IMDN) to this project's names.

    Drops a leading `module.` (DataParallel) and thop's total_ops and total_params; other names stay as they are.
    """
    renamed = {}
    for name, tensor in state.items():
        name = name.removeprefix("module.")
        if name.split(".")[-1] in ("total_ops", "total_params"):
            continue
        for pattern, replacement in AUTHORS_NAMES:
            name, found = re.subn(pattern, replacement, name)
            if found:
                break
        renamed[name] = tensor
    return renamed


def authors_metadata(state: dict[str, Tensor]) -> dict:
    """Which IMDN a file by its authors holds, from the shapes of its tensors; {} where the names are not theirs."""
    shapes = {name.removeprefix("module."): tensor.shape for name, tensor in state.items()}
    if not shapes.keys() >= {"fea_conv.weight", "IMDB1.cca.conv_du.0.weight", "upsampler.0.weight"}:
        return {}
    modules = {name.split(".")[0] for name in shapes if name.startswith("IMDB")}
    scale = math.isqrt(shapes["upsampler.0.weight"][0] // 3)
    sizes = {"nf": shapes["fea_conv.weight"][0], "num_modules": len(modules), "scale": scale}
    return {"model": "IMDN", "hyperparameters": sizes}


AUTHORS_NAMES = (
    (r"^fea_conv\.", "head."),
    (r"^IMDB(\d+)\.cca\.conv_du\.", lambda m: f"blocks.{int(m[1]) - 1}.cca.gate."),
    (r"^IMDB(\d+)\.", lambda m: f"blocks.{int(m[1]) - 1}."),
    (r"^c\.0\.", "fusion.0."),
    (r"^LR_conv\.", "trunk_conv."),
)


def check_finite(path: Path, state: dict[str, Tensor]) -> None:
    """Raises CheckpointError where weights are infinite or not numbers."""
    if unfit := [key for key, tensor in state.items() if not tensor.isfinite().all()]:
        raise CheckpointError(f"{path} holds values that are not finite, in {unfit[0]}; give those of another epoch")


def load_model(path: Path, name: str | None = None, **hyperparameters: int | None) -> tuple[nn.Module, dict]:
    """Rebuilds a network from what its file says.

    Args:
        name, hyperparameters: only for a file that does not say its own; one that contradicts the file is an error.
    Returns:
        The network in evaluation mode on the CPU, and the file's metadata (model and hyperparameters always set).
    Raises:
        CheckpointError: unreadable, no architecture given, or weights of another shape.
    """
    state, metadata = read_weights(path)
    stored = {"model": metadata.get("model"), **metadata.get("hyperparameters", {})}
    for key, value in {"model": name, **hyperparameters}.items():
        if None not in (value, stored.get(key)) and value != stored[key]:
            raise CheckpointError(
                f"{path} holds {key} {stored[key]}, not {value}; leave that flag out or give other weights"
            )
    name = name or stored["model"]
    if name is None:
        raise CheckpointError(
            f"{path} does not say which network it holds; give --model (and --nf, --modules, --scale)"
        )
    check_finite(path, state)
    try:
        sizes = complete_hyperparameters(name, **{**hyperparameters, **metadata.get("hyperparameters", {})})
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    model = build_model(name, **sizes)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise CheckpointError(f"{path} does not fit {name} {sizes}: {reason[:200]}") from error
    model.eval()
    unfuse_if_edited(model)
    return model, {**metadata, "model": name, "hyperparameters": sizes}


def take_weights(model: nn.Module, name: str, path: Path, scale: int) -> tuple[int, dict]:
    """Gives a network the tensors of a file that fit it, so that one of other depth or another scale will do.

    Args:
        name: the network's, a key of MODELS.
        scale: the network's own; the upsampler of a file of another scale is interpolated to it.
    Returns:
        How many of the network's tensors came from the file, and the file's metadata.
    Raises:
        CheckpointError: unreadable, a training state, of another family or number of features, or of a network without
            a `head`.
    """
    weights, metadata = read_weights(path)
    if metadata.get("training_state"):
        raise CheckpointError(f"{path} is a training state; give the best.safetensors beside it, or --resume")
    if metadata.get("model") != name:
        raise CheckpointError(f"{path} holds {metadata.get('model', 'an unknown network')}, not {name}")
    check_finite(path, weights)
    own = model.state_dict()
    if "head.weight" not in weights.keys() & own.keys():
        raise CheckpointError(f"{path} cannot be started from: {name} has no first conv called head")
    if weights["head.weight"].shape != own["head.weight"].shape:
        raise CheckpointError(f"{path} holds nf={len(weights['head.weight'])}, not {len(own['head.weight'])}")
    fitting = {key: tensor for key, tensor in weights.items() if key in own}
    before = metadata.get("hyperparameters", {}).get("scale", scale)
    for key in {"upsampler.0.weight", "upsampler.0.bias"} & fitting.keys():
        if fitting[key].shape != own[key].shape:  # alike in a DRLN at ×2 and ×4, which enlarges by 2 twice
            fitting[key] = rescaled(fitting[key], before, scale)
    fitting = {key: of_as_many_blocks(tensor, own[key].shape) for key, tensor in fitting.items()}
    fitting = {key: tensor for key, tensor in fitting.items() if own[key].shape == tensor.shape}
    model.load_state_dict(fitting, strict=False)
    return len(fitting), metadata


def of_as_many_blocks(kernel: Tensor, shape: torch.Size) -> Tensor:
    """A conv that fuses blocks made to fuse another number: new ones weigh nothing, so that the network does as before,
    and the last ones of too many are left out.
    """
    if kernel.ndim != 4:
        return kernel
    return F.pad(kernel, (0, 0, 0, 0, 0, shape[1] - kernel.shape[1]))  # less than nothing crops


def rescaled(kernel: Tensor, old: int, new: int) -> Tensor:
    """The conv before a pixel shuffle, or its bias, for another scale.

    Each of its channels has old × old kernels, one for each place in a large pixel's square; they become new × new.
    """
    if kernel.shape[0] % old**2:  # not what a pixel shuffle by `old` takes
        return kernel
    phases = kernel.reshape(-1, old, old, kernel[0].numel()).permute(0, 3, 1, 2)
    phases = F.interpolate(phases, size=(new, new), mode="bilinear", align_corners=False)
    return phases.permute(0, 2, 3, 1).reshape(-1, *kernel.shape[1:])
