"""This machine's memory: what is free, and the C library's allocator set for training on the CPU."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST_THRESHOLD = 32 << 20  # glibc takes no more on 64 bits


def keep_freed_memory() -> None:
    """Makes glibc keep freed blocks for the next step, and PyTorch ask for huge pages.

    By default every activation of some megabytes is given back and faulted in again, page by page, each step. Call it
    before the first tensor, at which PyTorch reads its setting. Elsewhere than on Linux with glibc it does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(M_MMAP_THRESHOLD, LARGEST_THRESHOLD)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def memory_shortage(advice: str) -> Iterator[None]:
    """Turns what is raised where memory ends, the CPU's or a GPU's, into MemoryError with this advice."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_memory_shortage(error):
            raise
        raise MemoryError(f"out of memory; {advice}") from error


def is_memory_shortage(error: Exception) -> bool:
    """Whether memory ended: PyTorch's error of a GPU, a MemoryError without text, or one whose text says so."""
    said = ("DefaultCPUAllocator", "CUDA out of memory", "CUDA error: out of memory", "ALLOC_FAILED")
    said += ("Unable to allocate",)  # NumPy's
    is_bare = isinstance(error, MemoryError) and not str(error)
    return is_bare or isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in said)


def available_bytes(root: Path = Path("/")) -> int:
    """RAM that this process may still take: what Linux calls available, within the limits of its groups; else 0."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return 0
    return max(0, min([free, *(limit - used for limit, used in group_limits(root))]))


def group_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Bytes allowed and used of each control group around this process, of versions 1 and 2.

    File contents that nobody has read lately do not count as used: the kernel drops them for whoever asks.
    """
    try:
        own = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        own = []
    for kind, top, names, idle in (
        ("", root / "sys/fs/cgroup", ("memory.max", "memory.current"), "inactive_file"),
        (
            "memory",
            root / "sys/fs/cgroup/memory",
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
            "total_inactive_file",
        ),
    ):
        paths = [top / path.lstrip("/") for _, controllers, path in own if kind in controllers.split(",")]
        for group in {top, *(above for path in paths for above in (path, *path.parents) if top in above.parents)}:
            try:
                limit, used, counters = ((group / name).read_text() for name in (*names, "memory.stat"))
            except OSError:  # no such group, or one without a limit of its own
                continue
            if limit.strip() != "max":
                idle_bytes = dict(line.split() for line in counters.splitlines()).get(idle, 0)
                yield int(limit), int(used) - int(idle_bytes)
