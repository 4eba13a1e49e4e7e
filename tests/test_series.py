"""Time series: borders that nothing crosses, windows, missing values, naive forecasts, and their sources."""

import os

import numpy as np
import pytest

from dlx.data import naive, series
from dlx.data.series import Series
from dlx.data.series_sources import (
    SERIES,
    beijing_pm25,
    etth1,
    nass_crop_yield,
    pddl_series,
    synthetic_series,
)

BORDERS = {"validation": "2020-01-16", "test": "2020-01-20", "end": ""}
VALIDATION = np.datetime64(BORDERS["validation"])


def grouped(sizes=(30, 25), missing=()):
    """Days from 2020-01-01 of several groups, whose values say which group and row they are of."""
    time = np.concatenate([np.datetime64("2020-01-01", "m") + 1440 * np.arange(size) for size in sizes])
    values = np.concatenate([1000.0 * group + np.arange(size) for group, size in enumerate(sizes)])[:, None]
    values[list(missing)] = np.nan
    group = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    return series.check(Series(time, values, ("x",), group, tuple("abcdef"[: len(sizes)])))


# No future


@pytest.mark.parametrize("poison", [1e9, np.nan], ids=str)
def test_values_after_the_border_change_no_training_batch_and_no_scaling(poison):
    clean = synthetic_series(missing=0.1)
    poisoned = clean._replace(values=np.where((clean.time >= VALIDATION)[:, None], poison, clean.values))
    tables = [
        series.table(part, ["x0"], BORDERS["validation"], ["x1"], ["day"]) for part in (clean, poisoned)
    ]
    assert np.array_equal(tables[0].scaling, tables[1].scaling)
    starts = series.windows(clean, 48, 12, BORDERS)
    for split in ("train", "validation"):  # the poison is there, and seen where it may be
        batches = [series.batches(table, starts[split], 48, 12, 8, seed=3) for table in tables]
        same = [
            all(np.array_equal(first[name], second[name]) for name in first)
            for first, second in zip(map(batches[0], range(60)), map(batches[1], range(60)), strict=True)
        ]
        assert all(same) if split == "train" else not any(same)


def test_no_row_of_a_training_window_is_at_or_after_the_border_and_no_horizon_is_of_two_splits():
    found = synthetic_series()
    starts = series.windows(found, 48, 12, BORDERS)
    horizons = {split: {row for s in part for row in range(s + 48, s + 60)} for split, part in starts.items()}
    assert found.time[max(horizons["train"])] < VALIDATION
    assert not horizons["train"] & horizons["validation"] and not horizons["validation"] & horizons["test"]
    assert starts["validation"].min() + 48 == np.flatnonzero(found.time >= VALIDATION)[0]


# Windows


def test_windows_are_those_of_brute_force():
    found = grouped((30, 25, 28))
    borders = {"validation": "2020-01-13", "test": "2020-01-19", "end": "2020-01-26"}
    dates = [np.datetime64(date) for date in borders.values()]
    expected = {"train": [], "validation": [], "test": []}
    for start in range(len(found.time) - 6):
        rows = np.arange(start, start + 7)
        if len(set(found.group[rows])) > 1:
            continue
        ahead = found.time[rows[5:]]
        if (ahead < dates[0]).all():
            expected["train"].append(start)
        if ((ahead >= dates[0]) & (ahead < dates[1])).all():
            expected["validation"].append(start)
        if ((ahead >= dates[1]) & (ahead < dates[2])).all():
            expected["test"].append(start)
    starts = series.windows(found, 5, 2, borders)
    assert {split: part.tolist() for split, part in starts.items()} == expected
    table = series.table(found, ["x"], borders["validation"])
    mean, std = table.scaling.mean[0], table.scaling.std[0]
    for step in range(3):
        batch = series.batches(table, starts["train"], 5, 2, 4, seed=0)(step)
        whole = np.concatenate([batch["history"], batch["horizon"]], axis=1)[..., 0] * std + mean
        assert np.allclose(np.diff(whole), 1, atol=1e-2)  # seven days in a row of one group
        assert batch["observed"].all() and batch["history"].dtype == np.float32


def test_every_training_window_comes_once_in_an_epoch_and_a_pass_has_all_in_order():
    found = grouped()
    starts = series.windows(found, 5, 2, {"validation": "2020-01-13", "test": "2020-01-19", "end": ""})
    table = series.table(found, ["x"], "2020-01-13")
    count = len(starts["train"])
    batch = series.batches(table, starts["train"], 5, 2, count, seed=1)
    firsts = [np.sort(batch(step)["history"][:, 0, 0]) for step in range(2)]
    assert np.array_equal(firsts[0], firsts[1]) and len(np.unique(firsts[0])) == count
    assert not np.array_equal(batch(0)["history"], batch(1)["history"])
    rows = [b["horizon"][b["mask"] > 0] for b in series.passes(table, starts["test"], 5, 2, 4)()]
    expected = table.targets[starts["test"][:, None] + np.arange(5, 7)]
    assert np.array_equal(np.concatenate(rows), expected)


def test_the_split_of_etth1_is_that_of_the_literature():
    """Borders at 12, 16 and 20 months of 30 days; 2,880 - 96 + 1 test windows, none of them dropped."""
    time = np.datetime64("2016-07-01", "m") + 60 * np.arange(17_420)
    whole = Series(time, np.zeros((17_420, 1)), ("OT",), np.zeros(17_420, np.int32), ("ETTh1",))
    starts = series.windows(
        whole, 336, 96, {"validation": "2017-06-26", "test": "2017-10-24", "end": "2018-02-21"}
    )
    ends = {split: (part[0] + 336, part[-1] + 336 + 96) for split, part in starts.items()}
    assert ends == {"train": (336, 8640), "validation": (8640, 11520), "test": (11520, 14400)}
    assert {split: len(part) for split, part in starts.items()} == {
        "train": 8209, "validation": 2785, "test": 2785,
    }  # fmt: skip


# Missing values


def test_a_missing_value_is_the_last_one_before_it_in_its_group():
    nan = np.nan
    values = np.array([[nan, 1], [2, nan], [nan, nan], [nan, 4], [5, nan]])
    group = np.array([0, 0, 0, 1, 1], np.int32)
    expected = np.array([[nan, 1], [2, 1], [2, 1], [nan, 4], [5, 4]])
    assert np.array_equal(series.carried(values, group), expected, equal_nan=True)


def test_what_is_missing_is_flagged_and_not_observed():
    found = grouped(missing=(0, 7, 20))  # the first, one in training, and one after it
    table = series.table(found, ["x"], "2020-01-13")
    assert np.flatnonzero(~table.observed[:, 0]).tolist() == [0, 7, 20]
    assert np.flatnonzero(table.inputs[:, 1] == 0).tolist() == [0, 7, 20] and table.inputs.shape[1] == 2
    assert table.inputs[0, 0] == 0 and table.inputs[7, 0] == table.inputs[6, 0]
    late = series.table(grouped(missing=(20,)), ["x"], "2020-01-13")
    assert late.inputs.shape[1] == 1  # training knows of no gap, so there is no flag


def test_scaling_is_of_the_observed_values_before_the_border():
    found = grouped((20, 15), missing=(3,))
    rows = [row for row in [*range(10), *range(20, 30)] if row != 3]
    learned = series.scaling(found, "2020-01-11")
    assert learned.mean[0] == pytest.approx(found.values[rows].mean())
    assert learned.std[0] == pytest.approx(found.values[rows].std())


def test_skipped_times_become_rows_of_missing_values():
    time = np.array(["1990", "1991", "1994", "1991", "1992"], "datetime64[Y]").astype("datetime64[m]")
    values, group = np.arange(5.0)[:, None], np.array([0, 0, 0, 1, 1], np.int32)
    found = series.regular(Series(time, values, ("x",), group, ("a", "b")), "Y")
    assert found.time.astype("datetime64[Y]").astype(str).tolist() == [
        "1990", "1991", "1992", "1993", "1994", "1991", "1992",
    ]  # fmt: skip
    nan = np.nan
    assert np.array_equal(found.values[:, 0], [0, 1, nan, nan, 2, 3, 4], equal_nan=True)
    assert found.group.tolist() == [0] * 5 + [1] * 2


def test_log_returns_stay_within_their_group():
    found = grouped((4, 3))
    found = found._replace(values=np.exp(found.values / 100))
    returns = series.log_returns(found)
    assert np.allclose(returns.values, 0.01) and returns.group.tolist() == [0, 0, 0, 1, 1]
    assert np.array_equal(returns.time, found.time[[1, 2, 3, 5, 6]])
    with pytest.raises(ValueError, match=r"'x' is -1.0 at 2020-01-02.*positive"):
        series.log_returns(found._replace(values=np.where(np.arange(7)[:, None] == 1, -1.0, found.values)))


def test_the_calendar_is_of_the_time_of_the_row():
    found = synthetic_series(count=400)
    table = series.table(found, ["x0"], "2020-01-10", calendar=["day", "week"])
    hours = np.arange(400)
    assert np.allclose(table.inputs[:, 1], np.sin(2 * np.pi * hours / 24), atol=1e-5)
    days = (hours / 24 + 6) % 7  # days since Thursday, which 1970 began with; 2020 began on a Wednesday
    assert np.allclose(table.inputs[:, 4], np.cos(2 * np.pi * days / 7), atol=1e-5)


# Bad input


def changed(**fields):
    return grouped()._replace(**fields)


@pytest.mark.parametrize(
    ("time", "message"),
    [
        (lambda t: np.concatenate([t[:5], t[4:5], t[6:]]), "2020-01-05T00:00 of 'a' occurs twice .row 5."),
        (lambda t: np.concatenate([t[:4], t[5:6], t[4:5], t[6:]]), "2020-01-05T00:00 of 'a' comes after"),
    ],
    ids=["duplicate", "unordered"],
)
def test_times_that_repeat_or_go_back_are_refused(time, message):
    with pytest.raises(ValueError, match=message):
        series.check(changed(time=time(grouped().time)))


def test_what_no_series_can_be_is_refused():
    whole = grouped()
    with pytest.raises(ValueError, match="all values of 'x' are missing; drop the column"):
        series.check(changed(values=np.full((55, 1), np.nan)))
    with pytest.raises(ValueError, match="'x' is infinite at 2020-01-04"):
        series.check(changed(values=np.where(np.arange(55)[:, None] == 3, np.inf, whole.values)))
    with pytest.raises(ValueError, match="rows of one group among those of another"):
        series.check(changed(group=(np.arange(55) % 2).astype(np.int32)))
    with pytest.raises(ValueError, match="no rows"):
        series.check(Series(whole.time[:0], whole.values[:0], ("x",), whole.group[:0], ("a",)))
    with pytest.raises(ValueError, match="no column 'y'; the series has x"):
        series.table(whole, ["y"], "2020-01-13")
    with pytest.raises(ValueError, match="'x' has no value before 2020-01-03"):
        series.table(grouped(missing=(0, 1, 30, 31)), ["x"], "2020-01-03")
    with pytest.raises(ValueError, match="'x' is 7.0 throughout training"):
        series.table(
            changed(values=np.where(whole.values % 1000 < 20, 7.0, whole.values)), ["x"], "2020-01-13"
        )


def test_a_series_shorter_than_its_window_is_refused():
    borders = {"validation": "2020-01-13", "test": "2020-01-19", "end": ""}
    with pytest.raises(ValueError, match=r"'b' has 25 rows, fewer than a window of 20 \+ 6"):
        series.windows(grouped(), 20, 6, borders)
    with pytest.raises(ValueError, match="no window of 5 . 7 rows has its horizon in 'validation'"):
        series.windows(grouped(), 5, 7, borders)
    with pytest.raises(ValueError, match="must grow"):
        series.windows(grouped(), 5, 2, borders | {"test": "2020-01-10"})
    with pytest.raises(ValueError, match="at least 1"):
        series.windows(grouped(), 5, 0, borders)


# Naive forecasts


@pytest.mark.parametrize("season", [4, 10])
def test_naive_forecasts_are_those_of_brute_force(season):
    history = np.random.default_rng(0).normal(size=(3, 10, 2))
    length, between = 10, 8 if season == 4 else 0
    for n, c in np.ndindex(3, 2):
        x = history[n, :, c]
        line = np.polynomial.Polynomial.fit(np.arange(length), x, 1)
        grows = (x[-1] - x[length - 1 - between]) / max(between, 1)
        for h in range(7):
            before = x[length - season + h % season]
            expected = {
                "last": x[-1],
                "mean": x.mean(),
                "drift": x[-1] + (h + 1) * (x[-1] - x[0]) / (length - 1),
                "trend": line(length + h),
                "seasonal": before,
                "seasonal_drift": before + grows * season * (h // season + 1),
            }
            for name, value in expected.items():
                assert naive.NAIVE[name](history, 7, season)[n, h, c] == pytest.approx(value), name


def test_a_season_and_a_drift_go_on_for_ever():
    time = np.arange(60.0)
    whole = (0.5 * time + np.sin(2 * np.pi * time / 12))[None, :, None]
    assert np.allclose(naive.seasonal_drift(whole[:, :36], 24, 12), whole[:, 36:])
    with pytest.raises(ValueError, match="repeats the last 12 of 10 steps"):
        naive.seasonal(whole[:, :10], 3, 12)


# Sources


def test_the_synthetic_series_is_the_same_each_time_and_refuses_what_it_cannot_be():
    first, second = synthetic_series(missing=0.2), synthetic_series(missing=0.2)
    assert np.array_equal(first.values, second.values, equal_nan=True)
    assert 0.15 < np.isnan(first.values).mean() < 0.25
    with pytest.raises(ValueError, match="missing=1.0"):
        synthetic_series(missing=1.0)
    with pytest.raises(ValueError, match="crop='rye' is none of barley"):
        nass_crop_yield(crop="rye")
    with pytest.raises(ValueError, match="series='gold' is none of vix"):
        pddl_series(series="gold")


@pytest.mark.skipif("DLX_DATA_DIR" not in os.environ, reason="needs the raw files that DLX_DATA_DIR names")
def test_the_sets_of_the_catalogue_are_prepared(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    load = etth1()
    assert load.values.shape == (17_420, 7) and load.values[0, -1] == pytest.approx(30.531)
    assert str(load.time[-1]) == "2018-06-26T19:00" and (np.diff(load.time).astype(int) == 60).all()
    share = SERIES["plotly_stocks"]()
    assert share.values.shape == (506, 6) and share.values[-1, 3] == pytest.approx(135.35)
    sizes = {"vix": 9_235, "co2": 820, "sp500": 1_866, "global_temperature_gcag": 2_095}
    for name, size in sizes.items():
        found = pddl_series(series=name)
        assert len(found.time) == size and len(found.groups) == 1
    carbon = pddl_series(series="co2")
    assert (
        carbon.values[[0, -1], 0] == pytest.approx([315.71, 431.44]) and str(carbon.time[0])[:7] == "1958-03"
    )
    corn = nass_crop_yield()
    iowa = corn.group == corn.groups.index("Iowa")
    assert len(corn.groups) == 44 and str(corn.time[iowa][-1])[:4] == "2011"
    assert corn.values[iowa][-1, 1] == pytest.approx(172) and iowa.sum() == 146


@pytest.mark.skipif("DLX_DATA_DIR" not in os.environ, reason="needs the raw files that DLX_DATA_DIR names")
def test_beijing_has_its_gaps_and_winds(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    found = beijing_pm25()
    assert np.isnan(found.values).sum(axis=0).tolist() == [2_067] + [0] * 10
    assert (found.values[:, -4:].sum(axis=1) == 1).all() and found.values[24, 0] == 129
    assert str(found.time[24]) == "2010-01-02T00:00"


@pytest.fixture
def module():
    pytest.importorskip("tensorflow_datasets", reason="builders are TFDS's")
    from dlx.data.builders import series as module

    return module


def test_rows_of_text_become_sorted_examples(tmp_path, module):
    (tmp_path / "x.csv").write_text('year,state,yield\r\n1990,"B",3\r\n1991,"A",NA\r\n1990,"A",1.5\r\n')
    lines = module.rows(tmp_path / "x.csv", ("year", "state", "yield"))
    found = module.examples(module.Row(year, state, [value]) for year, state, value in lines)
    assert [row["group"] for row in found] == ["A", "A", "B"]
    assert [int(row["time"]) for row in found] == [1440 * 7305, 1440 * 7670, 1440 * 7305]
    assert np.array_equal([row["values"][0] for row in found], np.float32([1.5, np.nan, 3]), equal_nan=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,c\n1,2\n", r"has the columns \['a', 'c'\]; expected \['a', 'b'\]"),
        ("a,b\n1,2\n3\n", "line 3: 1 fields, 2 are expected"),
        ("", r"has the columns \[\]"),
    ],
)
def test_a_file_of_other_rows_is_refused(tmp_path, module, text, message):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        list(module.rows(tmp_path / "x.csv", ("a", "b")))
