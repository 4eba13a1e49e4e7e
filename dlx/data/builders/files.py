"""Raw files: where they may lie, whether they are the right ones, and how they are downloaded."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

TIMEOUT = 10  # seconds without an answer or a byte after which there is no network


class Raw(NamedTuple):
    """A file that a builder reads. `verify(path)` raises a ValueError unless `path` holds the right bytes."""

    name: str
    url: str
    about: str  # what the right file is, for people
    verify: Callable[[Path], None]
    aliases: tuple[str, ...] = ()  # patterns of other names that it may go by


def registered(prefix: str) -> tuple[Raw, ...]:
    """Returns the files of `checksums.tsv` whose addresses begin with `prefix`, in the table's order."""
    table = Path(__file__).with_name("checksums.tsv").read_text()
    rows = [line.split("\t") for line in table.splitlines() if line.startswith(prefix)]
    return tuple(_row(url, int(size), sha256, name) for url, size, sha256, name in rows)


def _row(url: str, size: int, sha256: str, name: str) -> Raw:
    """Returns a file known by its size in bytes and its SHA-256."""
    about = f"{size:,} bytes, sha256 {sha256}"

    def verify(path: Path) -> None:
        actual = f"{path.stat().st_size:,} bytes, sha256 {_sha256(path)}"
        if actual != about:
            raise ValueError(
                f"{path} is not the registered file: expected {about}; found {actual}. "
                "Replace it, or remove it so that it is downloaded"
            )

    return Raw(name, url, about, verify)


def _sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def collect(
    raws: Sequence[Raw], dataset: str, manual_dir: Path | None, cache: Path, progress: bool
) -> dict[str, Path]:
    """Returns {name: path} of verified raw files: from `manual_dir`, else `cache`, else downloaded to it.

    In `manual_dir` a file is looked for under `<dataset>/` first, then at the top; a wrong one there is
    refused with a ValueError. If files are missing and cannot be downloaded, one FileNotFoundError lists all
    of them.
    """
    found: dict[str, Path] = {}
    for raw in raws:
        path = _manual(raw, dataset, manual_dir)
        if path is not None:
            raw.verify(path)
        else:
            path = cache / raw.name
            try:
                raw.verify(path)
            except (ValueError, OSError):
                continue  # not there, or damaged since: download it again
        found[raw.name] = path
    missing = [raw for raw in raws if raw.name not in found]
    for raw in missing:
        try:
            found[raw.name] = _download(raw, cache, progress)
        except OSError as error:
            left = [raw for raw in missing if raw.name not in found]
            raise FileNotFoundError(_missing(left, dataset, manual_dir, error)) from error
    return found


def _manual(raw: Raw, dataset: str, manual_dir: Path | None) -> Path | None:
    """Returns where `manual_dir` has the file, if it has."""
    if manual_dir is None:
        return None
    for folder in (manual_dir / dataset, manual_dir):
        if (folder / raw.name).exists():
            return folder / raw.name
        for alias in raw.aliases:
            for path in sorted(folder.glob(alias)):
                return path
    return None


def _missing(raws: Sequence[Raw], dataset: str, manual_dir: Path | None, error: OSError) -> str:
    """Says which files are missing, why they could not be downloaded and where to put them."""
    reason = getattr(error, "reason", None) or error
    files = "\n".join(f"  {raw.name}: {raw.about}\n    from {raw.url}" for raw in raws)
    folder = "the folder that --manual_dir or the variable DLX_DATA_DIR names"
    place = (
        f"{manual_dir / dataset} (or {manual_dir})" if manual_dir else f"{folder}, or its subfolder {dataset}"
    )
    return (
        f"{dataset} cannot be prepared: {len(raws)} of its files missing, and no download ({reason}).\n"
        f"{files}\nPut the files into {place}, or connect to the network, and start again."
    )


def _download(raw: Raw, cache: Path, progress: bool) -> Path:
    """Downloads a file to `cache`; it takes its name there only once it is complete and verified."""
    import urllib.request  # here, because it takes as long to import as a data set to start

    import tqdm

    with urllib.request.urlopen(raw.url, timeout=TIMEOUT) as answer:
        total = int(answer.headers.get("Content-Length") or 0) or None
        cache.mkdir(parents=True, exist_ok=True)
        partial = cache / f".{raw.name}.{os.getpid()}.partial"
        try:
            bar = tqdm.tqdm(
                total=total, desc=raw.name, unit="B", unit_scale=True, disable=not progress, leave=False
            )
            with bar, partial.open("wb") as stream:
                while block := answer.read(1 << 16):
                    stream.write(block)
                    bar.update(len(block))
            try:
                raw.verify(partial)
            except ValueError as error:
                raise ValueError(f"{raw.url} gave something else than {raw.name}: {error}") from error
            os.replace(partial, cache / raw.name)
        finally:
            with contextlib.suppress(FileNotFoundError):
                partial.unlink()
    return cache / raw.name
