"""The C library's allocator, set for training on the CPU."""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST_THRESHOLD = 32 << 20  # glibc takes no more on 64 bits


def keep_freed_memory() -> bool:
    """Makes glibc keep freed blocks for the next step, and PyTorch ask for huge pages.

    By default every activation of some megabytes is given back and faulted in again, page by page, each step. Call it
    before the first large tensor. Returns whether it took effect; elsewhere than on Linux with glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_THRESHOLD) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
