"""Batches as pure functions of the step, and ordered passes for evaluation.

A split is a dict of arrays, in memory, or a sequence of examples that are decoded when read; see
`dlx.data.splits`. Both go through the same two functions and come out in the same order: arrays by one gather
per batch, sequences by threads that decode the next batches while the last one is in use.
"""

import contextlib
import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Int

from dlx.data.splits import Arrays, Split, length

Batch = dict[str, np.ndarray]
Transform = Callable[[dict[str, Any]], dict[str, Any]]


def batches(
    split: Split,
    size: int,
    seed: int,
    *,
    rows: slice | np.ndarray = slice(None),
    transform: Transform | None = None,
    threads: int | None = None,
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
    `threads` decode ahead, one per core by default; reading steps in order is what they speed up.
    """
    count = _checked_count(split, size)

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> Int[np.ndarray, "n"]:
        return np.random.default_rng((seed, epoch)).permutation(count)

    def indices(step: int) -> Int[np.ndarray, "r"]:
        epoch, start = divmod(step * size, count)
        if start + size <= count:
            return order(epoch)[start : start + size][rows]
        parts, missing = [], size
        while missing:
            parts.append(order(epoch)[start : start + missing])
            missing -= len(parts[-1])
            epoch, start = epoch + 1, 0
        return np.concatenate(parts)[rows]

    if isinstance(split, dict):
        _refuse(transform)
        return lambda step: _take(split, indices(step))
    return _ahead(lambda step: _stack(split, indices(step), transform), threads or _cores())


def passes(
    split: Split,
    size: int,
    *,
    rows: slice | np.ndarray = slice(None),
    transform: Transform | None = None,
    threads: int | None = None,
) -> Callable[[], Iterator[Batch]]:
    """Returns `examples()`, which reads the split once, in order, in batches of one size.

    Every batch has a float32 `mask` [size] beside its arrays: 1 for an example, 0 for the padding (copies of
    the first example) that fills up the last batch, so a sum weighted by it counts each example exactly once.
    Processes that read different `rows` of the same global batches all get the same number of batches, some
    perhaps of padding only. `transform` and `threads` are as in `batches`.
    """
    count = _checked_count(split, size)
    steps = -(-count // size)

    def indices(step: int) -> tuple[Int[np.ndarray, "r"], np.ndarray]:
        position = np.arange(step * size, (step + 1) * size)[rows]
        real = position < count
        return np.where(real, position, 0), real.astype(np.float32)

    def load(step: int) -> Batch:
        index, mask = indices(step)
        if isinstance(split, dict):
            return _take(split, index) | {"mask": mask}
        return _stack(split, index, transform) | {"mask": mask}

    def examples() -> Iterator[Batch]:
        if isinstance(split, dict):
            yield from map(load, range(steps))
        else:
            with contextlib.closing(_iterator(load, steps, threads or _cores())) as stream:
                yield from stream

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


def _take(split: Arrays, indices: Int[np.ndarray, "r"]) -> Batch:
    """Gathers the rows at `indices` of every array."""
    return {name: array.take(indices, axis=0) for name, array in split.items()}


def _stack(split: Any, indices: Int[np.ndarray, "r"], transform: Transform | None) -> Batch:
    """Reads the examples at `indices` and stacks them."""
    batch: Batch = {}
    previous, example = None, dict[str, Any]()
    for row, index in enumerate(indices.tolist()):
        if index != previous:  # padding repeats one example, which is read once
            previous, example = index, split[index] if transform is None else transform(split[index])
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
    return batch


def _iterator(load: Callable[[int], Batch], steps: int, threads: int) -> Any:
    """Returns a Grain iterator over `load(0), load(1), ...` whose threads run ahead of its reader."""
    import grain  # here, because it imports JAX and only splits that are decoded need it

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(grain.MapDataset.range(steps).map(load).to_iter_dataset(options))


def _ahead(load: Callable[[int], Batch], threads: int) -> Callable[[int], Batch]:
    """Returns a function equal to `load`, served by threads that run ahead when steps come in order."""
    lock = threading.Lock()
    stream, expected = None, None

    def batch(step: int) -> Batch:
        nonlocal stream, expected
        with lock:
            if stream is None:
                stream = _iterator(load, 2**62, threads)
                weakref.finalize(batch, stream.close)
            if step != expected:
                stream.set_state({"next_index": int(step)})
            expected = None  # a failed read leaves the stream anywhere
            result = next(stream)
            expected = step + 1
            return result

    return batch
