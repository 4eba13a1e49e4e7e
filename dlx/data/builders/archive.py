"""Folders of files in any container, and a digest of what they hold rather than of how it is packed."""

import functools
import hashlib
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path


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
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
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
