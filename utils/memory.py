"""This machine's memory: what is free, and the C library's allocator set for training on the CPU."""

import ctypes
import os
import sys
from pathlib import Path

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


def available_bytes(root: Path = Path("/")) -> int:
    """RAM that this process may still take: what Linux calls available, within a container's limit; else 0."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return 0
    group = root / "sys/fs/cgroup"
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return free if limit == "max" else max(0, min(free, int(limit) - int(used)))
