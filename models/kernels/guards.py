"""When the fused code may stand for layers: nothing watches them, and they are such as it knows; and when it pays."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn as nn
from torch import Tensor

HOOKS_ON_ALL = [f"_global_{when}_hooks" for when in ("forward_pre", "forward", "backward_pre", "backward")]
# These two are private to PyTorch: where a later one lacks them, every layer runs as a module.
count_dispatch_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)
has_functorch_transforms = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
WIDE = 48  # channels in and out, from which PyTorch's own convs are as fast but for separable ones (Zen 4, AVX-512)

_apart = False  # of all threads


@contextmanager
def layers_apart() -> Iterator[None]:
    """A forward inside it runs every layer as a module: it can be differentiated twice, or compared with."""
    global _apart
    before, _apart = _apart, True
    try:
        yield
    finally:
        _apart = before


def stay_apart() -> None:
    """From here on every layer runs as a module, as in `layers_apart`."""
    global _apart
    _apart = True


def is_eager(x: Tensor) -> bool:
    """Whether maps are computed here and now, on the CPU and in their own precision."""
    return (
        x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not must_run_apart()
        and x.dim() == 4
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
    )


def must_run_apart(*modules: nn.Module) -> bool:
    """Whether these layers must run one at a time, as they are: `layers_apart` says so, a trace, a dispatch mode, hooks
    on all modules or `torch.func` record them, or a hook on one of them looks at what it computes (thop's) or changes
    it (pruning's).
    """
    is_recorded = not torch.compiler.is_compiling() and (
        torch.jit.is_tracing()
        or count_dispatch_modes() > 0
        or has_functorch_transforms()
        or any(getattr(nn.modules.module, hooks) for hooks in HOOKS_ON_ALL)
    )
    return _apart or is_recorded or any(map(has_hooks, modules))


def has_hooks(module: nn.Module) -> bool:
    """Whether the module, or one inside it, has a hook on its forward or backward, or a forward of its own."""
    if "forward" in module.__dict__:  # which libraries put there to wrap it
        return True
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    return any(hooks) or any(map(has_hooks, module._modules.values()))


def is_plain(tensor: Tensor) -> bool:
    """Memory that C++ can read: not a fake tensor's, a subclass's or another device's."""
    return type(tensor) in (Tensor, nn.Parameter) and tensor.dtype == torch.float32 and tensor.device.type == "cpu"


def is_conv(layer: nn.Module, size: int, depthwise: bool = False, dilation: int = 1) -> bool:
    """Whether it computes what an nn.Conv2d does that has a bias and keeps height and width, by zeros around a map."""
    kind = type(layer)  # of a subclass where weights are parametrised
    if not issubclass(kind, nn.Conv2d) or layer.bias is None:
        return False
    if kind.forward is not nn.Conv2d.forward or kind._conv_forward is not nn.Conv2d._conv_forward:
        return False
    reach = dilation * (size // 2)
    groups = layer.in_channels if depthwise else 1
    if depthwise and layer.out_channels != groups:
        return False
    keeps_size = (layer.stride, layer.padding, layer.padding_mode) == ((1, 1), (reach, reach), "zeros")
    kernel = (layer.kernel_size, layer.dilation, layer.groups)
    return keeps_size and kernel == ((size, size), (dilation, dilation), groups)
