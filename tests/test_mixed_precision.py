import pytest
import torch
import torch.nn as nn

from models import MODELS, build_model
from models.blocks import float32_region
from models.kernels.fused import Moments
from utils.mixed_precision import MixedPrecision


class Contrast(nn.Module):
    """Scaled channels' standard deviations, computed as the networks compute those of their attention."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with float32_region(x.device.type):
            _, covariance = Moments.apply(x * self.scales)
            return covariance.diagonal(dim1=1, dim2=2).sqrt()


@pytest.mark.parametrize("compiles", (False, True), ids=("eager", "compiled"))
def test_float32_regions_keep_their_gradients(compiles):
    """Of bright flat channels, whose contrast is lost in bfloat16; compiled by all of torch.compile but its code."""
    network = Contrast()
    x = 1 + 0.01 * torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    called = MixedPrecision(network, "cpu", bf16=True)
    gradients = []
    for call in (network, torch.compile(called, backend="aot_eager", fullgraph=True) if compiles else called):
        network.zero_grad()
        call(x).sum().backward()
        gradients.append(network.scales.grad.clone())
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("bf16", (False, True))
@pytest.mark.parametrize("name", list(MODELS))
def test_a_network_is_one_graph_to_the_compiler(name, bf16):
    torch.compiler.reset()
    modules = 3 if name == "DRLN" else 2
    called = MixedPrecision(build_model(name, nf=16, num_modules=modules), "cpu", bf16)
    torch.compile(called, backend="eager", fullgraph=True)(torch.rand(1, 3, 8, 8)).sum().backward()


def test_convs_run_in_bfloat16_and_the_result_is_float32():
    network = nn.Conv2d(3, 3, 3)
    seen = []
    network.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    for bf16 in (False, True):
        assert MixedPrecision(network, "cpu", bf16)(torch.rand(1, 3, 8, 8)).dtype == torch.float32
    assert seen == [torch.float32, torch.bfloat16]
