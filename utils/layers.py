"""Whether a network's fused code still does what its layers do."""

import copy

import torch
import torch.nn as nn

from models.chain import layers_apart, stay_apart
from utils.flags import warn
from utils.hardware import device_of, without_tf32


@torch.inference_mode()
def unfuse_if_edited(model: nn.Module) -> None:
    """Where the fused code gives anything but what the layers do, one at a time, layers run so in this process.

    It does after an edit of the layers, which it does not know of. Tried with weights drawn for it, on a small image of
    noise, on the network's device; a warning says what was found. A network that such an image or such weights do not
    suit is left as it is.
    """
    device, draw = device_of(model), torch.Generator().manual_seed(0)
    drawn = copy.deepcopy(model)
    for parameter in drawn.parameters():
        spread = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1
        parameter.copy_(spread * torch.randn(parameter.shape, generator=draw, device="cpu"))
    noise = torch.rand(1, 3, 16, 16, generator=draw, device="cpu").to(device)

    def run() -> torch.Tensor:
        torch.manual_seed(0)  # for layers that draw, such as dropout
        return drawn(noise)

    seeded = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(seeded), without_tf32(), torch.autocast(device.type, enabled=False):
        try:
            with layers_apart():
                expected = run()
        except Exception:  # whatever keeps so small an image from this network
            return
        if not expected.isfinite().all():
            return
        try:
            agrees = torch.allclose(run(), expected, rtol=1e-3, atol=1e-3 * expected.std().item())
        except Exception:  # whatever the edit took from the fused code
            agrees = False
    if not agrees:
        stay_apart()
        warn(
            f"the layers of {type(model).__name__} no longer compute what the faster fused code for them does; they run"
            " one at a time"
        )
