import errno
import json
import os
from unittest.mock import Mock

import pytest
import torch
from conftest import authors_state, needs_reference, reference
from safetensors import safe_open
from safetensors.torch import save_file

from models import MODELS, build_model
from utils.checkpoint import (
    FORMAT,
    METADATA_KEY,
    STATE_KEYS,
    CheckpointError,
    from_authors_names,
    load_model,
    load_state,
    read_weights,
    save_state,
    save_weights,
    take_weights,
)
from utils.files import atomic_path, is_made_from

SIZES = {"nf": 8, "num_modules": 2, "scale": 3}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model("IMDN", **SIZES).eval()


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_published_weights_describe_themselves(model, tmp_path):
    metadata = {"model": "IMDN", "hyperparameters": SIZES, "seed": 3, "commands": ["python train.py"]}
    save_weights(tmp_path / "w.safetensors", model, metadata)
    loaded, read = load_model(tmp_path / "w.safetensors")
    assert same(loaded, model) and read == metadata and not loaded.training
    with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()[METADATA_KEY])["model"] == "IMDN"


def test_a_layer_used_twice_is_saved(tmp_path):
    conv = torch.nn.Conv2d(3, 3, 3)
    save_weights(tmp_path / "w.safetensors", torch.nn.Sequential(conv, conv), {"model": "mine"})
    state, _ = read_weights(tmp_path / "w.safetensors")
    assert torch.equal(state["0.weight"], conv.weight) and torch.equal(state["1.weight"], conv.weight)


def test_flags_that_contradict_the_file_are_refused(model, tmp_path):
    save_weights(tmp_path / "w.safetensors", model, {"model": "IMDN", "hyperparameters": SIZES})
    load_model(tmp_path / "w.safetensors", "IMDN", nf=8)
    for wrong in ({"name": "IMDN_dw"}, {"nf": 12}, {"scale": 2}):
        with pytest.raises(CheckpointError, match="leave that flag out or give other weights"):
            load_model(tmp_path / "w.safetensors", **wrong)


@pytest.mark.parametrize("key", (None, "params", "params_ema", "state_dict"))
@pytest.mark.parametrize("prefix", ("", "module."))
def test_authors_files_say_which_network_they_hold(model, tmp_path, prefix, key):
    state = {prefix + name: tensor for name, tensor in authors_state(model).items()}
    state |= {f"{prefix}IMDB1.c1.total_ops": torch.zeros(1), f"{prefix}total_params": torch.zeros(1)}
    torch.save({key: state, "epoch": 1} if key else state, tmp_path / "w.pth")
    loaded, metadata = load_model(tmp_path / "w.pth")
    assert same(loaded, model) and metadata == {"model": "IMDN", "hyperparameters": SIZES}


def test_a_bare_state_dict_needs_a_model(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="give --model"):
        load_model(tmp_path / "w.pth")
    assert same(load_model(tmp_path / "w.pth", "IMDN", nf=8, num_modules=2)[0], model)
    with pytest.raises(CheckpointError, match="does not fit IMDN"):
        load_model(tmp_path / "w.pth", "IMDN", nf=12, num_modules=2)


def test_everything_else_is_strict(model, tmp_path):
    state = authors_state(model)
    torch.save({**state, "extra.weight": torch.zeros(1)}, tmp_path / "more.pth")
    torch.save({k: v for k, v in state.items() if k != "LR_conv.bias"}, tmp_path / "less.pth")
    for name, says in (("more", "extra.weight"), ("less", "trunk_conv.bias")):
        with pytest.raises(CheckpointError, match=says):
            load_model(tmp_path / f"{name}.pth", "IMDN", nf=8, num_modules=2)


def test_weights_that_are_not_finite_or_of_no_network_are_named(model, tmp_path):
    save_weights(tmp_path / "gone.safetensors", model, {"model": "Gone", "hyperparameters": SIZES})
    with pytest.raises(CheckpointError, match=r"gone.safetensors: unknown model 'Gone'; choose from IMDN"):
        load_model(tmp_path / "gone.safetensors")
    torch.nn.init.constant_(model.head.bias, float("nan"))
    save_weights(tmp_path / "nan.safetensors", model, {"model": "IMDN", "hyperparameters": SIZES})
    with pytest.raises(CheckpointError, match=r"nan.safetensors holds values that are not finite, in head.bias"):
        load_model(tmp_path / "nan.safetensors")


def test_a_name_that_contains_module_keeps_its_letters():
    assert list(from_authors_names({"submodule.weight": torch.zeros(1)})) == ["submodule.weight"]


@pytest.mark.parametrize("name", ("w.pth", "w.safetensors"))
def test_damaged_and_missing_files_are_named(tmp_path, name):
    with pytest.raises(CheckpointError, match=f"{name} does not exist"):
        load_model(tmp_path / name)
    (tmp_path / name).write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(CheckpointError, match=f"{name} cannot be read"):
        load_model(tmp_path / name)


@pytest.mark.parametrize("share", (0, 0.01, 0.5, 0.99))
def test_a_copy_that_was_cut_short_is_told(share, tmp_path):
    save_state(tmp_path / "s.pth", dict.fromkeys(STATE_KEYS) | {"model": {"w": torch.ones(1000)}})
    whole = (tmp_path / "s.pth").read_bytes()
    (tmp_path / "s.pth").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"s\.pth cannot be read .*: it is damaged, or a copy"):
        load_state(tmp_path / "s.pth")


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (print, ("run!",))

    torch.save({"a": Malicious()}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_state(tmp_path / "w.pth")


def test_state_round_trip_and_foreign_files(tmp_path):
    save_state(tmp_path / "s.pth", dict.fromkeys(STATE_KEYS) | {"run": {"epoch": 3}, "model": {"w": torch.ones(2)}})
    state = load_state(tmp_path / "s.pth")
    assert state["run"]["epoch"] == 3 and state["model"]["w"].tolist() == [1, 1]
    torch.save({"epoch": 3}, tmp_path / "foreign.pth")
    with pytest.raises(CheckpointError, match="not a training state"):
        load_state(tmp_path / "foreign.pth")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]
    for below in ("x.txt", "new/x.txt"):
        with pytest.raises(OSError, match=r"cannot be written: .*a\.txt is a file"), atomic_path(target / below):
            pass


@pytest.mark.parametrize("name", ("IMDN", "IMDN_RTC", "IMDN_dw", "DRLN_slim"))
@pytest.mark.parametrize("scale", (2, 4))
def test_another_scale_starts_from_the_same_pictures(name, scale, tmp_path):
    taught = build_model(name, **SIZES).eval()
    taught.start_from_interpolation()
    save_weights(tmp_path / "x3.safetensors", taught, {"model": name, "hyperparameters": SIZES})
    model = build_model(name, **SIZES | {"scale": scale}).eval()
    assert take_weights(model, name, tmp_path / "x3.safetensors", scale)[0] == len(model.state_dict())
    lr = torch.rand(1, 3, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    enlarged = torch.nn.functional.interpolate(lr, scale_factor=scale, mode="bilinear")
    inside = (..., slice(8 * scale, -8 * scale), slice(8 * scale, -8 * scale))
    assert (model(lr) - enlarged)[inside].square().mean().sqrt() < 0.07


def test_a_layer_that_both_scales_have_is_taken_as_it_is(tmp_path):
    sizes = {"nf": 12, "num_modules": 2}
    twice, four_times = (build_model("DRLN_narrow", **sizes, scale=scale) for scale in (2, 4))
    save_weights(tmp_path / "x2.safetensors", twice, {"model": "DRLN_narrow", "hyperparameters": sizes | {"scale": 2}})
    take_weights(four_times, "DRLN_narrow", tmp_path / "x2.safetensors", 4)
    assert torch.equal(four_times.upsampler[0].weight, twice.upsampler[0].weight)


def test_a_shallower_network_takes_the_first_blocks_of_a_deeper_one(model, tmp_path):
    save_weights(tmp_path / "deep.safetensors", model, {"model": "IMDN", "hyperparameters": SIZES})
    shallow = build_model("IMDN", **SIZES | {"num_modules": 1})
    assert take_weights(shallow, "IMDN", tmp_path / "deep.safetensors", 3)[0] == len(shallow.state_dict())
    assert torch.equal(shallow.fusion[0].weight, model.fusion[0].weight[:, :8])


@needs_reference("weights/IMDN_x3_official.pth")
def test_the_authors_file_loads_strictly():
    model, _ = load_model(reference("weights/IMDN_x3_official.pth"))
    assert sum(p.numel() for p in model.parameters()) == 703059


def test_other_programs_states_are_refused(tmp_path):
    torch.save({"format": FORMAT, "model": {}}, tmp_path / "other.pth")
    for read in (load_state, load_model):
        with pytest.raises(CheckpointError, match=r"other\.pth"):
            read(tmp_path / "other.pth")


def test_weights_are_no_training_state(model, tmp_path):
    save_weights(tmp_path / "best.safetensors", model, {"model": "IMDN", "hyperparameters": SIZES})
    with pytest.raises(CheckpointError, match=r"best\.safetensors holds weights, no training state"):
        load_state(tmp_path / "best.safetensors")


def test_metadata_of_another_kind_is_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors", metadata={METADATA_KEY: "[1]"})
    with pytest.raises(CheckpointError, match="says nothing of its network"):
        load_model(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("kept", "expected"),
    ((1, True), (100, True), (10**3, True), (10**7, True), (10**9, True), (2 * 10**9, True), (10**10, False)),
)
def test_what_a_file_was_made_from_is_known_on_coarse_file_systems(kept, expected, tmp_path):
    mtime = 1_700_000_003_123_456_789
    for name, time in (("source", mtime), ("made", mtime // kept * kept)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, ns=(time, time))
    assert is_made_from(tmp_path / "made", tmp_path / "source") == expected


@pytest.mark.parametrize("error", (PermissionError, OSError(errno.ENOSYS, "")))
def test_a_file_is_written_where_times_cannot_be_set(error, tmp_path, monkeypatch):
    (tmp_path / "source").touch()
    os.utime(tmp_path / "source", (0, 0))
    monkeypatch.setattr(os, "utime", Mock(side_effect=error))
    with atomic_path(tmp_path / "made", made_from=tmp_path / "source") as temporary:
        temporary.write_text("a")
    assert (tmp_path / "made").read_text() == "a" and not is_made_from(tmp_path / "made", tmp_path / "source")


def test_a_network_starts_from_its_own_file_by_its_own_name(tmp_path, monkeypatch):
    class Tiny(torch.nn.Module):
        def __init__(self, nf: int, num_modules: int, scale: int) -> None:
            super().__init__()
            self.first = torch.nn.Conv2d(3, nf, 1)

    monkeypatch.setitem(MODELS, "tiny", Tiny)
    model = build_model("tiny", **SIZES)
    save_weights(tmp_path / "a.safetensors", model, {"model": "tiny", "hyperparameters": SIZES})
    with pytest.raises(CheckpointError, match="tiny has no first conv called head"):
        take_weights(model, "tiny", tmp_path / "a.safetensors", 3)
    model.head, model.first = model.first, None
    save_weights(tmp_path / "a.safetensors", model, {"model": "tiny", "hyperparameters": SIZES})
    assert take_weights(model, "tiny", tmp_path / "a.safetensors", 3)[0] == 2
