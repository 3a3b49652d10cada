"""Whether a network's fused code still does what its layers do."""

import copy

import torch
import torch.nn as nn

from models.kernels.guards import layers_apart, stay_apart
from utils.flags import warn
from utils.hardware import device_of, without_tf32


@torch.inference_mode()
def unfuse_if_edited(model: nn.Module) -> None:
    """Where the fused code does anything but what the layers do, every network of this process runs layer by layer.

    So after an edit of the layers, which the fused code does not know of. Tried with weights drawn for it, on a small
    image of noise, on the network's device; a warning says what was found.
    """
    device, draw = device_of(model), torch.Generator().manual_seed(0)
    drawn = copy.deepcopy(model)
    for parameter in drawn.parameters():
        spread = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1
        parameter.copy_(spread * torch.randn(parameter.shape, generator=draw, device="cpu"))
    noise = torch.rand(1, 3, 16, 16, generator=draw, device="cpu").to(device)

    def run() -> torch.Tensor | None:
        torch.manual_seed(0)  # for layers that draw, such as dropout
        try:
            return drawn(noise)
        except Exception:  # so small an image may not suit the network, nor an edit the fused code
            return None

    seeded = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(seeded), without_tf32(), torch.autocast(device.type, enabled=False):
        with layers_apart():
            expected = run()
        found = run()
    if not agree(found, expected):
        stay_apart()
        warn(
            f"the layers of {type(model).__name__} no longer compute what the faster fused code for them does; they run"
            " one at a time"
        )


def agree(found: torch.Tensor | None, expected: torch.Tensor | None) -> bool:
    """Whether two images are the same but for rounding, also in where they are nan; or there are none."""
    if found is None or expected is None:
        return found is expected
    spread = expected.nan_to_num(posinf=0, neginf=0).std().item()
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * spread, equal_nan=True)
