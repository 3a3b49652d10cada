"""How many cores there are for threads."""

import os


def usable_cores() -> int:
    """Those that this process may run on, which a scheduler or a container can have limited; at least 1."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
