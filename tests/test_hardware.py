from pathlib import Path

import pytest
import torch

from utils.hardware import check_device, hardware, without_tf32


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("processor\t: 0\nmodel name\t: Maker: 9 @ 3 GHz\nmodel name\t: other\n", "Maker: 9 @ 3 GHz"),
        ("processor\t: 0\n", "some CPU"),
        (None, "some CPU"),
    ],
)
def test_a_cpu_has_a_name_and_threads(cpuinfo, name, monkeypatch):
    def read_text(path: Path) -> str:
        if cpuinfo is None:
            raise FileNotFoundError(path)
        return cpuinfo

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "some")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert hardware("cpu") == f"{name}, 2 threads"


def test_a_device_that_pytorch_has_no_name_for_is_told_by_its_own():
    assert hardware("mps").endswith(", mps")


@pytest.mark.parametrize("before", (False, True))
def test_without_tf32_holds_inside_and_leaves_things_as_they_were(before):
    kinds = (torch.backends.cuda.matmul, torch.backends.cudnn)
    found = [kind.allow_tf32 for kind in kinds]
    try:
        for kind in kinds:
            kind.allow_tf32 = before
        with without_tf32():
            assert [kind.allow_tf32 for kind in kinds] == [False, False]
        assert [kind.allow_tf32 for kind in kinds] == [before, before]
    finally:
        for kind, allowed in zip(kinds, found):
            kind.allow_tf32 = allowed


@pytest.mark.parametrize(
    ("device", "says"),
    (
        ("meta", r"^[^\n]+$"),
        ("cuda:99", r"^[^\n]+$"),
        ("nothing", "^no device of PyTorch; take cpu,"),
        pytest.param(
            "mps",
            r"^[^\n]+ \.\.\.$",
            marks=pytest.mark.skipif(torch.backends.mps.is_available(), reason="it computes here"),
        ),
    ),
)
def test_a_device_that_computes_nothing_is_refused(device, says):
    check_device("cpu")
    with pytest.raises(ValueError, match=says) as refused:
        check_device(device)
    assert len(str(refused.value)) <= 240
