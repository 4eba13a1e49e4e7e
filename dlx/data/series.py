"""Time series: what they are, chronological borders, learned scaling, and windows as index arithmetic.

A window is `history` rows that are seen and the `horizon` rows after them that are forecast. It is known by
the number of its first row, so all windows of a series cost no memory: a batch gathers its rows when asked.

Missing values are NaN. In what a model sees a missing value is the last one before it in its group, or the
training mean where there is none; a column that has gaps in training is accompanied by a flag, 1 where it was
observed. In what is forecast a missing value has "observed" False, and counts neither in a loss nor a metric.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32

from dlx.data import pipeline

PERIODS = {
    "day": 1440.0,
    "week": 10080.0,
    "year": 525948.8,
}  # minutes; the year is the mean one, 365.2422 days


class Series(NamedTuple):
    """Measurements in the order of time, of one thing or several, whose rows follow one another.

    `time` is datetime64[m] as the clock showed it, `group` says which of `groups` a row belongs to.
    """

    time: Any  # [n]
    values: Float[np.ndarray, "n c"]
    columns: tuple[str, ...]
    group: Int32[np.ndarray, "n"]
    groups: tuple[str, ...]


class Scaling(NamedTuple):
    """Mean and standard deviation of each column over the training part, in the units of the column."""

    mean: Float[np.ndarray, "c"]
    std: Float[np.ndarray, "c"]


class Table(NamedTuple):
    """What windows are gathered from, on the standardised scale.

    `inputs` has the targets first, then covariates, the calendar and the flags of columns with gaps.
    """

    inputs: Float32[np.ndarray, "n d"]
    targets: Float32[np.ndarray, "n c"]
    observed: Bool[np.ndarray, "n c"]
    scaling: Scaling  # of the targets


def check(series: Series, name: str = "the series") -> Series:
    """Returns the series, having checked it; raises a ValueError that names the first fault.

    Refused: no rows, rows of a group that lie apart, timestamps of a group that repeat or go back, infinite
    values, and a column without any value.
    """
    time, values, columns, group, groups = series
    if not len(time):
        raise ValueError(f"{name} has no rows")
    if not len(time) == len(values) == len(group) or values.shape[1] != len(columns):
        raise ValueError(
            f"{name} has {len(time)} times, {len(group)} groups and values of shape {values.shape} for the "
            f"columns {columns}: a time and a group for each row, a name for each column"
        )
    same = group[1:] == group[:-1]
    if len(np.unique(group)) != 1 + int((~same).sum()):
        raise ValueError(f"{name} has rows of one group among those of another; sort it by group, then time")
    wrong = same & (time[1:] <= time[:-1])
    if wrong.any():
        row = int(np.argmax(wrong)) + 1
        fault = "occurs twice" if time[row] == time[row - 1] else f"comes after {time[row - 1]}"
        raise ValueError(
            f"{name}: the time {time[row]} of {groups[group[row]]!r} {fault} (row {row}); "
            "sort the rows by time, and keep one of each"
        )
    for index, column in enumerate(columns):
        if np.isinf(values[:, index]).any():
            row = int(np.argmax(np.isinf(values[:, index])))
            raise ValueError(f"{name}: {column!r} is infinite at {time[row]}; write what is missing as NaN")
        if np.isnan(values[:, index]).all():
            raise ValueError(f"{name}: all values of {column!r} are missing; drop the column")
    return series


def chosen(series: Series, columns: Sequence[str]) -> Series:
    """Returns the series with only `columns`, in that order; a ValueError names one that it lacks."""
    for column in columns:
        if column not in series.columns:
            raise ValueError(f"no column {column!r}; the series has {', '.join(series.columns)}")
    if len(set(columns)) != len(columns) or not columns:
        raise ValueError(f"the columns {list(columns)} should be one or more, none of them twice")
    places = [series.columns.index(column) for column in columns]
    return series._replace(values=series.values[:, places], columns=tuple(columns))


def log_returns(series: Series) -> Series:
    """Returns log(value / value of the row before) of each group, whose first row goes.

    A ValueError names a value that is not positive.
    """
    if (series.values <= 0).any():
        row, column = np.argwhere(series.values <= 0)[0]
        raise ValueError(
            f"{series.columns[column]!r} is {series.values[row, column]} at {series.time[row]}; "
            "logarithms are of positive values"
        )
    same = series.group[1:] == series.group[:-1]
    changes = np.diff(np.log(series.values), axis=0)[same]
    return series._replace(time=series.time[1:][same], values=changes, group=series.group[1:][same])


def regular(series: Series, step: str) -> Series:
    """Returns the series with a row of missing values wherever a group skips a time.

    `step` is a unit of numpy's datetime64: "Y", "M", "D" or "h"; times are cut down to it.
    """
    pieces = []
    for index in np.unique(series.group):
        rows = np.flatnonzero(series.group == index)
        ticks = series.time[rows].astype(f"datetime64[{step}]").astype(np.int64)
        if (np.diff(ticks) <= 0).any():
            raise ValueError(f"{series.groups[index]!r} has two rows in one {step!r}")
        values = np.full((ticks[-1] - ticks[0] + 1, series.values.shape[1]), np.nan)
        values[ticks - ticks[0]] = series.values[rows]
        time = np.arange(ticks[0], ticks[-1] + 1).astype(f"datetime64[{step}]").astype("datetime64[m]")
        pieces.append((time, values, np.full(len(time), index, np.int32)))
    time, values, group = (np.concatenate(part) for part in zip(*pieces, strict=True))
    return series._replace(time=time, values=values, group=group)


def scaling(series: Series, before: str) -> Scaling:
    """Learns mean and standard deviation of each column from the observed values before a date.

    A ValueError names a column without values there, or with one value only.
    """
    training = series.values[series.time < np.datetime64(before)]
    for column, values in zip(series.columns, training.T, strict=True):
        values = values[~np.isnan(values)]
        if not len(values):
            raise ValueError(f"{column!r} has no value before {before}, where training ends")
        if (values == values[0]).all():
            raise ValueError(
                f"{column!r} is {values[0]} throughout training, before {before}: nothing can be learned "
                "from it or of it; drop the column"
            )
    return Scaling(np.nanmean(training, axis=0), np.nanstd(training, axis=0))


def carried(values: Float[np.ndarray, "n c"], group: Int32[np.ndarray, "n"]) -> Float[np.ndarray, "n c"]:
    """Fills a missing value with the last one before it in its group; what begins missing stays so."""
    rows = np.arange(len(values))[:, None]
    first = np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]]))
    begin = first[np.cumsum(np.isin(rows[:, 0], first)) - 1][:, None]
    last = np.maximum.accumulate(np.where(np.isnan(values), -1, rows), axis=0)
    return np.where(last >= begin, np.take_along_axis(values, np.maximum(last, 0), axis=0), np.nan)


def table(
    series: Series,
    targets: Sequence[str],
    before: str,
    covariates: Sequence[str] = (),
    calendar: Sequence[str] = (),
) -> Table:
    """Returns a checked series in the form that windows are gathered from, training being before a date.

    `covariates` are other columns to see; `calendar` names of `PERIODS`, each seen as the sine and cosine of
    the time within it. Nothing from `before` on changes a row before it.
    """
    series = chosen(series, [*targets, *covariates])
    learned = scaling(series, before)
    values = (series.values - learned.mean) / learned.std
    gaps = np.isnan(values[series.time < np.datetime64(before)]).any(axis=0)
    filled = np.nan_to_num(carried(values, series.group), nan=0.0)
    minutes = series.time.astype("datetime64[m]").astype(np.int64)
    phases = [2 * np.pi * (minutes / PERIODS[name]) for name in calendar]
    clock = [wave(phase)[:, None] for phase in phases for wave in (np.sin, np.cos)]
    inputs = np.concatenate([filled, *clock, ~np.isnan(values[:, gaps])], axis=1).astype(np.float32)
    count = len(targets)
    observed = ~np.isnan(values[:, :count])
    wanted = np.where(observed, values[:, :count], 0).astype(np.float32)
    own = Scaling(learned.mean[:count], learned.std[:count])
    return Table(inputs, wanted, observed, own)


def windows(
    series: Series, history: int, horizon: int, borders: Mapping[str, str]
) -> dict[str, Int[np.ndarray, "_"]]:
    """Returns the first rows of all windows of "train", "validation" and "test", each in the rows' order.

    `borders` are the dates at which "validation" and "test" begin and the test data "end" ("": with the
    series). A window is of the split that holds all of its horizon; its history may reach back before the
    border, as it does when the forecast is made. Raises a ValueError for a group shorter than a window,
    borders that do not grow, and a split without a window.
    """
    if history < 1 or horizon < 1:
        raise ValueError(f"history={history} and horizon={horizon} must be at least 1")
    span, time, group = history + horizon, series.time, series.group
    sizes = np.bincount(group, minlength=len(series.groups))
    for name, size in zip(series.groups, sizes.tolist(), strict=True):
        if 0 < size < span:
            raise ValueError(
                f"{name!r} has {size} rows, fewer than a window of {history} + {horizon}; "
                "shorten history or horizon, or leave it out"
            )
    end = borders["end"] or str(time.max() + np.timedelta64(1, "m"))
    dates = [np.datetime64(date, "m") for date in (borders["validation"], borders["test"], end)]
    if not dates[0] < dates[1] < dates[2]:
        raise ValueError(f"the borders {dict(borders)} must grow: validation, then test, then end")
    starts = np.arange(len(time) - span + 1)
    starts = starts[group[starts] == group[starts + span - 1]]
    first, last = time[starts + history], time[starts + span - 1]
    marks = {
        "train": last < dates[0],
        "validation": (first >= dates[0]) & (last < dates[1]),
        "test": (first >= dates[1]) & (last < dates[2]),
    }
    for split, mask in marks.items():
        if not mask.any():
            raise ValueError(
                f"no window of {history} + {horizon} rows has its horizon in {split!r}: the series goes from "
                f"{time.min()} to {time.max()}, the borders are {dict(borders)}"
            )
    return {split: starts[mask] for split, mask in marks.items()}


def gather(table: Table, starts: Int[np.ndarray, "b"], history: int, horizon: int) -> dict[str, np.ndarray]:
    """Returns {"history": float32 [b, history, d], "horizon": float32 [b, horizon, c], "observed": bool}."""
    past = starts[:, None] + np.arange(history)
    future = starts[:, None] + np.arange(history, history + horizon)
    return {
        "history": table.inputs.take(past, axis=0),  # faster than indexing
        "horizon": table.targets.take(future, axis=0),
        "observed": table.observed.take(future, axis=0),
    }


def batches(
    table: Table,
    starts: Int[np.ndarray, "n"],
    history: int,
    horizon: int,
    size: int,
    seed: int,
    *,
    rows: slice | np.ndarray = slice(None),
) -> Callable[[int], pipeline.Batch]:
    """Returns `batch(step)`: windows in shuffled epochs, a pure function of (seed, step); see `pipeline`."""
    picked = pipeline.batches({"start": starts}, size, seed, rows=rows)
    return lambda step: gather(table, picked(step)["start"], history, horizon)


def passes(
    table: Table,
    starts: Int[np.ndarray, "n"],
    history: int,
    horizon: int,
    size: int,
    *,
    rows: slice | np.ndarray = slice(None),
) -> Callable[[], Iterator[pipeline.Batch]]:
    """Returns `() -> batches`: one pass over the windows in order, padded, with the "mask" of `pipeline`."""
    ordered = pipeline.passes({"start": starts}, size, rows=rows)

    def examples() -> Iterator[pipeline.Batch]:
        for part in ordered():
            yield gather(table, part["start"], history, horizon) | {"mask": part["mask"]}

    return examples
