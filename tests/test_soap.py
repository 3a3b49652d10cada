import pytest
import torch
from pytorch_optimizer import SOAP as ReferenceSOAP

from utils.soap import SOAP, q_of_reflectors

# No dimension is longer than the others together: a preconditioner without full rank leaves its eigenvectors open.
SHAPES = ((4, 3, 3, 3), (6, 6, 1, 1), (5, 1, 3, 3), (4, 3, 3, 3), (7,), (6, 6, 1, 1))


def make_params() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in SHAPES]


def take_steps(params: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer, start: int, stop: int) -> None:
    for step in range(start, stop):
        generator = torch.Generator().manual_seed(step)
        for p in params:
            p.grad = p.detach() + torch.randn(p.shape, generator=generator, dtype=p.dtype)
        optimizer.step()


def test_equals_the_published_implementation():
    ours, theirs = make_params(), make_params()
    take_steps(ours, SOAP(ours, precondition_every=3), 0, 20)
    reference = ReferenceSOAP(theirs, lr=3e-3, weight_decay=0.0, precondition_frequency=3)
    take_steps(theirs, reference, 0, 20)
    for start, a, b in zip(make_params(), ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)  # the reference factorises in float32
        assert (a - start).abs().max() > 0.01


def test_cautious_moves_no_entry_up_its_gradient():
    plain, cautious = make_params(), make_params()
    optimizers = SOAP(plain), SOAP(cautious, cautious=True)
    for step in range(9):
        before = [p.detach().clone() for p in plain]
        for params, optimizer in zip((plain, cautious), optimizers):
            with torch.no_grad():
                for p, start in zip(params, before):
                    p.copy_(start)
            take_steps(params, optimizer, step, step + 1)
    for shape in set(SHAPES):
        stack = [i for i, other in enumerate(SHAPES) if other == shape]
        start, moved, kept = (torch.stack([p[i].detach() for i in stack]) for p in (before, plain, cautious))
        agrees = (start - moved) * torch.stack([plain[i].grad for i in stack]) > 0
        assert 0 < agrees.sum() < agrees.numel()
        torch.testing.assert_close(kept - start, torch.where(agrees, (moved - start) / agrees.double().mean(), 0))


def test_gradients_whose_squares_underflow_do_not_end_the_run():
    draw = torch.Generator().manual_seed(0)
    # in float32 MKL's eigh fails for one or another of so many
    params = [torch.nn.Parameter(torch.zeros(20, 2)) for _ in range(200)]
    optimizer = SOAP(params)
    for _ in range(2):
        for p in params:
            p.grad = (10 ** (18 * torch.rand(20, 1, generator=draw) - 23)).repeat(1, 2)
        optimizer.step()
    assert all(p.isfinite().all() and p.any() for p in params)


def test_a_parameter_without_gradient_is_left_alone():
    params = make_params()
    optimizer = SOAP(params)
    take_steps(params[1:], optimizer, 0, 3)
    assert torch.equal(params[0], make_params()[0]) and not torch.equal(params[3], make_params()[3])


def test_a_gradient_that_comes_and_goes_is_zero_where_it_is_absent():
    absent, zero = make_params(), make_params()
    optimizers = SOAP(absent), SOAP(zero)
    for step, left_out in enumerate((0, 5, 3)):
        for params, optimizer, nothing in zip((absent, zero), optimizers, (None, torch.zeros_like(zero[left_out]))):
            for p in params:
                p.grad = p.detach() + step
            params[left_out].grad = nothing
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(absent, zero, strict=True))


def test_cautious_takes_no_absent_gradient_for_disagreement():
    alone = make_params()[:1]
    beside = [make_params()[0], *(torch.nn.Parameter(p.detach().clone()) for p in alone * 3)]
    for params in (alone, beside):
        take_steps(params[:1], SOAP(params, cautious=True), 0, 6)
    torch.testing.assert_close(alone[0], beside[0])


def test_a_closure_is_called():
    params = make_params()

    def closure():
        loss = sum(p.square().sum() for p in params)
        loss.backward()
        return loss

    assert SOAP(params).step(closure) > 0 and params[0].grad is not None


def test_a_gradient_that_is_not_finite_is_left_to_the_loss_to_tell():
    params = make_params()
    for p in params:
        p.grad = torch.full_like(p, torch.nan)
    SOAP(params).step()


def test_state_survives_saving(tmp_path):
    params = make_params()
    optimizer = SOAP(params, precondition_every=3)
    take_steps(params, optimizer, 0, 5)
    torch.save({"optimizer": optimizer.state_dict(), "params": params}, tmp_path / "s.pth")
    saved = torch.load(tmp_path / "s.pth", weights_only=True)
    resumed = SOAP(saved["params"], precondition_every=3)
    resumed.load_state_dict(saved["optimizer"])
    take_steps(params, optimizer, 5, 9)
    take_steps(saved["params"], resumed, 5, 9)
    assert all(torch.equal(a, b) for a, b in zip(params, saved["params"], strict=True))


@pytest.mark.parametrize("rank", (0, 2, 7))
def test_reflectors_are_multiplied_out_as_lapack_does(rank):
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 3, 7, rank, generator=generator, dtype=torch.float64)
    matrices = left @ right.mT
    torch.testing.assert_close(q_of_reflectors(*torch.geqrf(matrices)), torch.linalg.qr(matrices).Q)
