"""Anomaly detection: a detector for each of some sets, learned without labels, beside those of scikit-learn.

All sets are in one run: each has its own columns, weights and batches, and the loss is the sum of theirs, so
that nothing that one set learns depends on another. A detector is `config.members` copies of an autoencoder,
or of Deep SVDD, whose mean score counts. scikit-learn's isolation forest and one-class SVM learn from the
same scaled rows. With `config.source.split` -1 the seed of a run chooses what is tested, seed % 10.

Where rows are the windows of series, scores become alarms: `config.stream` says over how many rows the score
is averaged ("short") and compared with those before ("long", 0 for not at all), in deviations, and for how
many rows an alarm keeps others down that are not louder ("hold"). The baseline "moving_z" makes alarms in the
same way of the values themselves.
"""

import functools
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from dlx import feed, figures, losses, metrics, nn, streaming
from dlx.configuration import ConfigError, build
from dlx.core import Mean, Model, Task, Variables
from dlx.data import pipeline, tables
from dlx.data.anomaly_sources import ASIDE, TENTHS
from dlx.data.sources import SOURCES
from dlx.evaluate import mean_over, outputs
from dlx.models import MODELS
from dlx.train import ONCE

PEERS = {"isolation_forest": "isolation forest", "one_class_svm": "one-class SVM", "moving_z": "moving z"}
MOST = 5000  # rows that the one-class SVM learns from, for its time grows with their square


class Set(NamedTuple):
    """One set: what its training columns taught, its numbers by split, and what only evaluation sees.

    `labels` are those of the test rows; `times` are those of all rows, of a series, else empty.
    """

    columns: tables.Columns
    splits: dict[str, Float[np.ndarray, "_ d"]]
    labels: Int[np.ndarray, "_"]
    times: Int[np.ndarray, "_"]


def make_task(config) -> Task:
    """What the outputs of each set's detector are away from what normal rows give, summed over the sets."""
    sets, model = data(config), detector(config)
    rows = feed.rows(config.batch)
    each = {
        name: pipeline.batches({"x": one.splits["train"]}, config.batch, config.seed, rows=rows)
        for name, one in sets.items()
    }

    def init(key):
        found = {}
        for name, one in sets.items():
            found[name] = model.init(own_key(key, name), jnp.asarray(one.splits["train"]))
        return Variables(
            {name: own.params for name, own in found.items()},
            {name: own.state for name, own in found.items()},
        )

    def loss(variables, batch, key):
        total, state, report = 0.0, {}, Mean(0.0, 0.0)
        for name in sorted(batch):
            x = batch[name]["x"]
            found, state[name] = model.apply(part(variables, name), x, key=own_key(key, name))
            away = distance(x, found)
            total += away.mean(axis=1).sum()
            report += metrics.mean(away)
        return total, (state, {"loss": report})

    def score(variables, batch):
        found = Mean(0.0, 0.0)
        for name in sorted(sets):
            away = distance(batch[name]["x"], model.apply(part(variables, name), batch[name]["x"])[0])
            found += metrics.mean(away.T, batch[name]["mask"])
        return {"loss": found}

    evaluators: dict[str, Callable] = {"test": lambda variables: report(config, scores(config)(variables))}
    if all("validation" in one.splits for one in sets.values()):
        evaluators["validation"] = mean_over(passes(config, "validation"), score)
    return Task(init, loss, lambda step: {name: batch(step) for name, batch in each.items()}, evaluators)


def own_key(key, name: str):
    """Returns the key of a set, whichever others there are."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def part(variables: Variables, name: str) -> Variables:
    """Returns the variables of one set's detector."""
    return Variables(variables.params[name], variables.state[name])


def detector(config) -> Model:
    """Returns the model of each set: an ensemble."""
    return nn.ensemble(build(MODELS, config.model), config.members)


def distance(x, found):
    """Returns how far rows [b, d] are from normal, [members, b]: what is learned to be small, and the score.

    That is the squared distance from the centre of Deep SVDD; the negative evidence lower bound of a
    variational autoencoder, in nats up to a constant; the mean squared error of other reconstructions.
    """
    if "distance" in found:
        return found["distance"]
    error = jnp.square(found["reconstruction"] - x)
    if "log_variance" in found:
        return 0.5 * error.sum(axis=-1) + losses.gaussian_kl(found["mean"], found["log_variance"])
    return error.mean(axis=-1)


def data(config) -> dict[str, Set]:
    """Returns the sets by name; kept, since a run asks for them more than once."""
    return load(wanted(config))


def wanted(config) -> str:
    """Returns the specs of the source, its sets and columns in JSON, the split in place."""
    source = config.source.to_dict()
    if source.get("split") == -1:
        source["split"] = config.seed % TENTHS
    return json.dumps([source, list(config.sets), config.columns.to_dict()], sort_keys=True)


@functools.lru_cache(maxsize=1)
def load(spec: str) -> dict[str, Set]:
    """Reads the sets and learns from the columns of their training rows; the specs are given in JSON."""
    source, names, how = json.loads(spec)
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"config.sets={names} must be one set or more, none of them twice")
    return {name: prepared(build(SOURCES, source, set=name).splits, how) for name in sorted(names)}


def prepared(splits: Mapping[str, Mapping[str, np.ndarray]], how: Mapping) -> Set:
    """Returns a set, scaled as its training rows say, without the columns that are constant in them."""
    bare = {split: {n: c for n, c in rows.items() if n not in ASIDE} for split, rows in splits.items()}
    bare = {split: tables.without(rows, list(tables.faults(bare["train"]))) for split, rows in bare.items()}
    columns = tables.learn(bare["train"], **how)
    numbers = {split: tables.encode(columns, rows)["numbers"] for split, rows in bare.items()}
    times = [rows["time"] for rows in splits.values() if "time" in rows]
    none = np.zeros(0, np.int32)
    return Set(columns, numbers, splits["test"]["label"], np.concatenate(times) if times else none)


def files(config) -> dict[str, str]:
    """Returns the files that are saved with a run: what the columns of each set taught."""
    return {f"columns_{name}.json": tables.dumps(one.columns) for name, one in data(config).items()}


def passes(config, split: str) -> Callable[[], Iterator[dict]]:
    """Returns `() -> batches` of all sets side by side: one pass over a split of each, padded and masked."""
    rows = feed.rows(config.batch)
    each = {
        name: pipeline.passes({"x": one.splits[split]}, config.batch, rows=rows)
        for name, one in data(config).items()
    }

    def examples() -> Iterator[dict]:
        streams = {name: read() for name, read in each.items()}
        last: dict[str, dict] = {}
        while True:
            found = {name: next(stream, None) for name, stream in streams.items()}
            if all(batch is None for batch in found.values()):
                return
            last |= {name: batch for name, batch in found.items() if batch is not None}
            yield {
                name: last[name] if batch is not None else last[name] | {"mask": 0 * last[name]["mask"]}
                for name, batch in found.items()
            }

    return examples


def scores(config) -> Callable[[Variables], dict[str, Float[np.ndarray, "_"]]]:
    """Returns `variables ->` {set: the score of each test row}, of a series that which makes alarms."""
    model, sets = detector(config), data(config)

    def predict(variables, batch):
        found = {}
        for name in sorted(sets):
            away = distance(batch[name]["x"], model.apply(part(variables, name), batch[name]["x"])[0])
            found[name] = {"score": away.mean(axis=0), "mask": batch[name]["mask"]}
        return found

    splits = ("train", "validation", "test") if "stream" in config else ("test",)
    runs = {split: outputs(passes(config, split), predict) for split in splits if split in first(sets).splits}

    def evaluate(variables):
        parts: dict[str, list] = {name: [] for name in sets}
        for run in runs.values():
            for found in run(variables):
                for name, one in found.items():
                    parts[name].append(one["score"][one["mask"] > 0])
        return {name: tested(config, name, np.concatenate(own)) for name, own in parts.items()}

    return evaluate


def first(sets: Mapping[str, Set]) -> Set:
    """Returns the first of the sets; their splits have the same names."""
    return next(iter(sets.values()))


def tested(config, name: str, found: Float[np.ndarray, "_"]) -> Float[np.ndarray, "_"]:
    """Returns the scores of the test rows; `found` are those of all rows, if these are of a series.

    What becomes of a row's score there depends on rows before it alone.
    """
    if "stream" not in config:
        return found
    stream = config.stream
    if stream.long:
        found = streaming.moving_z(found, stream.long, stream.short)
    return found[-len(data(config)[name].labels) :]


def report(config, found: Mapping[str, Float[np.ndarray, "_"]]) -> dict[str, float]:
    """Returns the metrics of scores, of the peers' under "<metric>_<peer>", and areas by set after these.

    Metrics are means over the sets; "_unseen" are means over the sets that `config.development`, with whose
    test rows settings were chosen, does not name.
    """
    given = {"": found} | {f"_{peer}": own for peer, own in peers(config).items()}
    means: dict[str, float] = {}
    single: dict[str, float] = {}
    for ending, own in given.items():
        areas = {name: area(config, name, own[name]) for name in own}
        unseen = [name for name in areas if name not in config.development]
        for mark, names in {"": list(areas), "_unseen": unseen if config.development else []}.items():
            if names and "stream" in config:
                best = streaming.alarms(*alarming(config, {name: own[name] for name in names}))
                means |= {f"{metric}{mark}{ending}": value for metric, value in best._asdict().items()}
            means |= average(areas, names, f"{mark}{ending}") if names else {}
        single |= {f"roc_auc{ending}/{name}": value["roc_auc"] for name, value in areas.items()}
    return means | single


def average(areas: Mapping[str, Mapping[str, float]], names, ending: str) -> dict[str, float]:
    """Returns the mean of each metric over some sets, by the metric's name and an ending."""
    return {
        f"{metric}{ending}": float(np.mean([areas[name][metric] for name in names]))
        for metric in ("roc_auc", "average_precision")
    }


def alarming(config, found: Mapping[str, Float[np.ndarray, "_"]]) -> tuple[list, list]:
    """Returns scores of which those that could be alarms are left, and labels, of all series."""
    sets = data(config)
    left = [streaming.records(np.asarray(own, np.float64), config.stream.hold) for own in found.values()]
    return left, [sets[name].labels for name in found]


def area(config, name: str, found: Float[np.ndarray, "_"]) -> dict[str, float]:
    """Returns the area under the ROC curve and the average precision of scores of a set's test rows."""
    sets = data(config)
    length = max(len(one.labels) for one in sets.values())  # one program for all sets
    label = sets[name].labels
    mask = np.arange(length) < len(label)
    padded = np.zeros((2, length))
    padded[:, : len(label)] = found, label
    sums = _tally(padded[0].astype(np.float32), padded[1].astype(np.int32), mask)
    return metrics.summarize(sums)


@functools.partial(jax.jit, compiler_options=ONCE)
def _tally(score, label, mask):
    return {
        "roc_auc": metrics.roc_auc(score, label, mask),
        "average_precision": metrics.average_precision(score, label, mask),
    }


def peers(config) -> dict[str, dict[str, Float[np.ndarray, "_"]]]:
    """Returns the scores of the peers, {peer: {set: those of the test rows}}, learned from the same rows.

    Of series there is "moving_z" beside scikit-learn's: how far a value is from the mean of those before.
    """
    found = {
        peer: {name: tested(config, name, own) for name, own in by_name.items()}
        for peer, by_name in _peers(wanted(config), config.seed, "stream" in config).items()
    }
    if "stream" in config:
        window = config.stream.window
        found["moving_z"] = {
            name: np.abs(streaming.moving_z(values(one), window))[-len(one.labels) :]
            for name, one in data(config).items()
        }
    return found


@functools.lru_cache(maxsize=1)
def _peers(spec: str, seed: int, whole: bool) -> dict[str, dict[str, Float[np.ndarray, "_"]]]:
    from sklearn.ensemble import IsolationForest
    from sklearn.svm import OneClassSVM

    found: dict[str, dict] = {"isolation_forest": {}, "one_class_svm": {}}
    for name, one in load(spec).items():
        train = one.splits["train"]
        rows = np.concatenate(list(one.splits.values())) if whole else one.splits["test"]
        few = np.random.default_rng(seed).permutation(len(train))[:MOST]
        forest = IsolationForest(random_state=seed).fit(train)
        found["isolation_forest"][name] = -forest.score_samples(rows)
        found["one_class_svm"][name] = -OneClassSVM().fit(train[few]).score_samples(rows)
    return found


def values(one: Set) -> Float[np.ndarray, "_"]:
    """Returns the values of a series, scaled, one for each of its windows."""
    return np.concatenate(list(one.splits.values()))[:, 0].astype(np.float64)


def describe(config) -> dict[str, str]:
    """Returns what a run's summary says of its data."""
    sets = data(config)
    rows = sum(len(one.splits["train"]) for one in sets.values())
    tests, odd = (
        sum(map(f, sets.values())) for f in (lambda s: len(s.labels), lambda s: int(s.labels.sum()))
    )
    text = f"{config.source.name}: {len(sets)} sets, {rows:,} rows to learn from, {tests:,} to test on"
    return {"data": f"{text}, {odd:,} of them anomalies"}


def demo(config, variables, folder: Path) -> list[Path]:
    """Draws the areas of each set beside the peers', or the series with their alarms."""
    found = scores(config)(variables)
    if "stream" in config:
        return [alarm_pictures(config, found, folder / "alarms.png")]
    return [areas_by_set(config, found, folder / "areas.png")]


def areas_by_set(config, found, file: Path) -> Path:
    """Draws both areas of each set, a point for each detector, sets in the order of the network's."""
    given = {config.model.name.replace("_", " "): found}
    given |= {PEERS[peer]: own for peer, own in peers(config).items()}
    areas = {who: {name: area(config, name, own[name]) for name in own} for who, own in given.items()}
    mine = next(iter(areas.values()))
    order = sorted(mine, key=lambda name: mine[name]["roc_auc"])
    titles = {"roc_auc": "area under the ROC curve", "average_precision": "average precision"}
    figure, axes = figures.canvas(1, 2, figsize=(11, 0.27 * len(order) + 2), sharey=True)
    marks = zip(areas, ("o", "s", "^"), ("tab:blue", "tab:orange", "tab:green"), strict=True)
    for who, mark, colour in marks:
        for axis, metric in zip(axes, titles, strict=True):
            worth = [areas[who][name][metric] for name in order]
            label = f"{who}, mean {np.mean(worth):.3f}"
            axis.plot(worth, order, mark, color=colour, label=label, markersize=6, alpha=0.8)
    for axis, title in zip(axes, titles.values(), strict=True):
        axis.set(xlabel=title, xlim=(0, 1.02))
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    share = np.mean([one.labels.mean() for one in data(config).values()])
    figure.suptitle(f"{config.source.name}: {len(order)} sets, on average {share:.0%} of test rows anomalies")
    return figures.save(figure, file)


def alarm_pictures(config, found, file: Path) -> Path:
    """Draws each series with its labelled windows, and its alarms at the threshold of the best NAB score."""
    sets, left = data(config), dict(zip(found, alarming(config, found)[0], strict=True))
    best = streaming.alarms(*alarming(config, found))
    figure, axes = figures.canvas(len(sets), 1, figsize=(12, 1.75 * len(sets) + 0.8), squeeze=False)
    for axis, (name, one) in zip(axes[:, 0], sets.items(), strict=True):
        time = np.datetime64("1970-01-01", "m") + one.times
        border = len(time) - len(one.labels)
        axis.plot(time, values(one), color="tab:grey", linewidth=0.6, label="value, scaled")
        axis.axvspan(
            time[0], time[border - 1], color="tab:blue", alpha=0.1, linewidth=0, label="learned from"
        )
        edges = np.flatnonzero(np.diff(np.concatenate([[0], one.labels, [0]]))).reshape(-1, 2)
        for number, (begin, end) in enumerate(edges + border):
            label = "" if number else "labelled window"
            axis.axvspan(time[begin], time[end - 1], color="tab:orange", alpha=0.3, linewidth=0, label=label)
        at = border + np.flatnonzero(left[name] >= best.threshold)
        axis.plot(time[at], values(one)[at], "v", color="tab:red", markersize=5, label="alarm")
        axis.set_title(name.replace("_", " "), fontsize=9, loc="left", pad=3)
        axis.margins(x=0.01)
        figures.dated(axis)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(
        f"{config.source.name}: NAB score {best.nab_score:.1f}, {best.window_recall:.0%} of windows found, "
        f"precision {best.window_precision:.0%}"
    )
    return figures.save(figure, file)
