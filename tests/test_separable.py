"""The compiled separable convs against PyTorch's layers."""

import pytest
import torch
import torch.nn.functional as F

from models import separable
from models.blocks import ActivatedSeparableConv, SeparableConv, SeparableDistillationBlock
from models.separable import ChainStage, runs_native, separable_chain
from utils import native

needs_compiler = pytest.mark.skipif(separable.library() is None, reason="no C++ compiler")


def plain_chain(x, stages):
    """What `separable_chain` computes, a layer at a time."""
    kept = []
    for stage in stages:
        depthwise, pointwise = stage.conv
        y = F.leaky_relu(pointwise(depthwise(x)), stage.slope)
        split = y.shape[1] if stage.kept is None else stage.kept
        kept.append(y[:, :split])
        x = y[:, split:]
    return torch.cat(kept, dim=1)


def results(chain, x, stages):
    """Output and every gradient, of a sum in which no two pixels weigh the same."""
    x = x.clone().requires_grad_()
    y = chain(x, stages)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    parameters = [p for stage in stages for p in stage.conv.parameters()]
    return [y, *torch.autograd.grad((y * weights).sum(), [x, *parameters])]


CHAINS = {
    "one conv": [(5, 7, None, 1.0)],
    "one conv, more channels than a tile": [(13, 19, None, 0.01)],
    "ReLU": [(6, 6, None, 0.0)],
    "distillation": [(12, 12, 3, 0.05), (9, 12, 3, 0.05), (9, 12, 3, 0.05), (9, 3, None, 1.0)],
    "nothing kept on the way": [(4, 8, 0, 0.1), (8, 2, None, 1.0)],
}
# a pixel, a column, a row, less than a vector, a vector, several bands, several tiles
SIZES = ((1, 1), (9, 1), (1, 21), (5, 7), (16, 16), (3, 700), (70, 33))


@needs_compiler
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_one_pass_computes_what_the_layers_do(chain, size):
    torch.manual_seed(0)
    stages = [ChainStage(SeparableConv(i, o), kept, slope) for i, o, kept, slope in CHAINS[chain]]
    x = torch.randn(3, CHAINS[chain][0][0], *size)
    exact = [ChainStage(SeparableConv(i, o).double(), kept, slope) for i, o, kept, slope in CHAINS[chain]]
    for stage, twin in zip(stages, exact):
        twin.conv.load_state_dict(stage.conv.state_dict())
    values, expectations = results(separable_chain, x, stages), results(plain_chain, x.double(), exact)
    for value, expected in zip(values, expectations, strict=True):
        torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@needs_compiler
def test_any_number_of_threads_gives_the_same_bits(monkeypatch):
    torch.manual_seed(0)
    stages = [ChainStage(SeparableConv(6, 8), 2, 0.05), ChainStage(SeparableConv(6, 4))]
    x = torch.randn(2, 6, 40, 24)
    alone = results(separable_chain, x, stages)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)  # more than images: bands are shared out
    for one, several in zip(alone, results(separable_chain, x, stages), strict=True):
        assert torch.equal(one, several)


@needs_compiler
def test_channels_last_is_taken_too():
    torch.manual_seed(0)
    stages, x = [ChainStage(SeparableConv(4, 4), slope=0.1)], torch.randn(2, 4, 6, 5)
    expected = separable_chain(x, stages)
    assert torch.equal(separable_chain(x.contiguous(memory_format=torch.channels_last), stages), expected)


@needs_compiler
def test_what_is_not_a_number_stays_so():
    x = torch.zeros(1, 4, 8, 8)
    x[0, 1, 3, 3] = float("nan")
    y = separable_chain(x, [ChainStage(SeparableConv(4, 4), slope=0.1)])
    assert y[0, :, 2:5, 2:5].isnan().all() and y[0, :, 5:].isfinite().all()


@needs_compiler
def test_the_blocks_take_it_where_it_fits():
    """float32 on the CPU takes the pass; half precision, double and modules one at a time do not."""
    x = torch.randn(1, 8, 6, 6)
    assert runs_native(x) and not runs_native(x.double()) and not runs_native(x.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not runs_native(x)
    for layer in (SeparableConv(8, 8), ActivatedSeparableConv(8, 8, 0.1), SeparableDistillationBlock(8)):
        compute = layer.distil if isinstance(layer, SeparableDistillationBlock) else layer
        assert "SeparableChain" in type(compute(x).grad_fn).__name__
        for module in layer.modules():
            module.fused = False
        assert "SeparableChain" not in type(compute(x).grad_fn).__name__


@needs_compiler
def test_a_library_is_built_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = tmp_path / "answer.cpp"
    source.write_text('extern "C" int answer() { return 42; }')
    assert native.load_library(source).answer() == 42
    (built,) = (tmp_path / "lightweight-super-resolution").iterdir()
    before = built.stat().st_mtime_ns
    assert native.load_library(source).answer() == 42
    assert built.stat().st_mtime_ns == before
    source.write_text('extern "C" int answer() { return 43; }')
    assert native.load_library(source).answer() == 43


@pytest.mark.parametrize("compiler", ("no-such-compiler", "false", ""))
def test_without_a_compiler_there_is_no_library(compiler, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", compiler)
    assert native.load_library(separable.SOURCE) is None
    assert not list(tmp_path.rglob("*.so"))


def test_without_a_library_the_layers_run(monkeypatch):
    monkeypatch.setattr(separable, "library", lambda: None)
    layer, x = ActivatedSeparableConv(4, 6, 0.1), torch.randn(1, 4, 5, 5)
    assert "SeparableChain" not in type(layer(x).grad_fn).__name__
    torch.testing.assert_close(layer(x), plain_chain(x, [ChainStage(layer[0], slope=0.1)]))
