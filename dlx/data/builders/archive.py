"""Folders of files in any container, and a digest of what they hold rather than of how it is packed.

Containers come from elsewhere, so nothing is unpacked to disk, where names such as ../x or links would lead
out of the folder, nothing is unpickled, and no more memory is asked for than the bytes that are there need.
"""

import functools
import hashlib
import io
import lzma
import math
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

BROKEN = (  # how the readers of containers complain
    tarfile.TarError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,  # of members under a password, or packed in a way that Python does not know
)


def read(path: Path, pattern: str, limit: int) -> dict[str, bytes]:
    """Reads the members whose path matches `pattern` from a tar or zip file or an unpacked folder.

    `pattern` is a regular expression for the end of a member's path; its group 1 names the member in the
    result, which is sorted by name. Nothing is written to disk. Raises a ValueError if `path` is no such
    container, holds a name twice, or holds more than `limit` bytes under matching names.
    """
    members: dict[str, bytes] = {}
    total = 0
    try:
        for name, size, load in _members(path):
            match = re.search(rf"(?:^|/){pattern}$", name)
            if match is None:
                continue
            total += size
            if total > limit or match[1] in members:
                fault = "twice" if match[1] in members else f"beyond the {limit:,} bytes that are expected"
                raise ValueError(f"{path} holds {match[1]} {fault}")
            members[match[1]] = load()
    except BROKEN as error:
        raise ValueError(f"{path} is damaged or unreadable: {error}") from error
    return dict(sorted(members.items()))


def _members(path: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    """Yields (path, size in bytes, function that reads it) of each file in a container."""
    if path.is_dir():
        for file in path.rglob("*"):
            if file.is_file():
                name = path.name / file.relative_to(path)
                yield name.as_posix(), file.stat().st_size, file.read_bytes
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            for info in packed.infolist():
                yield info.filename, info.file_size, functools.partial(packed.read, info)
    elif tarfile.is_tarfile(path):
        with tarfile.open(path) as taped:
            for member in taped:
                stream = taped.extractfile(member) if member.isfile() else None
                if stream is not None:
                    yield member.name, member.size, stream.read
    else:
        raise ValueError(f"{path} is neither a folder nor a zip or tar file")


def digest(members: dict[str, bytes]) -> str:
    """Returns the SHA-256 over the lines `<sha256 of the bytes>  <name>`, sorted by name, in hexadecimal."""
    lines = (f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(members.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def array(data: bytes | bytearray, name: str) -> np.ndarray:
    """Returns the array of a .npy file: a view of its bytes, of which there must be as many as its head says.

    Raises a ValueError for anything else. Arrays of objects, which would be unpickled, are refused.
    """
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"its version is {version}")
        head = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
        shape, columns_first, kind = head(stream)
    except Exception as error:  # the head is a literal of Python, whose parser complains in many ways
        raise ValueError(f"{name} is no intact array: {error}") from error
    size, there = math.prod(shape) * kind.itemsize, len(data) - stream.tell()
    if kind.hasobject or not kind.itemsize or min(shape, default=0) < 0 or size != there:
        raise ValueError(
            f"{name} is no plain array: its head says {kind} of shape {shape}, {size:,} bytes, and there are "
            f"{there:,}"
        )
    flat = np.frombuffer(data, kind, offset=stream.tell(), count=math.prod(shape))
    return flat.reshape(shape, order="F" if columns_first else "C")
