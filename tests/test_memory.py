import os

import pytest
import torch

from utils.memory import available_bytes, keep_freed_memory, memory_shortage


def write(root, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def test_available_memory_is_the_machine_s_or_the_container_s(tmp_path):
    assert available_bytes(tmp_path) == 0
    write(tmp_path, "proc/meminfo", "MemTotal: 9000 kB\nMemAvailable: 2000 kB\n")
    assert available_bytes(tmp_path) == 2000 * 1024
    write(tmp_path, "sys/fs/cgroup/memory.max", "max\n")
    write(tmp_path, "sys/fs/cgroup/memory.current", "1000\n")
    write(tmp_path, "sys/fs/cgroup/memory.stat", "anon 500\ninactive_file 0\n")
    assert available_bytes(tmp_path) == 2000 * 1024
    write(tmp_path, "sys/fs/cgroup/memory.max", "5000\n")
    assert available_bytes(tmp_path) == 4000
    write(tmp_path, "proc/self/cgroup", "0::/slice/job/task\n")
    write(tmp_path, "sys/fs/cgroup/slice/job/memory.max", "3000\n")
    write(tmp_path, "sys/fs/cgroup/slice/job/memory.current", "900\n")
    write(tmp_path, "sys/fs/cgroup/slice/job/memory.stat", "inactive_file 400\nactive_file 100\n")  # cached files
    write(tmp_path, "sys/fs/cgroup/slice/job/task/memory.max", "max\n")
    write(tmp_path, "sys/fs/cgroup/slice/job/task/memory.current", "400\n")
    assert available_bytes(tmp_path) == 2500
    write(tmp_path, "proc/self/cgroup", "4:cpu,memory:/job\n1:name=systemd:/\n0::/\n")
    write(tmp_path, "sys/fs/cgroup/memory/job/memory.limit_in_bytes", "2000\n")
    write(tmp_path, "sys/fs/cgroup/memory/job/memory.usage_in_bytes", "1900\n")
    write(tmp_path, "sys/fs/cgroup/memory/job/memory.stat", "inactive_file 0\ntotal_inactive_file 200\n")
    assert available_bytes(tmp_path) == 300


def test_huge_pages_are_asked_for_on_linux_alone(monkeypatch):
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "")  # so that it is put back
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
    monkeypatch.setattr("sys.platform", "win32")
    keep_freed_memory()
    assert "THP_MEM_ALLOC_ENABLE" not in os.environ
    monkeypatch.setattr("sys.platform", "linux")
    keep_freed_memory()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "1"


@pytest.mark.parametrize(
    ("error", "becomes"),
    (
        (torch.OutOfMemoryError("CUDA out of memory."), MemoryError),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), MemoryError),
        (RuntimeError("backend='inductor' raised:\nOutOfMemoryError: CUDA out of memory."), MemoryError),
        (RuntimeError("CUDA error: out of memory"), MemoryError),
        (MemoryError(), MemoryError),
        (MemoryError("Unable to allocate 909. TiB for an array with shape (1,) and data type uint8"), MemoryError),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), MemoryError),
        (RuntimeError("CUDA error: no kernel image is available"), RuntimeError),
    ),
)
def test_what_ends_for_memory_is_told_from_other_errors(error, becomes):
    says = "out of memory; take less" if becomes is MemoryError else str(error)
    with pytest.raises(becomes, match=says), memory_shortage("take less"):
        raise error
