"""What a split is, the laws it obeys, and how one is held out of another."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, UInt64

Arrays = dict[str, np.ndarray]  # one split in memory: named arrays that share their leading axis


@runtime_checkable
class Examples(Protocol):
    """One split read example by example: `len(split)` examples, `split[index]` a dict of one example."""

    def __len__(self) -> int:
        """Returns the number of examples."""
        ...

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        """Returns one example, named arrays without a leading axis."""
        ...


Split = Arrays | Examples


class Corrupt(ValueError):
    """An example whose stored bytes are damaged; the message names the file or record."""


class Skipping:
    """A split read by example whose corrupt examples are skipped where it is read, and counted.

    `split[index]` raises `Corrupt` as ever. What reads the whole split leaves that example out; a batch for
    training has the next intact one in its place, so all others stay where they are, and a pass for
    evaluation masks it. `skipped` tells why for each index skipped so far, `name` what the split is called.
    """

    def __init__(self, split: Examples, name: str):
        """Wraps `split`; reads nothing yet."""
        self.split, self.name = split, name
        self.skipped: dict[int, str] = {}

    def __len__(self) -> int:
        """Returns the number of examples, corrupt ones among them."""
        return len(self.split)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        """Returns one example, or raises `Corrupt`."""
        return self.split[index]

    def note(self, index: int, reason: str) -> None:
        """Counts a skipped example and warns of it, the first time."""
        if index not in self.skipped:
            self.skipped[index] = reason
            warnings.warn(
                f"{self.name}: {reason}; skipped, {len(self.skipped):,} of {len(self):,} examples so far",
                RuntimeWarning,
                stacklevel=2,
            )


def intact(split: Examples) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (index, example) of a split read by example, without those that a `Skipping` one skips."""
    for index in range(len(split)):
        try:
            yield index, split[index]
        except Corrupt as error:
            if not isinstance(split, Skipping):
                raise
            split.note(index, str(error))


class Source(NamedTuple):
    """A data set, checked.

    `splits` has "train", "test" and, unless its fraction is 0, "validation". A split is a dict of arrays that
    share their leading axis, or a sequence of examples decoded when read. `classes` names the labels.
    `statistics`, mean and standard deviation of each channel in units of the stored pixels, is there only
    for a set too large to have them computed before every run.
    """

    splits: dict[str, Any]
    classes: tuple[str, ...]
    statistics: tuple[np.ndarray, np.ndarray] | None = None


def length(split: Split) -> int:
    """Returns the number of examples of a split of either kind."""
    return len(next(iter(split.values()))) if isinstance(split, dict) else len(split)


def held_out(labels: Int[np.ndarray, "n"], fraction: float | int) -> Bool[np.ndarray, "n"]:
    """Marks `fraction` of the examples of each class, always the same ones.

    The choice depends on positions and labels alone: on no seed, and on no generator whose stream another
    version of a library might change. round(fraction * n) examples are marked; each class gives its share, to
    within one example.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"a held-out fraction of {fraction} is outside 0 <= fraction < 1")
    scattered = np.argsort(_scatter(np.arange(len(labels), dtype=np.uint64)), kind="stable")
    mask = np.zeros(len(labels), bool)
    names, counts = np.unique(labels, return_counts=True)
    shares = np.floor(fraction * counts).astype(int)
    remainders = np.argsort(shares - fraction * counts, kind="stable")
    shares[remainders[: round(fraction * len(labels)) - shares.sum()]] += 1
    for label, share in zip(names, shares, strict=True):
        mask[scattered[labels[scattered] == label][:share]] = True
    return mask


def folds(labels: Int[np.ndarray, "n"], count: int) -> Int[np.ndarray, "n"]:
    """Returns to which of `count` folds each example belongs, always the same one.

    Folds are equal in size and in their share of each class, to within one example. Like that of `held_out`,
    the choice depends on positions and labels alone.
    """
    if not 2 <= count <= len(labels):
        raise ValueError(f"{count} folds of {len(labels)} examples; there can be 2 to {len(labels)}")
    scattered = np.argsort(_scatter(np.arange(len(labels), dtype=np.uint64)), kind="stable")
    by_class = scattered[np.argsort(labels[scattered], kind="stable")]
    result = np.empty(len(labels), int)
    result[by_class] = np.arange(len(labels)) % count
    return result


def few(split: Split, count: int, seed: int) -> Arrays:
    """Returns `count` examples of each class of a labelled split, in memory, drawn by `seed`.

    The draw depends on the seed, on positions and on labels alone; of two counts with one seed, the fewer
    examples are among the more. Examples keep their order. Raises ValueError when a class has not so many.
    """
    if count < 1:
        raise ValueError(f"{count} examples of each class were asked for; at least 1 is needed")
    if isinstance(split, dict):
        rows = np.flatnonzero(drawn(split["label"], count, seed))
        return {name: array.take(rows, axis=0) for name, array in split.items()}
    labels = np.full(len(split), -1)
    for index, example in intact(split):
        labels[index] = int(example["label"])
    examples = [split[index] for index in np.flatnonzero(drawn(labels, count, seed)).tolist()]
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def drawn(labels: Int[np.ndarray, "n"], count: int, seed: int) -> Bool[np.ndarray, "n"]:
    """Marks `count` examples of each class, drawn by `seed`; see `few`. A label of -1 is of no class."""
    start = _scatter(np.array([seed % 2**64], np.uint64))
    scattered = np.argsort(_scatter(start + np.arange(len(labels), dtype=np.uint64)), kind="stable")
    mask = np.zeros(len(labels), bool)
    for label in np.unique(labels[labels != -1]):
        found = scattered[labels[scattered] == label]
        if len(found) < count:
            raise ValueError(f"{count} examples of each class were asked for; class {label} has {len(found)}")
        mask[found[:count]] = True
    return mask


def _scatter(position: UInt64[np.ndarray, "n"]) -> UInt64[np.ndarray, "n"]:
    """Maps positions to well-mixed 64-bit numbers: SplitMix64 (Steele, Lea and Flood 2014)."""
    mixed = (position + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def check(split: Split, classes: Sequence[str] = (), name: str = "the split") -> Split:
    """Returns the split, having checked it; raises a ValueError that names the first fault.

    Refused: no examples, arrays of different lengths, NaN or infinity in float arrays, and `label`s that are
    not integers in 0..len(classes)-1. Arrays are checked at once. A split read by example comes back wrapped,
    and each example is checked when it is read.
    """
    if not isinstance(split, dict):
        if len(split) == 0:
            raise ValueError(f"{name} is empty; a split needs at least one example")
        return Checked(split, classes, name)
    if not split:
        raise ValueError(f"{name} holds no arrays; it needs at least one, such as 'image' or 'label'")
    lengths = {key: len(array) for key, array in split.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"{name} has arrays of different lengths, {lengths}; the leading axis must be shared"
        )
    if 0 in lengths.values():
        raise ValueError(f"{name} is empty; a split needs at least one example")
    for key, array in split.items():
        _check_finite(array, f"{name}[{key!r}]", 0)
    if classes and "label" in split:
        _check_labels(split["label"], classes, f"{name}['label']", 0)
    return split


class Checked:
    """A split read by example that checks every example it gives; see `check`."""

    def __init__(self, split: Examples, classes: Sequence[str], name: str):
        """Wraps `split`; reads nothing yet."""
        self.split, self.classes, self.name = split, classes, name

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.split)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        """Returns one example, or raises a ValueError that names it."""
        example = self.split[index]
        for key, value in example.items():
            if isinstance(value, float | np.floating) or getattr(value, "dtype", None) is not None:
                _check_finite(np.asarray(value)[None], f"{self.name}[{key!r}]", index)
        if self.classes and "label" in example:
            _check_labels(np.asarray(example["label"])[None], self.classes, f"{self.name}['label']", index)
        return example


CHUNK = 4096  # rows looked at together, so that a check needs little memory beside the data


def _check_finite(array: np.ndarray, name: str, first: int) -> None:
    """Refuses NaN and infinity; `first` is the number of the first row."""
    if not np.issubdtype(array.dtype, np.inexact):
        return
    for start in range(0, len(array), CHUNK):
        rows = array[start : start + CHUNK]
        if not np.isfinite(rows).all():
            row = int(np.argmin(np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)))
            value = rows[row].reshape(-1)[np.argmin(np.isfinite(rows[row].reshape(-1)))]
            raise ValueError(
                f"{name} holds {value} in example {first + start + row}; every value must be finite: "
                "drop the example or fill the missing value"
            )


def _check_labels(labels: np.ndarray, classes: Sequence[str], name: str, first: int) -> None:
    """Refuses labels that are not integers in 0..len(classes)-1; `first` is the number of the first row."""
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{name} is of type {labels.dtype}; labels must be integers in 0..{len(classes) - 1}"
        )
    wrong = (labels < 0) | (labels >= len(classes))
    if wrong.any():
        row = int(np.argmax(wrong.reshape(len(labels), -1).any(axis=1)))
        value = labels[row].reshape(-1)[np.argmax(wrong[row].reshape(-1))]
        raise ValueError(
            f"{name} holds {value} in example {first + row}; allowed are 0..{len(classes) - 1} for the "
            f"{len(classes)} classes {', '.join(cast(Sequence[str], classes[:3]))}...: "
            "correct the label or name every class"
        )
