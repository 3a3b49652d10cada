"""Files that are either whole or absent, and those of a tree."""

import errno
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # a full disk, one's share of it, a disk for reading alone


def nearest_existing(path: Path) -> Path:
    """`path`, or the nearest above it that exists."""
    return next(p for p in (path, *path.absolute().parents) if p.exists())


def check_writable(folder: Path, flag: str) -> None:
    """Raises OSError, which names the flag, where nothing could be written to a folder, existing or to be made; leaves
    nothing.
    """
    nearest = nearest_existing(folder)
    try:
        tempfile.TemporaryDirectory(dir=nearest).cleanup()  # permission bits tell nothing of /proc or a full disk
    except OSError as error:
        raise OSError(f"{flag}: {nearest} is not a folder that can be written to ({error.strerror})") from error


@contextmanager
def atomic_path(path: Path, made_from: Path | None = None) -> Iterator[Path]:
    """Yields a temporary path beside `path`, same suffix; renames it to `path` if the block succeeds.

    Args:
        made_from: gives `path` its modification time, where the file system can; `is_made_from` looks at it.
    Raises:
        OSError: it cannot be written; names `path`.
    """
    path = Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")  # no longer than most names
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        if made_from:
            mtime = made_from.stat().st_mtime_ns
            with suppress(OSError):  # some mounts set no times; `is_made_from` is then False
                os.utime(temporary, ns=(mtime, mtime))
        temporary.replace(path)
    except OSError as error:
        if error.filename not in (None, str(temporary), str(path.parent)):
            raise  # of another file
        above = nearest_existing(path.parent)
        reason = (error.strerror or error) if above.is_dir() else f"{above} is a file"
        raise OSError(error.errno or errno.EIO, f"cannot be written: {reason}", str(path)) from error
    finally:
        if temporary.parent.is_dir():
            temporary.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps a folder for this process, where the system has such locks; made if need be, removed if still empty.

    Raises:
        BlockingIOError: another process has it; names the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / ".lock"  # NFS locks no folders
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT) if fcntl else None
    try:
        if fcntl:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not file.exists() or not os.path.samestat(os.fstat(descriptor), file.stat()):
                raise BlockingIOError  # removed by the one before, after it was opened here
    except BlockingIOError as error:
        os.close(descriptor)
        raise BlockingIOError(f"another process writes to {folder}; wait for it, or take another folder") from error
    except OSError:  # a file system without locks, as some clusters have
        pass
    try:
        yield
    finally:
        if fcntl:
            file.unlink(missing_ok=True)
            os.close(descriptor)  # which releases it; so does the end of the process, however it ends
        with suppress(OSError):  # of a folder that is not empty
            folder.rmdir()


def is_made_from(path: Path, source: Path) -> bool:
    """Whether `path` carries its source's modification time, so that a changed source, older or newer, is seen.

    File systems keep it to 1 ns, 100 ns (NTFS), 1 µs, 10 ms (exFAT), 1 s or 2 s (FAT), and cut off the rest.
    """
    if not os.path.exists(path):  # False too where its name is too long, which Path.exists() raises
        return False
    mtime = source.stat().st_mtime_ns
    return path.stat().st_mtime_ns in {mtime // unit * unit for unit in (1, 100, 10**3, 10**7, 10**9, 2 * 10**9)}


def is_output(file: Path, source: Path, target: Path) -> bool:
    """Whether a file below `source` lies in `target`, a folder inside it that is written to."""
    return source.resolve() in target.resolve().parents and target.resolve() in file.resolve().parents


def files_below(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Every file of a tree but hidden ones, and those in hidden folders, such as .git.

    Linked folders are entered, but for those that hold the link itself.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    for entry in Path(folder).iterdir():
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from files_below(entry, (*above, real))
        else:
            yield entry
