"""C++ of this project, compiled for the machine that it runs on."""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path

from utils.files import atomic_path

FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-std=c++17", "-fopenmp", "-shared", "-fPIC")


def load_library(source: Path) -> ctypes.CDLL | None:
    """Compiles a C++ file, once for each machine and version of the file, and loads it.

    The compiler is $CXX, else c++; what it made is kept under $XDG_CACHE_HOME (~/.cache). On Linux its OpenMP is the
    one that PyTorch has loaded, so that both share their threads.

    Returns:
        The library, or None where there is no compiler, or it or the machine cannot do it.
    """
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    if not compiler or shutil.which(compiler[0]) is None:
        return None
    try:
        code = source.read_bytes()
        key = hashlib.sha256(b"\0".join([code, *map(str.encode, (*compiler, *FLAGS, processor()))])).hexdigest()
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        target = cache / "lightweight-super-resolution" / f"{source.stem}-{key[:16]}.so"
        if not target.exists():
            with atomic_path(target) as temporary:
                command = [*compiler, *FLAGS, "-o", str(temporary), str(source)]
                subprocess.run(command, capture_output=True, check=True, timeout=120)
        return ctypes.CDLL(str(target))
    except (OSError, RuntimeError, subprocess.SubprocessError):  # RuntimeError: no home directory
        return None


def processor() -> str:
    """What -march=native depends on: a home directory can be shared by unlike machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}))
