"""SOAP: Adam in the eigenbases of Shampoo's preconditioners, computed for all parameters of one shape at once."""

from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from utils.cuda_graph import ReplayedInPlace
from utils.hardware import without_tf32


class SOAP(torch.optim.Optimizer):
    """SOAP for networks of many small tensors, where what costs is the number of operations, not their size.

    Parameters of one shape are stacked, so that a network of hundreds of tensors takes some twenty products a step,
    and the eigenbases' QR factorisations run as one batch for each size. The state of a stack is kept under its first
    parameter. The first step only initialises the preconditioners. No weight decay; vectors take plain Adam. A
    parameter without a gradient, as of a layer that a step skips, has one of zeros.

    Args:
        params: float32 tensors, or groups of them, as for torch's optimisers.
        lr: how far a step moves an entry, about, whatever the size of its gradient.
        betas: decay of the gradient's mean, and of its square and the preconditioners.
        eps: added to the root of the squares' mean, so that an entry with no gradient does not move.
        precondition_every: steps between updates of the eigenbases.
        cautious: whether to leave out the entries whose step goes up their present gradient, which would raise
            the loss. The others' steps are divided by the share that moves, of all parameters of one shape together.
        graph: whether a GPU replays what it does at every step as a CUDA graph, from where the gradients stay in the
            same memory. A state is then loaded before the first step.
    Source: Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam" (arXiv 2409.11321); Liang et al.,
        "Cautious Optimizers: Improving Training with One Line of Code" (arXiv 2411.16085).
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        precondition_every: int = 10,
        cautious: bool = False,
        graph: bool = False,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "precondition_every": precondition_every, "step": 0}
        defaults["cautious"] = cautious
        self.stacks: list[list[list[Tensor]]] = []  # of each group
        self.step_sizes: list[Tensor] = []  # of each group, where a graph can read them
        self.advance = ReplayedInPlace(self._advance, self._gradient_addresses) if graph else self._advance
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict) -> None:
        super().add_param_group(param_group)
        params = self.param_groups[-1]["params"]
        self.stacks.append(stacks_of(params))
        self.step_sizes.append(params[0].new_zeros(()))

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        with torch.enable_grad():
            loss = closure() if closure else None
        for group, step_size in zip(self.param_groups, self.step_sizes):
            beta1, beta2 = group["betas"]
            if group["step"]:
                step_size.fill_(group["lr"] * (1 - beta2 ** group["step"]) ** 0.5 / (1 - beta1 ** group["step"]))
        self.advance()
        for group, stacks in zip(self.param_groups, self.stacks):
            if group["step"] % group["precondition_every"] == 0:
                states = [self.state[stack[0]] for stack in stacks]
                if group["step"]:
                    rotate_bases(states)
                else:
                    initialise_bases(states)
            group["step"] += 1
        return loss

    def _advance(self) -> None:
        """Moves the parameters, but for the first step, and takes in their gradients."""
        for group, stacks, step_size in zip(self.param_groups, self.stacks, self.step_sizes):
            for stack in stacks:
                gradient = torch.stack([torch.zeros_like(p) if p.grad is None else p.grad for p in stack])
                if group["step"]:
                    share = sum(p.grad is not None for p in stack) / len(stack)
                    self._update(stack, gradient, share, self.state[stack[0]], group, step_size)
                self._accumulate(self.state[stack[0]], gradient, group)

    def _gradient_addresses(self) -> list[int]:
        """Where in memory they are: a graph that reads them there is no use once they have moved."""
        return [0 if p.grad is None else p.grad.data_ptr() for group in self.param_groups for p in group["params"]]

    @staticmethod
    def _accumulate(state: dict, gradient: Tensor, group: dict) -> None:
        """Adds this gradient's outer products, one for each dimension, to the preconditioners."""
        if not state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
            for dim in preconditioned_dims(gradient):
                size = gradient.shape[dim]
                state[f"preconditioner_{dim}"] = gradient.new_zeros(len(gradient), size, size)
        for dim in preconditioned_dims(gradient):
            rows = gradient.movedim(dim, 1).flatten(2)
            state[f"preconditioner_{dim}"].lerp_(rows @ rows.mT, 1 - group["betas"][1])

    @staticmethod
    def _update(
        stack: list[Tensor], gradient: Tensor, share: float, state: dict, group: dict, step_size: Tensor
    ) -> None:
        """Adam's step, its second moment taken in the eigenbases; `share` of the parameters have a gradient."""
        beta1, beta2 = group["betas"]
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        state["exp_avg_sq"].lerp_(project(gradient, state).square(), 1 - beta2)
        direction = project(state["exp_avg"], state) / state["exp_avg_sq"].sqrt().add_(group["eps"])
        update = project(direction, state, back=True)
        if group["cautious"]:
            agrees = update * gradient > 0
            update *= agrees * (share / agrees.float().mean().clamp(min=1e-3))  # where none does, nothing moves
        torch._foreach_sub_(stack, (update * step_size).unbind())


def stacks_of(params: Iterable[Tensor]) -> list[list[Tensor]]:
    """Those of one shape together."""
    stacks = defaultdict(list)
    for p in params:
        stacks[p.shape].append(p)
    return list(stacks.values())


def preconditioned_dims(stacked: Tensor) -> list[int]:
    """Dimensions longer than 1 of what is stacked, if it is not a vector."""
    return [dim for dim in range(1, stacked.ndim) if stacked.shape[dim] > 1] if stacked.ndim > 2 else []


def project(stacked: Tensor, state: dict, back: bool = False) -> Tensor:
    """Rotates every preconditioned dimension into its eigenbasis, or back."""
    for dim in preconditioned_dims(stacked):
        basis = state[f"basis_{dim}"]
        rows = stacked.movedim(dim, 1)
        rotated = (basis if back else basis.mT) @ rows.flatten(2)
        stacked = rotated.reshape(rows.shape).movedim(1, dim)
    return stacked


def initialise_bases(states: list[dict]) -> None:
    """Eigenvectors of the first preconditioners, largest eigenvalue first."""
    for state in states:
        for dim in preconditioned_dims(state["exp_avg"]):
            matrices = state[f"preconditioner_{dim}"]
            finite = matrices.nan_to_num(0, 0, 0)  # eigh refuses others; the loss tells that the run is lost
            # of denormal numbers, such as the squares of small gradients are in float32, LAPACK makes nan or nothing;
            # on GPUs eigh can fail where the rank is not full
            _, vectors = torch.linalg.eigh(finite.double().cpu())
            state[f"basis_{dim}"] = vectors.flip(2).contiguous().to(matrices)


def rotate_bases(states: list[dict]) -> None:
    """One round of power iteration from the last bases: enough, as preconditioners change slowly.

    Columns are ordered by eigenvalue before QR, which keeps the first ones best; the second moments follow.
    """
    products = defaultdict(list)
    for state in states:
        for dim in preconditioned_dims(state["exp_avg"]):
            basis = state[f"basis_{dim}"]
            product = state[f"preconditioner_{dim}"] @ basis
            order = (basis * product).sum(dim=1).argsort(dim=1, descending=True, stable=True)
            shape = [len(order), *[1] * (state["exp_avg_sq"].ndim - 1)]
            shape[dim] = -1
            state["exp_avg_sq"].copy_(state["exp_avg_sq"].take_along_dim(order.reshape(shape), dim))
            products[basis.shape[1]].append((state, f"basis_{dim}", product.take_along_dim(order[:, None], 2)))
    for batch in products.values():
        bases = orthonormalise(torch.cat([product for _, _, product in batch]))
        for (state, name, _), basis in zip(batch, bases.split([len(product) for _, _, product in batch])):
            state[name].copy_(basis)


def orthonormalise(matrices: Tensor) -> Tensor:
    """Q of the QR factorisation of each of (n, size, size), as one batch on GPUs too."""
    if not matrices.is_cuda:
        return torch.linalg.qr(matrices.cpu()).Q.to(matrices.device)  # Apple's GPUs have none, or a slow one
    with without_tf32():
        return q_of_reflectors(*torch.geqrf(matrices))


def q_of_reflectors(reflectors: Tensor, tau: Tensor) -> Tensor:
    """Multiplies out what `torch.geqrf` gives, as I - V T V^T: on GPUs `torch.linalg.qr` does so a matrix at a time.

    Source: Joffrain et al., "Accumulating Householder Transformations, Revisited" (ACM TOMS 32.2), for T's inverse.
    """
    identity = torch.eye(tau.shape[-1], dtype=tau.dtype, device=tau.device)
    none = tau == 0  # a reflector that does nothing
    v = (reflectors.tril(-1) + identity).masked_fill(none[:, None], 0)
    t_inverse = (v.mT @ v).triu(1) + torch.diag_embed(1 / tau.masked_fill(none, 1))
    return identity - v @ torch.linalg.solve_triangular(t_inverse, v.mT, upper=True)
