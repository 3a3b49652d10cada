"""The networks by name, built from hyperparameters."""

import inspect

import torch.nn as nn

from models.drln import DRLN, DRLN_dw, DRLN_narrow, DRLN_slim
from models.imdn import IMDN, IMDN_RTC, IMDN_dw

MODELS = {
    "IMDN": IMDN,
    "IMDN_RTC": IMDN_RTC,
    "IMDN_dw": IMDN_dw,
    "DRLN": DRLN,
    "DRLN_narrow": DRLN_narrow,
    "DRLN_dw": DRLN_dw,
    "DRLN_slim": DRLN_slim,
}


def complete_hyperparameters(name: str, **given: int | None) -> dict[str, int]:
    """nf, num_modules and scale of a network; what is left out or None is the network's default.

    Raises:
        ValueError: an unknown name or hyperparameter, or one that is not given and has no default.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; choose from {', '.join(MODELS)}")
    parameters = inspect.signature(MODELS[name]).parameters.items()
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)  # *args, **kwargs
    complete = {key: parameter.default for key, parameter in parameters if parameter.kind not in variable}
    if unknown := given.keys() - complete.keys():
        raise ValueError(f"unknown hyperparameter {', '.join(sorted(unknown))}; {name} has {', '.join(complete)}")
    complete |= {key: value for key, value in given.items() if value is not None}
    if without := [key for key, value in complete.items() if value is inspect.Parameter.empty]:
        raise ValueError(f"{name} has no default of {', '.join(without)}")
    return complete


def build_model(name: str, **hyperparameters: int | None) -> nn.Module:
    """Builds a network.

    Args:
        name: a key of MODELS.
        hyperparameters: nf, num_modules, scale; what is left out or None is the network's default.
    Raises:
        ValueError: an unknown name or hyperparameter, or a size that the architecture does not allow.
    """
    complete = complete_hyperparameters(name, **hyperparameters)
    return MODELS[name](**complete)
