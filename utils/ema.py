"""Exponential moving average of a network's weights."""

import copy

import torch
import torch.nn as nn


class EMA:
    """Holds `model`, the averaged copy, in evaluation mode; buffers, such as batch norm's, are those of the original.

    The decay warms up as (1 + step) / (10 + step), so that an early average is not its random start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.buffers = list(self.model.buffers())

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Moves the average towards `model`; `step` counts optimiser steps from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)
        if self.buffers:  # asked first, as a walk through the modules of every step is slow
            for own, latest in zip(self.buffers, model.buffers()):
                own.copy_(latest)
