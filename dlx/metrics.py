"""Metrics as sums and counts: exact for padded batches, any sharding and any order of merging.

A metric is a `Mean(total, weight)`. Batches are merged with `+`; the division happens once, in
`summarize` and its kin. A `mask` [b] weighs the examples: 0 for padding, whose values (NaN included)
change nothing, 1 for the rest, or any weight between. Zero over zero is 0, as scikit-learn's
`zero_division=0`: a class that nobody predicted has precision 0, a mean over nothing is 0.

Sums are float32, in which counts are exact up to 2**24. Beyond that, merge on the host: arrays of numpy
(`jax.device_get`) are added in float64.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Shaped

from dlx.core import Mean, Metrics


def mean(values: Any, mask: Shaped[Array | np.ndarray, "..."] | None = None) -> Mean:
    """Returns the sum of `values` and their number, both weighted by `mask`.

    `values` has the axes of `mask` first and any others after them (every element of an example counts
    alike), or is a scalar, which then stands for every example of the mask.
    """
    values = jnp.asarray(values, jnp.float32)
    if mask is None:
        return Mean(jnp.sum(values), jnp.float32(values.size))
    mask = jnp.asarray(mask, jnp.float32)
    if values.ndim == 0:
        values = jnp.broadcast_to(values, mask.shape)
    if values.shape[: mask.ndim] != mask.shape:
        raise ValueError(f"a mask of shape {mask.shape} does not fit values of shape {values.shape}")
    weights = jnp.broadcast_to(jnp.expand_dims(mask, range(mask.ndim, values.ndim)), values.shape)
    return Mean(jnp.sum(jnp.where(weights == 0, 0, values * weights)), jnp.sum(weights))


def merge(first: Metrics, second: Metrics) -> dict[str, Mean]:
    """Adds two reports name by name; host arrays in float64. Raises `ValueError` if names differ."""
    if first.keys() != second.keys():
        raise ValueError(f"cannot merge {sorted(first)} with {sorted(second)}: their names differ")
    return {
        name: Mean(_add(first[name].total, second[name].total), _add(first[name].weight, second[name].weight))
        for name in first
    }


def summarize(metrics: Metrics) -> dict[str, float]:
    """Divides every total by its weight, on the host.

    Several means at once (total and weight of one shape [k], one per class) become their plain average
    over the entries with a weight (the macro average over classes that occur). Raises `ValueError` for
    sums that are not means, such as `confusion` or `calibration`.
    """
    return {name: _summary(name, value) for name, value in jax.device_get(dict(metrics)).items()}


def finite(metrics: Metrics) -> jax.Array:
    """Tells whether all totals are finite, but for those over no weight."""
    means = [jnp.isfinite(mean.total) | (mean.weight == 0) for mean in metrics.values()]
    return jnp.all(jnp.stack([jnp.all(good) for good in means]))


def accuracy(
    logits: Float[Array | np.ndarray, "*b k"],
    labels: Integer[Array | np.ndarray, "*b"],
    mask: Shaped[Array | np.ndarray, "..."] | None = None,
) -> Mean:
    """Returns how often the largest logit (the first of equals) is that of the label."""
    return mean(jnp.argmax(logits, axis=-1) == labels, mask)


def top_k_accuracy(
    logits: Float[Array | np.ndarray, "*b k"],
    labels: Integer[Array | np.ndarray, "*b"],
    k: int,
    mask: Shaped[Array | np.ndarray, "..."] | None = None,
) -> Mean:
    """Returns how often the label is among the `k` largest logits, the first of equals preferred."""
    if not 1 <= k <= logits.shape[-1]:
        raise ValueError(
            f"top-{k} accuracy needs at least {max(k, 1)} classes and k >= 1, not {logits.shape[-1]}"
        )
    _, best = jax.lax.top_k(jnp.asarray(logits), k)
    return mean(jnp.any(best == jnp.asarray(labels)[..., None], axis=-1), mask)


def confusion(
    predictions: Integer[Array | np.ndarray, "*b"],
    labels: Integer[Array | np.ndarray, "*b"],
    num_classes: int,
    mask: Shaped[Array | np.ndarray, "*b"] | None = None,
) -> Mean:
    """Counts (true, predicted) pairs: the total is [k, k], rows true, the weight the number of examples.

    A pair with a label or prediction outside 0 ... k - 1 is counted nowhere.
    """
    labels, predictions = jnp.asarray(labels), jnp.asarray(predictions)
    valid = (labels >= 0) & (labels < num_classes) & (predictions >= 0) & (predictions < num_classes)
    weights = valid if mask is None else jnp.where(valid, mask, 0)
    weights = jnp.asarray(weights, jnp.float32)
    cells = jnp.where(valid, labels.astype(jnp.int32) * num_classes + predictions.astype(jnp.int32), 0)
    counts = jnp.zeros(num_classes**2, jnp.float32).at[cells].add(weights)
    return Mean(counts.reshape(num_classes, num_classes), jnp.sum(weights))


def recall(confusion: Mean) -> Mean:
    """Returns per class [k] the share of its examples that are predicted as it, from a confusion matrix."""
    return Mean(confusion.total.diagonal(), confusion.total.sum(axis=1))


def precision(confusion: Mean) -> Mean:
    """Returns per class [k] the share of its predictions that are right, from a confusion matrix."""
    return Mean(confusion.total.diagonal(), confusion.total.sum(axis=0))


def f1(confusion: Mean) -> Mean:
    """Returns per class [k] the harmonic mean of precision and recall, from a confusion matrix."""
    support, predicted = confusion.total.sum(axis=1), confusion.total.sum(axis=0)
    return Mean(2 * confusion.total.diagonal(), support + predicted)


def per_class(several: Mean) -> Float[np.ndarray, "*k"]:
    """Divides on the host, entry by entry: the recall of each class, say."""
    total, weight = (np.asarray(part, np.float64) for part in jax.device_get(several))
    return np.divide(total, weight, out=np.zeros_like(total), where=weight != 0)


def classification_report(confusion: Mean) -> dict[str, float]:
    """Returns accuracy, and precision, recall and F1 as micro, macro and weighted averages.

    Names are "accuracy", "precision_macro", "f1_weighted" and so on. As in scikit-learn, macro is the
    plain average over the classes that occur as label or as prediction, weighted is that by the number
    of labels, and micro counts all classes together (which is the accuracy, when every example has one
    label and one prediction). The classes one by one: `per_class(recall(confusion))`.
    """
    counts = np.asarray(jax.device_get(confusion.total), np.float64)
    counted = Mean(counts, counts.sum())
    support = counts.sum(axis=1)
    occurs = np.asarray(support + counts.sum(axis=0) > 0, np.float64)
    report = {"accuracy": _ratio(counts.trace(), counts.sum())}
    for name, metric in {"precision": precision, "recall": recall, "f1": f1}.items():
        several = metric(counted)
        values = per_class(several)
        report[f"{name}_micro"] = _ratio(several.total.sum(), several.weight.sum())
        report[f"{name}_macro"] = _ratio((values * occurs).sum(), occurs.sum())
        report[f"{name}_weighted"] = _ratio((values * support).sum(), support.sum())
    return report


def roc_auc(
    scores: Float[Array | np.ndarray, "b *k"],
    labels: Integer[Array | np.ndarray, "b"],
    mask: Shaped[Array | np.ndarray, "b"] | None = None,
) -> Mean:
    """Returns the chance that a positive scores above a negative, ties counting half.

    With scores [b] the label 1 is positive and 0 negative, and the mean is right pairs over pairs: the
    area under the ROC curve (Hanley & McNeil 1982). With scores [b, k] there is one mean per class
    against the rest, and `summarize` gives their macro average over the classes that have both.
    It is exact for the examples it is given, all of them at once: collect predictions first, for adding
    the sums of batches leaves out the pairs between them. A score of NaN makes the total NaN.
    """
    return _one_vs_rest(_ordered_pairs, scores, labels, mask)


def average_precision(
    scores: Float[Array | np.ndarray, "b *k"],
    labels: Integer[Array | np.ndarray, "b"],
    mask: Shaped[Array | np.ndarray, "b"] | None = None,
) -> Mean:
    """Returns the mean over positives of the precision among all that score at least as high.

    This is the sum of precision times gain in recall over distinct thresholds, not interpolated, as
    scikit-learn's. Shapes, classes and the need for all examples at once are those of `roc_auc`.
    """
    return _one_vs_rest(_precision_at_positives, scores, labels, mask)


def calibration(
    probabilities: Float[Array | np.ndarray, "b k"],
    labels: Integer[Array | np.ndarray, "b"],
    bins: int = 15,
    mask: Shaped[Array | np.ndarray, "b"] | None = None,
) -> Mean:
    """Sums correctness and confidence by bins of confidence ((i - 1) / bins, i / bins].

    Confidence is the largest probability. The total is [2, bins], how many are correct and the sum of
    confidences, the weight [bins] their number: total / weight is the reliability diagram.
    """
    if bins < 1:
        raise ValueError(f"calibration needs at least one bin, not {bins}")
    probabilities = jnp.asarray(probabilities, jnp.float32)
    weights = jnp.ones(len(labels)) if mask is None else jnp.asarray(mask, jnp.float32)
    confidence = jnp.where(weights == 0, 0, jnp.max(probabilities, axis=-1))
    correct = jnp.argmax(probabilities, axis=-1) == labels
    index = jnp.clip(jnp.ceil(confidence * bins).astype(jnp.int32) - 1, 0, bins - 1)
    sums = (
        jnp.zeros((3, bins))
        .at[:, index]
        .add(weights * jnp.stack([correct, confidence, jnp.ones_like(weights)]))
    )
    return Mean(sums[:2], sums[2])


def calibration_error(merged: Mean) -> float:
    """Returns the expected calibration error, between 0 and 1, from the sums of `calibration`.

    That is the distance between accuracy and mean confidence, averaged over examples by their bin
    (Guo et al. 2017, "On calibration of modern neural networks").
    """
    (correct, confidence), weight = (np.asarray(part, np.float64) for part in jax.device_get(merged))
    return _ratio(np.abs(correct - confidence).sum(), weight.sum())


def reliability(
    probabilities: Float[Array | np.ndarray, "b"],
    labels: Integer[Array | np.ndarray, "b"],
    bins: int = 15,
    mask: Shaped[Array | np.ndarray, "b"] | None = None,
) -> Mean:
    """Sums labels and probabilities of the label 1 by bins of probability ((i - 1) / bins, i / bins].

    The total is [2, bins], how many labels are 1 and the sum of probabilities, the weight [bins] their
    number; `calibration_error` of it is how far a predicted risk is from the share that comes true.
    `calibration` has the larger of two probabilities instead.
    """
    if bins < 1:
        raise ValueError(f"reliability needs at least one bin, not {bins}")
    weights = jnp.ones(labels.shape) if mask is None else jnp.asarray(mask, jnp.float32)
    risk = jnp.where(weights == 0, 0, jnp.asarray(probabilities, jnp.float32))
    index = jnp.clip(jnp.ceil(risk * bins).astype(jnp.int32) - 1, 0, bins - 1)
    values = jnp.stack([jnp.asarray(labels) == 1, risk, jnp.ones_like(risk)])
    sums = jnp.zeros((3, bins)).at[:, index].add(weights * values)
    return Mean(sums[:2], sums[2])


def kolmogorov_smirnov(
    scores: Float[Array | np.ndarray, "b"], labels: Integer[Array | np.ndarray, "b"]
) -> float:
    """Returns the largest gap between the distributions of the scores of label 1 and of label 0, on the host.

    Between 0 and 1: the largest difference of true and false positive rate over all thresholds, which credit
    scoring calls KS. Raises `ValueError` if a label is missing.
    """
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels)
    order = np.argsort(scores)
    last = np.append(np.diff(scores[order]) > 0, True)  # equal scores pass a threshold together
    shares = []
    for label in (1, 0):
        found = labels[order] == label
        if not found.any():
            raise ValueError(f"no example has the label {label}, so there is no distribution to compare")
        shares.append(np.cumsum(found)[last] / found.sum())
    return float(np.abs(shares[0] - shares[1]).max())


def _add(first, second):
    if isinstance(first, jax.Array) or isinstance(second, jax.Array):
        return first + second
    return np.add(first, second, dtype=np.float64)


def _ratio(total, weight) -> float:
    return float(total) / float(weight) if weight != 0 else 0.0


def _summary(name: str, value: Mean) -> float:
    total, weight = np.asarray(value.total, np.float64), np.asarray(value.weight, np.float64)
    if total.shape != weight.shape:
        raise ValueError(
            f"{name!r} holds totals {total.shape} over weights {weight.shape}, which is no mean: "
            "summarize a confusion matrix with classification_report, a calibration with calibration_error"
        )
    return _ratio(per_class(Mean(total, weight)).sum(), np.count_nonzero(weight))


def _one_vs_rest(metric, scores, labels, mask) -> Mean:
    """Applies `metric(scores, positive, negative)`, all [b], to scores [b] or to every class of [b, k]."""
    scores, labels = jnp.asarray(scores, jnp.float32), jnp.asarray(labels)
    weights = jnp.ones(labels.shape) if mask is None else jnp.asarray(mask, jnp.float32)

    def against_the_rest(column, label):
        column = jnp.where(weights == 0, 0, column)
        total, weight = metric(column, weights * (labels == label), weights * (labels != label))
        return Mean(jnp.where(jnp.any(jnp.isnan(column)), jnp.nan, total), weight)

    if scores.ndim == 1:
        return against_the_rest(scores, 1)
    if scores.ndim == 2:
        return jax.vmap(against_the_rest, in_axes=(1, 0))(scores, jnp.arange(scores.shape[1]))
    raise ValueError(f"scores must be [b] or [b, k], not {scores.shape}")


def _ordered_pairs(scores, positive, negative) -> tuple[Array, Array]:
    order = jnp.argsort(scores)
    scores, positive, negative = scores[order], positive[order], negative[order]
    negatives_before = jnp.pad(jnp.cumsum(negative), (1, 0))
    lower = negatives_before[jnp.searchsorted(scores, scores, side="left")]
    lower_or_equal = negatives_before[jnp.searchsorted(scores, scores, side="right")]
    return jnp.sum(positive * (lower + lower_or_equal) / 2), jnp.sum(positive) * jnp.sum(negative)


def _precision_at_positives(scores, positive, negative) -> tuple[Array, Array]:
    order = jnp.argsort(-scores)
    scores, positive, negative = scores[order], positive[order], negative[order]
    last = jnp.searchsorted(-scores, -scores, side="right") - 1  # of those that score at least as high
    right, wrong = jnp.cumsum(positive)[last], jnp.cumsum(negative)[last]
    precision = jnp.where(positive > 0, right / jnp.maximum(right + wrong, jnp.finfo(jnp.float32).tiny), 0)
    return jnp.sum(positive * precision), jnp.sum(positive)
