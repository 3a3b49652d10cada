"""Training in bfloat16 where the hardware has it."""

import torch
import torch.nn as nn
from torch import Tensor


class MixedPrecision(nn.Module):
    """A network under bfloat16 autocast, or as it is; gives float32.

    Compile this, not the network inside: where a graph begins under autocast, torch.compile runs all of its backward in
    bfloat16, float32 regions included, and small differences of near numbers are lost.
    """

    def __init__(self, network: nn.Module, device_type: str, bf16: bool) -> None:
        super().__init__()
        self.network, self.device_type, self.bf16 = network, device_type, bf16

    def forward(self, lr: Tensor) -> Tensor:
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.bf16):
            return self.network(lr).float()
