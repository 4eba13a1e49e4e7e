"""Where anomalies are looked for: splits of columns of numbers, as in `dlx.data.table_sources`.

The label 1 is an anomaly. Labels tell what a detector is worth, and are no column to learn from; where
training is of normal rows only, they say which rows those are. "time", int32 in minutes since 1970, is there
where rows are the windows of a series, in the order of time.
"""

from pathlib import Path

import numpy as np

from dlx.data.builders.anomaly_sets import CLASSICAL, KNOWN_CAUSE
from dlx.data.builders.catalogue import arrays
from dlx.data.splits import Arrays, Source, check, folds, held_out

ASIDE = ("label", "time")
CLASSES = ("normal", "anomaly")
TENTHS = 10
PROBATION = (0.15, 5000)  # of a series: its first rows, a share of it, or of so many rows if it has more


def adbench_classical(
    *,
    set: str,
    train: str = "normal",
    split: int = 0,
    validation: float | int = 0.1,
    manual_dir: str | Path | None = None,
) -> Source:
    """One of ADBench's 23 classical sets (Han et al. 2022), such as "cardio".

    With `train` "normal", half of the normal rows are to learn from, and the others and all anomalies are the
    test split, as in Zong et al. (2018) and Livernoche et al. (2024). With "all", seven tenths of normal rows
    and of anomalies alike are learned from, as in ADBench's unsupervised setting. `split` 0 ... 9 says which
    tenths are tested; `validation` is the share of the rest that is kept to watch the loss. Columns with one
    value in all rows of "train" are for the reader to drop.
    """
    if set not in CLASSICAL:
        raise ValueError(f"set={set!r} is none of {', '.join(CLASSICAL)}")
    stored = arrays("adbench_classical", manual_dir)[set]
    return parted(f"adbench {set}", stored["x"], stored["label"], train, split, validation)


def nab_realknowncause(
    *, set: str, history: int = 32, validation: float | int = 0.1, manual_dir: str | Path | None = None
) -> Source:
    """One of NAB's series with a known cause (Lavin and Ahmad 2015), as windows of `history` rows.

    The columns are the value now, "lag 0", and before. "train" are the windows within NAB's probationary
    period, 15 % of the rows and 750 at most, of which the last ones are "validation"; "test" are the windows
    that end after it, whose label says whether they end in one that is labelled. Of rows with equal times the
    first is used.
    """
    if set not in KNOWN_CAUSE:
        raise ValueError(f"set={set!r} is none of {', '.join(KNOWN_CAUSE)}")
    stored = arrays("nab_realknowncause", manual_dir)[set]
    first = np.append(True, np.diff(stored["time"]) > 0)
    value, label = stored["values"][first].T
    return windowed(f"nab {set}", stored["time"][first], value, label, history, validation)


def synthetic_anomalies(
    *,
    set: str = "ring",
    count: int = 600,
    train: str = "normal",
    split: int = 0,
    validation: float | int = 0.1,
    seed: int = 0,
) -> Source:
    """Rows near a ring or a line in four numbers, and a twelfth as many scattered about; needs no network."""
    shapes = {"ring": lambda t: (np.cos(t), np.sin(t)), "line": lambda t: (t / 3 - 1, 1 - t / 3)}
    if set not in shapes:
        raise ValueError(f"set={set!r} is none of {', '.join(shapes)}")
    rng = np.random.default_rng(seed)
    label = np.arange(count) % 12 == 0
    place = np.stack([*shapes[set](rng.uniform(0, 2 * np.pi, count)), *rng.normal(size=(2, count))], axis=1)
    place[:, :2] += 0.05 * rng.normal(size=(count, 2))
    place[label] = rng.uniform(-2, 2, (label.sum(), 4))
    return parted(f"synthetic {set}", place.astype(np.float32), label, train, split, validation)


def synthetic_stream(
    *, set: str = "wave", count: int = 1200, history: int = 16, validation: float | int = 0.1, seed: int = 0
) -> Source:
    """A noisy wave whose frequency changes twice for forty rows, in windows as `nab_realknowncause` has them.

    Needs no network; the name of the `set` draws another wave.
    """
    rng = np.random.default_rng((seed, *set.encode()))
    label = np.zeros(count)
    label[count // 2 : count // 2 + 40] = label[4 * count // 5 : 4 * count // 5 + 40] = 1
    phase = rng.uniform(0, 6) + np.cumsum(np.where(label > 0, 2.0, 0.4))
    value = np.sin(phase) + 0.1 * rng.normal(size=count)
    time = 5 * np.arange(count, dtype=np.int32)
    return windowed(f"synthetic {set}", time, value.astype(np.float32), label, history, validation)


ANOMALY_SOURCES = {
    "adbench_classical": adbench_classical,
    "nab_realknowncause": nab_realknowncause,
    "synthetic_anomalies": synthetic_anomalies,
    "synthetic_stream": synthetic_stream,
}


def parted(
    name: str, x: np.ndarray, label: np.ndarray, train: str, split: int, validation: float | int
) -> Source:
    """Returns rows x [n, d] in the splits that `adbench_classical` tells of."""
    if train not in ("normal", "all"):
        raise ValueError(f"train={train!r} is neither 'normal' nor 'all'")
    if split not in range(TENTHS):
        raise ValueError(f"split={split} is none of 0..{TENTHS - 1}")
    label = label.astype(np.int32)
    own = (folds(label, TENTHS) - split) % TENTHS
    test = own < 3 if train == "all" else (own < 5) | (label == 1)
    rest = np.flatnonzero(~test)
    held = held_out(np.zeros(len(rest), int), validation)
    parts = {"train": rest[~held], "validation": rest[held], "test": np.flatnonzero(test)}
    width = len(str(x.shape[1] - 1))
    columns = {f"x{index:0{width}}": x[:, index] for index in range(x.shape[1])} | {"label": label}
    return _source(name, columns, parts)


def windowed(
    name: str, time: np.ndarray, value: np.ndarray, label: np.ndarray, history: int, validation: float | int
) -> Source:
    """Returns a series, values [n] and labels [n] at growing times [n], in splits by time."""
    if not (np.diff(time) > 0).all():
        row = int(np.argmin(np.diff(time) > 0)) + 1
        raise ValueError(f"{name}: the time in row {row} is not after that before it; sort, keep one of each")
    share, most = PROBATION
    probation = int(share * min(len(value), most))
    if not 1 <= history <= probation // 2:
        raise ValueError(
            f"{name} has {len(value)} rows, and {probation} of them to learn from: history={history} must be "
            f"1 to {probation // 2}, half of that"
        )
    last = np.arange(history - 1, len(value))
    columns = {f"lag {lag}": value[last - lag] for lag in range(history)}
    columns |= {"label": label[last].astype(np.int32), "time": time[last].astype(np.int32)}
    count = probation - history + 1
    border = count - round(validation * count)
    parts = {"train": slice(border), "validation": slice(border, count), "test": slice(count, None)}
    return _source(name, columns, {split: np.arange(len(last))[part] for split, part in parts.items()})


def _source(name: str, columns: Arrays, parts: dict[str, np.ndarray]) -> Source:
    """Returns the rows of each part, checked: every number must be finite."""
    splits = {
        split: check({key: column[rows] for key, column in columns.items()}, CLASSES, f"{name} {split}")
        for split, rows in parts.items()
        if len(rows) or split != "validation"
    }
    return Source(dict(splits), CLASSES)
