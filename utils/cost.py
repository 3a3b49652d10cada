"""What a network costs, counted as the report counts it."""

import copy

import torch
import torch.nn as nn
from thop import profile


def count_cost(model: nn.Module, size: int = 256) -> tuple[float, float]:
    """(FLOPs in G, parameters in M) for one RGB input of size × size.

    FLOPs are 2 × thop's multiply-accumulates. thop counts a parameter only if its module ran; parameters here are
    thop's, as in the report. A copy runs on the meta device, shapes only, so that it takes a moment; or on the
    network's own, where its forward computes with values.
    """
    try:
        macs, params = profiled(copy.deepcopy(model).to("meta"), torch.empty(1, 3, size, size, device="meta"))
    except Exception:  # whatever a forward raises that asks a meta tensor for values
        like = next(model.parameters())
        macs, params = profiled(
            copy.deepcopy(model), torch.rand(1, 3, size, size, dtype=like.dtype, device=like.device)
        )
    return 2 * macs / 1e9, params / 1e6


@torch.inference_mode()
def profiled(model: nn.Module, image: torch.Tensor) -> tuple[float, float]:
    return profile(model, inputs=(image,), verbose=False)
