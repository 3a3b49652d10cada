"""The ×8 self-ensemble."""

import torch
import torch.nn as nn
from torch import Tensor


class SelfEnsemble(nn.Module):
    """Averages a network's results on the eight flips and rotations of its input.

    Source: Timofte et al., "Seven ways to improve example-based single image super resolution" (CVPR 2016).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.device = getattr(model, "device", None)

    def forward(self, x: Tensor) -> Tensor:
        total = 0
        for turns in range(4):
            for flip in (False, True):
                turned = torch.rot90(x.flip(3) if flip else x, turns, (2, 3))
                sr = torch.rot90(self.model(turned), -turns, (2, 3))
                total = total + (sr.flip(3) if flip else sr)
        return total / 8
