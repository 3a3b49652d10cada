"""What a network costs, counted as the report counts it."""

import copy

import torch
import torch.nn as nn
from thop import profile


def count_cost(model: nn.Module, size: int = 256) -> tuple[float, float]:
    """(FLOPs in G, parameters in M) for one RGB input of size × size.

    FLOPs are 2 × thop's multiply-accumulates. thop counts a parameter only if its module ran; parameters here are
    thop's, as in the report. A copy runs on the meta device: shapes only, so that any network takes a moment.
    """
    probe = copy.deepcopy(model).to("meta")
    with torch.inference_mode():
        image = torch.empty(1, 3, size, size, device="meta")
        macs, params = profile(probe, inputs=(image,), verbose=False)
    return 2 * macs / 1e9, params / 1e6
