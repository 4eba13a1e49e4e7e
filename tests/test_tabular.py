"""Tables as an application: nothing held out is learned from, and the numbers are scikit-learn's."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlx import configuration, metrics
from dlx.configuration import ConfigError
from dlx.data.sources import SOURCES
from dlx.data.splits import Source
from experiments import tabular
from experiments.applications import EXPERIMENTS

ROOT = Path(__file__).parent.parent
NAMES = ("regression/housing_mlp", "fraud_detection/card_fraud")


def smoke(name: str, *overrides: str):
    return configuration.load(str(ROOT / "configs" / f"{name}.py") + ":smoke", overrides)


@pytest.fixture(autouse=True)
def fresh():
    """Nothing is remembered from another test's source."""
    yield
    tabular.load.cache_clear()
    tabular.peers.cache_clear()


def test_one_module_serves_four_applications():
    names = ("regression", "credit_risk", "fraud_detection", "diagnosis")
    assert {EXPERIMENTS[name] for name in names} == {tabular}


def test_the_files_of_a_run_hold_what_was_learned():
    config = smoke("regression/housing_mlp")
    saved = tabular.files(config)
    target = json.loads(saved["target.json"])
    answers = tabular.answers(config, "train")
    assert target == {"mean": answers.mean(), "std": answers.std()}
    assert set(json.loads(saved["columns.json"])["numeric"]) == {"income", "age", "weight", "noise"}
    assert saved == tabular.files(config)


def test_predictions_are_in_the_unit_of_the_target():
    config = smoke("regression/housing_mlp")
    variables = jax.jit(tabular.make_task(config).init)(jax.random.key(0))
    head = {"kernel": jnp.zeros((32, 1)), "bias": jnp.ones(1)}
    variables = variables._replace(params=variables.params | {"head": head})
    target = tabular.data(config).target
    found = tabular.predictions(config, "test")(variables)
    np.testing.assert_allclose(found, target["mean"] + target["std"], rtol=1e-6)


def test_metrics_of_a_label_are_scikit_learns():
    reference = pytest.importorskip("sklearn.metrics", reason="the reference implementation")
    config = smoke("credit_risk/german_credit")
    label = tabular.answers(config, "test")
    rng = np.random.default_rng(0)
    scores = np.round(2 * (label - 0.5) + rng.normal(size=len(label)), 1)  # with ties
    found = tabular.measured(config, "test", scores)
    risk = 1 / (1 + np.exp(-scores))
    assert next(iter(found)) == "roc_auc"
    assert found["roc_auc"] == pytest.approx(reference.roc_auc_score(label, scores), abs=1e-6)
    assert found["average_precision"] == pytest.approx(
        reference.average_precision_score(label, scores), abs=1e-6
    )
    assert found["loss"] == pytest.approx(reference.log_loss(label, risk), abs=1e-6)
    assert found["accuracy"] == pytest.approx(np.mean((scores > 0) == label))
    wrong, right, _ = reference.roc_curve(label, scores)
    assert found["ks"] == pytest.approx((right - wrong).max())


def test_reliability_is_scikit_learns_calibration_curve():
    reference = pytest.importorskip("sklearn.calibration", reason="the reference implementation")
    rng = np.random.default_rng(0)
    risk = rng.random(400).astype(np.float32)
    label = (rng.random(400) < risk**2).astype(int)
    came, predicted = reference.calibration_curve(label, risk, n_bins=10)
    sums = metrics.reliability(risk, label, 10)
    np.testing.assert_allclose(np.asarray(sums.total) / np.asarray(sums.weight), [came, predicted], atol=1e-6)
    counts = np.histogram(risk, np.linspace(0, 1, 11))[0]
    expected = np.sum(counts * np.abs(came - predicted)) / 400
    assert metrics.calibration_error(sums) == pytest.approx(expected, abs=1e-6)
    mask = (np.arange(400) < 200).astype(np.float32)
    masked = metrics.reliability(np.where(mask > 0, risk, np.nan), label, 10, mask)
    half = metrics.reliability(risk[:200], label[:200], 10)
    np.testing.assert_allclose(masked.total, half.total, atol=1e-5)
    with pytest.raises(ValueError, match="at least one bin, not 0"):
        metrics.reliability(risk, label, 0)


def test_ks_of_equal_scores_is_nothing_and_needs_both_labels():
    label = np.array([0, 1, 0, 1])
    assert metrics.kolmogorov_smirnov(np.zeros(4), label) == 0
    assert metrics.kolmogorov_smirnov(np.array([0.0, 1, 0, 1]), label) == 1
    assert metrics.kolmogorov_smirnov(np.array([0.0, 1, 1, 2]), label) == 0.5
    with pytest.raises(ValueError, match="no example has the label 1"):
        metrics.kolmogorov_smirnov(np.zeros(3), np.zeros(3, int))


def test_the_threshold_is_that_of_the_largest_f1_on_validation():
    reference = pytest.importorskip("sklearn.metrics", reason="the reference implementation")
    config = smoke("credit_risk/german_credit")
    label = tabular.answers(config, "train")
    scores = np.round(label + np.random.default_rng(0).normal(size=len(label)), 1)
    chosen = tabular.chosen(config, "train", scores)
    best = max(reference.f1_score(label, scores >= at) for at in np.unique(scores))
    assert reference.f1_score(label, scores >= chosen) == pytest.approx(best)
    test = tabular.answers(config, "test")
    told = tabular.report(config, "test", np.where(test == 1, chosen, chosen - 1e-6), chosen)
    assert told["f1"] == told["precision"] == told["recall"] == 1


def test_the_test_labels_do_not_choose_the_threshold(monkeypatch):
    config, asked = smoke("credit_risk/german_credit"), []
    chosen = tabular.chosen
    monkeypatch.setattr(tabular, "chosen", lambda c, split, s: asked.append(split) or chosen(c, split, s))
    task = tabular.make_task(config)
    task.evaluators["test"](jax.jit(task.init)(jax.random.key(0)))
    assert asked == ["validation"]


def test_cards_are_counted_once_and_blocked_when_found():
    scores = np.array([9.0, 8, 7, 1, 9, 5, 4, 3])
    label = np.array([1, 0, 0, 1, 1, 0, 1, 0])
    card = np.array([1, 1, 2, 3, 1, 2, 3, 4])
    day = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    # day 0 looks into cards 1 and 2 and finds 1; day 1, without card 1, into 2 and 3, and finds 3
    assert tabular.card_precision(scores, label, day, card, 2) == pytest.approx((1 / 2 + 1 / 2) / 2)
    # a card whose fraud is not its most suspicious payment is found too
    assert (
        tabular.card_precision(np.array([5.0, 1]), np.array([0, 1]), np.zeros(2, int), np.ones(2, int), 1)
        == 1
    )


def test_a_class_weight_leaves_the_predicted_probability_where_it_is():
    """Trained with any weight, a model of one bias predicts the share of the training labels."""
    for power in (0.0, 1.0):
        config = smoke("credit_risk/german_credit", f"--config.class_weight={power}")
        with config.unlocked():
            config.source.rare = 0.2
        task = tabular.make_task(config)
        variables = jax.jit(task.init)(jax.random.key(0))
        label = tabular.answers(config, "train")
        bias = np.log(label.mean() / (1 - label.mean())) + tabular.logarithm(config)
        assert (tabular.logarithm(config) > 1) == (power == 1)
        head = {"kernel": jnp.zeros((32, 1)), "bias": jnp.full(1, bias, jnp.float32)}
        variables = variables._replace(params=variables.params | {"head": head})
        whole = jax.tree.map(jnp.asarray, tabular.arrays(config, "train"))
        slope, _ = jax.jit(jax.grad(task.loss, has_aux=True))(variables, whole, jax.random.key(1))
        assert abs(float(slope.params["head"]["bias"][0])) < 1e-4  # the best bias for that weight
        risk = 1 / (1 + np.exp(-tabular.predictions(config, "test")(variables)))
        np.testing.assert_allclose(risk, label.mean(), rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_peers_stand_beside_every_metric_and_are_better_than_nothing(name):
    config = smoke(name)
    task = tabular.make_task(config)
    found = task.evaluators["test"](jax.jit(task.init)(jax.random.key(0)))
    first = next(iter(found))
    assert first == ("rmse" if "regression" in name else "average_precision")
    for peer in tabular.PEERS:
        assert f"{first}_{peer}" in found
    if first == "rmse":
        deviation = tabular.answers(config, "test").std()
        assert found["rmse_gradient_boosting"] < found["rmse_linear"] < deviation
    else:
        assert found["card_precision_100_linear"] <= 1 and found["roc_auc_gradient_boosting"] > 0.8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"age": lambda n: np.full(n, np.nan)}, "column 'age' has no value in any row"),
        ({"target": lambda n: np.ones(n)}, "the target is 1.0 in all"),
    ],
)
def test_bad_columns_of_a_source_are_refused_by_name(monkeypatch, change, message):
    original = SOURCES["synthetic_table"]

    def broken(**settings):
        source = original(**settings)
        splits = {
            split: part | {name: make(len(part["age"])) for name, make in change.items()}
            for split, part in source.splits.items()
        }
        return Source(splits, source.classes)

    monkeypatch.setitem(SOURCES, "synthetic_table", broken)
    tabular.load.cache_clear()
    with pytest.raises(ValueError, match=message):
        tabular.make_task(smoke("regression/housing_mlp"))


def test_a_column_that_leaks_is_refused_until_it_is_dropped(monkeypatch):
    original = SOURCES["synthetic_table"]

    def leaking(**settings):
        source = original(**settings)
        splits = {s: part | {"copy": 2 * part["target"]} for s, part in source.splits.items()}
        return Source(splits, source.classes)

    monkeypatch.setitem(SOURCES, "synthetic_table", leaking)
    tabular.load.cache_clear()
    config = smoke("regression/housing_mlp")
    with pytest.raises(ValueError, match=r"config.columns.drop\):\n  column 'copy' is a copy of the target"):
        tabular.make_task(config)
    with config.unlocked():
        config.columns.drop = ["copy"]
    assert "copy" not in tabular.data(config).columns.numeric and tabular.make_task(config)


def test_the_seed_chooses_the_fold_and_three_classes_are_too_many(monkeypatch):
    asked = []

    def folded(fold=0):
        asked.append(fold)
        return SOURCES["digits"]() if fold == 9 else SOURCES["synthetic_table"]()

    monkeypatch.setitem(SOURCES, "folded", folded)
    config = smoke("regression/housing_mlp")
    with config.unlocked():
        config.source, config.seed = {"name": "folded", "fold": -1}, 13
    tabular.data(config)
    with config.unlocked():
        config.seed = 9
    with pytest.raises(ConfigError, match="folded has 10 classes; a table has two, or a target"):
        tabular.data(config)
    assert asked == [3, 9]


@pytest.mark.parametrize("name", NAMES)
def test_the_figures_are_drawn(name, tmp_path):
    config = smoke(name)
    variables = jax.jit(tabular.make_task(config).init)(jax.random.key(0))
    for file in tabular.demo(config, variables, tmp_path):
        assert file.stat().st_size > 5_000
    assert "synthetic_table" in tabular.describe(config)["data"]
