"""One process at a time trains in a workdir."""

import contextlib
import errno
import fcntl
import os
import socket
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax

from dlx.agreement import agreed

FILE = "lock"
BUSY = {errno.EACCES, errno.EAGAIN}


class Locked(RuntimeError):
    """Another process trains in the workdir, or the workdir cannot be written; the message says which."""


@contextlib.contextmanager
def held(workdir: str | Path | None) -> Iterator[None]:
    """Keeps every other process from training in `workdir`, which is made if need be; None keeps nobody.

    The lock is that of the operating system on `workdir/lock` (POSIX, `fcntl`), so it ends with its process,
    however that ends: what a killed process leaves behind never has to be cleaned up. NFS carries it to
    other hosts; there the server keeps the lock of a host that lost its power until its lease ends, about 90
    seconds. A file system without such locks (Lustre unless mounted with `flock`, some object stores) gives
    a warning, and two processes go unnoticed. On leaving, the file is removed, and folders that this made
    if they are empty. Of several processes of a run the first holds the lock for all. Raises Locked, on all.
    """
    if workdir is None:
        yield
        return
    workdir = Path(workdir).resolve()
    made = [path for path in (workdir, *workdir.parents) if not path.exists()]
    file = agreed(lambda: taken(workdir) if jax.process_index() == 0 else None, Locked)
    try:
        yield
    finally:
        if file is not None:
            with contextlib.suppress(OSError):  # a disk that has become read-only, say
                (workdir / FILE).unlink()
            os.close(file)
            with contextlib.suppress(OSError):
                for path in made:
                    path.rmdir()


def taken(workdir: Path) -> int:
    """Returns the open file of the lock of `workdir`, which is ours; raises Locked."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        while True:
            file = os.open(workdir / FILE, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in BUSY:
                    raise Locked(busy(workdir, file)) from error
                warnings.warn(
                    f"{workdir} is on a file system without locks ({error.strerror}): see to it that no "
                    "other process trains there",
                    RuntimeWarning,
                    stacklevel=2,
                )
            if current(workdir / FILE, file):
                break
            os.close(file)  # the one before us removed it between our two calls
        os.truncate(file, 0)
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()} since {started}\n".encode(), 0)
    except OSError as error:
        raise Locked(f"the workdir {workdir} cannot be written: {error.strerror}") from error
    return file


def busy(workdir: Path, file: int) -> str:
    """Says who holds the lock, whose `file` was opened, and closes it."""
    holder = os.pread(file, 200, 0).decode(errors="replace").strip()
    os.close(file)
    return (
        f"{holder or 'another process'} trains in {workdir}; wait for it to end, or end it (nothing is "
        "lost), or use another --workdir"
    )


def current(path: Path, file: int) -> bool:
    """Tells whether `path` still is the open `file`."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False
