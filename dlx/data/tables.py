"""Columns of a table made into numbers, by what the training part taught.

A table is a dict of columns of one length: numbers, NaN where one is missing, or strings, which are
categories; a missing category is the empty string, a category like any other. `learn` sees the training part
alone; `encode` applies what it found to any part. `dumps` and `loads` keep it, as JSON, with a run.
"""

import json
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Num, Shaped

Table = Mapping[str, np.ndarray]
TRANSFORMS = ("none", "log", "quantile")
UNKNOWN = 0  # the code of a category that training has not seen
KNOTS = 1000  # of a quantile transform, at most
ENOUGH = 10  # rows of each target: fewer may lie apart by chance


class Numeric(NamedTuple):
    """What a column of numbers taught: missing values become `median`, and all are transformed and scaled.

    `mean` and `std` are those of the filled and transformed column. With `indicator` there is a second number
    for each row, 1 where the value was missing. `knots` and their `scores` are a quantile transform's.
    """

    median: float
    indicator: bool
    transform: str
    mean: float
    std: float
    knots: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()


class Columns(NamedTuple):
    """What a table taught: {column: numbers} and {column: its categories, of codes 1, 2 ...}, in order."""

    numeric: dict[str, Numeric]
    categorical: dict[str, tuple[str, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        """Returns what each of the numbers of a row is: columns, each before its indicator."""
        pairs = ((name, f"{name} is missing") for name in self.numeric)
        return tuple(
            label for pair in pairs for label in (pair if self.numeric[pair[0]].indicator else pair[:1])
        )

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Returns how many codes each categorical column has, that of the unknown among them."""
        return tuple(1 + len(categories) for categories in self.categorical.values())


def faults(
    table: Table, target: Shaped[np.ndarray, "n"] | None = None, *, leaks: bool = True
) -> dict[str, str]:
    """Returns {column: what is wrong with it} of the columns that teach nothing or give the answer away.

    That is one whose values are all missing or all equal, holds an infinite number, or `leaks` the target: is
    a copy of it (up to scale, or by other names), or parts the two values of a target without an overlap.
    """
    found = {}
    for name, column in table.items():
        text = column.dtype.kind == "U"
        missing = column == "" if text else np.isnan(_numbers(name, column))
        observed = column[~missing]
        if missing.all():
            found[name] = "has no value in any row"
        elif not text and np.isinf(_numbers(name, observed)).any():
            found[name] = "holds an infinite number"
        elif (observed == observed[0]).all() and not (text and missing.any()):
            found[name] = f"has one value in all rows, {observed[0]}"
        elif target is not None and leaks and (fault := _leak(column, missing, target)):
            found[name] = fault
    return found


def learn(
    table: Table,
    target: Shaped[np.ndarray, "n"] | None = None,
    *,
    transform: str = "none",
    transforms: Mapping[str, str] | None = None,
    indicators: bool = True,
    leaks: bool = True,
) -> Columns:
    """Returns what the training part of a table, without its target, teaches about its columns.

    `transform` is that of all columns of numbers but those of `transforms`, {column: its transform}: "none";
    "log", sign(x) log(1 + |x|); or "quantile", to the normal distribution of the same rank. Then numbers are
    scaled to mean 0 and standard deviation 1. A column with missing values gets an indicator, unless
    `indicators` is false.

    Raises a ValueError that names every column with `faults`, an unknown transform, columns of different
    lengths, or a target that is constant.
    """
    if not table:
        raise ValueError("the table has no columns; at least one is needed to learn from")
    lengths = {name: len(column) for name, column in table.items()}
    if target is not None:
        lengths["the target"] = len(target)
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise ValueError(f"columns must have one length, at least 1, not {lengths}")
    if target is not None and (target == target[0]).all():
        raise ValueError(f"the target is {target[0]} in all {len(target)} rows: there is nothing to learn")
    if bad := faults(table, target, leaks=leaks):
        lines = "".join(f"\n  column {name!r} {fault}" for name, fault in bad.items())
        raise ValueError(f"these columns cannot be learned from; drop them (config.columns.drop):{lines}")
    own = dict(transforms or {})
    numbers = [name for name, column in table.items() if column.dtype.kind != "U"]
    if strangers := [name for name in own if name not in numbers]:
        raise ValueError(f"transforms are of no column of numbers: {strangers}; there are {numbers}")
    return Columns(
        {name: _numeric(table[name], own.get(name, transform), indicators) for name in numbers},
        {
            name: tuple(np.unique(column).tolist())
            for name, column in table.items()
            if column.dtype.kind == "U"
        },
    )


def encode(columns: Columns, table: Table) -> dict[str, np.ndarray]:
    """Returns "numbers" float32 [n, d] and "codes" int32 [n, c] of a table, by what was learned.

    The numbers go by `columns.names`; a category that training has not seen has the code 0. Columns that were
    not learned from are left out; one that was and is not there is a ValueError.
    """
    if lacking := [name for name in (*columns.numeric, *columns.categorical) if name not in table]:
        raise ValueError(f"the table lacks columns that were learned from: {lacking}")
    rows = len(next(iter(table.values())))
    numbers = []
    for name, about in columns.numeric.items():
        values = _numbers(name, table[name])
        missing = np.isnan(values)
        scaled = (_transformed(np.where(missing, about.median, values), about) - about.mean) / about.std
        if not np.isfinite(scaled).all():
            raise ValueError(f"column {name!r} holds an infinite number in row {np.isinf(values).argmax()}")
        numbers += [scaled, missing] if about.indicator else [scaled]
    codes = []
    for name, categories in columns.categorical.items():
        places = np.searchsorted(categories, table[name])
        found = np.asarray(categories)[np.minimum(places, len(categories) - 1)] == table[name]
        codes.append(np.where(found, 1 + places, UNKNOWN))
    return {
        "numbers": np.stack(numbers, 1).astype(np.float32) if numbers else np.zeros((rows, 0), np.float32),
        "codes": np.stack(codes, 1).astype(np.int32) if codes else np.zeros((rows, 0), np.int32),
    }


def dumps(columns: Columns) -> str:
    """Returns what was learned as JSON, the same text for the same training part."""
    numeric = {
        name: {field: value for field, value in about._asdict().items() if value != ()}
        for name, about in columns.numeric.items()
    }
    return json.dumps({"numeric": numeric, "categorical": columns.categorical}, indent=1) + "\n"


def loads(text: str) -> Columns:
    """Returns what `dumps` wrote."""
    read: dict[str, Any] = json.loads(text)
    numeric = {}
    for name, about in read["numeric"].items():
        knots, scores = (tuple(about.pop(field, ())) for field in ("knots", "scores"))
        numeric[name] = Numeric(**about, knots=knots, scores=scores)
    return Columns(numeric, {name: tuple(values) for name, values in read["categorical"].items()})


def without(table: Table, drop: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns a table without some columns; a ValueError if one of them is not there."""
    if strangers := [name for name in drop if name not in table]:
        raise ValueError(f"there are no columns {strangers} to drop; there are {list(table)}")
    return {name: column for name, column in table.items() if name not in drop}


def _numbers(name: str, column: Shaped[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    if column.ndim != 1 or column.dtype.kind not in "fiub":
        raise ValueError(
            f"column {name!r} is {column.dtype} of shape {column.shape}; a column is numbers or strings [n]"
        )
    return column.astype(np.float64)


def _numeric(
    column: Num[np.ndarray, "n"] | Shaped[np.ndarray, "n"], transform: str, indicators: bool
) -> Numeric:
    """Learns from one column that has no fault."""
    if transform not in TRANSFORMS:
        raise ValueError(f"unknown transform {transform!r}; there are {', '.join(TRANSFORMS)}")
    values = column.astype(np.float64)
    missing = np.isnan(values)
    median = float(np.median(values[~missing]))
    about = Numeric(median, bool(indicators and missing.any()), transform, 0.0, 1.0)
    if transform == "quantile":
        knots, scores = _quantiles(values[~missing])
        about = about._replace(knots=knots, scores=scores)
    filled = _transformed(np.where(missing, median, values), about)
    return about._replace(mean=float(filled.mean()), std=float(filled.std()))


def _quantiles(values: Float64[np.ndarray, "n"]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns distinct quantiles of values, and the normal quantiles of the same rank.

    Where several ranks have one value, its score is the mean of theirs. The outermost scores are those of
    half an example away from the ends.
    """
    count = len(values)
    shares = np.linspace(0, 1, min(KNOTS, max(count, 2)))
    knots, place = np.unique(np.quantile(values, shares, method="nearest"), return_inverse=True)
    normal = NormalDist()
    inside = np.clip(shares, 0.5 / count, 1 - 0.5 / count)
    scores = np.bincount(place, [normal.inv_cdf(share) for share in inside]) / np.bincount(place)
    return tuple(knots.tolist()), tuple(scores.tolist())


def _transformed(values: Float64[np.ndarray, "n"], about: Numeric) -> Float64[np.ndarray, "n"]:
    if about.transform == "log":
        return np.sign(values) * np.log1p(np.abs(values))
    if about.transform == "quantile":
        return np.where(np.isfinite(values), np.interp(values, about.knots, about.scores), values)
    return values


def _leak(
    column: Shaped[np.ndarray, "n"], missing: Shaped[np.ndarray, "n"], target: Shaped[np.ndarray, "n"]
) -> str:
    """Says how a column gives the target away, "" if it does not."""
    same = "is a copy of the target, which would leak"
    kinds = np.unique(target)
    if column.dtype.kind == "U" or target.dtype.kind == "U":
        if len(kinds) > len(target) // 2:  # as many targets as rows: any names would do
            return ""
        pairs = {tuple(pair) for pair in zip(column.tolist(), target.tolist(), strict=True)}
        return same if len(pairs) == len(np.unique(column)) == len(kinds) else ""
    values, answers = column[~missing].astype(np.float64), target[~missing].astype(np.float64)
    if len(values) < 3 or np.ptp(answers) == 0:
        return ""
    left, right = (part - part.mean() for part in (values, answers))
    if abs(left @ right) >= (1 - 1e-12) * np.sqrt((left @ left) * (right @ right)):
        return same
    if len(kinds) == 2:
        low, high = values[answers == answers.min()], values[answers == answers.max()]
        apart = low.max() < high.min() or high.max() < low.min()
        if apart and min(len(low), len(high)) >= ENOUGH:
            return "alone tells the two targets apart in every row, which is the mark of a leak"
    return ""
