"""Prepared data sets: made once from raw files, then read as arrays without TFDS.

`<data dir>/<name>/<version>/` is the set as TFDS prepares it, in array_record files, and the truth. Beside
it, `arrays-<version>/` holds the same as .npy files, because reading records one by one takes seconds and a
run should start at once. It can be deleted at any time and is made again when missing or damaged.
"""

import contextlib
import difflib
import fcntl
import io
import json
import os
import shutil
import sys
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dlx.data.builders import BUILDERS, Builder, archive, files
from dlx.data.splits import Arrays, Corrupt


class Prepared(NamedTuple):
    """A prepared data set: where it is, the examples in each split, and whether it was made just now."""

    path: Path
    sizes: dict[str, int]
    new: bool


def data_dir() -> Path:
    """Returns where prepared data sets live: TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def prepare(name: str, manual_dir: str | Path | None = None, progress: bool | None = None) -> Prepared:
    """Makes the data set `name` ready for use, unless it already is.

    Raw files are taken from `manual_dir` (None: the variable DLX_DATA_DIR), `<manual_dir>/<name>/` first,
    else downloaded. All are verified before anything is written, and the set appears in `data_dir()` only
    once it is complete. `progress` shows bars; None means on a terminal.

    Raises FileNotFoundError listing what is missing when there is no network, and ValueError for an unknown
    name or a wrong file.
    """
    builder = _builder(name)
    path = data_dir() / builder.name / builder.version
    with _lock(data_dir() / f".{builder.name}.lock"):
        if (path / "dataset_info.json").exists():
            return Prepared(path, _sizes(path), False)
        if manual_dir is None:
            manual_dir = os.environ.get("DLX_DATA_DIR")
        manual = Path(manual_dir).expanduser() if manual_dir else None
        if manual is not None and not manual.is_dir():
            raise FileNotFoundError(f"the folder of raw files, {manual}, does not exist")
        bars = sys.stderr.isatty() if progress is None else progress
        for leftover in path.parent.glob(f"incomplete.*_{path.name}"):  # of a process that was killed
            shutil.rmtree(leftover)
        module = builder.load()
        cache = data_dir() / "downloads" / builder.name
        _generate(module, files.collect(module.RAW, name, manual, cache, bars), bars)
    return Prepared(path, _sizes(path), True)


def arrays(name: str, manual_dir: str | Path | None = None) -> dict[str, Arrays]:
    """Returns {split: arrays} of the data set `name`, preparing it first if need be.

    Fixed shapes are one array. Byte strings of various lengths, such as `image` in JPEG, are two:
    all bytes on end, and under `image_ends` where each string ends.
    """
    builder = _builder(name)
    folder = data_dir() / builder.name / f"arrays-{builder.version}"
    splits = _load(folder)
    if splits is None:
        prepare(name, manual_dir)
        splits = _read(builder)
        try:
            _save(folder, splits)
        except OSError as error:
            warnings.warn(f"{folder} cannot be written, so every start reads records: {error}", stacklevel=2)
    return splits


def _builder(name: str) -> Builder:
    """Returns the catalogue's entry, or raises a ValueError with the nearest name."""
    if name not in BUILDERS:
        close = difflib.get_close_matches(name, BUILDERS)
        guess = f" did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(
            f"no data set {name!r} to prepare;{guess} There are {', '.join(sorted(BUILDERS))}. "
            "Embedded and synthetic sets need no preparing"
        )
    return BUILDERS[name]


def _sizes(path: Path) -> dict[str, int]:
    """Returns the number of examples of each split of a prepared set."""
    info = json.loads((path / "dataset_info.json").read_text())
    return {split["name"]: sum(map(int, split["shardLengths"])) for split in info["splits"]}


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Lets one process at a time through; the operating system frees the lock of one that dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        stream = path.open("a")
    except OSError:  # a folder that others prepared and we may only read
        yield
        return
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _generate(module: Any, raws: dict[str, Path], progress: bool) -> None:
    """Has TFDS write the set from verified files, in a temporary folder that it renames at the end."""
    import tensorflow_datasets as tfds

    builder = module.Builder(data_dir=data_dir(), file_format="array_record")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        manual = Path(folder) / "raw"
        manual.mkdir()
        for raw, path in raws.items():
            (manual / raw).symlink_to(path.resolve())
        options = tfds.download.DownloadConfig(
            manual_dir=manual, try_download_gcs=False, force_checksums_validation=True
        )
        if not progress:
            tfds.disable_progress_bar()
        try:
            builder.download_and_prepare(download_dir=Path(folder) / "tfds", download_config=options)
        finally:
            tfds.enable_progress_bar()


def _read(builder: Builder) -> dict[str, Arrays]:
    """Reads every record of a prepared set, images still encoded."""
    import tensorflow_datasets as tfds

    made = builder.load().Builder(data_dir=data_dir(), file_format="array_record")
    skip = {
        name: tfds.decode.SkipDecoding()
        for name, feature in made.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }
    splits = {}
    for split in made.info.splits:
        source = made.as_data_source(split, decoders=skip or None)
        columns: dict[str, list] = {}
        for start in range(0, len(source), 1000):
            for example in _records(
                source, start, min(start + 1000, len(source)), f"{split} of {builder.name}"
            ):
                for name, value in example.items():
                    columns.setdefault(name, []).append(value)
        splits[split] = {
            key: array for name, column in columns.items() for key, array in _column(name, column)
        }
    return splits


def _records(source: Any, start: int, stop: int, name: str) -> Any:
    """Returns records `start` to `stop` of a split; raises `Corrupt` that says which of them is damaged."""
    try:
        return source.__getitems__(range(start, stop))
    except Exception as error:  # of array_record and protobuf, which have no family of errors
        for index in range(start, stop):
            try:
                source[index]
            except Exception as first:
                raise Corrupt(
                    f"record {index} of {name} is damaged: {first}; remove that folder of {data_dir()}, "
                    "and the set is prepared again from its raw files"
                ) from error
        raise


def _column(name: str, values: list) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the arrays, by name, that hold one feature of all examples."""
    if isinstance(values[0], bytes):
        yield name, np.frombuffer(b"".join(values), np.uint8)
        yield f"{name}_ends", np.cumsum([len(value) for value in values])
    else:
        column = np.array(values)
        yield name, column.astype(np.int32) if column.dtype == np.int64 else column


def _save(folder: Path, splits: dict[str, Arrays]) -> None:
    """Writes arrays and, last, the manifest that makes them count; no file appears incomplete."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest: dict[str, dict[str, int]] = {}
    for split, named in splits.items():
        manifest[split] = {}
        for name, array in named.items():
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            _replace(folder / f"{split}.{name}.npy", buffer.getvalue())
            manifest[split][name] = zlib.crc32(array.tobytes())
    _replace(folder / "manifest.json", json.dumps(manifest, indent=1).encode())


def _replace(path: Path, data: bytes) -> None:
    """Writes a file under a temporary name and renames it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()


def _bytes(path: Path) -> bytearray:
    """Returns the bytes of a file, as a buffer whose arrays can be written to."""
    data = bytearray(path.stat().st_size)
    with path.open("rb") as stream:
        stream.readinto(data)
    return data


def _load(folder: Path) -> dict[str, Arrays] | None:
    """Reads what `_save` wrote; None if it is missing or any byte of an array has changed."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        splits: dict[str, Arrays] = {}
        for split, sums in manifest.items():
            splits[split] = {}
            for name, expected in sums.items():
                array = archive.array(_bytes(folder / f"{split}.{name}.npy"), name)
                if zlib.crc32(np.ascontiguousarray(array).data) != expected:
                    return None
                splits[split][name] = array
    except (OSError, ValueError, KeyError, EOFError, AttributeError, TypeError):
        return None
    return splits or None
