"""Exponential moving average of a network's weights."""

import copy

import torch
import torch.nn as nn


class EMA:
    """Holds `model`, the averaged copy, in evaluation mode; buffers, such as batch norm's, are those of the original.

    The decay warms up as (1 + step) / (10 + step), so that an early average is not its random start.

    Args:
        model: the network that learns, which stays as it is.
        decay: the average's share that stays at each step, once warmed up; 0.999 averages over some 1000 steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        # listed once: a walk through the modules at every step is slow
        self.averages, self.parameters = list(self.model.parameters()), list(model.parameters())
        self.buffers, self.original = list(self.model.buffers()), model

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the average towards the original; `step` counts optimiser steps from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.averages, self.parameters, 1 - decay)
        if self.buffers:
            for own, latest in zip(self.buffers, self.original.buffers()):  # which a network may replace
                own.copy_(latest)
