import pytest

from utils import cuda_graph
from utils.cuda_graph import WARM_UP_CALLS, Replayed, ReplayedInPlace


@pytest.fixture
def without_gpu(monkeypatch):
    """Runs what would be recorded, and counts how often it is replayed."""
    replays = []

    def record(replayed):
        replayed.graph = type("Graph", (), {"replay": lambda self: replays.append(1)})()

    monkeypatch.setattr(Replayed, "_warm_up", lambda self: self.work())
    monkeypatch.setattr(Replayed, "_record", record)
    return replays


def test_it_runs_as_it_is_before_it_is_replayed(without_gpu):
    calls = []
    replayed = Replayed(lambda: calls.append(1))
    for _ in range(WARM_UP_CALLS + 5):
        replayed()
    assert (len(calls), len(without_gpu)) == (WARM_UP_CALLS, 5)


def test_what_cannot_be_recorded_runs_as_it_is(monkeypatch, capsys):
    streams = []

    def refuse(*_, **__):
        raise RuntimeError("operation not permitted\nwhen capturing")

    monkeypatch.setattr(Replayed, "_warm_up", lambda self: self.work())
    monkeypatch.setattr(Replayed, "can_record", True)
    monkeypatch.setattr(cuda_graph.torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(cuda_graph.torch.cuda, "current_stream", lambda: "the stream before")
    monkeypatch.setattr(cuda_graph.torch.cuda, "set_stream", streams.append)
    monkeypatch.setattr(cuda_graph.torch.cuda, "graph", refuse)
    replayed = Replayed(lambda: 7)
    assert [replayed() for _ in range(WARM_UP_CALLS + 3)] == [7] * (WARM_UP_CALLS + 3)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "warning: no CUDA graph (--no-graph), which is slower: operation not permitted"
    assert streams == ["the stream before"]
    another = Replayed(lambda: 8)
    assert [another() for _ in range(WARM_UP_CALLS + 1)] == [8] * (WARM_UP_CALLS + 1)
    assert not capsys.readouterr().err


def test_only_work_on_tensors_that_stay_is_replayed(without_gpu):
    addresses, calls = [1], []
    replayed = ReplayedInPlace(lambda: calls.append(1), lambda: [*addresses])
    for moving in range(4):
        addresses[0] = moving
        replayed()
    assert not without_gpu and len(calls) == 4
    for _ in range(WARM_UP_CALLS + 2):
        replayed()
    assert (len(calls), len(without_gpu)) == (4 + WARM_UP_CALLS, 2)
    addresses[0] = 9
    replayed()
    assert (len(calls), len(without_gpu)) == (5 + WARM_UP_CALLS, 2)  # it still runs
    addresses[0] = 3
    replayed()
    assert (len(calls), len(without_gpu)) == (5 + WARM_UP_CALLS, 3)
