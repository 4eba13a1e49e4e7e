"""Sources of anomalies: who is learned from and who is tested, windows of series, and files refused."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from dlx.data import anomaly_sources, sources
from dlx.data.builders.anomaly_sets import CLASSICAL, KNOWN_CAUSE, SIZES

RAW_FILES = os.environ.get("DLX_DATA_DIR")
real = pytest.mark.skipif(not RAW_FILES, reason="DLX_DATA_DIR names no folder of raw files")


@pytest.fixture
def rows():
    """A hundred numbered rows, every fifth an anomaly."""
    x = np.stack([np.arange(100), np.arange(100) ** 2], 1).astype(np.float32)
    return x, (np.arange(100) % 5 == 0).astype(int)


def numbers(source, split):
    return set(source.splits[split]["x0"].astype(int).tolist())


def test_half_of_the_normal_rows_teach_and_all_anomalies_are_tested(rows):
    x, label = rows
    odd = set(np.flatnonzero(label))
    tested = []
    for split in range(10):
        source = anomaly_sources.parted("t", x, label, "normal", split, 0.1)
        learned = numbers(source, "train") | numbers(source, "validation")
        assert not learned & odd and odd <= numbers(source, "test")
        assert learned | numbers(source, "test") == set(range(100)) and not learned & numbers(source, "test")
        assert len(learned) == 40 and len(numbers(source, "validation")) == 4
        tested.append(numbers(source, "test"))
    assert len({frozenset(one) for one in tested}) == 10


def test_the_unsupervised_split_has_the_share_of_anomalies_on_both_sides(rows):
    x, label = rows
    for split in range(10):
        source = anomaly_sources.parted("t", x, label, "all", split, 0)
        assert set(source.splits) == {"train", "test"}
        assert len(numbers(source, "test")) == 30 and not numbers(source, "train") & numbers(source, "test")
        for part in source.splits.values():
            assert part["label"].mean() == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": "odd"}, "train='odd' is neither 'normal' nor 'all'"),
        ({"split": 10}, r"split=10 is none of 0\.\.9"),
        ({"set": "square"}, "set='square' is none of ring, line"),
    ],
)
def test_what_is_not_there_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        anomaly_sources.synthetic_anomalies(**change)


def test_an_unknown_set_of_the_catalogue_is_named():
    with pytest.raises(ValueError, match="set='x' is none of annthyroid"):
        sources.SOURCES["adbench_classical"](set="x")
    with pytest.raises(ValueError, match="set='x' is none of ambient"):
        sources.SOURCES["nab_realknowncause"](set="x")


def test_windows_hold_the_values_before_and_the_label_of_now():
    value = np.arange(200, dtype=np.float32)
    label = (value >= 150).astype(np.float32)
    source = anomaly_sources.windowed("t", np.arange(200), value, label, 4, 0.2)
    train, validation, test = (source.splits[split] for split in ("train", "validation", "test"))
    np.testing.assert_array_equal(np.concatenate([train["lag 0"], validation["lag 0"]]), np.arange(3, 30))
    assert len(validation["lag 0"]) == 5 and test["lag 0"][0] == 30 and test["lag 0"][-1] == 199
    for part in (train, validation, test):
        for lag in range(4):
            np.testing.assert_array_equal(part[f"lag {lag}"], part["lag 0"] - lag)
        np.testing.assert_array_equal(part["label"], part["lag 0"] >= 150)
        np.testing.assert_array_equal(part["time"], part["lag 0"])


def test_the_probationary_period_is_never_above_750_rows():
    many = np.arange(20_000, dtype=np.float32)
    source = anomaly_sources.windowed("t", many.astype(int), many, many > 9e3, 10, 0)
    assert source.splits["train"]["lag 0"].max() == 749 and source.splits["test"]["lag 0"].min() == 750


def test_a_series_too_short_or_out_of_order_is_refused():
    value = np.ones(100, np.float32)
    with pytest.raises(
        ValueError, match="t has 100 rows, and 15 of them to learn from: history=8 must be 1 to 7"
    ):
        anomaly_sources.windowed("t", np.arange(100), value, value, 8, 0.1)
    time = np.arange(100)
    time[41] = time[40]
    with pytest.raises(ValueError, match="the time in row 41 is not after"):
        anomaly_sources.windowed("t", time, value, value, 4, 0.1)
    holes = value.copy()
    holes[50] = np.nan
    with pytest.raises(ValueError, match="holds nan in example"):
        anomaly_sources.windowed("t", np.arange(100), holes, value, 4, 0.1)


def test_of_equal_times_the_first_row_is_used(monkeypatch):
    time = np.arange(1882, dtype=np.int32)
    time[101] = time[100]
    values = np.stack([np.arange(1882), np.zeros(1882)], 1).astype(np.float32)
    stored = {"rogue_agent_key_hold": {"time": time, "values": values}}
    monkeypatch.setattr(anomaly_sources, "arrays", lambda name, place: stored)
    source = anomaly_sources.nab_realknowncause(set="rogue_agent_key_hold", history=2, validation=0)
    seen = source.splits["train"]["lag 0"]
    assert 100 in seen and 101 not in seen and 102 in seen


# Files


@real
def test_the_classical_sets_are_read_as_they_are_known():
    builder = pytest.importorskip("dlx.data.builders.adbench_classical")
    assert len(CLASSICAL) == 23 == len(builder.RAW)
    assert {raw.name for raw in builder.RAW} == {f"{file}.npz" for file in CLASSICAL.values()}
    folder = Path(RAW_FILES) / "adbench_classical"
    for raw in builder.RAW:
        raw.verify(folder / raw.name)
    for name, file in CLASSICAL.items():
        x, label = builder.read(folder / f"{file}.npz")
        assert (len(x), label.sum()) == SIZES[name] and x.dtype == np.float32 and np.isfinite(x).all()


@real
def test_the_series_of_nab_have_their_rows_and_windows():
    builder = pytest.importorskip("dlx.data.builders.nab_realknowncause")
    folder = Path(RAW_FILES) / "nab_realknowncause"
    for raw in builder.RAW:
        raw.verify(next(path for path in folder.iterdir() if path.name in (raw.name, f"{raw.name}.gz")))
    windows = {"nyc_taxi": 5, "rogue_agent_key_hold": 2}
    for name, count in windows.items():
        spans = json.loads((folder / "combined_windows.json").read_text())
        own = spans[f"realKnownCause/{name}.csv"]
        rows = list(builder.marked(folder / f"{name}.csv.gz", name, own))
        marks = np.array([int(row.values[1]) for row in rows])
        assert len(rows) == KNOWN_CAUSE[name]
        assert (np.diff(np.concatenate([[0], marks, [0]])) == 1).sum() == count == len(own)
        first = next(row.time for row, mark in zip(rows, marks, strict=True) if mark)
        assert first == own[0][0][:19]


def test_archives_of_something_else_are_refused(tmp_path):
    builder = pytest.importorskip("dlx.data.builders.adbench_classical")
    good, odd = np.zeros((3, 2)), np.array([0, 1, 0])
    cases = {
        "pickled": {"X": np.array([{}, 1], dtype=object), "y": odd},
        "lacking": {"X": good},
        "flat": {"X": odd, "y": odd},
        "short": {"X": good, "y": odd[:2]},
        "missing": {"X": good * np.nan, "y": odd},
        "third": {"X": good, "y": odd * 2},
    }
    for name, arrays in cases.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        with pytest.raises(ValueError, match=f"{name}.npz"):
            builder.read(tmp_path / f"{name}.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match=r"text\.npz"):
        builder.read(tmp_path / "text.npz")
