"""Batches as pure functions of the step, and ordered passes for evaluation.

A split is a dict of arrays, in memory, or a sequence of examples that are decoded when read; see
`dlx.data.splits`. Both go through the same two functions and come out in the same order: arrays by one gather
per batch, sequences by Grain, whose threads or processes decode the next batches while the last one is in
use. How many there are changes nothing in what comes out: element [step] of Grain's MapDataset is computed
from the step alone, and the position is the step, never the state of an iterator.
"""

import contextlib
import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int

from dlx.data.splits import Arrays, Corrupt, Skipping, Split, length

Batch = dict[str, np.ndarray]
Transform = Callable[[dict[str, Any]], dict[str, Any]]
WORKERS = "DLX_DATA_WORKERS"  # names the number of processes that decode where a caller does not


class Loaded(NamedTuple):
    """A batch as it was read, and why, by index, examples were skipped for it."""

    batch: Batch
    skipped: dict[int, str]


def batches(
    split: Split,
    size: int,
    seed: int,
    *,
    rows: slice | np.ndarray = slice(None),
    transform: Transform | None = None,
    threads: int | None = None,
    workers: int | None = None,
) -> Callable[[int], Batch]:
    """Returns `batch(step)`: shuffled epochs of the split, joined without a seam.

    Row r of batch `step` is at position p = step * size + r of an endless stream whose epoch e is a
    permutation of the split drawn from (seed, e): a pure function of (seed, step), so a run resumes from its
    step alone, and every epoch visits each example once whatever the batch size. `rows`, a slice or index
    array into the global batch, is what this process reads; it changes nothing in the order.

    A batch holds the arrays of the split, stacked, and nothing else. In particular it has no `mask`: every
    row counts. The batches of `passes` do have one.

    `transform` maps one example (a dict without a leading axis) to another, deterministically. It is for
    splits that are read by example; arrays are transformed beforehand, or on the device inside the step.
    `threads` decode ahead, one per core by default; reading steps in order is what they speed up. `workers`
    are processes that do so, each with its share of the threads: for decoding that holds Python's lock, since
    they take seconds to start. By default there are as many as the variable DLX_DATA_WORKERS says, else none.
    What a worker reads must be a function of the split alone that pickles.

    A corrupt example raises `Corrupt`, which names it and its position. Of a `Skipping` split the next intact
    example is in its place, and all others stay where they are.
    """
    count = _checked_count(split, size)
    if isinstance(split, dict):
        _refuse(transform)
        return lambda step: _take(split, _shuffled(count, size, seed, step)[rows])
    load = functools.partial(_load_shuffled, split, size, seed, rows, transform)
    return _ahead(load, split, *_crew(threads, workers))


def passes(
    split: Split,
    size: int,
    *,
    rows: slice | np.ndarray = slice(None),
    transform: Transform | None = None,
    threads: int | None = None,
    workers: int | None = None,
) -> Callable[[], Iterator[Batch]]:
    """Returns `examples()`, which reads the split once, in order, in batches of one size.

    Every batch has a float32 `mask` [size] beside its arrays: 1 for an example, 0 for the padding (copies of
    the first example) that fills up the last batch, so a sum weighted by it counts each example exactly once.
    Processes that read different `rows` of the same global batches all get the same number of batches, some
    perhaps of padding only. `transform`, `threads` and `workers` are as in `batches`; what a `Skipping` split
    skips is masked like padding.
    """
    count = _checked_count(split, size)
    steps = -(-count // size)

    def examples() -> Iterator[Batch]:
        if isinstance(split, dict):
            for step in range(steps):
                index, mask = _in_order(count, size, rows, step)
                yield _take(split, index) | {"mask": mask}
        else:
            load = functools.partial(_load_in_order, split, size, rows, transform)
            with contextlib.closing(_iterator(load, 0, steps, *_crew(threads, workers))) as stream:
                yield from (_noted(split, loaded) for loaded in stream)

    if isinstance(split, dict):
        _refuse(transform)
        if "mask" in split:
            raise ValueError("the split has an array named 'mask', the name that marks padding; rename it")
    return examples


def _checked_count(split: Split, size: int) -> int:
    """Returns the number of examples, having refused an empty split or batch."""
    if size < 1:
        raise ValueError(f"a batch of {size} examples was asked for; the size must be at least 1")
    if not split or length(split) == 0:
        raise ValueError("the split is empty; a batch needs at least one example")
    return length(split)


def _refuse(transform: Transform | None) -> None:
    """Refuses a per-example transform of arrays."""
    if transform is not None:
        raise ValueError(
            "transform maps one example, but this split is in memory as arrays; "
            "transform the arrays beforehand or on the device"
        )


def _cores() -> int:
    """Returns the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.lru_cache(maxsize=8)
def _order(count: int, seed: int, epoch: int) -> Int[np.ndarray, "n"]:
    """Returns in which order an epoch visits the examples."""
    return np.random.default_rng((seed, epoch)).permutation(count)


def _shuffled(count: int, size: int, seed: int, step: int) -> Int[np.ndarray, "size"]:
    """Returns the indices of the examples of a batch for training."""
    epoch, start = divmod(step * size, count)
    if start + size <= count:
        return _order(count, seed, epoch)[start : start + size]
    parts, missing = [], size
    while missing:
        parts.append(_order(count, seed, epoch)[start : start + missing])
        missing -= len(parts[-1])
        epoch, start = epoch + 1, 0
    return np.concatenate(parts)


def _in_order(
    count: int, size: int, rows: slice | np.ndarray, step: int
) -> tuple[Int[np.ndarray, "r"], Float32[np.ndarray, "r"]]:
    """Returns the indices of the examples of a batch of a pass, and its mask."""
    position = np.arange(step * size, (step + 1) * size)[rows]
    real = position < count
    return np.where(real, position, 0), real.astype(np.float32)


def _load_shuffled(
    split: Any, size: int, seed: int, rows: slice | np.ndarray, transform: Transform | None, step: int
) -> Loaded:
    """Reads a batch for training: a function of the step that a worker finds by its name."""
    batch, skipped, _ = _stack(split, _shuffled(len(split), size, seed, step)[rows], transform, step)
    return Loaded(batch, skipped)


def _load_in_order(
    split: Any, size: int, rows: slice | np.ndarray, transform: Transform | None, step: int
) -> Loaded:
    """Reads a batch of a pass, with its mask."""
    index, mask = _in_order(len(split), size, rows, step)
    batch, skipped, replaced = _stack(split, index, transform, step)
    return Loaded(batch | {"mask": np.where(replaced, np.float32(0), mask)}, skipped)


def _take(split: Arrays, indices: Int[np.ndarray, "r"]) -> Batch:
    """Gathers the rows at `indices` of every array."""
    return {name: array.take(indices, axis=0) for name, array in split.items()}


def _stack(
    split: Any, indices: Int[np.ndarray, "r"], transform: Transform | None, step: int
) -> tuple[Batch, dict[int, str], Bool[np.ndarray, "r"]]:
    """Reads the examples at `indices` and stacks them; tells which were skipped, and the rows they left."""
    batch: Batch = {}
    skipped: dict[int, str] = {}
    replaced = np.zeros(len(indices), bool)
    previous, example = None, dict[str, Any]()
    for row, index in enumerate(indices.tolist()):
        if index != previous:  # padding repeats one example, which is read once
            previous = index
            try:
                example = _intact(split, index, transform, skipped)
            except Corrupt as error:
                raise Corrupt(f"{error}; example {index} of the split, row {row} of batch {step}") from error
        replaced[row] = index in skipped
        if not row:
            values = {name: np.asarray(value) for name, value in example.items()}
            batch = {name: np.empty((len(indices), *v.shape), v.dtype) for name, v in values.items()}
        for name, array in batch.items():
            value = np.asarray(example[name])
            if value.shape != array.shape[1:] or value.dtype != array.dtype:
                raise ValueError(
                    f"{name!r} of example {index} is {value.dtype} of shape {value.shape}, others of its "
                    f"batch {array.dtype} of shape {array.shape[1:]}; bring examples to one size and type"
                )
            array[row] = value
    return batch, skipped, replaced


def _intact(split: Any, index: int, transform: Transform | None, skipped: dict[int, str]) -> dict[str, Any]:
    """Reads an example or, of a `Skipping` split, the first intact one from there on, round the end."""
    for other in range(index, index + len(split)):
        other %= len(split)
        try:
            return split[other] if transform is None else transform(split[other])
        except Corrupt as error:
            if not isinstance(split, Skipping):
                raise
            skipped[other] = str(error)
    raise Corrupt(f"{split.name}: all of its {len(split):,} examples are corrupt, such as: {skipped[index]}")


def _noted(split: Any, loaded: Loaded) -> Batch:
    """Counts what was skipped for a batch, here, in the process that reads it, and returns the batch."""
    for index, reason in loaded.skipped.items():
        split.note(index, reason)
    return loaded.batch


def _crew(threads: int | None, workers: int | None) -> tuple[int, int]:
    """Returns the number of threads of each process that decodes, and of processes beside this one."""
    text = os.environ.get(WORKERS, "") or "0"
    if workers is None:
        if not text.isdecimal():
            raise ValueError(f"{WORKERS}={text!r} is no number of processes; say 0, 1, 2, ...")
        workers = int(text)
    return threads or max(1, _cores() // max(1, workers)), workers


def _iterator(load: Callable[[int], Loaded], start: int, stop: int, threads: int, workers: int) -> Any:
    """Returns a Grain iterator over `load(start), load(start + 1), ...`, which runs ahead of its reader."""
    import grain  # here, because it imports JAX and only splits that are decoded need it

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    stream = grain.MapDataset.range(start, stop).map(load).to_iter_dataset(options)
    if not workers:
        return iter(stream)

    from absl import flags

    if not flags.FLAGS.is_parsed():  # Grain asks for a flag of its own, and programs may have none
        flags.FLAGS.mark_as_parsed()
    by_pipe = grain.experimental.DatasetOptions(min_shm_size=2**62)  # arrays that own their memory
    stream = grain.experimental.WithOptionsIterDataset(stream, by_pipe)
    return iter(stream.mp_prefetch(grain.MultiprocessingOptions(workers, per_worker_buffer_size=2)))


def _ahead(load: Callable[[int], Loaded], split: Any, threads: int, workers: int) -> Callable[[int], Batch]:
    """Returns a function equal to `load`, served by threads or processes that run ahead of steps in order."""
    lock = threading.Lock()
    streams: list[Any] = []  # the one that is open
    expected = None

    def close() -> None:
        while streams:
            streams.pop().close()

    def batch(step: int) -> Batch:
        nonlocal expected
        with lock:
            if step != expected:
                close()
                streams.append(_iterator(load, int(step), 2**62, threads, workers))
            expected = None  # a failed read leaves the stream anywhere
            loaded = next(streams[0])
            expected = step + 1
            return _noted(split, loaded)

    weakref.finalize(batch, close)
    return batch
