"""The networks by name, built from hyperparameters."""

import torch.nn as nn

from models.imdn import IMDN, IMDN_RTC, IMDN_dw

MODELS = {
    "IMDN": IMDN,
    "IMDN_RTC": IMDN_RTC,
    "IMDN_dw": IMDN_dw,
}


def build_model(name: str, **hyperparameters: int) -> nn.Module:
    """Builds a network.

    Args:
        name: a key of MODELS.
        hyperparameters: nf, num_modules, scale; what is left out is the report's best row.
    Raises:
        ValueError: an unknown name, or a size that the architecture does not allow.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; choose from {', '.join(MODELS)}")
    return MODELS[name](**hyperparameters)
