"""Batches of text: documents padded, in buckets or packed, and the streams of a language model.

Documents become arrays once, in memory, and then go through `dlx.data.pipeline` like any other; what is drawn
anew at every step is a pure function of (seed, step). A target is the token after: `targets[i]` is what comes
after `tokens[i]`, and `weights` says which targets count.
"""

import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Int32

from dlx.data import pipeline
from dlx.data.pipeline import Batch
from dlx.data.splits import Arrays

Rows = slice | np.ndarray


def shifted(ids: Int32[np.ndarray, "t"], weights: np.ndarray | None = None) -> Arrays:
    """Returns {"tokens", "targets", "weights"} [t - 1] of a document that predicts its next tokens.

    `weights` [t], 1 by default, says of each token if it counts as a target: 0 for a prompt, 1 for a reply.
    """
    weights = np.ones(len(ids), np.float32) if weights is None else np.asarray(weights, np.float32)
    if len(weights) != len(ids):
        raise ValueError(f"there are {len(ids)} tokens but {len(weights)} weights")
    return {"tokens": ids[:-1], "targets": ids[1:], "weights": weights[1:]}


def pack(documents: Sequence[Mapping[str, np.ndarray]], length: int) -> Arrays:
    """Packs documents into rows of one length: {name: [n, length]}, with "segments" and "positions".

    A document is a dict of arrays that share their one axis, such as {"tokens": ids} or what `shifted`
    returns. It stays whole if it fits into a row, else it is cut into pieces of `length`. `segments` is 1, 2,
    ... for the pieces of a row and 0 for padding, where all else is 0 too; `positions` counts from 0 in each
    piece. Every element is in exactly one place; documents without elements leave no trace. Rows are filled
    best-fit decreasing (Johnson 1974), so few places are padding.
    """
    lengths = [_shared_length(document, index) for index, document in enumerate(documents)]
    if length < 1 or not sum(lengths):
        raise ValueError(f"nothing to pack: {len(lengths)} documents without tokens, rows of length {length}")
    pieces = [
        (document, start, min(start + length, size))
        for document, size in enumerate(lengths)
        for start in range(0, size, length)
    ]
    pieces.sort(key=lambda piece: piece[1] - piece[2])
    rows = _fitted([stop - start for _, start, stop in pieces], length)
    first = documents[pieces[0][0]]
    shape = (len(rows), length)
    packed = {name: np.zeros(shape, array.dtype) for name, array in first.items()}
    segments, positions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for row, members in enumerate(rows):
        begin = 0
        for segment, member in enumerate(members, 1):
            document, start, stop = pieces[member]
            end = begin + stop - start
            if documents[document].keys() != first.keys():
                raise ValueError(f"document {document} has {list(documents[document])}, others {list(first)}")
            for name, array in documents[document].items():
                packed[name][row, begin:end] = array[start:stop]
            segments[row, begin:end] = segment
            positions[row, begin:end] = np.arange(stop - start)
            begin = end
    return packed | {"segments": segments, "positions": positions}


def pad(examples: Sequence[Mapping[str, Any]], length: int) -> Arrays:
    """Pads the sequences of examples to one length: {name: [n, length]}, and bool {name}_mask [n, length].

    An example is a dict of one-dimensional arrays, which are padded with 0, and of numbers, which are stacked
    as they are. A sequence longer than `length` is refused with a ValueError: cut it first.
    """
    if not examples:
        raise ValueError("there are no examples to pad")
    padded: Arrays = {}
    for name, value in examples[0].items():
        column = [np.asarray(example[name]) for example in examples]
        if np.ndim(value) == 0:
            stacked = np.array(column)
            narrow = {"int64": np.int32, "float64": np.float32}.get(stacked.dtype.name, stacked.dtype)
            padded[name] = stacked.astype(narrow)
            continue
        sizes = np.array([len(array) for array in column])
        if sizes.max() > length:
            index = int(sizes.argmax())
            raise ValueError(
                f"{name!r} of example {index} has {sizes[index]} tokens, as have "
                f"{int((sizes > length).sum()) - 1} others more than {length}; cut them or allow more"
            )
        mask = np.arange(length) < sizes[:, None]
        values = np.zeros(mask.shape, column[0].dtype)
        values[mask] = np.concatenate(column)
        padded |= {name: values, f"{name}_mask": mask}
    return padded


def buckets(examples: Sequence[Mapping[str, Any]], lengths: Sequence[int]) -> dict[int, Arrays]:
    """Sorts examples by length into few shapes: {length: what `pad` returns, and "index" [n]}.

    An example goes to the smallest of `lengths` that holds its longest sequence. `index` is its place in
    `examples`. Lengths that no example needs are left out; an example too long for all is an error.
    """
    ordered = sorted(lengths)
    members: dict[int, list[int]] = {length: [] for length in ordered}
    for index, example in enumerate(examples):
        longest = max(len(value) for value in example.values() if np.ndim(value))
        place = bisect.bisect_left(ordered, longest)
        if place == len(ordered):
            raise ValueError(
                f"example {index} has {longest} tokens, more than the longest bucket of {ordered[-1]}; "
                "cut it, drop it or add a length"
            )
        members[ordered[place]].append(index)
    return {
        length: pad([dict(examples[index], index=index) for index in indices], length)
        for length, indices in members.items()
        if indices
    }


def bucket_batches(
    filled: Mapping[int, Arrays], size: int, seed: int, *, rows: Rows = slice(None)
) -> Callable[[int], Batch]:
    """Returns `batch(step)`: shuffled batches, each from one bucket, as `pipeline.batches` gives them.

    Buckets take turns in an order drawn from (seed, epoch), in proportion to their examples: after any number
    of epochs each has given all its examples as often, to within a batch. A pure function of (seed, step).
    """
    lengths = sorted(filled)
    counts = [len(next(iter(filled[length].values()))) for length in lengths]
    streams = [pipeline.batches(filled[length], size, seed, rows=rows) for length in lengths]
    total = sum(counts)

    def taken(epoch: int) -> Int[np.ndarray, "k"]:  # batches of each bucket before an epoch
        return np.array([epoch * count // size for count in counts])

    def batch(step: int) -> Batch:
        epoch = step * size // total
        while taken(epoch + 1).sum() <= step:
            epoch += 1
        before = taken(epoch)
        order = np.repeat(np.arange(len(lengths)), taken(epoch + 1) - before)
        order = np.random.default_rng((seed, epoch)).permutation(order)
        place = step - int(before.sum())
        bucket = int(order[place])
        return streams[bucket](int(before[bucket] + (order[:place] == bucket).sum()))

    return batch


def bucket_passes(
    filled: Mapping[int, Arrays], size: int, *, rows: Rows = slice(None)
) -> Callable[[], Iterator[Batch]]:
    """Returns `examples()`, which reads every bucket once, the shortest first, as `pipeline.passes` does.

    `index` beside `mask` puts what is computed back into the order of the examples.
    """
    streams = [pipeline.passes(filled[length], size, rows=rows) for length in sorted(filled)]
    return lambda: (batch for stream in streams for batch in stream())


def windows(
    tokens: Int32[np.ndarray, "n"], length: int, size: int, seed: int, *, rows: Rows = slice(None)
) -> Callable[[int], Batch]:
    """Returns `batch(step)`: windows of a stream that begin anywhere, drawn from (seed, step).

    {"tokens", "targets"}, int32 [size, length]. There are no epochs: this is how nanoGPT trains.
    """
    _checked_stream(tokens, length + 1, "one window and its last target")

    def batch(step: int) -> Batch:
        starts = np.random.default_rng((seed, step)).integers(len(tokens) - length, size=size)[rows]
        return _window(tokens, starts, length)

    return batch


def chunks(tokens: Int32[np.ndarray, "n"], length: int) -> Arrays:
    """Cuts a stream into rows end to end: {"tokens", "targets", "weights"} [ceil((n - 1) / length), length].

    Every token but the first is a target exactly once, with as much context as its row has before it; the
    last row is padded with 0 and weight 0. Read by `weighted_passes` it evaluates a language model.
    """
    _checked_stream(tokens, 2, "a token and its target")
    count = len(tokens) - 1
    rows = -(-count // length)
    document = shifted(tokens)
    return {
        name: np.pad(array, (0, rows * length - count)).reshape(rows, length)
        for name, array in document.items()
    }


def weighted_passes(split: Arrays, size: int, *, rows: Rows = slice(None)) -> Callable[[], Iterator[Batch]]:
    """Returns `examples()` as `pipeline.passes`, with "weights" 0 in the rows that fill up the last batch.

    So a sum over `weights` counts every target exactly once. `split` is what `chunks` or `pack` return.
    """
    ordered = pipeline.passes(split, size, rows=rows)

    def examples() -> Iterator[Batch]:
        for batch in ordered():
            yield batch | {"weights": batch["weights"] * batch["mask"][:, None]}

    return examples


def contiguous(
    tokens: Int32[np.ndarray, "n"], length: int, size: int, seed: int, *, rows: Rows = slice(None)
) -> Callable[[int], Batch]:
    """Returns `batch(step)`: a stream read in `size` tracks, for backpropagation truncated after `length`.

    {"tokens", "targets"} int32 [size, length] and "reset" bool [size]. Row r of one batch goes on where row r
    of the batch before ended, so a recurrent state can be carried over; where `reset` is true an epoch begins
    and the state must be forgotten. What does not fill a batch, fewer than size * length + 1 tokens, is left
    out at both ends, by a share drawn from (seed, epoch), so that no token is left out for ever.
    """
    steps = (len(tokens) - 1) // (size * length)
    _checked_stream(tokens, size * length + 1, f"one batch of {size} rows of {length} and its last target")
    slack = len(tokens) - 1 - size * steps * length

    def batch(step: int) -> Batch:
        epoch, turn = divmod(step, steps)
        first = int(np.random.default_rng((seed, epoch)).integers(slack + 1))
        starts = (first + np.arange(size) * steps * length + turn * length)[rows]
        return _window(tokens, starts, length) | {"reset": np.full(len(starts), turn == 0)}

    return batch


def contiguous_passes(
    tokens: Int32[np.ndarray, "n"], length: int, size: int, *, rows: Rows = slice(None)
) -> Callable[[], Iterator[Batch]]:
    """Returns `examples()`, which reads a stream once in `size` tracks, for evaluation with a carried state.

    {"tokens", "targets"} int32 and "weights" float32 [size, length], "reset" bool [size], true in the first
    batch. Every token but the first has weight 1 as a target exactly once; padding has weight 0.
    """
    _checked_stream(tokens, 2, "a token and its target")
    count = len(tokens) - 1
    track = -(-count // size)

    def examples() -> Iterator[Batch]:
        for start in range(0, track, length):
            within = start + np.arange(length)
            place = np.arange(size)[rows][:, None] * track + within
            real = (within < track) & (place < count)
            index = np.where(real, place, 0)
            yield {
                "tokens": np.where(real, tokens[index], 0),
                "targets": np.where(real, tokens[index + 1], 0),
                "weights": real.astype(np.float32),
                "reset": np.full(len(place), start == 0),
            }

    return examples


def _shared_length(document: Mapping[str, np.ndarray], index: int) -> int:
    """Returns the length of a document's arrays, having refused different ones."""
    sizes = {name: len(array) for name, array in document.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"the arrays of document {index} have lengths {sizes}; they must share one")
    return next(iter(sizes.values()))


def _fitted(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Puts sizes, in falling order, each into the fullest row that has room; returns what each row holds."""
    rows: list[list[int]] = []
    by_room: dict[int, list[int]] = {}  # rows by the room they have left
    rooms: list[int] = []  # the keys of by_room that name a row, sorted
    for member, size in enumerate(sizes):
        place = bisect.bisect_left(rooms, size)
        if place == len(rooms):
            row, room = len(rows), length
            rows.append([])
        else:
            room = rooms[place]
            row = by_room[room].pop()
            if not by_room[room]:
                del rooms[place]
        rows[row].append(member)
        left = by_room.setdefault(room - size, [])
        if not left:
            bisect.insort(rooms, room - size)
        left.append(row)
    return rows


def _checked_stream(tokens: Int32[np.ndarray, "n"], needed: int, what: str) -> None:
    """Refuses a stream that is too short."""
    if len(tokens) < needed:
        raise ValueError(f"the stream has {len(tokens)} tokens; it needs at least {needed}: {what}")


def _window(tokens: Int32[np.ndarray, "n"], starts: Int[np.ndarray, "r"], length: int) -> Batch:
    """Returns the windows that begin at `starts`, and the tokens after theirs."""
    index = starts[:, None] + np.arange(length)
    return {"tokens": tokens[index], "targets": tokens[index + 1]}
