"""Preprocessing of columns: learned from the training part alone, and no column that lies."""

import json

import numpy as np
import pytest

from dlx.data import tables


def example(rows: int = 200, seed: int = 0):
    """A table with missing values, skew, ties and categories."""
    rng = np.random.default_rng(seed)
    rooms = rng.integers(1, 6, rows).astype(float)
    return {
        "rooms": np.where(rng.random(rows) < 0.1, np.nan, rooms),
        "income": np.exp(rng.normal(size=rows)),
        "balance": 100 * rng.normal(size=rows),
        "coast": rng.choice(np.array(["inland", "bay", "", "island"]), rows),
        "kind": rng.choice(np.array(["a", "b"]), rows),
    }


def test_numbers_are_scikit_learns_after_imputation_and_scaling():
    impute = pytest.importorskip("sklearn.impute", reason="the reference implementation")
    scale = pytest.importorskip("sklearn.preprocessing", reason="the reference implementation")
    train, other = example(), example(50, seed=1)
    names = ["rooms", "income", "balance"]
    columns = tables.learn(train)
    fill, scaler = impute.SimpleImputer(strategy="median"), scale.StandardScaler()
    expected = scaler.fit_transform(fill.fit_transform(np.column_stack([train[n] for n in names])))
    found = tables.encode(columns, train)["numbers"]
    assert columns.names == ("rooms", "rooms is missing", "income", "balance")
    np.testing.assert_allclose(found[:, [0, 2, 3]], expected, atol=1e-5)
    np.testing.assert_array_equal(found[:, 1], np.isnan(train["rooms"]))
    expected = scaler.transform(fill.transform(np.column_stack([other[n] for n in names])))
    found = tables.encode(columns, other)["numbers"]
    np.testing.assert_allclose(found[:, [0, 2, 3]], expected, atol=1e-5)


def test_the_quantile_transform_is_scikit_learns_within_the_data():
    reference = pytest.importorskip("sklearn.preprocessing", reason="the reference implementation")
    train = {"x": np.exp(np.random.default_rng(0).normal(size=800))}
    columns = tables.learn(train, transform="quantile")
    about = columns.numeric["x"]
    found = tables.encode(columns, train)["numbers"][:, 0] * about.std + about.mean
    there = reference.QuantileTransformer(n_quantiles=800, output_distribution="normal")
    expected = there.fit_transform(train["x"][:, None])[:, 0]
    inside = np.abs(expected) < 2.5  # scikit-learn's ends are at 5.2, whatever the number of rows
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-3)
    assert np.abs(found).max() < 3.5


def test_equal_values_get_the_score_of_their_middle_rank_and_order_is_kept():
    x = np.array([0.0] * 50 + [1.0] * 50 + [2.0] * 100)
    columns = tables.learn({"x": x}, transform="quantile")
    about = columns.numeric["x"]
    assert about.knots == (0.0, 1.0, 2.0) and -1.5 < about.scores[0] < about.scores[1] < 0 < about.scores[2]
    ordered = tables.encode(columns, {"x": np.linspace(-1, 3, 9)})["numbers"][:, 0]
    assert (np.diff(ordered) >= 0).all() and ordered[0] == ordered[2] and ordered[-1] == ordered[-3]


def test_the_log_transform_is_symmetric():
    train = {"x": np.array([-(np.e**2) + 1, 0.0, np.e**2 - 1, np.nan])}
    columns = tables.learn(train, transforms={"x": "log"}, indicators=False)
    np.testing.assert_allclose(columns.numeric["x"].std, np.sqrt(2), atol=1e-6)
    np.testing.assert_allclose(
        tables.encode(columns, train)["numbers"][:, 0], np.sqrt([2, 0, 2, 0]) * [-1, 0, 1, 0], atol=1e-6
    )


def test_categories_have_codes_from_one_and_what_was_not_seen_is_unknown():
    train = example()
    columns = tables.learn(train)
    assert columns.categorical == {"coast": ("", "bay", "inland", "island"), "kind": ("a", "b")}
    assert columns.cardinalities == (5, 3)
    new = {name: column[:4] for name, column in train.items()}
    new |= {"coast": np.array(["zzz", "island", "", "a"]), "kind": np.array(["b", "a", "A", ""])}
    np.testing.assert_array_equal(tables.encode(columns, new)["codes"], [[0, 2], [4, 1], [1, 0], [0, 0]])


def test_missing_values_where_training_had_none_become_the_median():
    columns = tables.learn({"x": np.array([1.0, 2.0, 6.0])})
    encoded = tables.encode(columns, {"x": np.array([np.nan, 2.0])})["numbers"]
    assert encoded.shape == (2, 1) and encoded[0] == encoded[1]


@pytest.mark.parametrize("transform", tables.TRANSFORMS)
def test_what_was_learned_survives_json_bit_for_bit(transform):
    columns = tables.learn(example(), transform=transform)
    text = tables.dumps(columns)
    again = tables.loads(text)
    assert again == columns and tables.dumps(again) == text and json.loads(text)["categorical"]["kind"]
    for name, array in tables.encode(columns, example(30, 5)).items():
        assert array.tobytes() == tables.encode(again, example(30, 5))[name].tobytes()


@pytest.mark.parametrize(
    ("column", "fault"),
    [
        (np.full(40, np.nan), "has no value in any row"),
        (np.full(40, ""), "has no value in any row"),
        (np.full(40, 7.0), "has one value in all rows, 7.0"),
        (np.full(40, "x"), "has one value in all rows, x"),
        (np.where(np.arange(40) == 3, np.inf, np.arange(40.0)), "holds an infinite number"),
        (3 * np.arange(40.0) - 1, "is a copy of the target"),
        (np.where(np.arange(40) % 9 == 0, np.nan, -np.arange(40.0)), "is a copy of the target"),
    ],
)
def test_a_column_that_teaches_nothing_or_is_the_target_is_refused_by_name(column, fault):
    rng = np.random.default_rng(0)
    table = {"good": rng.normal(size=40), "bad": column}
    with pytest.raises(ValueError, match=rf"drop them[^\0]*\n  column 'bad' {fault}"):
        tables.learn(table, np.arange(40.0))
    assert list(tables.faults(table, np.arange(40.0))) == ["bad"]


def test_a_column_that_tells_the_label_is_refused_and_a_good_one_is_not():
    rng = np.random.default_rng(0)
    label = np.arange(60) % 2
    names = np.array(["no", "yes"])[label]
    leaks = {
        "copy": 2.0 - label,
        "names": names,
        "beyond": label + rng.uniform(0, 0.9, 60),  # parted by a threshold, as a computed risk is
    }
    noise = {
        "good": label + rng.normal(size=60),
        "kind": rng.choice(names, 60),
        "id": np.arange(60).astype(str),
    }
    assert list(tables.faults(leaks | noise, label)) == list(leaks)
    assert tables.faults(leaks | noise, label, leaks=False) == {} == tables.faults(noise, names)
    few = np.array([0, 0, 1, 1])
    assert tables.faults({"x": np.array([1.0, 3.0, 7.0, 8.0])}, few) == {}


def test_a_constant_target_different_lengths_and_wrong_names_are_refused():
    x = np.arange(5.0)
    with pytest.raises(ValueError, match="the target is 1 in all 5 rows"):
        tables.learn({"x": x}, np.ones(5, int))
    with pytest.raises(ValueError, match=r"one length, at least 1, not \{'x': 5, 'y': 4\}"):
        tables.learn({"x": x, "y": x[1:]})
    with pytest.raises(ValueError, match="no columns"):
        tables.learn({})
    with pytest.raises(ValueError, match="unknown transform 'sqrt'; there are none, log, quantile"):
        tables.learn({"x": x}, transform="sqrt")
    with pytest.raises(ValueError, match=r"\['z'\]; there are \['x'\]"):
        tables.learn({"x": x}, transforms={"z": "log"})
    with pytest.raises(ValueError, match=r"lacks columns that were learned from: \['x'\]"):
        tables.encode(tables.learn({"x": x}), {"y": x})
    with pytest.raises(ValueError, match=r"no columns \['z'\] to drop"):
        tables.without({"x": x}, ["z"])
    with pytest.raises(ValueError, match="'x' holds an infinite number in row 1"):
        tables.encode(tables.learn({"x": x}), {"x": np.array([0, np.inf])})
    with pytest.raises(ValueError, match="column 'x' is object"):
        tables.learn({"x": np.array([None, 1.0])})
