"""Training in bfloat16 where the hardware has it."""

import torch
import torch.nn as nn
from torch import Tensor


class MixedPrecision(nn.Module):
    """A network under bfloat16 autocast, or as it is; gives float32.

    What is compiled must be this, not the network inside: torch.compile runs the backward of a graph that begins under
    autocast in bfloat16 as a whole, the network's float32 regions too, where differences of near numbers then drown.
    """

    def __init__(self, network: nn.Module, device_type: str, bf16: bool) -> None:
        super().__init__()
        self.network, self.device_type, self.bf16 = network, device_type, bf16

    def forward(self, lr: Tensor) -> Tensor:
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.bf16):
            return self.network(lr).float()
