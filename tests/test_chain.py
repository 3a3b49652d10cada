"""The compiled convs against PyTorch's layers."""

import copy
import os
import re
import time
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.nn.utils.prune
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from models import build_model
from models.blocks import ActivatedSeparableConv, DistillationBlock, Layers, ScaledPointwise, SeparableConv, conv3x3
from models.drln import LaplacianAttention
from models.imdn import IMDB, SeparableIMDB
from models.kernels import chain, native, tail
from models.kernels.chain import ChainStage, conv_chain
from models.kernels.guards import WIDE, layers_apart

needs_compiler = pytest.mark.skipif(chain.compiled()[0] is None, reason="no C++ compiler")


def plain_chain(x, stages):
    """What `conv_chain` computes, a layer at a time."""
    kept = []
    for stage in stages:
        for layer in chain.layers_of(stage.conv):
            x = F.conv2d(x, layer.weight, layer.bias, padding=layer.padding, groups=layer.groups)
        y = F.leaky_relu(x, stage.slope)
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
KINDS = {
    "separable": lambda i: SeparableConv,
    "plain": lambda i: conv3x3,
    "in turn": lambda i: (conv3x3, SeparableConv)[i % 2],
}


def stages_of(name, kind):
    return [
        ChainStage(KINDS[kind](i)(inputs, outputs), kept, slope)
        for i, (inputs, outputs, kept, slope) in enumerate(CHAINS[name])
    ]


# a pixel, a column, a row, less than a vector, a vector, several tiles, several bands of the widest chain
SIZES = ((1, 1), (9, 1), (1, 21), (5, 7), (16, 16), (70, 33), (11, 1100))


@needs_compiler
@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_a_chain_computes_what_the_layers_do(name, kind, size):
    torch.manual_seed(0)
    stages = stages_of(name, kind)
    x = torch.randn(3, CHAINS[name][0][0], *size)
    exact = [replace(stage, conv=copy.deepcopy(stage.conv).double()) for stage in stages]
    values, expectations = results(conv_chain, x, stages), results(plain_chain, x.double(), exact)
    for value, expected in zip(values, expectations, strict=True):
        torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@needs_compiler
def test_any_number_of_threads_gives_the_same_bits(monkeypatch):
    torch.manual_seed(0)
    stages = [ChainStage(SeparableConv(6, 8), 2, 0.05), ChainStage(conv3x3(6, 8), 4, 0.05), ChainStage(conv3x3(4, 4))]
    x = torch.randn(2, 6, 37, 24)
    alone = results(conv_chain, x, stages)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)  # more than images: bands are shared out
    for one, several in zip(alone, results(conv_chain, x, stages), strict=True):
        assert torch.equal(one, several)


@needs_compiler
def test_channels_last_is_taken_too():
    torch.manual_seed(0)
    stages, x = [ChainStage(SeparableConv(4, 4), slope=0.1)], torch.randn(2, 4, 6, 5)
    expected = conv_chain(x, stages)
    assert torch.equal(conv_chain(x.contiguous(memory_format=torch.channels_last), stages), expected)


@needs_compiler
@pytest.mark.parametrize(("conv", "reach"), ((SeparableConv, 5), (conv3x3, 8)))
def test_what_is_not_a_number_stays_so(conv, reach):
    x = torch.zeros(1, 4, 12, 8)
    x[0, 1, 3, 3] = float("nan")
    y = conv_chain(x, [ChainStage(conv(4, 4), slope=0.1)])
    assert y[0, :, 2:5, 2:5].isnan().all() and y[0, :, reach:].isfinite().all()


def is_native(y):
    return "ConvChain" in type(y.grad_fn).__name__


@needs_compiler
def test_the_blocks_take_it_where_it_fits():
    x = torch.randn(1, 8, 6, 6)
    layers = (Layers(conv3x3(8, 8)), SeparableConv(8, 8), ActivatedSeparableConv(8, 8, 0.1), SeparableIMDB(8), IMDB(8))
    for layer in layers:
        compute = layer.distil if isinstance(layer, DistillationBlock) else layer
        native_y = compute(x)
        with layers_apart():
            y = compute(x)
        assert is_native(native_y) and not is_native(y)
        torch.testing.assert_close(native_y, y, rtol=1e-5, atol=1e-5)


@needs_compiler
def test_what_it_cannot_read_is_the_layers_to_run_or_to_refuse():
    conv, x = SeparableConv(8, 8), torch.randn(1, 8, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_native(conv(x))
    assert conv(x[0]).shape == (8, 6, 6) and conv(x[:0]).shape == (0, 8, 6, 6)
    assert not is_native(SeparableConv(8, 8).double()(x.double()))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert conv(mode.from_tensor(x)).shape == x.shape
        assert conv(x).shape == x.shape
    with FlopCounterMode(display=False) as counter:
        conv(x)
    assert counter.get_total_flops() > 0
    assert torch.func.grad(lambda x: conv(x).sum())(x).isfinite().all()
    for wrong in (x[:, :4], x.double()):
        with pytest.raises(RuntimeError):
            conv(wrong)
    with pytest.raises(RuntimeError):
        SeparableConv(8, 8).double()(x)


@needs_compiler
def test_wide_plain_convs_are_left_to_pytorch():
    assert is_native(Layers(conv3x3(WIDE, 4))(torch.randn(1, WIDE, 3, 3)))
    assert not is_native(Layers(conv3x3(WIDE, WIDE))(torch.randn(1, WIDE, 3, 3)))


@needs_compiler
def test_channels_last_networks_are_left_to_pytorch():
    conv, x = Layers(conv3x3(4, 4)).to(memory_format=torch.channels_last), torch.randn(1, 4, 3, 5)
    assert not is_native(conv(x.to(memory_format=torch.channels_last)))


class Standardised(nn.Conv2d):
    """A conv that computes something else than nn.Conv2d."""

    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


class Doubled(SeparableConv):
    def forward(self, x):
        return 2 * super().forward(x)


class Own(nn.Module):
    def forward(self, x):
        return 2 * x


@needs_compiler
@pytest.mark.parametrize(
    ("layer", "put"),
    (
        ("c1", Standardised(8, 8, 3, padding=1)),
        ("c1", Own()),
        ("c1", nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1), nn.ReLU())),
        ("c1", nn.Conv2d(8, 8, 3, padding="same")),
        ("c1", nn.Conv2d(8, 8, 3, padding=1, bias=False)),
        ("c1", Doubled(8, 8)),
        ("c1", nn.Sequential(nn.Conv2d(8, 16, 3, padding=1, groups=8), nn.Conv2d(16, 8, 1))),
        ("act", nn.SiLU()),
        ("cca.gate.0", nn.Sequential(nn.Conv2d(8, 2, 1), nn.Conv2d(2, 1, 1))),
        ("cca.gate.1", nn.SiLU()),
        ("cca.gate.0", nn.Conv2d(8, 1, 1, groups=1, padding_mode="circular")),
        ("cca.gate.3", nn.Hardsigmoid()),
        ("cca", Own()),
        ("c5", Standardised(8, 8, 1)),
        ("c5", nn.Conv2d(8, 8, 1, bias=False)),
        ("c5", nn.Sequential(nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1))),
        ("c5", ScaledPointwise(8, 8)),
    ),
)
def test_layers_put_in_their_place_compute_what_they_do(layer, put):
    for block in (IMDB(8), SeparableIMDB(8)):
        block.set_submodule(layer, put)
        x = torch.randn(1, 8, 5, 6)
        y = block(x)
        with layers_apart():
            torch.testing.assert_close(y, block(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("layer", "put"), (("fusion.0", Standardised(16, 8, 1)), ("fusion", nn.Conv2d(16, 8, 1))))
def test_a_fusion_put_in_place_computes_what_it_does(layer, put):
    network, x = build_model("IMDN", nf=8, num_modules=2), torch.rand(1, 3, 7, 8)
    network.set_submodule(layer, put)
    y = network(x)
    with layers_apart():
        torch.testing.assert_close(y, network(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "put"),
    (
        ("branches.0", Standardised(8, 1, 3, padding=3, dilation=3)),
        ("branches.1", nn.Conv2d(8, 1, 3, padding=1, stride=2, bias=False)),
        ("expand.0", Standardised(3, 8, 3, padding=1)),
        ("branches.2", nn.Sequential(nn.Conv2d(8, 2, 1), nn.Conv2d(2, 1, 1))),
        ("act", nn.Softmax(dim=1)),
        ("expand.1", nn.Softmax2d()),
    ),
)
def test_laplacian_attention_computes_what_a_layer_put_in_place_does(layer, put):
    attention, x = LaplacianAttention(8, 1, nn.ReLU()), torch.rand(1, 8, 5, 6)
    attention.set_submodule(layer, put)
    y = attention(x)
    with layers_apart():
        torch.testing.assert_close(y, attention(x), rtol=1e-4, atol=1e-5)


def test_a_layer_whose_forward_was_wrapped_runs():
    block, x = IMDB(8), torch.randn(1, 8, 4, 4)
    block.c5.forward = lambda h: torch.zeros_like(h)  # as libraries do that move layers between devices
    assert torch.equal(block(x), x)


@needs_compiler
def test_a_gate_of_groups_is_not_read_as_one_of_none():
    block, x = IMDB(8), torch.randn(1, 8, 5, 6)
    block.cca.gate[0] = block.cca.gate[2] = nn.Conv2d(8, 8, 1, groups=8)
    assert not tail.runs_native(x, x, block.c5.weight.flatten(1), block.c5.bias, block.cca.gate)


@needs_compiler
def test_another_activation_after_a_separable_conv_runs():
    conv, x = ActivatedSeparableConv(4, 6, 0.1), torch.randn(1, 4, 5, 5)
    conv[1] = nn.SiLU()
    torch.testing.assert_close(conv(x), nn.functional.silu(conv[0](x)), rtol=1e-5, atol=1e-5)


@needs_compiler
def test_hooks_run():
    block, x = IMDB(8), torch.randn(1, 8, 4, 4)
    nn.utils.prune.l1_unstructured(block.c1, "weight", amount=0.5)  # computes the weight in a hook
    with torch.no_grad():
        block.c1.weight_orig += 1
    pruned = block(x)
    with layers_apart():
        torch.testing.assert_close(pruned, block(x), rtol=1e-4, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize("when", ("forward", "full_backward"))
def test_hooks_on_all_modules_see_the_layers(when):
    block, seen = IMDB(8), []
    handle = getattr(nn.modules.module, f"register_module_{when}_hook")(lambda module, *_: seen.append(module))
    try:
        block(torch.randn(1, 8, 4, 4, requires_grad=True)).sum().backward()
    finally:
        handle.remove()
    assert {block.c1, block.c2, block.c3, block.c4, block.c5} <= set(seen)


@needs_compiler
def test_layers_after_it_may_work_in_place():
    conv, x = conv3x3(4, 4), torch.randn(1, 4, 5, 6)
    layers, gradients = Layers(conv, nn.LeakyReLU(0.1, inplace=True)), []
    for way in (nullcontext(), layers_apart()):
        with way:
            y = layers(x)
        gradients.append(torch.autograd.grad((y * torch.arange(6.0)).sum(), conv.weight)[0])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)
    activated = conv_chain(x, [ChainStage(conv, slope=0.1)])
    activated.mul_(2)  # which backward would take for what the activation made
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        activated.sum().backward()


@needs_compiler
def test_a_second_differentiation_is_refused():
    conv, x = Layers(conv3x3(4, 4)), torch.randn(1, 4, 5, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(conv(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@needs_compiler
def test_weights_that_are_computed_are_read():
    conv, x = SeparableConv(4, 4), torch.randn(1, 4, 5, 5)
    torch.nn.utils.parametrizations.weight_norm(conv[1])
    assert is_native(conv(x))
    torch.testing.assert_close(conv(x), conv[1](conv[0](x)), rtol=1e-5, atol=1e-5)


@needs_compiler
def test_an_image_that_needs_no_gradient_gets_none():
    conv, x = SeparableConv(4, 6), torch.randn(2, 4, 5, 5)
    (conv(x) * torch.arange(5.0)).sum().backward()
    gradients = [p.grad.clone() for p in conv.parameters()]
    conv.zero_grad()
    (conv(x.requires_grad_()) * torch.arange(5.0)).sum().backward()
    assert all(map(torch.equal, gradients, (p.grad for p in conv.parameters())))


@pytest.mark.parametrize("name", ("IMDN", "IMDN_RTC", "IMDN_dw", "DRLN_slim", "DRLN_dw", "DRLN_narrow"))
@needs_compiler
def test_networks_compute_what_their_modules_do(name):
    torch.manual_seed(0)
    model, x = build_model(name, nf=8, num_modules=4), torch.rand(2, 3, 13, 18)
    exact = copy.deepcopy(model).double()
    with layers_apart():
        exact_y = exact(x.double())
    values, expectations = (
        [y, *torch.autograd.grad(y.sum(), [p for p in network.parameters() if p.requires_grad])]
        for network, y in ((model, model(x)), (exact, exact_y))
    )
    for value, expected in zip(values, expectations, strict=True):
        torch.testing.assert_close(value.double(), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


@needs_compiler
def test_stages_that_do_not_fit_are_refused():
    for stages in (
        [ChainStage(SeparableConv(4, 4), 3)],
        [ChainStage(SeparableConv(4, 4), slope=-0.1)],
        [ChainStage(nn.Conv2d(4, 4, 1))],
        [ChainStage(nn.Conv2d(4, 4, 3, padding=1, groups=2))],
        [ChainStage(nn.Conv2d(4, 4, 3, padding=2, dilation=2))],
        [ChainStage(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"))],
        [ChainStage(ScaledPointwise(4, 4))],
    ):
        with pytest.raises(AssertionError):
            conv_chain(torch.zeros(1, 4, 3, 3), stages)


@needs_compiler
@pytest.mark.parametrize("narrower", ("-mno-avx512f", "-mno-avx"))
def test_narrower_vectors_compute_the_same(narrower, tmp_path, monkeypatch):
    torch.manual_seed(0)
    stages, x = [ChainStage(SeparableConv(7, 9), 4, 0.05), ChainStage(conv3x3(5, 3))], torch.randn(2, 7, 9, 37)
    wide = results(conv_chain, x, stages)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", f"{os.environ.get('CXX', 'c++')} {narrower}")
    library, reason = chain.compiled.__wrapped__()
    if library is None:
        pytest.skip(reason)
    monkeypatch.setattr(chain, "compiled", lambda: (library, ""))
    for value, expected in zip(results(conv_chain, x, stages), wide, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@needs_compiler
def test_a_library_is_built_once_and_again_where_it_is_damaged(tmp_path, monkeypatch):
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
    (other,) = set(built.parent.iterdir()) - {built}
    other.rename(other.with_suffix(".moved"))  # a loaded file must not be written to
    other.write_text("damaged")
    assert native.load_library(source).answer() == 43


@pytest.mark.parametrize(
    ("compiler", "why"),
    (
        ("no-such-compiler", "no C++ compiler"),
        ("false", "compiler false failed"),
        ("", "is empty"),
        ("'c++", "No closing"),
    ),
)
def test_without_a_compiler_there_is_a_reason(compiler, why, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(native.NativeError, match=re.escape(why)):
        native.load_library(chain.SOURCE)
    assert not list(tmp_path.rglob("*.so"))


def test_a_compiler_that_hangs_is_ended_with_what_it_started(tmp_path, monkeypatch):
    compiler = tmp_path / "c++"
    compiler.write_text(f"#!/bin/sh\n(sleep 1; touch {tmp_path / 'ran_on'}) &\nwait\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(native, "SECONDS", 0.2)
    with pytest.raises(native.NativeError, match="timed out"):
        native.load_library(chain.SOURCE)
    time.sleep(1)
    assert not (tmp_path / "ran_on").exists()


def test_without_a_library_the_layers_run(monkeypatch):
    monkeypatch.setattr(chain, "compiled", lambda: (None, "no reason"))
    layer, x = ActivatedSeparableConv(4, 6, 0.1), torch.randn(1, 4, 5, 5)
    assert not is_native(layer(x))
    torch.testing.assert_close(layer(x), plain_chain(x, [ChainStage(layer[0], slope=0.1)]))
