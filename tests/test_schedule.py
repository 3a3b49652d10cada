import pytest

from utils.schedule import learning_rate_at


def test_schedule_in_its_three_cases():
    options = {"peak": 1e-3, "floor": 3e-4, "decay_steps": 1000}
    assert learning_rate_at(0, **options) == pytest.approx(1e-3)
    assert learning_rate_at(500, **options) == pytest.approx(6.5e-4)
    assert learning_rate_at(1000, **options) == learning_rate_at(9999, **options) == 3e-4
    assert learning_rate_at(0, **options, warmup_steps=10) == pytest.approx(1e-4)
    assert learning_rate_at(9, **options, warmup_steps=10) == pytest.approx(1e-3)
    assert learning_rate_at(10, **options, warmup_steps=10) == pytest.approx(1e-3)
