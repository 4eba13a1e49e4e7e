"""Table sources: known counts, splits that share no row, and the card-fraud simulator against brute force."""

import os
from pathlib import Path

import numpy as np
import pytest

from dlx.data import card_fraud, sources, tables
from dlx.data.builders import BUILDERS
from dlx.data.splits import folds
from dlx.data.table_sources import ASIDE, TABLE_SOURCES, _folded

RAW_FILES = os.environ.get("DLX_DATA_DIR")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data directory for the module, with raw files at hand."""
    if not RAW_FILES:
        pytest.skip("DLX_DATA_DIR names no folder of raw files")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("tfds")))
        yield sources.data_dir()


def joined(source, name):
    return np.concatenate([part[name] for part in source.splits.values()])


def features(part):
    return {name: column for name, column in part.items() if name not in ASIDE}


# Folds


def test_folds_are_disjoint_stratified_and_always_the_same():
    labels = (np.arange(103) % 4 == 0).astype(int)
    own = folds(labels, 10)
    assert set(own) == set(range(10)) and (own == folds(labels, 10)).all()
    for which in (labels >= 0, labels == 1, labels == 0):
        assert np.ptp(np.bincount(own[which], minlength=10)) <= 1
    assert not (own == np.arange(103) % 10).all()
    with pytest.raises(ValueError, match="11 folds of 10 examples"):
        folds(labels[:10], 11)


def test_equal_rows_are_in_one_fold():
    x = np.repeat(np.arange(40.0), 3)
    for fold in range(10):
        parts = _folded("t", {"x": x, "target": x}, fold, 0).splits
        assert not set(parts["train"]["x"]) & set(parts["test"]["x"])
    with pytest.raises(ValueError, match="fold=10 is none of the folds 0..9"):
        _folded("t", {"x": x, "target": x}, 10, 0)


@pytest.mark.parametrize(
    ("name", "count", "positive"), [("diabetes", 442, None), ("breast_cancer", 569, 212)]
)
def test_embedded_sets_are_scikit_learns_and_every_row_is_tested_once(name, count, positive):
    datasets = pytest.importorskip("sklearn.datasets", reason="the reference implementation")
    parts = [TABLE_SOURCES[name](fold=fold) for fold in range(10)]
    asked = "label" if positive else "target"
    tested = np.concatenate([part.splits["test"][asked] for part in parts])
    assert len(tested) == count == len(joined(parts[3], asked))
    whole = datasets.load_diabetes(scaled=False) if not positive else datasets.load_breast_cancer()
    if positive:
        assert tested.sum() == positive
    first = "age" if not positive else "mean_radius"
    ours = np.concatenate([part.splits["test"][first] for part in parts])
    np.testing.assert_allclose(np.sort(ours), np.sort(whole.data[:, 0]))
    expected = whole.target if not positive else 1 - whole.target
    order, theirs = np.lexsort((tested, ours)), np.lexsort((expected, whole.data[:, 0]))
    np.testing.assert_array_equal(tested[order], expected[theirs])


# Sets of the catalogue


def test_california_housing_has_its_missing_rooms_and_its_strata(prepared):
    source = sources.SOURCES["california_housing"]()
    sizes = {split: len(part["target"]) for split, part in source.splits.items()}
    assert sum(sizes.values()) == 20_640 and sizes["test"] == 4_128
    assert np.isnan(joined(source, "total_bedrooms")).sum() == 207
    assert joined(source, "target").max() == 500_001
    kinds, counts = np.unique(joined(source, "ocean_proximity"), return_counts=True)
    assert dict(zip(kinds.tolist(), counts.tolist(), strict=True)) == {
        "<1H OCEAN": 9136, "INLAND": 6551, "ISLAND": 5, "NEAR BAY": 2290, "NEAR OCEAN": 2658,
    }  # fmt: skip
    shares = [np.mean(np.digitize(part["median_income"], [3.0])) for part in source.splits.values()]
    assert np.ptp(shares) < 0.01


@pytest.mark.parametrize(
    ("name", "rows", "positive", "numbers", "categories"),
    [
        ("uci_real_estate", 414, None, 6, 0),
        ("german_credit", 1000, 300, 7, 13),
        ("uci_audit", 776, 305, 25, 1),
    ],
)
def test_sets_of_the_catalogue_have_their_known_counts(prepared, name, rows, positive, numbers, categories):
    source = sources.SOURCES[name]()
    asked = joined(source, "label" if positive else "target")
    assert len(asked) == rows and (positive is None or asked.sum() == positive)
    kinds = [column.dtype.kind for column in features(source.splits["train"]).values()]
    assert kinds.count("f") == numbers and kinds.count("U") == categories


@pytest.mark.skipif(not RAW_FILES, reason="DLX_DATA_DIR names no folder of raw files")
def test_the_clients_of_credit_cards_are_read_as_they_are_known():
    module = BUILDERS["uci_credit_default"].load()  # to prepare them takes seconds
    path = Path(RAW_FILES) / "uci_credit_default" / "UCI_Credit_Card.csv.gz"
    module.RAW[0].verify(path)
    rows = module.read(path)
    assert len(rows) == 30_000 and sum(int(row["default"]) for row in rows) == 6_636
    assert rows[0]["limit"] == "20000" and rows[0]["delay_september"] == "2" and rows[0]["bill_july"] == "689"
    assert len(module.COLUMNS) == 24 and set(module.COLUMNS) < set(rows[0])


@pytest.mark.parametrize(("cell", "kind"), [("12,5", float), ("", int)])
def test_a_cell_that_cannot_be_read_is_named(cell, kind):
    table = pytest.importorskip("dlx.data.builders.table")
    with pytest.raises(ValueError, match="row 3 of x.csv cannot be read"):
        table._typed({"a": cell}, {"a": kind}, "row 3 of x.csv")


def test_the_rule_behind_the_audit_labels_is_caught(prepared):
    source = sources.SOURCES["uci_audit"]()
    train = source.splits["train"]
    rule = joined(source, "Inherent_Risk") * joined(source, "CONTROL_RISK") * joined(source, "Detection_Risk")
    np.testing.assert_array_equal(rule >= 1, joined(source, "label"))
    with pytest.raises(ValueError, match=r"'Audit_Risk' alone tells[^\0]*'Detection_Risk' has one value"):
        tables.learn(features(train), train["label"])


# The simulator


def world(seed=0, days=60, **changes):
    settings = {"cards": 60, "terminals": 80, "radius": 20.0} | changes
    return card_fraud.simulate(np.random.default_rng(seed), days, **settings)


def test_payments_come_in_order_near_their_cards_and_as_often_as_said():
    payments = world(cards=300, days=40)
    day = payments.time // card_fraud.DAY
    assert (np.diff(payments.time) >= 0).all() and set(day) == set(range(40))
    assert len(payments.time) / (300 * 40) == pytest.approx(
        2 * 0.97, abs=0.2
    )  # some would fall out of the day
    used = [len(set(payments.terminal[payments.card == card])) for card in range(300)]
    assert np.mean(used) < 30  # of 80: only those near the card
    again = world(cards=300, days=40)
    assert all((a == b).all() for a, b in zip(payments, again, strict=True))
    assert len(world(radius=1e-9).time) == 0


def test_each_fraud_is_of_a_scenario_of_the_description():
    payments = world(cards=400, terminals=100, days=60)
    day = payments.time // card_fraud.DAY
    large = payments.amount > card_fraud.LARGE
    assert (payments.scenario[large] > 0).all() and not large[payments.scenario == 0].any()
    assert set(payments.scenario.tolist()) == {0, 1, 2, 3}
    genuine = world(cards=400, terminals=100, days=60, sources=0, leaks=0)
    assert set(genuine.scenario.tolist()) == {0, 1}
    only = world(cards=400, terminals=100, days=60, sources=1, leaks=0)
    for terminal in range(100):
        days = np.unique(day_of(only)[(only.terminal == terminal) & (only.scenario == 2)])
        here = (only.terminal == terminal) & np.isin(day_of(only), days)
        assert (only.scenario[here] == 2).all()  # all that is paid there on such a day is fraud
    leaked = world(cards=400, terminals=100, days=60, sources=0, leaks=3)
    stolen = leaked.scenario == 3
    np.testing.assert_array_equal(leaked.time, genuine.time)
    times = leaked.amount[stolen] / np.maximum(genuine.amount[stolen], 1e-9)
    assert set(np.round(np.log(times[genuine.amount[stolen] > 0]) / np.log(5), 6)) <= {1.0, 2.0, 3.0}
    np.testing.assert_array_equal(leaked.amount[~stolen], genuine.amount[~stolen])
    assert 0 < stolen.mean() < 0.1 and day.max() == 59


def test_a_third_of_the_payments_of_a_leaked_card_is_fraud():
    payments = world(cards=40, days=1, leaks=40, sources=0, radius=200.0)
    for card in range(40):
        own = payments.scenario[payments.card == card]
        assert (own == 3).sum() == len(own) // 3
    assert (payments.scenario == 3).any()


def day_of(payments):
    return payments.time // card_fraud.DAY


def test_features_are_those_counted_one_by_one():
    payments = world(days=50)
    rows = np.random.default_rng(0).choice(len(payments.time), 60, replace=False)
    found = card_fraud.features(payments, rows)
    time, fraud = payments.time, payments.scenario > 0
    for at, row in enumerate(rows):
        now = time[row]
        assert found["weekend"][at] == ((now // 86_400) % 7 in (5, 6))
        assert found["night"][at] == ((now // 3600) % 24 <= 6)
        for days in (1, 7, 30):
            seen = (payments.card == payments.card[row]) & (time <= now) & (time > now - days * 86_400)
            assert found[f"card payments in {days} days"][at] == seen.sum()
            mean = payments.amount[seen].mean()
            assert found[f"card mean amount in {days} days"][at] == pytest.approx(mean)
            known = now - 7 * 86_400
            seen = (payments.terminal == payments.terminal[row]) & (time <= known)
            seen &= time > known - days * 86_400
            assert found[f"terminal payments in {days} days"][at] == seen.sum()
            share = fraud[seen].mean() if seen.any() else 0
            assert found[f"terminal fraud share in {days} days"][at] == pytest.approx(share, abs=1e-9)


def test_features_do_not_see_the_future():
    payments = world(days=50)
    cut = len(payments.time) * 2 // 3
    rows = np.arange(cut - 50, cut)
    later = np.arange(len(payments.time)) >= cut
    changed = payments._replace(
        amount=np.where(later, 1e6, payments.amount), scenario=np.where(later, 1, payments.scenario)
    )
    recent = payments.time > payments.time[cut] - 7 * 86_400  # of these the frauds are not known yet
    changed = changed._replace(scenario=np.where(recent, 1, changed.scenario))
    for name, column in card_fraud.features(payments, rows).items():
        np.testing.assert_array_equal(column, card_fraud.features(changed, rows)[name], err_msg=name)


def test_the_week_of_the_test_has_no_card_whose_theft_is_known():
    payments = world(days=60, leaks=1, cards=200)
    day, fraud = day_of(payments), payments.scenario > 0
    chosen = card_fraud.week(payments, 45, 7, 7)
    for today in range(45, 52):
        known = set(payments.card[fraud & (day >= 31) & (day <= today - 8)].tolist())
        expected = [row for row in np.flatnonzero(day == today) if payments.card[row] not in known]
        np.testing.assert_array_equal(np.flatnonzero(chosen & (day == today)), expected)
    assert 0 < chosen.sum() < card_fraud.week(payments, 45, 7).sum()


def test_the_fraud_source_is_chronological_and_validates_on_other_cards():
    source = sources.SOURCES["simulated_card_fraud"](
        cards=300, terminals=300, radius=10, takeovers=1, leaks=1
    )
    days = {split: (part["day"].min(), part["day"].max()) for split, part in source.splits.items()}
    assert days["train"][1] - days["train"][0] == 6 == days["test"][1] - days["test"][0]
    assert days["test"][0] == days["train"][1] + 8 and days["train"][0] % 7 == 2
    cards = {split: set(part["card"].tolist()) for split, part in source.splits.items()}
    assert not cards["train"] & cards["validation"] and len(cards["validation"]) <= 30
    assert len(features(source.splits["train"])) == 15
    whole = sources.SOURCES["simulated_card_fraud"](
        cards=300, terminals=300, radius=10, takeovers=1, leaks=1, validation=0
    )
    assert set(whole.splits) == {"train", "test"}


def test_the_synthetic_table_is_a_function_of_its_seed_and_needs_cleaning():
    one, same, other = (sources.SOURCES["synthetic_table"](seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.splits["train"]["age"], same.splits["train"]["age"])
    assert (one.splits["train"]["noise"] != other.splits["train"]["noise"]).any()
    assert np.isnan(one.splits["train"]["age"]).any() and one.classes == ()
    labelled = sources.SOURCES["synthetic_table"](classes=True, rare=0.25)
    assert joined(labelled, "label").mean() == pytest.approx(0.25) and labelled.classes == ("no", "yes")
