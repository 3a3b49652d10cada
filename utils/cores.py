"""How many cores there are for threads."""

import os


def usable_cores() -> int:
    """Those that this process may run on, at least 1; a container's quota of their time is not seen."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
