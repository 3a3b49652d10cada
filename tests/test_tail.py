"""The compiled tail of a distillation block against its layers."""

import copy
import os

import pytest
import torch

from models.imdn import IMDB, SeparableIMDB
from models.kernels import chain, tail
from models.kernels.guards import WIDE, layers_apart

# by the other kernels, so that a file that does not compile fails
needs_compiler = pytest.mark.skipif(chain.compiled()[0] is None, reason="no C++ compiler")

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
        parameter.data += 0.1 * torch.randn_like(parameter)
    if name != "no gate":
        block.cca.gate[0].bias.data.fill_(2)  # or most of its units are shut, and let no gradient through
    return block


def tail_of(block, x, distilled):
    return block.tail(x, distilled)


def results(block, x, distilled, compute=tail_of):
    """Output of a tail and every gradient, of a sum in which no two pixels weigh the same."""
    x, distilled = x.clone().requires_grad_(), distilled.clone().requires_grad_()
    y = compute(block, x, distilled)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    parameters = [*block.c5.parameters(), *block.cca.parameters()]
    return [y, *torch.autograd.grad((y * weights).sum(), [x, distilled, *parameters])]


def layers_tail(block, x, distilled):
    y = block.c5(block.cca(distilled))
    return x + (block.cca(y) if isinstance(block, SeparableIMDB) else y)


def exact_results(block, x, distilled):
    with layers_apart():
        return results(copy.deepcopy(block).double(), x.double(), distilled.double(), layers_tail)


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
    assert all(value.any() for value in values)  # gates are open
    assert_all_close(values, exact_results(block, x, distilled))


@needs_compiler
@pytest.mark.parametrize("name", BLOCKS)
def test_without_a_library_pytorch_computes_the_same(name, monkeypatch):
    block, (x, distilled) = make_block(name, 8), torch.randn(2, 2, 8, 6, 7).unbind()
    native = results(block, x, distilled)
    monkeypatch.setattr(tail, "compiled", lambda: (None, "no reason"))
    values = results(block, x, distilled)
    assert "Tail" not in type(values[0].grad_fn).__name__
    assert_all_close(values, native)


@needs_compiler
@pytest.mark.parametrize(("images", "threads"), ((1, 5), (3, 2)))
def test_any_number_of_threads_gives_the_same_bits(images, threads, monkeypatch):
    block, (x, distilled) = make_block("gates before and after", 8), torch.randn(2, images, 8, 150, 130).unbind()
    alone = results(block, x, distilled)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)  # images are shared out, or bands of few
    for one, several in zip(alone, results(block, x, distilled), strict=True):
        assert torch.equal(one, several)


@needs_compiler
def test_a_small_contrast_on_a_large_mean_is_not_lost():
    block, x = make_block("one gate", 8), torch.zeros(1, 8, 20, 20)
    block.cca.gate[0].weight.data *= 0.01  # as the mean is 100
    distilled = 100 + 0.01 * torch.randn(1, 8, 20, 20)
    assert_all_close(results(block, x, distilled), exact_results(block, x, distilled), rtol=1e-3)


@needs_compiler
@pytest.mark.parametrize("name", ("one gate", "gates before and after"))
def test_a_constant_channel_has_no_deviation(name):
    block, (x, distilled) = make_block(name, 8), torch.randn(2, 1, 8, 64, 64).unbind()
    distilled[:, 3] = 3.3
    assert_all_close(results(block, x, distilled), exact_results(block, x, distilled))


@needs_compiler
def test_what_is_not_a_number_stays_so():
    block, (x, distilled) = make_block("one gate", 8), torch.randn(2, 1, 8, 5, 5).unbind()
    distilled[0, 2, 1, 1] = float("nan")
    assert block.tail(x, distilled).isnan().all()


@needs_compiler
def test_gradients_that_are_not_wanted_change_no_others():
    block, maps = make_block("one gate", 8), torch.randn(2, 2, 8, 5, 5).unbind()

    def gradients(of_maps, of_block):
        block.zero_grad()
        block.requires_grad_(of_block)
        tensors = [m.clone().requires_grad_(of_maps) for m in maps]
        block.tail(*tensors).square().sum().backward()
        return [m.grad for m in tensors], [p.grad for p in (*block.c5.parameters(), *block.cca.parameters())]

    both = gradients(True, True)
    assert all(map(torch.equal, both[1], gradients(False, True)[1]))
    assert all(map(torch.equal, both[0], gradients(True, False)[0]))


@needs_compiler
def test_maps_that_do_not_fit_are_pytorch_s_to_refuse():
    for block in (IMDB(8), IMDB(8, attention=False), SeparableIMDB(8)):
        with pytest.raises(RuntimeError):
            block.tail(*torch.randn(2, 1, 4, 5, 5))


@needs_compiler
def test_a_wide_tail_without_gates_is_left_to_pytorch():
    blocks = IMDB(WIDE, attention=False), IMDB(WIDE)
    without, with_gate = (type(block.tail(*torch.randn(2, 1, WIDE, 3, 3)).grad_fn) for block in blocks)
    assert "Tail" not in without.__name__ and "Tail" in with_gate.__name__


@needs_compiler
def test_an_input_in_channels_last_is_taken_too():
    block, (x, distilled) = make_block("one gate", 8), torch.randn(2, 2, 8, 5, 6).unbind()
    expected = block.tail(x, distilled)
    assert torch.equal(block.tail(x.to(memory_format=torch.channels_last), distilled), expected)


@needs_compiler
@pytest.mark.parametrize("narrower", ("-mno-avx512f", "-mno-avx"))
def test_narrower_vectors_compute_the_same(narrower, tmp_path, monkeypatch):
    block, (x, distilled) = make_block("gates before and after", 8), torch.randn(2, 2, 8, 9, 13).unbind()
    wide = results(block, x, distilled)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", f"{os.environ.get('CXX', 'c++')} {narrower}")
    if chain.compiled.__wrapped__()[0] is None:
        pytest.skip(f"the compiler does not take {narrower}")
    library, reason = tail.compiled.__wrapped__()
    assert library, reason
    monkeypatch.setattr(tail, "compiled", lambda: (library, ""))
    assert_all_close(results(block, x, distilled), wide)
