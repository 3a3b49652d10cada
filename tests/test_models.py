import copy
import itertools
from contextlib import nullcontext
from functools import partial
from unittest.mock import Mock, patch

import pytest
import thop
import torch
import torch.nn as nn
from conftest import needs_reference, reference
from torch.utils.flop_counter import FlopCounterMode

from models import MODELS, build_model, complete_hyperparameters
from models.drln import LaplacianAttention
from models.imdn import IMDB, ContrastAwareChannelAttention, SeparableIMDB
from models.kernels import guards
from models.kernels.guards import layers_apart, must_run_apart
from utils.cost import cost_by_part, count_cost
from utils.layers import unfuse_if_edited
from utils.tables import cost_table

# (model, nf, modules): FLOPs (G) and PARAMS (M) as the report prints them, or computed from its layout. DRLN_dw is
# the exception: the report prints 10.58146676 and 0.09062 of a layout that is only partly known.
COSTS = {
    ("IMDN", 64, 6): (91.502942976, 0.703059),
    ("IMDN", 20, 6): (9.43325256, 0.072813),
    ("IMDN_RTC", 12, 5): (2.820538368, 0.021825),
    ("IMDN_RTC", 16, 10): (9.051308032, 0.069795),
    ("IMDN_RTC", 12, 16): (8.049917952, 0.062283),
    ("IMDN_dw", 40, 6): (10.2157584, 0.081345),
    ("IMDN_dw", 36, 8): (10.390347648, 0.083319),
    ("IMDN_dw", 32, 10): (9.984547072, 0.079999),
    ("DRLN", 64, 20): (4499.812678144, 34.614795),
    ("DRLN_narrow", 12, 4): (10.767045792, 0.082599),
    ("DRLN_dw", 20, 11): (10.77283188, 0.09232),
    ("DRLN_slim", 36, 8): (10.88467488, 0.117399),
}
SMALL = {"DRLN": {"nf": 16, "num_modules": 3}, "DRLN_narrow": {"num_modules": 2}, "DRLN_slim": {"num_modules": 4}}
SMALL["DRLN_dw"] = {"num_modules": 4}
SMALL |= {name: {"nf": 8, "num_modules": 2} for name in ("IMDN", "IMDN_RTC", "IMDN_dw")}


def small(name: str, scale: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, scale=scale, **SMALL[name])


@pytest.mark.parametrize("row", COSTS, ids=lambda row: "-".join(map(str, row)))
def test_cost_to_the_digit(row):
    name, nf, num_modules = row
    assert count_cost(build_model(name, nf=nf, num_modules=num_modules)) == pytest.approx(COSTS[row], rel=1e-12)


def test_every_model_is_in_the_tables():
    assert {name for name, *_ in COSTS} == MODELS.keys() == SMALL.keys()


@pytest.mark.parametrize("name", MODELS)
def test_defaults_are_a_row(name):
    hyperparameters = complete_hyperparameters(name)
    assert (name, hyperparameters["nf"], hyperparameters["num_modules"]) in COSTS
    assert hyperparameters["scale"] == 3


@pytest.mark.parametrize("name", MODELS)
def test_parts_cost_what_the_network_does(name):
    parts = cost_by_part(small(name))
    totals = [sum(part[key] for part in parts) for key in ("flops_g", "params_m")]
    assert totals == pytest.approx(count_cost(small(name)), rel=1e-12)
    assert len({part["part"] for part in parts}) == len(parts)


def test_large_parts_are_split_and_those_of_all_blocks_counted_together():
    parts = {part["part"]: part for part in cost_by_part(build_model("IMDN_RTC", nf=8, num_modules=3), size=10)}
    assert list(parts) == ["head", *(f"blocks.*.c{n}" for n in range(1, 6)), "trunk_conv", "upsampler.0"]
    c1 = {"part": "blocks.*.c1", "flops_g": 3 * 2 * 9 * 8 * 8 * 100 / 1e9, "params_m": 3 * (9 * 8 * 8 + 8) / 1e6}
    assert parts["blocks.*.c1"] == pytest.approx({**c1, "activations_m": 3 * 8 * 100 / 1e6})
    assert parts["upsampler.0"]["activations_m"] == 27 * 100 / 1e6


def test_activations_are_those_of_the_challenge():
    """154.14 M: NTIRE 2022 on efficient super-resolution (arXiv 2205.05675), whose IMDN fuses no outputs of blocks."""
    parts = cost_by_part(build_model("IMDN", nf=64, num_modules=8, scale=4))
    assert sum(p["activations_m"] for p in parts if p["part"] != "fusion") == pytest.approx(154.14, abs=0.005)


def test_parts_of_which_thop_counts_nothing_have_no_share():
    parts = cost_by_part(nn.Sequential(RootOfWeights(3, 3, 1)), size=4)
    assert "| `0` | 0.000 | 0.0% | 0.000000 | 0.00 |" in cost_table(parts)


def test_counting_leaves_the_model_alone():
    model = small("IMDN_dw")
    names = list(model.state_dict())
    count_cost(model)
    assert list(model.state_dict()) == names
    assert not list(model.parameters())[0].is_meta


@pytest.mark.parametrize(("name", "scale", "size"), list(itertools.product(MODELS, (2, 3, 4), ((7, 5), (1, 9)))))
def test_shape_at_odd_sizes(name, scale, size):
    with torch.inference_mode():
        assert small(name, scale)(torch.rand(2, 3, *size)).shape == (2, 3, scale * size[0], scale * size[1])


@pytest.mark.parametrize("name", MODELS)
def test_other_programs_count_the_same(name):
    """Plain thop and PyTorch's own counter, of which layers that run together could hide."""
    model, image = small(name).eval(), torch.rand(1, 3, 64, 64)
    gflops, mparams = count_cost(model, size=64)
    macs, parameters = thop.profile(copy.deepcopy(model), inputs=(image,), verbose=False)
    assert (2 * macs / 1e9, parameters / 1e6) == pytest.approx((gflops, mparams), rel=1e-12)
    with FlopCounterMode(display=False) as counter:
        model(image)
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflops, rel=0.01)  # which leaves pooling out


@pytest.mark.parametrize("name", MODELS)
def test_shapes_alone_run(name):
    assert small(name).to("meta")(torch.empty(1, 3, 8, 9, device="meta")).shape == (1, 3, 24, 27)


def test_other_arguments_of_a_class_are_no_hyperparameters(monkeypatch):
    def make(nf=8, *layers, num_modules=1, scale=3, **options):
        return nn.Identity()

    monkeypatch.setitem(MODELS, "mine", make)
    assert complete_hyperparameters("mine", nf=4) == {"nf": 4, "num_modules": 1, "scale": 3}


def test_a_network_that_computes_with_values_is_counted():
    class Normalised(nn.Sequential):
        def forward(self, x):
            return super().forward(x - float(x.detach().numpy().mean()))

    network = Normalised(nn.Conv2d(3, 4, 3, padding=1, bias=False))
    assert count_cost(network, size=8) == (2 * 8 * 8 * 3 * 9 * 4 / 1e9, 108 / 1e6)


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_can_be_hooked(name):
    model = small(name)
    for layer_name, layer in model.named_modules():
        if isinstance(layer, nn.ModuleList):  # which is not called
            continue
        hook = Mock(return_value=None)
        with layer.register_forward_hook(hook):
            model(torch.rand(1, 3, 4, 4))
        assert hook.called, f"the hook of {layer_name} does not run"


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_gets_a_gradient(name):
    model = small(name)
    for attention in (m for m in model.modules() if isinstance(m, (ContrastAwareChannelAttention, LaplacianAttention))):
        for conv in (m for m in attention.modules() if isinstance(m, nn.Conv2d)):
            nn.init.ones_(conv.bias)  # or its few hidden units may be shut, and let no gradient through
    model(torch.rand(2, 3, 12, 12)).square().mean().backward()
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.any(), f"no gradient for {parameter_name}"
            assert parameter.grad.isfinite().all(), f"gradient of {parameter_name} is not finite"


@pytest.mark.parametrize("name", MODELS)
def test_only_the_mean_shift_is_frozen(name):
    frozen = {n.split(".")[0] for n, p in small(name).named_parameters() if not p.requires_grad}
    assert frozen == ({"subtract_mean", "add_mean"} if name.startswith("DRLN") else set())


@pytest.mark.parametrize(
    ("name", "hyperparameters", "says"),
    [
        ("IMDN", {"nf": 18}, "multiple of 4"),
        ("IMDN_dw", {"nf": 0}, "multiple of 4"),
        ("IMDN_RTC", {"nf": -4}, "multiple of 4"),
        ("DRLN_slim", {"nf": -4}, "multiple of 4"),
        ("DRLN_narrow", {"nf": 0}, "at least 1"),
        ("DRLN_dw", {"nf": 0}, "at least 1"),
        ("IMDN_RTC", {"num_modules": 0}, "at least 1"),
        ("IMDN_dw", {"scale": 5}, "2, 3, 4"),
        ("DRLN", {"nf": 24}, "multiple of 16"),
        ("DRLN", {"num_modules": 5}, "3, 4, or 6"),
        ("DRLN_narrow", {"num_modules": 3}, "even"),
        ("DRLN_slim", {"num_modules": 7}, "even"),
        ("DRLN_slim", {"nf": 30}, "multiple of 4"),
        ("IMDN_DW", {}, "IMDN_dw"),
        ("IMDN", {"modules": 6}, "num_modules"),
    ],
)
def test_what_is_not_allowed_says_what_is(name, hyperparameters, says):
    with pytest.raises(ValueError, match=says):
        build_model(name, **hyperparameters)


def test_drln_dw_is_near_the_report_s_cost():
    flops_g, params_m = COSTS["DRLN_dw", 20, 11]
    assert flops_g == pytest.approx(10.58146676, rel=0.02)
    assert params_m == pytest.approx(0.09062, rel=0.02)


@pytest.mark.parametrize("num_modules", (3, 4, 6, 7, 8, 9))
def test_drln_has_the_modules_it_is_asked_for(num_modules):
    model = build_model("DRLN", nf=16, num_modules=num_modules)
    assert sum(len(group) for group in model.trunk.blocks) == num_modules


def test_cca_is_standard_deviation_plus_mean():
    torch.manual_seed(0)
    attention, x = ContrastAwareChannelAttention(16), torch.randn(2, 16, 9, 7)
    statistics = x.std(dim=(2, 3), correction=0, keepdim=True) + x.mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(attention(x), x * attention.gate(statistics))


def test_cca_gradient_is_the_definition_s():
    torch.manual_seed(0)
    attention, x = ContrastAwareChannelAttention(8), torch.randn(1, 8, 5, 4, requires_grad=True)
    statistics = x.std(dim=(2, 3), correction=0, keepdim=True) + x.mean(dim=(2, 3), keepdim=True)
    (expected,) = torch.autograd.grad((x * attention.gate(statistics)).square().sum(), x)
    (gradient,) = torch.autograd.grad(attention(x).square().sum(), x)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("bf16", (False, True))
@pytest.mark.parametrize("value", (0.0, 0.5, 1e-20))
def test_cca_on_a_constant_map_has_finite_gradients(value, bf16):
    attention, x = ContrastAwareChannelAttention(8), torch.full((1, 8, 6, 6), value, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        attention(x).float().square().sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in attention.parameters())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scale", (2, 3, 4))
def test_starts_from_interpolation(name, scale):
    model, x = small(name, scale), torch.rand(1, 3, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    random = model(x)
    model.start_from_interpolation()
    bilinear = nn.functional.interpolate(x, scale_factor=scale, mode="bilinear")

    def error(sr):
        inside = (sr - bilinear)[..., 8 * scale : -8 * scale, 8 * scale : -8 * scale]
        return inside.square().mean().sqrt().item()

    assert error(model(x)) < 0.07 < error(random)
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("layout", (torch.channels_last, torch.contiguous_format))
@pytest.mark.parametrize("block", (IMDB, partial(IMDB, attention=False), SeparableIMDB))
def test_blocks_do_not_round_what_passes_by(block, layout):
    block, x = block(8), torch.randn(1, 8, 4, 4).contiguous(memory_format=layout)
    for conv in block.c5.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(block(x), x)


@pytest.mark.parametrize("layout", (torch.channels_last, torch.contiguous_format))
@pytest.mark.parametrize("name", ("IMDN", "IMDN_RTC", "IMDN_dw", "DRLN_slim"))
def test_fused_layers_compute_what_their_modules_do(name, layout):
    torch.manual_seed(0)
    model = small(name, 3).double()
    x = torch.rand(2, 3, 9, 7, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    results, calls = [], []
    for layers in (nullcontext(), layers_apart()):
        with layers, patch.object(nn.Conv2d, "forward", autospec=True, side_effect=nn.Conv2d.forward) as forward:
            sr = model(x)
        calls.append(forward.call_count)
        weights = torch.linspace(0, 1, sr.numel(), dtype=torch.float64).reshape(sr.shape)
        wanted = [x, *(p for p in model.parameters() if p.requires_grad)]
        results.append([sr, *torch.autograd.grad((sr * weights).sum(), wanted)])
    assert calls[0] < calls[1]
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ("IMDN", "IMDN_dw", "DRLN_slim"))
def test_layers_apart_can_be_differentiated_twice(name):
    torch.manual_seed(0)
    model = small(name, 2).double()
    x = torch.rand(1, 3, 3, 4, dtype=torch.float64, requires_grad=True)

    def apart(x):
        with layers_apart():
            return model(x)

    assert torch.autograd.gradgradcheck(apart, x, fast_mode=True)


def test_layers_apart_ends_with_its_block():
    with pytest.raises(KeyError), layers_apart():
        with layers_apart():
            pass
        assert must_run_apart()
        raise KeyError
    assert not must_run_apart()


@pytest.mark.parametrize("bf16", (False, True))
@pytest.mark.parametrize("name", list(MODELS))
def test_fused_code_agrees_with_the_layers_as_they_are(name, bf16, capsys):
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        unfuse_if_edited(small(name, 3))
    assert capsys.readouterr().err == "" and not must_run_apart()


def test_layers_that_draw_are_no_edit(capsys):
    unfuse_if_edited(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5)))
    assert capsys.readouterr().err == "" and not must_run_apart()


class RootOfWeights(nn.Conv2d):
    """nan where a weight is negative, as some drawn ones are."""

    def forward(self, x):
        return super().forward(x) * self.weight.sqrt().sum()


@pytest.mark.parametrize("layer", (RootOfWeights(3, 4, 3), nn.ReflectionPad2d(16)), ids=("nan", "too small an image"))
def test_networks_that_the_trial_does_not_suit_are_left_alone(layer, monkeypatch, capsys):
    monkeypatch.setattr(guards, "_apart", False)
    unfuse_if_edited(nn.Sequential(nn.Conv2d(3, 3, 1), layer))
    assert capsys.readouterr().err == "" and not must_run_apart()


@pytest.mark.parametrize("edit", ("its forward", "its conv", "a root"))
def test_edited_layers_are_not_passed_over(edit, monkeypatch, capsys):
    monkeypatch.setattr(guards, "_apart", False)
    if edit == "its forward":
        monkeypatch.setattr(ContrastAwareChannelAttention, "forward", lambda self, x: x * self.average_pool(x))
    model, x = small("IMDN_dw", 3), torch.rand(1, 3, 5, 6)
    if edit != "its forward":
        of = torch.sign if edit == "its conv" else torch.sqrt  # nan of what is negative
        monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: self._conv_forward(x, of(self.weight), self.bias))
    unfuse_if_edited(model)
    assert "the layers of IMDN_dw no longer compute" in capsys.readouterr().err
    sr = model(x)
    with layers_apart():
        assert torch.allclose(sr, model(x), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("layers", (nullcontext, layers_apart))
@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
@pytest.mark.parametrize("name", list(MODELS))
def test_networks_can_be_made_half(name, dtype, layers):
    torch.manual_seed(0)
    model, x = small(name, 3), torch.rand(1, 3, 9, 7)
    expected = model(x)
    with layers():
        sr = model.to(dtype)(x.to(dtype))
    assert sr.dtype == dtype
    torch.testing.assert_close(sr.float(), expected, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("name", ("IMDN", "IMDN_RTC", "IMDN_dw", "DRLN_slim"))
def test_torch_func_takes_the_layers(name):
    model, x = small(name, 2), torch.rand(1, 3, 5, 6, requires_grad=True)
    (expected,) = torch.autograd.grad(model(x).sum(), x)
    torch.testing.assert_close(torch.func.grad(lambda x: model(x).sum())(x.detach()), expected, rtol=1e-3, atol=1e-4)


def attended(attention, x):
    """Laplacian attention as the paper draws it, with its layers."""
    pooled = x.mean(dim=(2, 3), keepdim=True)
    branches = [attention.act(branch(pooled)) for branch in attention.branches]
    return x * torch.sigmoid(attention.expand[0](torch.cat(branches, dim=1)))


def joined(*x):
    return torch.cat(x, dim=1)


def test_laplacian_attention():
    for name, slope in (("DRLN", 0.0), ("DRLN_slim", 0.01)):
        attention = next(m for m in small(name, 3).modules() if type(m).__name__ == "LaplacianAttention")
        assert [branch.dilation[0] for branch in attention.branches] == [3, 5, 7]
        assert attention.act(torch.tensor(-1.0)).item() == pytest.approx(-slope)
        x = torch.randn(2, attention.expand[0].out_channels, 5, 6)
        torch.testing.assert_close(attention(x), attended(attention, x))


def test_drln_block():
    block = build_model("DRLN", nf=16, num_modules=3).trunk.blocks[0][0]
    x = torch.randn(1, 16, 7, 6)
    kept = x
    for residual in block.residual:
        first, _, second = residual.body
        kept = joined(kept, torch.relu(second(torch.relu(first(kept))) + kept))
    assert kept.shape[1] == 8 * 16
    torch.testing.assert_close(block(x), attended(block.attention, torch.relu(block.compress[0](kept))))


def test_drln_wiring():
    """A group of three and one of four, spelled out; in the authors' code block five reads what block four does."""
    torch.manual_seed(0)
    trunk = build_model("DRLN", nf=16, num_modules=7).trunk
    (b1, b2, b3), (b4, b5, b6, b7) = trunk.blocks
    (c1, c2, c3), (_, c5, c6, c7) = trunk.compressions
    h = torch.randn(1, 16, 6, 5)
    k1 = b1(h)
    k2 = b2(c1(joined(h, k1)))
    k3 = b3(c2(joined(h, k1, k2)))
    o3 = c3(joined(h, k1, k2, k3))
    a1 = o3 + h
    k4 = b4(a1)
    k5 = b5(a1)
    k6 = b6(c5(joined(o3, k4, k5)))
    k7 = b7(c6(joined(o3, k4, k5, k6)))
    a2 = c7(joined(o3, k4, k5, k6, k7)) + a1
    torch.testing.assert_close(trunk(h), a2 + h)


def test_drln_slim_wiring():
    torch.manual_seed(0)
    trunk = build_model("DRLN_slim", nf=8, num_modules=8).trunk
    b1, b2, b3, b4, b5, b6, b7, b8 = trunk.blocks
    c2, (c3, c4, c5, c6, c7, c8) = trunk.first_compression, trunk.compressions
    h = torch.randn(1, 8, 6, 5)
    o2 = c2(b2(b1(h)))
    a0 = o2 + h
    k3 = b3(b2(b1(h)))
    o4 = c4(joined(o2, k3, b4(c3(joined(o2, k3)))))
    a1 = o4 + a0
    k5 = b5(a1)
    o6 = c6(joined(o4, k5, b6(c5(joined(o4, k5)))))
    a2 = o6 + a1
    k7 = b7(a2)
    a3 = c8(joined(o6, k7, b8(c7(joined(o6, k7))))) + a2
    torch.testing.assert_close(trunk(h), a3 + h)


@pytest.mark.parametrize(
    ("name", "slope"), (("IMDN", 0.05), ("IMDN_RTC", 0.05), ("IMDN_dw", 0.05), ("DRLN_slim", 0.01))
)
def test_distillation(name, slope):
    block = next(m for m in small(name, 3).modules() if hasattr(m, "distil"))
    d = block.sizes[0]
    x = torch.randn(1, 4 * d, 6, 7)

    def act(x):
        return torch.where(x > 0, x, slope * x)

    y1 = act(block.c1(x))
    y2 = act(block.c2(y1[:, d:]))
    y3 = act(block.c3(y2[:, d:]))
    expected = joined(y1[:, :d], y2[:, :d], y3[:, :d], block.c4(y3[:, d:]))
    assert expected.shape == x.shape
    torch.testing.assert_close(block.distil(x), expected)


@pytest.mark.parametrize("bf16", (False, True))
@pytest.mark.parametrize("value", (0.0, 0.5, 1e-20))
def test_a_constant_image_has_finite_gradients(value, bf16):
    model, x = small("IMDN_dw", 3), torch.full((1, 3, 8, 8), value, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        model(x).square().sum().backward()
    assert x.grad.isfinite().all() and all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_half_precision_stops_before_the_image(name):
    with torch.autocast("cpu", torch.bfloat16):
        assert small(name, 3)(torch.rand(1, 3, 8, 8)).dtype == torch.float32


@pytest.mark.parametrize("name", MODELS)
def test_backward_hooks_see_every_layer_that_learns(name):
    model, seen = small(name), set()
    leaves = [m for m in model.modules() if not list(m.children())]
    for leaf in leaves:
        leaf.register_full_backward_hook(lambda module, *_: seen.add(module))
    model(torch.rand(1, 3, 9, 8, requires_grad=True)).sum().backward()
    assert seen >= {leaf for leaf in leaves if any(p.requires_grad for p in leaf.parameters())}


@pytest.mark.parametrize("name", ("IMDN_RTC", "IMDN_dw", "DRLN_slim"))
def test_compiles_as_one_graph(name):
    """By AOTAutograd: all of torch.compile but the code that it generates."""
    model, lr = small(name), torch.rand(1, 3, 9, 8)
    gradients = []
    for called in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        model.zero_grad()
        called(lr).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad]))
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


@needs_reference("weights/IMDN_x3_official.pth")
def test_authors_weights_use_this_architecture():
    from utils.checkpoint import load_model

    model, metadata = load_model(reference("weights/IMDN_x3_official.pth"), "IMDN")
    assert metadata["hyperparameters"] == {"nf": 64, "num_modules": 6, "scale": 3}
    with torch.inference_mode():
        flat = model(torch.full((1, 3, 16, 16), 0.5))
    assert flat[..., 12:-12, 12:-12].mean().item() == pytest.approx(0.5, abs=0.01)
