"""Metrics against scikit-learn, and their laws: padding, merging and sharding change nothing."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from dlx import metrics
from dlx.core import Mean

K = 5


def examples(size=203, seed=0, classes=K):
    """Logits in steps of a half, so that there are ties, and labels that they know something about."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, size)
    logits = generator.normal(size=(size, K)) + 1.5 * np.eye(K)[labels]
    return np.float32(np.round(2 * logits) / 2), labels


def padded(array, to=256, fill=0):
    return np.concatenate([array, np.full((to - len(array), *array.shape[1:]), fill, array.dtype)])


def everything(logits, labels, mask=None):
    """Every metric of this module that a batch has."""
    probabilities = jax.nn.softmax(jnp.asarray(logits))
    return {
        "values": metrics.mean(logits, mask),
        "accuracy": metrics.accuracy(logits, labels, mask),
        "top": metrics.top_k_accuracy(logits, labels, 2, mask),
        "confusion": metrics.confusion(jnp.argmax(logits, -1), labels, K, mask),
        "calibration": metrics.calibration(probabilities, labels, 7, mask),
        "auc": metrics.roc_auc(logits, labels, mask),
        "average_precision": metrics.average_precision(logits, labels, mask),
        "binary_auc": metrics.roc_auc(logits[:, 1], (labels == 1) * 1, mask),
    }


SUMS_OF_BATCHES = ("values", "accuracy", "top", "confusion", "calibration")


def assert_close(first, second, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **({"rtol": 1e-6} | tolerance)), first, second)


def test_mean_weighs_every_element_by_its_example():
    values = np.float32([[1, 2], [3, 4], [np.nan, np.inf]])
    assert metrics.mean(values, np.array([True, True, False])) == Mean(10, 4)
    assert metrics.mean(values[:2], np.float32([0.5, 0])) == Mean(1.5, 1)
    assert metrics.mean(values[:2], np.array([[1, 0], [0, 1]])) == Mean(5, 2)
    assert metrics.mean(values[:2]) == Mean(10, 4)
    assert metrics.mean(jnp.bfloat16(3)) == Mean(3, 1)
    assert metrics.mean(2.0, np.array([1, 1, 0])) == Mean(4, 2)
    assert metrics.mean(values.astype(jnp.bfloat16)).total.dtype == jnp.float32


def test_a_mask_that_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match=r"mask of shape \(2,\) .* \(3, 2\)"):
        metrics.mean(np.zeros((3, 2)), np.ones(2))
    with pytest.raises(ValueError, match="mask"):
        metrics.mean(np.zeros(3), np.ones((3, 2)))


def test_merge_adds_by_name_and_refuses_other_names():
    merged = metrics.merge({"loss": Mean(1.0, 2.0)}, {"loss": Mean(3.0, 4.0)})
    assert merged == {"loss": Mean(4.0, 6.0)}
    with pytest.raises(ValueError, match=r"\['loss'\].*\['accuracy'\]"):
        metrics.merge({"loss": Mean(1.0, 2.0)}, {"accuracy": Mean(1.0, 2.0)})


def test_counts_on_the_host_stay_exact_beyond_float32():
    many = {"tokens": Mean(np.float32(2**24), np.float32(2**24))}
    one = {"tokens": Mean(np.float32(1), np.float32(1))}
    assert float(metrics.merge(many, one)["tokens"].weight) == 2**24 + 1


def test_summarize_divides_once_at_the_end():
    report = {
        "scalar": Mean(jnp.float32(3), jnp.float32(4)),
        "nothing": Mean(jnp.float32(0), jnp.float32(0)),
        "classes": Mean(np.float32([1, 0, 3]), np.float32([2, 0, 4])),
    }
    assert metrics.summarize(report) == {"scalar": 0.75, "nothing": 0.0, "classes": 0.625}
    assert all(type(value) is float for value in metrics.summarize(report).values())


@pytest.mark.parametrize("name", ["confusion", "calibration"])
def test_summarize_refuses_sums_that_are_no_mean(name):
    with pytest.raises(ValueError, match=f"'{name}'.*classification_report.*calibration_error"):
        metrics.summarize({name: everything(*examples())[name]})


def test_accuracies_are_scikit_learns():
    logits, labels = examples()
    logits += np.float32(np.random.default_rng(1).uniform(0, 1e-3, logits.shape))  # its ties go to the last
    report = metrics.summarize(
        {"1": metrics.accuracy(logits, labels), "3": metrics.top_k_accuracy(logits, labels, 3)}
    )
    assert report["1"] == pytest.approx(reference.accuracy_score(labels, logits.argmax(-1)))
    assert report["3"] == pytest.approx(reference.top_k_accuracy_score(labels, logits, k=3))


def test_top_k_of_equal_logits_counts_k_classes_and_never_nan():
    labels = np.arange(K)
    assert metrics.top_k_accuracy(np.zeros((K, K), np.float32), labels, 2).total == 2
    assert metrics.top_k_accuracy(np.zeros((K, K), np.float32), labels, 1).total == 1
    logits = np.zeros((K, K), np.float32)
    logits[:, -1] = np.nan
    assert metrics.top_k_accuracy(logits, np.zeros(K, int), 1).total == 0
    with pytest.raises(ValueError, match="top-6 accuracy needs at least 6 classes"):
        metrics.top_k_accuracy(logits, labels, 6)


@pytest.mark.parametrize("absent", [0, 2], ids=["all classes", "two classes without labels"])
def test_the_classification_report_is_scikit_learns(absent):
    logits, labels = examples(classes=K - absent)
    logits[:, 1] = -9  # nobody predicts class 1
    logits[:, 4] = np.where(np.arange(len(logits)) % 9, -9, logits[:, 4])
    predictions = logits.argmax(-1)
    counted = metrics.confusion(predictions, labels, K)
    np.testing.assert_array_equal(
        counted.total, reference.confusion_matrix(labels, predictions, labels=range(K))
    )
    report = metrics.classification_report(counted)
    assert report.pop("accuracy") == pytest.approx(reference.accuracy_score(labels, predictions))
    assert len(report) == 9
    for average in ("micro", "macro", "weighted"):
        expected = reference.precision_recall_fscore_support(
            labels, predictions, average=average, zero_division=0
        )
        for name, value in zip(("precision", "recall", "f1"), expected[:3], strict=True):
            assert report[f"{name}_{average}"] == pytest.approx(value)
    expected = reference.precision_recall_fscore_support(
        labels, predictions, labels=range(K), zero_division=0
    )
    for metric, value in zip((metrics.precision, metrics.recall, metrics.f1), expected[:3], strict=True):
        np.testing.assert_allclose(metrics.per_class(metric(counted)), value)


def test_confusion_leaves_out_what_is_no_class():
    counted = metrics.confusion(np.array([0, 1, -1, 2]), np.array([0, -1, 1, 3]), 3)
    assert counted.total.sum() == counted.weight == counted.total[0, 0] == 1
    assert metrics.classification_report(Mean(np.zeros((3, 3)), 0.0))["f1_macro"] == 0.0


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=24))
@settings(max_examples=40, deadline=None)
def test_ranking_metrics_are_scikit_learns_with_ties(pairs):
    scores, labels = (
        padded(np.float32([p[0] for p in pairs]), 24),
        padded(np.array([int(p[1]) for p in pairs]), 24),
    )
    mask = np.arange(24) < len(pairs)
    scores = np.where(scores == 0, np.float32(-0.0) * labels, scores)  # both zeros are one score
    auc = metrics.summarize({"auc": metrics.roc_auc(scores, labels, mask)})["auc"]
    precision = metrics.summarize({"ap": metrics.average_precision(scores, labels, mask)})["ap"]
    scores, labels = scores[mask], labels[mask]
    assert auc == pytest.approx(
        reference.roc_auc_score(labels, scores) if 0 < labels.mean() < 1 else 0, rel=1e-6
    )
    expected = reference.average_precision_score(labels, scores) if labels.any() else 0
    assert precision == pytest.approx(expected, rel=1e-6)


def test_ranking_metrics_of_many_classes_are_scikit_learns():
    logits, labels = examples()
    chances = np.float64(jax.nn.softmax(logits))
    votes = np.random.default_rng(1).multinomial(64, chances / chances.sum(-1, keepdims=True))
    scores = np.float32(votes / 64)  # sums to 1 exactly, and has many ties
    report = metrics.summarize(
        {"auc": metrics.roc_auc(scores, labels), "ap": metrics.average_precision(scores, labels)}
    )
    expected = reference.roc_auc_score(labels, scores, multi_class="ovr")
    assert report["auc"] == pytest.approx(expected, rel=1e-6)
    assert report["ap"] == pytest.approx(
        reference.average_precision_score(np.eye(K)[labels], scores), rel=1e-6
    )


def test_a_class_without_examples_has_no_part_in_the_macro_auc():
    logits, labels = examples(classes=K - 1)
    area = metrics.roc_auc(logits, labels)
    assert area.weight[K - 1] == 0
    expected = np.mean([reference.roc_auc_score(labels == c, logits[:, c]) for c in range(K - 1)])
    assert metrics.summarize({"auc": area})["auc"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("metric", [metrics.roc_auc, metrics.average_precision])
def test_a_score_of_nan_is_seen_unless_it_is_padding(metric):
    scores, labels = np.float32([0.1, np.nan, 0.3]), np.array([0, 1, 1])
    assert np.isnan(metric(scores, labels).total)
    assert np.isfinite(metric(scores, labels, np.array([1, 0, 1])).total)


def test_calibration_error_is_that_of_the_definition():
    logits, labels = examples()
    probabilities = np.asarray(jax.nn.softmax(jnp.asarray(3 * logits)))
    confidence, correct = probabilities.max(-1), probabilities.argmax(-1) == labels
    expected = 0.0
    for low in np.arange(10) / 10:
        inside = (confidence > low) & (confidence <= low + 0.1)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert metrics.calibration_error(metrics.calibration(probabilities, labels, 10)) == pytest.approx(
        expected, rel=1e-5
    )


def test_calibration_knows_its_edges():
    certain = np.float32([[1, 0], [0, 1], [0.5, 0.5]])
    sums = metrics.calibration(certain, np.array([0, 0, 0]), 2)
    np.testing.assert_array_equal(sums.weight, [1, 2])  # one half belongs to the lower bin, one to the last
    np.testing.assert_array_equal(sums.total, [[1, 1], [0.5, 2]])
    assert metrics.calibration_error(sums) == pytest.approx((0.5 + 1) / 3)
    assert metrics.calibration_error(Mean(np.zeros((2, 3)), np.zeros(3))) == 0.0
    with pytest.raises(ValueError, match="at least one bin, not 0"):
        metrics.calibration(certain, np.array([0, 0, 0]), 0)


def test_padding_changes_no_metric():
    logits, labels = examples()
    mask = np.arange(256) < len(labels)
    for fill in (np.nan, 9.0):
        got = everything(padded(logits, fill=np.float32(fill)), padded(labels, fill=3), mask)
        expected = everything(logits, labels)
        exact = [name for name in expected if name not in ("values", "calibration", "average_precision")]
        for name in exact:
            jax.tree.map(np.testing.assert_array_equal, got[name], expected[name])
        assert_close(got, expected, rtol=1e-5)


def test_ragged_batches_merge_to_the_whole():
    logits, labels = examples()
    edges = [0, 1, 60, 100, 203]
    merged = None
    for low, high in itertools.pairwise(edges):
        part = everything(padded(logits[low:high]), padded(labels[low:high]), np.arange(256) < high - low)
        part = {name: part[name] for name in SUMS_OF_BATCHES}
        merged = part if merged is None else metrics.merge(merged, part)
    whole = everything(logits, labels)
    assert_close(merged, {name: whole[name] for name in SUMS_OF_BATCHES}, rtol=1e-5)
    np.testing.assert_array_equal(merged["confusion"].total, whole["confusion"].total)


def test_sharding_changes_no_metric():
    logits, labels = examples()
    batch = (padded(logits), padded(labels), np.arange(256) < len(labels))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.device_put(batch, jax.NamedSharding(mesh, jax.P("data")))
    assert len(sharded[0].sharding.device_set) == 8
    assert_close(jax.jit(everything)(*sharded), jax.jit(everything)(*batch), rtol=1e-5)
    counted = [jax.jit(everything)(*given)["confusion"].total for given in (sharded, batch)]
    np.testing.assert_array_equal(*counted)


def test_wrong_shapes_are_refused():
    logits, labels = examples()
    for call in (
        lambda: metrics.accuracy(logits, labels[:-1]),
        lambda: metrics.accuracy(logits, np.float32(labels)),
        lambda: metrics.confusion(labels, labels[:-1], K),
        lambda: metrics.roc_auc(logits, labels[:, None]),
        lambda: metrics.calibration(logits[:, 0], labels),
    ):
        with pytest.raises(Exception, match="Type-check error"):
            call()
    with pytest.raises(ValueError, match=r"\[b\] or \[b, k\]"):
        metrics.roc_auc(logits[:, :, None], labels)
