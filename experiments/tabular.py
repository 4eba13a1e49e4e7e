"""Tables: regression, credit risk, fraud detection and diagnosis differ in data and in metrics.

What the columns teach, the scale of the target, and the weight of the positive class come from the training
part alone. The threshold above which an answer is "yes" is that of the largest F1 on the validation part.
Beside every number of the network stand those of scikit-learn's gradient boosting and linear model, learned
from the same rows. With `config.source.fold` -1 the seed of a run chooses its fold, seed % 10, so that seeds
0 ... 9 are a ten-fold cross-validation; with `config.source.seed` -1 it is the seed of what is simulated.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Shaped

from dlx import feed, figures, losses, metrics
from dlx.configuration import ConfigError, build
from dlx.core import Model, Task
from dlx.data import pipeline, tables
from dlx.data.sources import SOURCES
from dlx.data.splits import Arrays, Source
from dlx.data.table_sources import ASIDE, FOLDS
from dlx.evaluate import collected
from dlx.models import MODELS
from dlx.train import ONCE

CARDS = 100  # that are looked into a day, of which `card_precision` is the share rightly so
FIRST = {"credit_risk": "roc_auc", "fraud_detection": "average_precision", "diagnosis": "accuracy"}
PEERS = {"gradient_boosting": "gradient boosting", "linear": "linear model"}


class Data(NamedTuple):
    """The source, what its training columns taught, and {"mean", "std"} of the training target.

    Of labels, the mean is the share of the positive class, and the deviation is 1.
    """

    source: Source
    columns: tables.Columns
    target: dict[str, float]


def make_task(config) -> Task:
    """Squared error of the scaled target, or cross entropy in which the rare class may count more."""
    model, splits, bias = network(config), data(config).source.splits, logarithm(config)
    train = pipeline.batches(arrays(config, "train"), config.batch, config.seed, rows=feed.rows(config.batch))

    def init(key):
        return model.init(key, *map(jnp.asarray, inputs(arrays(config, "train"))))

    def loss(variables, batch, key):
        outputs, state = model.apply(variables, *inputs(batch), key=key)
        if not labelled(config):
            each = losses.mean_squared_error(outputs[:, 0], batch["answer"])
            return each.mean(), (state, {"loss": metrics.mean(each)})
        each = losses.binary_cross_entropy(outputs[:, 0], batch["answer"])
        weight = jnp.where(batch["answer"] > 0, jnp.exp(bias), 1)
        total = metrics.mean(each * weight)
        return total.total / total.weight, (state, {"loss": total})

    def evaluator(split):
        others = [part for part in ("validation", "train") if part in splits]
        predict = {part: predictions(config, part) for part in (split, others[0])}

        def evaluate(variables):
            found = {part: function(variables) for part, function in predict.items()}
            return report(config, split, found[split], chosen(config, others[0], found[others[0]]))

        return evaluate

    return Task(init, loss, train, {split: evaluator(split) for split in splits if split != "train"})


def inputs(batch) -> tuple:
    """Returns what the model takes of a batch."""
    return batch["numbers"], batch["codes"]


def labelled(config) -> bool:
    """Tells whether a class is asked for, and not a number."""
    return bool(data(config).source.classes)


def data(config) -> Data:
    """Returns the source and what its training part teaches; kept, since a run asks for it more than once."""
    return load(wanted(config))


def wanted(config) -> str:
    """Returns the specs of the source and of its columns in JSON, the fold in place."""
    source = config.source.to_dict()
    if source.get("fold") == -1:
        source["fold"] = config.seed % FOLDS
    if source.get("seed") == -1:
        source["seed"] = config.seed
    return json.dumps([source, config.columns.to_dict()], sort_keys=True)


@functools.lru_cache(maxsize=1)
def load(spec: str) -> Data:
    """Reads the source and learns from the columns of its training part; the specs are given in JSON."""
    place, how = json.loads(spec)
    source = build(SOURCES, place)
    if len(source.classes) not in (0, 2):
        raise ConfigError(f"{place['name']} has {len(source.classes)} classes; a table has two, or a target")
    drop = how.pop("drop", [])
    parts = {
        split: {name: column for name, column in part.items() if name in ASIDE}
        | tables.without({name: column for name, column in part.items() if name not in ASIDE}, drop)
        for split, part in source.splits.items()
    }
    train = parts["train"]
    answer = train["label" if source.classes else "target"]
    columns = tables.learn({n: c for n, c in train.items() if n not in ASIDE}, answer, **how)
    target = {"mean": float(answer.mean()), "std": 1.0 if source.classes else float(answer.std())}
    return Data(source._replace(splits=parts), columns, target)


def files(config) -> dict[str, str]:
    """Returns the files that are saved with a run."""
    _, columns, target = data(config)
    return {"columns.json": tables.dumps(columns), "target.json": json.dumps(target) + "\n"}


def arrays(config, split: str) -> Arrays:
    """Returns a split in memory: "numbers" float32, "codes" int32, and "answer" float32 as is learned."""
    source, columns, target = data(config)
    part = source.splits[split]
    answer = part["label"] if source.classes else (part["target"] - target["mean"]) / target["std"]
    return tables.encode(columns, part) | {"answer": answer.astype(np.float32)}


def network(config) -> Model:
    """Returns the model for the columns of the data, of one output."""
    return build(MODELS, config.model, num_classes=1, cardinalities=data(config).columns.cardinalities)


def logarithm(config) -> float:
    """Returns the logarithm of how much more a positive example counts in training.

    `config.class_weight` w: the odds of the other class to the power of w; 0 is not at all, and with 1 both
    classes together count alike. It is taken off the logits that are learned so: what is predicted is the
    probability in the data.
    """
    if not labelled(config):
        return 0.0
    share = data(config).target["mean"]
    return config.get("class_weight", 0.0) * float(np.log((1 - share) / share))


def predictions(config, split: str, part: Arrays | None = None) -> Callable:
    """Returns `variables ->` predicted targets, in their unit, or logits [n] of a split or of `part`."""
    model, target, bias = network(config), data(config).target, logarithm(config)
    number = not labelled(config)
    rows = feed.rows(config.batch)
    passes = pipeline.passes(arrays(config, split) if part is None else part, config.batch, rows=rows)

    def predict(variables, batch):
        outputs, _ = model.apply(variables, *inputs(batch))
        return {"scores": outputs[:, 0] - bias}

    evaluate = collected(passes, predict, lambda found: found)

    def scaled(variables):
        scores = evaluate(variables)["scores"].astype(np.float64)
        return scores * target["std"] + target["mean"] if number else scores

    return scaled


def answers(config, split: str) -> Shaped[np.ndarray, "n"]:
    """Returns the true targets or labels of a split."""
    part = data(config).source.splits[split]
    return part["label"] if labelled(config) else part["target"]


def chosen(config, split: str, scores: Float[np.ndarray, "n"]) -> float:
    """Returns the logit from which on to say yes: that of the largest F1 on a split."""
    if not labelled(config):
        return 0.0
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(answers(config, split)[order] == 1)
    last = np.append(np.diff(scores[order]) < 0, True)  # equal scores are on one side
    share = np.where(last, 2 * right / (np.arange(1, len(order) + 1) + right[-1]), -1)
    return float(scores[order[share.argmax()]])


def report(config, split: str, scores: Float[np.ndarray, "n"], threshold: float) -> dict[str, float]:
    """Returns the metrics of predictions of a split, and then those of the peers, under "<metric>_<peer>"."""
    found = measured(config, split, scores)
    if labelled(config):
        yes, label = (scores >= threshold).astype(int), answers(config, split)
        counts = metrics.confusion(yes, label, 2)
        for name in ("precision", "recall", "f1"):
            found[name] = float(metrics.per_class(getattr(metrics, name)(counts))[1])
        found["threshold"] = float(1 / (1 + np.exp(-threshold)))
    for peer, given in peers(wanted(config), config.seed)[split].items():
        found |= {f"{name}_{peer}": value for name, value in measured(config, split, given).items()}
    return found


def measured(config, split: str, scores: Float[np.ndarray, "n"]) -> dict[str, float]:
    """Returns the metrics that need no threshold, first the one that the application is about.

    Of a number: root mean squared and mean absolute error, in its unit, and the share of the variance that is
    explained. Of a label: area under the ROC curve, average precision, KS, the calibration error and mean
    cross entropy of the probabilities, and how often the likelier class is the right one. Where payments are
    of cards, "card_precision_100" too; see `card_precision`.
    """
    answer = answers(config, split)
    if not labelled(config):
        error = scores - answer
        return {
            "rmse": float(np.sqrt(np.mean(error**2))),
            "mae": float(np.abs(error).mean()),
            "r2": float(1 - np.mean(error**2) / answer.var()),
        }
    sums, bins = jax.device_get(jax.jit(tally, compiler_options=ONCE)(scores.astype(np.float32), answer))
    found = metrics.summarize(sums) | {
        "ks": metrics.kolmogorov_smirnov(scores, answer),
        "calibration_error": metrics.calibration_error(bins),
    }
    part = data(config).source.splits[split]
    if "card" in part:
        found["card_precision_100"] = card_precision(scores, answer, part["day"], part["card"])
    first = FIRST.get(config.experiment, "roc_auc")
    return {first: found[first]} | found


def tally(scores, label):
    """Returns the sums that are made on a device: means, and the bins of reliability."""
    sums = {
        "roc_auc": metrics.roc_auc(scores, label),
        "average_precision": metrics.average_precision(scores, label),
        "loss": metrics.mean(losses.binary_cross_entropy(scores, label)),
        "accuracy": metrics.mean((scores > 0) == (label == 1)),
    }
    return sums, metrics.reliability(jax.nn.sigmoid(scores), label)


def card_precision(
    scores: Float[np.ndarray, "n"],
    label: Int[np.ndarray, "n"],
    day: Int[np.ndarray, "n"],
    card: Int[np.ndarray, "n"],
    count: int = CARDS,
) -> float:
    """Returns the share of stolen cards among the `count` most suspicious of each day, averaged over days.

    A card is as suspicious as its most suspicious payment of the day, and stolen if one of them is a fraud;
    once found, it is blocked, and is not looked into on later days (Le Borgne et al. 2022, chapter 4).
    """
    blocked: set[int] = set()
    shares = []
    for today in np.unique(day):
        rows = np.flatnonzero((day == today) & ~np.isin(card, list(blocked)))
        suspects = list(dict.fromkeys(card[rows[np.argsort(-scores[rows], kind="stable")]].tolist()))[:count]
        found = set(suspects) & set(card[rows[label[rows] == 1]].tolist())
        blocked |= found
        shares.append(len(found) / count)
    return float(np.mean(shares))


@functools.lru_cache(maxsize=1)
def peers(spec: str, seed: int) -> dict[str, dict[str, Float[np.ndarray, "n"]]]:
    """Returns what scikit-learn's models predict, {split: {peer: scores [n]}}, learned from the same rows.

    Gradient boosting with its defaults gets the numbers as they are, missing ones too, and the codes of the
    categories; the linear model the scaled numbers, and an indicator for each category.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.linear_model import LinearRegression, LogisticRegression

    source, columns, _ = load(spec)
    raw, flat = {}, {}
    for split, part in source.splits.items():
        encoded = tables.encode(columns, part)
        raw[split] = np.column_stack([part[name] for name in columns.numeric] + [encoded["codes"]])
        ones = [
            np.eye(size)[code] for size, code in zip(columns.cardinalities, encoded["codes"].T, strict=True)
        ]
        flat[split] = np.column_stack([encoded["numbers"], *(one[:, 2:] for one in ones)])
    categories = np.arange(raw["train"].shape[1]) >= len(columns.numeric)
    train = source.splits["train"]
    models: dict = {}
    if source.classes:
        boosted = HistGradientBoostingClassifier(random_state=seed, categorical_features=categories)
        models["gradient_boosting"] = boosted.fit(raw["train"], train["label"]).decision_function
        models["linear"] = (
            LogisticRegression(max_iter=2000).fit(flat["train"], train["label"]).decision_function
        )
    else:
        boosted = HistGradientBoostingRegressor(random_state=seed, categorical_features=categories)
        models["gradient_boosting"] = boosted.fit(raw["train"], train["target"]).predict
        models["linear"] = LinearRegression().fit(flat["train"], train["target"]).predict
    views = {"gradient_boosting": raw, "linear": flat}
    return {
        split: {peer: predict(views[peer][split]) for peer, predict in models.items()}
        for split in source.splits
        if split != "train"
    }


def describe(config) -> dict[str, str]:
    """Returns what a run's summary says of its data."""
    source, columns, target = data(config)
    sizes = ", ".join(f"{name} {pipeline.length(split):,}" for name, split in source.splits.items())
    missing = sum(about.indicator for about in columns.numeric.values())
    kinds = f"{len(columns.numeric)} numbers, {len(columns.categorical)} categories"
    kinds += f", {missing} with missing values" if missing else ""
    asked = (
        f"{target['mean']:.2%} {source.classes[1]}" if source.classes else f"mean target {target['mean']:g}"
    )
    return {"data": f"{config.source.name}: {sizes} rows of {kinds}; {asked}"}


def demo(config, variables, folder: Path) -> list[Path]:
    """Draws the predictions of the test rows beside those of the peers, and which columns they depend on."""
    found = predictions(config, "test")(variables)
    given = {"network": found, **{PEERS[n]: s for n, s in peers(wanted(config), config.seed)["test"].items()}}
    draw = curves if labelled(config) else scatter
    return [
        draw(config, given, folder / "predictions.png"),
        importance(config, variables, folder / "importance.png"),
    ]


def scatter(config, given, file: Path) -> Path:
    """Draws predicted against true targets, a panel for each model on one scale."""
    true = answers(config, "test")
    figure, axes = figures.canvas(1, len(given), figsize=(4.4 * len(given), 4.4), sharex=True, sharey=True)
    ends = [true.min(), true.max()]
    for axis, (name, values) in zip(axes, given.items(), strict=True):
        error = np.sqrt(np.mean((values - true) ** 2))
        shade = min(1.0, 25 / np.sqrt(len(true)))
        axis.scatter(true, values, s=5, alpha=shade, color="tab:blue", linewidths=0, rasterized=True)
        axis.plot(ends, ends, color="black", linewidth=1)
        axis.set(title=f"{name}: RMSE {error:,.5g}", xlabel="true")
        axis.grid(alpha=0.3)
    margin = 0.1 * (ends[1] - ends[0])
    axes[0].set(ylabel="predicted", ylim=(ends[0] - 2 * margin, ends[1] + 2 * margin))
    figure.suptitle(f"{config.source.name}: {len(true):,} test rows")
    return figures.save(figure, file)


def curves(config, given, file: Path) -> Path:
    """Draws ROC and precision-recall curves and reliability, a line for each model."""
    label = answers(config, "test")
    figure, (roc, recall, calibrated) = figures.canvas(1, 3, figsize=(14, 5.4))
    roc.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":")
    recall.axhline(label.mean(), color="black", linewidth=0.8, linestyle=":", label="chance")
    risks = []
    for colour, (name, scores) in zip(("tab:blue", "tab:orange", "tab:green"), given.items(), strict=True):
        order = np.argsort(-scores, kind="stable")
        last = np.append(np.diff(scores[order]) < 0, True)
        right, wrong = (np.cumsum(label[order] == one)[last] for one in (1, 0))
        about = measured(config, "test", scores)
        line = {"color": colour, "linewidth": 2 if name == "network" else 1.2}
        area = f"{name} {about['roc_auc']:.3f}"
        roc.plot(np.append(0, wrong / wrong[-1]), np.append(0, right / right[-1]), label=area, **line)
        area = f"{name} {about['average_precision']:.3f}"
        some = right > 0  # from the first right answer on
        recall.step(right[some] / right[-1], (right / (right + wrong))[some], where="pre", label=area, **line)
        risk = 1 / (1 + np.exp(-scores))
        sums = metrics.reliability(risk, label, 10)
        predicted, came = (np.asarray(sums.total)[row] / np.maximum(sums.weight, 1) for row in (1, 0))
        filled = np.asarray(sums.weight) > 0
        name = f"{name} {about['calibration_error']:.3f}"
        calibrated.plot(predicted[filled], came[filled], marker="o", markersize=4, label=name, **line)
        risks.append(risk)
    calibrated.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":")
    yes = data(config).source.classes[1]
    roc.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC, area")
    recall.set(
        xlabel="recall", ylabel="precision", title="precision and recall, average precision", ylim=(0, 1.03)
    )
    calibrated.set(xlabel=f"predicted probability of {yes!r}", ylabel="share that came true")
    calibrated.set_title("reliability, calibration error")
    for axis in (roc, recall, calibrated):
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    figure.suptitle(f"{config.source.name}: {len(label):,} test rows, {label.sum():,} {yes}")
    return figures.save(figure, file)


def importance(config, variables, file: Path, repeats: int = 5, count: int = 20) -> Path:
    """Draws by how much RMSE or ROC AUC gets worse when the values of a column are shuffled (Breiman 2001).

    The error bars are the standard deviation over shuffles.
    """
    source, columns, _ = data(config)
    part, rng = source.splits["test"], np.random.default_rng(0)
    whole = arrays(config, "test")
    base = measured(config, "test", predictions(config, "test")(variables))
    metric, sign, said = (
        ("roc_auc", -1, "fall of ROC AUC") if labelled(config) else ("rmse", 1, "rise of RMSE")
    )
    worse = {}
    rows = len(whole["answer"])
    for name in (*columns.numeric, *columns.categorical):
        changed = []
        for _ in range(repeats):
            shuffled = tables.encode(columns, part | {name: part[name][rng.permutation(rows)]})
            changed.append(shuffled | {"answer": whole["answer"]})
        joined = {key: np.concatenate([one[key] for one in changed]) for key in whole}
        scores = predictions(config, "test", joined)(variables).reshape(repeats, rows)
        worse[name] = [sign * (measured(config, "test", one)[metric] - base[metric]) for one in scores]
    names = sorted(worse, key=lambda name: np.mean(worse[name]))[-count:]
    figure, axis = figures.canvas(figsize=(8, 0.3 * len(names) + 1.3))
    means, spread = ([function(worse[name]) for name in names] for function in (np.mean, np.std))
    axis.barh(names, means, xerr=spread, color="tab:blue", error_kw={"linewidth": 1})
    axis.set(
        xlabel=f"{said} when the column is shuffled (it is {base[metric]:,.5g})",
        title=f"{config.source.name}: the columns the network depends on",
    )
    axis.grid(alpha=0.3, axis="x")
    return figures.save(figure, file)
