"""Results on one scale: how a measured value stands to a published one, or to that of a simpler method."""

import math
import statistics
from collections.abc import Mapping
from typing import NamedTuple

from experiments.commands import reproduce

LOWER = {
    "error",
    "loss",
    "mse",
    "mae",
    "rmse",
    "perplexity",
    "bits",
}  # of metrics with such a word less is better
NAIVE = "best naive forecast, same run"
PEERS = (
    "gradient_boosting",
    "linear",
    "isolation_forest",
    "one_class_svm",
    "moving_z",
    "pca",
    "pixels",
    "translation_memory",
    "support_vectors",
    "n_gram",
)


class Reference(NamedTuple):
    """What a result is compared with: a value, where it comes from, and whether more of it is better."""

    value: float
    source: str
    higher: bool
    published: bool


class Ratio(NamedTuple):
    """How many times better than its reference a result is, one deviation below and above, and of what."""

    middle: float
    low: float
    high: float
    of: str


def reference(result: Mapping) -> Reference | None:
    """Returns the published value of a result, else the best peer that was measured beside it, if any.

    Those are the numbers of the test data called "<metric>_<peer>", of `PEERS`. Of "skill", which is measured
    against the best naive forecast, that forecast is the peer: its skill is 0.
    """
    metric, published = result["metric"], result["published"]
    if published:
        return Reference(published["value"], published["source"], published["higher_is_better"], True)
    higher = LOWER.isdisjoint(metric.split("_"))
    if metric == "skill":
        return Reference(0.0, NAIVE, True, False)
    names = [f"{metric}_{peer}" for peer in PEERS if f"{metric}_{peer}" in result["test"][0]]
    peers = {name: [test.get(name) for test in result["test"]] for name in names}
    means = {name: statistics.fmean(values) for name, values in peers.items() if None not in values}
    if not means:
        return None
    best = (max if higher else min)(means, key=lambda name: means[name])
    source = f"{best.removeprefix(f'{metric}_').replace('_', ' ')}, same run"
    return Reference(means[best], source, higher, False)


def ratio(result: Mapping) -> Ratio | None:
    """Returns how many times better a result is than its reference; above 1 is better, whatever the metric.

    Of a number of which less is better, and of a log-likelihood below 0, that is the reference over the
    measured value. Of a share of which more is better, as accuracy or the area under the ROC curve, it is the
    ratio of what is missing to 1, and of a skill that to the error of the naive forecast; of any other it is
    the measured value over the reference. So 2 means half the error, or twice the score.
    """
    found = reference(result)
    if found is None:
        return None
    mean, spread = result["mean"], result["std"] or 0.0
    share = found.higher and (
        result["metric"] == "skill" or (min(mean, found.value) >= 0 and max(mean, found.value) <= 1)
    )
    below = max(mean, found.value) < 0
    of = "score" if found.higher and not share and not below else "error"

    def times(value: float) -> float:
        if of == "score":
            return value / found.value
        ends = 1.0 if share else 0.0
        left, wanted = (ends - value, ends - found.value) if found.higher else (value, found.value)
        return math.inf if left <= 0 else wanted / left

    worse = mean - spread if found.higher else mean + spread
    better = mean + spread if found.higher else mean - spread
    return Ratio(times(mean), times(worse), times(better), of)


def standing(result: Mapping) -> str:
    """Returns the verdict of a result, with how many standard deviations over seeds it is off.

    Beside a published value that is better, matched or missed; beside the best peer of the same run ahead,
    even or behind, where even, too, is within one deviation; without either, baseline.
    """
    found = reference(result)
    if found is None or found.published:
        return reproduce.judged(result)
    spread = result["std"] or 0.0
    gain = (result["mean"] - found.value) * (1 if found.higher else -1)
    word = "even" if abs(gain) <= spread else "ahead" if gain > 0 else "behind"
    return word if word == "even" or not spread else f"{word} by {reproduce.deviations(gain, spread)}"


def place(value: float, low: float, high: float) -> float:
    """Returns where a ratio lies between two on a logarithmic axis, 0 ... 1; those outside lie at an end."""
    if value <= low:
        return 0.0
    return 1.0 if value >= high else math.log(value / low) / math.log(high / low)


def ticks(low: float, high: float) -> list[float]:
    """Returns the round ratios between two others: powers of 2, and 1.5 and 0.7 where there are few."""
    found = [2.0**power for power in range(-10, 11) if low <= 2.0**power <= high]
    if len(found) < 4:
        found += [value for value in (0.7, 1.4) if low <= value <= high]
    return sorted(found)
