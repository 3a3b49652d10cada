"""What a network costs, counted as the report counts it."""

import copy
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn as nn
from thop import profile

SPLIT_ABOVE = 1 / 4  # of the network's FLOPs: larger parts are shown as those that they consist of


@dataclass(frozen=True)
class Counts:
    """Of every module by its name, the network's own being "", but activations of convs alone."""

    macs: Counter = field(default_factory=Counter)
    params: Counter = field(default_factory=Counter)
    activations: Counter = field(default_factory=Counter)


def count_cost(model: nn.Module, size: int = 256) -> tuple[float, float]:
    """(FLOPs in G, parameters in M) for one RGB input of size × size.

    FLOPs are 2 × thop's multiply-accumulates. thop counts a parameter only if its module ran; parameters here are
    thop's, as in the report. A copy runs on the meta device, shapes only, so that it takes a moment; or on the
    network's own, where its forward computes with values.
    """
    counts = count(model, size)
    return 2 * counts.macs[""] / 1e9, counts.params[""] / 1e6


def cost_by_part(model: nn.Module, size: int = 256) -> list[dict]:
    """What each part of a network costs for one RGB input of size × size, in the order in which parts are defined.

    Those above a quarter of the FLOPs are split. Members of a list are one part: `blocks.*.c1` is the first conv of
    every block. What costs nothing is left out.

    Returns:
        For each part `part`, its name; `flops_g` and `params_m`, as count_cost's; and `activations_m`, how many
        numbers its convs put out, in M, which the NTIRE challenges on efficient super-resolution count too.
    """
    counts = count(model, size)

    def rows(part: str, names: Sequence[str]) -> Iterator[dict]:
        macs = sum(counts.macs[name] for name in names)
        inner = parts_within(model, part, names)
        if inner and macs > SPLIT_ABOVE * counts.macs[""]:
            for smaller in inner.items():
                yield from rows(*smaller)
            return
        params = sum(counts.params[name] for name in names)
        within = tuple(f"{name}." for name in names)
        activations = sum(n for conv, n in counts.activations.items() if f"{conv}.".startswith(within))
        if macs or params or activations:
            cost = {"flops_g": 2 * macs / 1e9, "params_m": params / 1e6, "activations_m": activations / 1e6}
            yield {"part": part, **cost}

    return [row for name, _ in model.named_children() for row in rows(name, [name])]


def parts_within(model: nn.Module, part: str, names: Sequence[str]) -> dict[str, list[str]]:
    """The children of the modules called `names`, by the parts that they are of `part`."""
    inner = defaultdict(list)
    for name in names:
        children = dict(model.get_submodule(name).named_children())
        kinds = set(map(type, children.values()))
        is_list = len(children) > 1 and len(kinds) == 1 and all(map(str.isdecimal, children))
        for child in children:
            inner[f"{part}.{'*' if is_list else child}"].append(f"{name}.{child}")
    return inner


def count(model: nn.Module, size: int) -> Counts:
    """Of a copy, for one RGB input of size × size."""
    try:
        return run(copy.deepcopy(model).to("meta"), torch.empty(1, 3, size, size, device="meta"))
    except Exception:  # whatever a forward raises that asks a meta tensor for values
        like = next(model.parameters())
        return run(copy.deepcopy(model), torch.rand(1, 3, size, size, dtype=like.dtype, device=like.device))


@torch.inference_mode()
def run(model: nn.Module, image: torch.Tensor) -> Counts:
    """Counts one forward; leaves hooks in the model."""
    counts = Counts()

    def watch(name: str, conv: nn.Module) -> None:
        conv.register_forward_hook(lambda _module, _inputs, output: counts.activations.update({name: output.numel()}))

    def note(name: str, macs: float, params: float, children: dict) -> None:
        counts.macs[name], counts.params[name] = macs, params
        for child, costs in children.items():
            note(f"{name}.{child}" if name else child, *costs)

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            watch(name, module)
    note("", *profile(model, inputs=(image,), verbose=False, ret_layer_info=True))
    return counts
