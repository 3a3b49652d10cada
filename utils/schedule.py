"""The learning rate as a pure function of the step, so that resuming cannot break it."""

import math


def learning_rate_at(step: int, *, peak: float, floor: float, decay_steps: int, warmup_steps: int = 0) -> float:
    """Learning rate of optimiser step `step`, counted from 0.

    Args:
        peak, floor: the rates between which it anneals by cosine.
        decay_steps: the step at which floor is reached, and kept.
        warmup_steps: linear warm-up from peak / warmup_steps.
    """
    # 1) linear warm-up
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    # 2) past the decay: constant
    if step >= decay_steps:
        return floor
    # 3) cosine between
    progress = (step - warmup_steps) / (decay_steps - warmup_steps)
    return floor + 0.5 * (peak - floor) * (1 + math.cos(math.pi * progress))
