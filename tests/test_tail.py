"""The compiled tail of a distillation block against its layers."""

import copy
import os

import pytest
import torch

from models import tail
from models.imdn import IMDB, SeparableIMDB

needs_compiler = pytest.mark.skipif(tail.compiled() is None, reason="no C++ compiler")

BLOCKS = {
    "no gate": lambda nf: IMDB(nf, attention=False),
    "one gate": IMDB,
    "gates before and after": SeparableIMDB,
}
# a pixel, a column, less than a vector, whole vectors, several bands of the widest block
SIZES = ((1, 1), (9, 1), (5, 7), (16, 16), (61, 127))


def make_block(name, nf):
    torch.manual_seed(0)
    block = BLOCKS[name](nf)
    for parameter in block.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # biases too; gates not all shut
    return block


def results(block, x, distilled):
    """Output and every gradient, of a sum in which no two pixels weigh the same."""
    x, distilled = x.clone().requires_grad_(), distilled.clone().requires_grad_()
    y = block.fused_tail(x, distilled) if block.fused else layers_tail(block, x, distilled)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    parameters = [*block.c5.parameters(), *block.cca.parameters()]
    return [y, *torch.autograd.grad((y * weights).sum(), [x, distilled, *parameters])]


def layers_tail(block, x, distilled):
    y = block.c5(block.cca(distilled))
    return x + (block.cca(y) if isinstance(block, SeparableIMDB) else y)


def exact_results(block, x, distilled):
    exact = copy.deepcopy(block).double()
    for module in exact.modules():
        module.fused = False
    return results(exact, x.double(), distilled.double())


def assert_all_close(values, expectations, rtol=1e-4):
    for value, expected in zip(values, expectations, strict=True):
        atol = 1e-4 * expected.abs().max().item()
        torch.testing.assert_close(value.double(), expected.double(), rtol=rtol, atol=atol)


@needs_compiler
@pytest.mark.parametrize("nf", (4, 20))
@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_it_computes_what_the_layers_do(size, name, nf):
    block = make_block(name, nf)
    x, distilled = torch.randn(2, 3, nf, *size).unbind()
    values = results(block, x, distilled)
    assert "Tail" in type(values[0].grad_fn).__name__
    assert_all_close(values, exact_results(block, x, distilled))


@needs_compiler
@pytest.mark.parametrize("name", BLOCKS)
def test_without_a_library_pytorch_computes_the_same(name, monkeypatch):
    block, (x, distilled) = make_block(name, 8), torch.randn(2, 2, 8, 6, 7).unbind()
    native = results(block, x, distilled)
    monkeypatch.setattr(tail, "compiled", lambda: None)
    values = results(block, x, distilled)
    assert "Tail" not in type(values[0].grad_fn).__name__
    assert_all_close(values, native)


@needs_compiler
@pytest.mark.parametrize("images", (1, 3))
def test_any_number_of_threads_gives_the_same_bits(images, monkeypatch):
    block, (x, distilled) = make_block("gates before and after", 8), torch.randn(2, images, 8, 150, 130).unbind()
    alone = results(block, x, distilled)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # fewer than images: whole ones are shared out, or bands
    for one, several in zip(alone, results(block, x, distilled), strict=True):
        assert torch.equal(one, several)


@needs_compiler
def test_a_small_contrast_on_a_large_mean_is_not_lost():
    block, x = make_block("one gate", 8), torch.zeros(1, 8, 20, 20)
    distilled = 100 + 0.01 * torch.randn(1, 8, 20, 20)
    assert_all_close(results(block, x, distilled), exact_results(block, x, distilled), rtol=1e-3)


@needs_compiler
@pytest.mark.parametrize("name", ("one gate", "gates before and after"))
def test_a_constant_channel_has_a_gradient(name):
    block, (x, distilled) = make_block(name, 8), torch.randn(2, 1, 8, 5, 5).unbind()
    distilled[:, 3] = 0.5
    values = results(block, x, distilled)
    assert all(value.isfinite().all() for value in values)


@needs_compiler
def test_what_is_not_a_number_stays_so():
    block, (x, distilled) = make_block("one gate", 8), torch.randn(2, 1, 8, 5, 5).unbind()
    distilled[0, 2, 1, 1] = float("nan")
    assert block.fused_tail(x, distilled).isnan().all()


@needs_compiler
def test_maps_that_need_no_gradient_get_none():
    block, (x, distilled) = make_block("one gate", 8), torch.randn(2, 2, 8, 5, 5).unbind()
    block.fused_tail(x, distilled).square().sum().backward()
    gradients = [p.grad.clone() for p in block.c5.parameters()]
    block.zero_grad()
    block.fused_tail(x.requires_grad_(), distilled.requires_grad_()).square().sum().backward()
    assert all(map(torch.equal, gradients, (p.grad for p in block.c5.parameters())))
    block.requires_grad_(False)
    assert block.fused_tail(x, distilled).requires_grad


@needs_compiler
def test_an_input_in_channels_last_is_taken_too():
    block, (x, distilled) = make_block("one gate", 8), torch.randn(2, 2, 8, 5, 6).unbind()
    expected = block.fused_tail(x, distilled)
    assert torch.equal(block.fused_tail(x.to(memory_format=torch.channels_last), distilled), expected)


@needs_compiler
@pytest.mark.parametrize("narrower", ("-mno-avx512f", "-mno-avx"))
def test_narrower_vectors_compute_the_same(narrower, tmp_path, monkeypatch):
    block, (x, distilled) = make_block("gates before and after", 8), torch.randn(2, 2, 8, 9, 13).unbind()
    wide = results(block, x, distilled)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", f"{os.environ.get('CXX', 'c++')} {narrower}")
    library = tail.compiled.__wrapped__()
    if library is None:
        pytest.skip(f"the compiler does not take {narrower}")
    monkeypatch.setattr(tail, "compiled", lambda: library)
    assert_all_close(results(block, x, distilled), wide)
