"""Progress bars."""

import sys
from collections.abc import Iterable

from tqdm import tqdm


def progress(items: Iterable, **options) -> tqdm:
    """tqdm's bar; outside a terminal a state every half minute, as a log file keeps each."""
    rarely = {} if sys.stderr.isatty() else {"mininterval": 30, "delay": 30}
    return tqdm(items, **rarely, **options)
