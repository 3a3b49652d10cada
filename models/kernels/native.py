"""C++ of this project, compiled for the machine that it runs on."""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from utils.files import atomic_path

SECONDS = 120  # to compile in: a file takes about 6 on an idle core
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-std=c++17", "-fopenmp", "-shared", "-fPIC")


class NativeError(RuntimeError):
    """C++ that cannot be compiled or loaded here; the message says why."""


def load_library(source: Path) -> ctypes.CDLL:
    """Compiles a C++ file, once for each machine and version of the file and of the headers beside it, and loads it.

    The compiler is $CXX, else c++; it must take GCC's flags. What it made is kept under $XDG_CACHE_HOME (~/.cache).
    With PyTorch's wheels for Linux its OpenMP is the one that PyTorch has loaded, so that both share their threads.

    Raises:
        NativeError: no compiler, or it, the cache or the machine cannot do it.
    """
    named = os.environ.get("CXX", "c++")
    try:
        compiler = shlex.split(named)
    except ValueError as error:
        raise NativeError(f"$CXX is {named}: {error}") from error
    if not compiler or (program := shutil.which(compiler[0])) is None:
        raise NativeError(f"no C++ compiler ({' '.join(compiler) or '$CXX is empty'})")
    identity = os.path.realpath(program), str(os.stat(program).st_mtime_ns)  # one `c++` may follow another
    texts = [file.read_text(encoding="utf-8") for file in (source, *sorted(source.parent.glob("[!.]*.h")))]
    key = hashlib.sha256("\0".join((*texts, *compiler, *identity, *FLAGS, processor())).encode()).hexdigest()
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        target = cache / "lightweight-super-resolution" / f"{source.stem}-{key[:16]}.so"
        if target.exists():
            try:
                return ctypes.CDLL(str(target))
            except OSError:  # damaged, or of another system that shares the folder
                pass
        with atomic_path(target) as temporary:
            compile_by([*compiler, *FLAGS, "-o", str(temporary), str(source)])
        return ctypes.CDLL(str(target))
    except subprocess.CalledProcessError as error:
        reason = next((line for line in error.stderr.splitlines() if "error" in line), "")
        raise NativeError(f"the compiler {compiler[0]} failed{reason and ': ' + reason}") from error
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:  # RuntimeError: no home directory
        raise NativeError(str(error)) from error


def compile_by(command: Sequence[str]) -> None:
    """Runs a compiler and what it starts, of which nothing is left behind.

    Raises:
        CalledProcessError, TimeoutExpired: it failed, or takes longer than SECONDS.
    """
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "errors": "replace"}
    with subprocess.Popen(command, start_new_session=True, **options) as process:
        try:
            _, errors = process.communicate(timeout=SECONDS)
        except BaseException:
            process.kill() if os.name == "nt" else os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=errors)


def load_functions(source: Path, **argtypes: list) -> tuple[ctypes.CDLL | None, str]:
    """The library with the types of its functions' arguments, none of which returns anything; or None and why there is
    none.
    """
    try:
        library = load_library(source)
    except NativeError as error:
        return None, str(error)
    for name, types in argtypes.items():
        function = getattr(library, name)
        function.argtypes, function.restype = types, None
    return library, ""


def processor() -> str:
    """What -march=native depends on: a home directory can be shared by unlike machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}))
