"""Forecasting: the next values of one or several series, beside the naive forecasts of the same windows.

Errors are on the standardised scale (mean 0 and standard deviation 1 over the training part), over all
windows of a split, one for each row its horizon can begin at. "skill" is 1 less the squared error over that
of the best naive forecast on the same windows: at 0 and below the model is worth nothing.
"""

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from dlx import feed, figures, losses, metrics
from dlx.configuration import ConfigError, build
from dlx.core import Mean, Model, Task
from dlx.data import series
from dlx.data.naive import NAIVE
from dlx.data.series import Series, Table
from dlx.data.series_sources import SERIES
from dlx.evaluate import collected, mean_over
from dlx.models import MODELS


class Data(NamedTuple):
    """The series, the table that windows are gathered from, and the first rows of each split's windows."""

    series: Series
    table: Table
    starts: Mapping[str, np.ndarray]


def make_task(config) -> Task:
    """Squared error, or the pinball loss where there are quantiles, on what was observed of the horizon."""
    model, (_, table, starts) = forecaster(config), data(config)
    rows, sizes = feed.rows(config.batch), (config.history, config.horizon)
    train = series.batches(table, starts["train"], *sizes, config.batch, config.seed, rows=rows)

    def init(key):
        return model.init(key, jnp.zeros((1, config.history, table.inputs.shape[1])))

    def loss(variables, batch, key):
        outputs, state = model.apply(variables, batch["history"], key=key)
        found = metrics.mean(errors(config, outputs, batch["horizon"]), batch["observed"])
        return found.total / jnp.maximum(found.weight, 1), (state, {"loss": found})

    def evaluator(split):
        rows = functools.cache(functools.partial(naive_rows, config, split))  # the same at every evaluation
        report = functools.partial(summary, config, split, rows)
        return mean_over(passes(config, split), scorer(config, model), report)

    return Task(init, loss, train, {split: evaluator(split) for split in ("validation", "test")})


def data(config) -> Data:
    """Returns what a config learns from; kept, since a run asks for it more than once."""
    fields = ("source", "targets", "covariates", "calendar", "log_returns", "history", "horizon", "borders")
    return load(json.dumps({name: config.to_dict()[name] for name in fields}, sort_keys=True))


@functools.lru_cache(maxsize=2)
def load(spec: str) -> Data:
    """Reads the series and learns the scaling, as the fields of a config in JSON say."""
    wanted = json.loads(spec)
    found = series.chosen(build(SERIES, wanted["source"]), [*wanted["targets"], *wanted["covariates"]])
    if wanted["log_returns"]:
        found = series.log_returns(found)
    starts = series.windows(found, wanted["history"], wanted["horizon"], wanted["borders"])
    before = wanted["borders"]["validation"]
    table = series.table(found, wanted["targets"], before, wanted["covariates"], wanted["calendar"])
    return Data(found, table, starts)


def files(config) -> dict[str, str]:
    """Returns the files that are saved with a run: the scaling of the targets."""
    scaling = data(config).table.scaling
    learned = {"columns": list(config.targets), "mean": scaling.mean.tolist(), "std": scaling.std.tolist()}
    return {"scaling.json": json.dumps(learned, indent=1) + "\n"}


def passes(config, split: str, rows: slice | np.ndarray | None = None) -> Callable:
    """Returns `() -> batches`: all windows of a split in order, padded and masked.

    Of each batch those rows that this process feeds to the devices, or `rows`.
    """
    _, table, starts = data(config)
    rows = feed.rows(config.batch) if rows is None else rows
    return series.passes(table, starts[split], config.history, config.horizon, config.batch, rows=rows)


def forecaster(config) -> Model:
    """Returns the model, for the targets, the horizon and the quantiles of the config."""
    levels = list(config.quantiles)
    if levels and (levels != sorted(set(levels)) or 0.5 not in levels):
        raise ConfigError(f"config.quantiles={levels} must grow and hold 0.5, which is the forecast")
    sizes = {"targets": len(config.targets), "horizon": config.horizon, "quantiles": max(1, len(levels))}
    return build(MODELS, config.model, **sizes)


def errors(config, outputs, horizon):
    """Returns the loss of each value [b, h, c] of a horizon."""
    if config.quantiles:
        return losses.quantile_loss(outputs, horizon, config.quantiles)
    return jnp.square(outputs[..., 0] - horizon)


def ordered(config, outputs):
    """Returns outputs with their quantiles in order, which learned ones may leave; and the forecast itself.

    Sorting never makes the pinball loss larger (Chernozhukov, Fernandez-Val and Galichon 2010).
    """
    outputs = jnp.sort(outputs, axis=-1)
    return outputs, outputs[..., config.quantiles.index(0.5) if config.quantiles else 0]


def scorer(config, model: Model) -> Callable:
    """Returns `(variables, batch) ->` the sums of a batch, its padding and what was not observed left out."""

    def score(variables, batch):
        outputs, point = ordered(config, model.apply(variables, batch["history"])[0])
        truth, seen = batch["horizon"], batch["observed"] * batch["mask"][:, None, None]
        found = {
            "loss": metrics.mean(errors(config, outputs, truth), seen),
            "mse": metrics.mean(jnp.square(point - truth), seen),
            "mae": metrics.mean(jnp.abs(point - truth), seen),
        }
        if config.quantiles:
            inside = (truth >= outputs[..., 0]) & (truth <= outputs[..., -1])
            found["coverage"] = metrics.mean(inside, seen)
            found["width"] = metrics.mean(outputs[..., -1] - outputs[..., 0], seen)
        return found

    return score


def summary(config, split: str, rows: Callable, sums: Mapping[str, Mean]) -> dict[str, float]:
    """Returns the metrics of a split, and of the test data those of the naive forecasts too, `rows()`.

    "rmse" is in the units of the target where there is one. With quantiles, "coverage" is the share of values
    between the outermost, which should be the difference of the two, and "width" the distance between them.
    """
    found, naive = metrics.summarize(sums), rows()
    best = min(value for name, value in naive.items() if name.startswith("mse_"))
    first = {name: found.pop(name) for name in ("mse", "mae")}
    if len(config.targets) == 1:
        first["rmse"] = first["mse"] ** 0.5 * float(data(config).table.scaling.std[0])
    return {"skill": 1 - first["mse"] / best} | first | found | (naive if split == "test" else {})


def naive(config) -> dict[str, Callable]:
    """Returns the naive forecasts of a config by name: functions from a history [n, t, c] to [n, horizon, c].

    They are those of `dlx.data.naive`, the seasonal ones where `config.season` is above 0, and for returns
    "zero": the price stays what it is.
    """
    (mean, std), season = data(config).table.scaling, config.season
    found = {
        name: functools.partial(function, steps=config.horizon, season=season)
        for name, function in NAIVE.items()
        if season or not name.startswith("seasonal")
    }
    if config.log_returns:
        found["zero"] = lambda history: np.repeat(0 * history[:, :1] - mean / std, config.horizon, axis=1)
    return found


def naive_errors(config, split: str) -> dict[str, Mean]:
    """Returns "mse_<name>" and "mae_<name>" of every naive forecast over a split, for each step [horizon]."""
    forecasts, sums = naive(config), {}
    for batch in passes(config, split, slice(None))():
        history = batch["history"][..., : len(config.targets)].astype(np.float64)
        seen = batch["observed"] * batch["mask"][:, None, None]
        for name, forecast in forecasts.items():
            gap = forecast(history) - batch["horizon"]
            for kind, values in (("mse", gap**2), ("mae", np.abs(gap))):
                part = Mean((values * seen).sum((0, 2)), seen.sum((0, 2)))
                before = sums.get(f"{kind}_{name}")
                sums[f"{kind}_{name}"] = part if before is None else before + part
    return dict(sorted(sums.items(), reverse=True))


def naive_rows(config, split: str) -> dict[str, float]:
    """Returns "mse_<name>" and "mae_<name>" of every naive forecast over a split."""
    found = naive_errors(config, split)
    return {name: float(mean.total.sum() / max(mean.weight.sum(), 1)) for name, mean in found.items()}


def describe(config) -> dict[str, str]:
    """Returns what a run's summary says of its data."""
    found, table, starts = data(config)
    sizes = ", ".join(f"{split} {len(part):,}" for split, part in starts.items())
    gaps = 1 - table.observed.mean()
    text = f"{config.source.name}: {len(found.time):,} rows, {table.inputs.shape[1]} channels, "
    text += (
        f"{len(config.targets)} of them to forecast, windows of {config.history} + {config.horizon}: {sizes}"
    )
    return {"data": text + (f"; {gaps:.1%} of the targets missing" if gaps else "")}


def demo(config, variables, folder: Path) -> list[Path]:
    """Draws forecasts of the test data with their history and bands, and the error by step of the horizon."""
    model = forecaster(config)

    def predict(variables, batch):
        outputs, point = ordered(config, model.apply(variables, batch["history"])[0])
        return {
            "outputs": outputs,
            "point": point,
            "horizon": batch["horizon"],
            "observed": batch["observed"],
        }

    found = collected(passes(config, "test"), predict, lambda values: values)(variables)
    sums = naive_errors(config, "test").items()
    steps = {name[4:]: mean.total / np.maximum(mean.weight, 1) for name, mean in sums if name[:3] == "mse"}
    best = min(steps, key=lambda name: steps[name].mean())
    return [
        pictures(config, found, best, folder / "forecasts.png"),
        by_step(config, found, steps, folder / "steps.png"),
    ]


def pictures(config, found, best: str, file: Path, count: int = 6) -> Path:
    """Draws some windows, spread over the test data, of the first target in its own units."""
    source, table, starts = data(config)
    mean, std = (float(values[0]) for values in table.scaling)
    shown = min(config.history, max(3 * config.horizon, 24))
    style = marks(config)
    figure, axes = figures.canvas(2, count // 2, figsize=(15, 6.5), squeeze=False)
    for axis, index in zip(
        axes.flat, np.linspace(0, len(starts["test"]) - 1, count).astype(int), strict=True
    ):
        start = int(starts["test"][index])
        middle = start + config.history
        past = np.arange(middle - shown, middle)
        ahead = source.time[middle : middle + config.horizon]
        before = np.where(table.observed[past, 0], table.targets[past, 0], np.nan)
        truth = np.where(found["observed"][index, :, 0], found["horizon"][index, :, 0], np.nan)
        guess = naive(config)[best](table.inputs[None, start:middle, : len(config.targets)])[0, :, 0]
        point, outputs = found["point"][index, :, 0], found["outputs"][index, :, 0]
        lines = (
            (source.time[past], before, "history", "-", "tab:grey", {}),
            (ahead, truth, "observed", "-", "black", style),
            (ahead, guess, best.replace("_", " "), "--", "tab:orange", style),
            (ahead, point, config.model.name, "-", "tab:blue", style),
        )
        for time, values, label, line, colour, more in lines:
            axis.plot(time, mean + std * values, line, color=colour, linewidth=1.2, label=label, **more)
        if config.quantiles:
            low, high = mean + std * outputs[:, 0], mean + std * outputs[:, -1]
            label = f"{config.quantiles[-1] - config.quantiles[0]:.0%} band"
            axis.fill_between(ahead, low, high, color="tab:blue", alpha=0.2, linewidth=0, label=label)
        name = source.groups[source.group[start]]
        axis.set_title(f"{name}, from {str(source.time[middle]).removesuffix('T00:00')}", fontsize=9)
        figures.dated(axis)
        axis.grid(alpha=0.3)
    what = ("log return of " if config.log_returns else "") + config.targets[0]
    for axis in axes[:, 0]:
        axis.set_ylabel(what)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    figure.suptitle(f"{called(config)}: {what}, forecasts of the test data")
    return figures.save(figure, file)


def called(config) -> str:
    """Returns the name of the series: that within a set of several, where the source has such."""
    return config.source.get("series", config.source.name)


def marks(config) -> dict:
    """Returns how points of a forecast are drawn: visibly where there are few."""
    return {"marker": "o", "markersize": 3} if config.horizon < 8 else {}


def by_step(config, found, naive: Mapping[str, np.ndarray], file: Path) -> Path:
    """Draws the squared error at each step of the horizon, the model's and naive ones; and the calibration.

    Naive forecasts that are more than three times worse than the best of all are left out.
    """
    truth, seen, steps = found["horizon"], found["observed"], np.arange(1, config.horizon + 1)
    weight = np.maximum(seen.sum((0, 2)), 1)
    panels = 2 if config.quantiles else 1
    figure, axes = figures.canvas(1, panels, figsize=(6.5 * panels, 4.2), squeeze=False)
    mine = (np.square(found["point"] - truth) * seen).sum((0, 2)) / weight
    axes[0, 0].plot(steps, mine, color="tab:blue", label=config.model.name, linewidth=2, **marks(config))
    most = 3 * min(mine.mean(), *(curve.mean() for curve in naive.values()))
    for number, (name, curve) in enumerate(naive.items(), 1):
        if curve.mean() <= most:
            label = name.replace("_", " ")
            axes[0, 0].plot(steps, curve, "--", color=f"C{number}", label=label, linewidth=1, **marks(config))
    axes[0, 0].set(ylabel="mean squared error (standardised)", ylim=(0, None))
    axes[0, 0].set_title(f"{called(config)}: error over {len(truth):,} test windows", fontsize=10)
    axes[0, 0].legend(frameon=False, fontsize=8)
    for number, level in enumerate(config.quantiles):
        below = ((truth <= found["outputs"][..., number]) * seen).sum((0, 2)) / weight
        axes[0, 1].plot(steps, below, color=f"C{number}", label=f"{level:g}", **marks(config))
        axes[0, 1].axhline(level, color=f"C{number}", linestyle=":", linewidth=1)
    if config.quantiles:
        axes[0, 1].set(ylabel="share of values below the quantile", ylim=(0, 1))
        axes[0, 1].set_title("calibration (dotted: what the shares should be)", fontsize=10)
        beside = {"loc": "upper left", "bbox_to_anchor": (1, 1), "reverse": True}
        axes[0, 1].legend(title="quantile", frameon=False, fontsize=8, **beside)
    for axis in axes.flat:
        axis.set_xlabel("step of the horizon")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    return figures.save(figure, file)
