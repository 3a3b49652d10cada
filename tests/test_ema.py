import pytest
import torch

from utils.ema import EMA


def test_ema_by_hand():
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
        ema = EMA(model, decay=0.5)
        model.weight.fill_(1.0)
    ema.update(step=1)  # warm-up: 2/11 of the old
    assert ema.model.weight.item() == pytest.approx(9 / 11)
    ema.update(step=10**6)
    assert ema.model.weight.item() == pytest.approx(10 / 11)


def test_ema_has_the_latest_buffers():
    model = torch.nn.BatchNorm2d(2)
    ema = EMA(model, decay=0.9)
    model(torch.rand(4, 2, 3, 3))
    ema.update(step=1)
    model.running_mean = model.running_mean + 1  # replaced, not changed in place
    ema.update(step=2)
    assert torch.equal(ema.model.running_mean, model.running_mean) and ema.model.num_batches_tracked == 1
