"""Searches: settings drawn from ranges, at random or by what earlier trials have shown.

    config.sweep = {
        "search": [
            {"key": "schedule.peak", "low": 1e-4, "high": 1e-1, "scale": "log"},
            {"key": "optimizer.weight_decay", "low": 0.0, "high": 0.1},
            {"key": "schedule.warmup", "low": 10, "high": 1000, "scale": "log"},
            {"key": ["model.widths", "batch"], "values": [[[16, 32], 64], [[32, 64], 32]]},
        ],
        "method": "tpe",
        "trials": 40,
        "round": 4,
        "seed": 0,
        "metric": "loss",
        "higher_is_better": False,
    }

A trial is one setting, trained with every seed and measured on the validation set: what is chosen so is
measured on the test set once, at the end. "random" draws each trial by itself, "tpe" (Bergstra et al. 2011,
through optuna) draws a round of trials by the results of all rounds before. Numbers are integers if both
bounds are. The settings of a trial are a function of the seed of the search and those results, never of how
many runs there are at a time, so a search goes on from what its folder holds, and may be given more trials.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

METHODS = ("random", "tpe")
DIGITS = 4  # significant ones of a number that is drawn
FIELDS = ("search", "method", "trials", "round", "seed", "metric", "higher_is_better")


class Dimension(NamedTuple):
    """What a search varies: keys with rows of values, or one key between two numbers."""

    keys: list[str]
    rows: list[list]
    low: float | int = 0
    high: float | int = 0
    scale: str = "linear"

    def value(self, share: float) -> Any:
        """Returns the row or the number at a share of the range, 0 <= share < 1."""
        if self.rows:
            return int(share * len(self.rows))
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        low, high = self.low, self.high + whole
        if self.scale == "log":
            number = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            number = low + share * (high - low)
        return min(self.high, max(self.low, math.floor(number) if whole else self.rounded(number)))

    def rounded(self, number: float) -> float:
        """Returns a number as it is written in a command, within the bounds."""
        return min(self.high, max(self.low, float(f"{number:.{DIGITS}g}")))

    def settings(self, value: Any) -> dict[str, Any]:
        """Returns what a value, a number or that of a row, sets."""
        return dict(zip(self.keys, self.rows[value] if self.rows else [value], strict=True))


class Search(NamedTuple):
    """A checked `config.sweep` with "search"."""

    dimensions: list[Dimension]
    method: str
    trials: int
    round: int
    seed: int
    higher_is_better: bool


class Trial(NamedTuple):
    """A finished trial: a value for each dimension, and the mean of the metric, None if a run failed."""

    values: list
    mean: float | None


def read(config, path: str) -> Search:
    """Returns the search of a config; raises ConfigError that says what is wrong with it."""
    from dlx.configuration import ConfigError, lookup

    spec = config.sweep
    for field in spec:
        lookup(dict.fromkeys((*FIELDS, "set")), field)
    if spec.get("set", "validation") != "validation":
        raise ConfigError(f"{path}: a search chooses on the set 'validation', not on {spec.set!r}")
    lookup(dict.fromkeys(METHODS), spec.get("method", "random"))
    better = spec.get("higher_is_better")
    if better is None and config.get("published"):
        better = config.published.higher_is_better
    if better is None:
        raise ConfigError(f"{path}: config.sweep.higher_is_better is missing: of the metric, True or False?")
    numbers = {name: spec.get(name, default) for name, default in {"trials": 20, "round": 4}.items()}
    for name, number in numbers.items():
        if not isinstance(number, int) or number < 1:
            raise ConfigError(f"{path}: config.sweep.{name}={number!r}; an integer of at least 1 is needed")
    dimensions = [dimension(one) for one in spec.search]
    keys = [key for one in dimensions for key in one.keys]
    if not keys or len(set(keys)) < len(keys):
        raise ConfigError(f"{path}: config.sweep.search sets {keys}; at least one key, and each once")
    return Search(
        dimensions, spec.get("method", "random"), **numbers, seed=spec.get("seed", 0), higher_is_better=better
    )


def dimension(spec: Any) -> Dimension:
    """Returns an entry of `config.sweep.search`."""
    from dlx.configuration import ConfigError, lookup

    spec = dict(spec)
    for field in spec:
        lookup(dict.fromkeys(("key", "values", "low", "high", "scale")), field)
    if not (key := spec.get("key")) or ("values" in spec) == ("low" in spec and "high" in spec):
        raise ConfigError(
            f"config.sweep.search has {spec}; it needs a 'key', and 'values' or 'low' and 'high'"
        )
    several = not isinstance(key, str)
    keys = list(key) if several else [key]
    if "values" in spec:
        rows = [list(value) if several else [value] for value in spec["values"]]
        if not rows or any(len(row) != len(keys) for row in rows):
            raise ConfigError(f"config.sweep.search has the keys {keys}, and the values {rows} for them")
        return Dimension(keys, rows)
    low, high, scale = spec["low"], spec["high"], spec.get("scale", "linear")
    lookup(dict.fromkeys(("linear", "log")), scale)
    if several or not all(isinstance(n, int | float) and math.isfinite(n) for n in (low, high)):
        raise ConfigError(f"config.sweep.search has {spec}; 'low' and 'high' are numbers, for one key")
    if not low < high or (scale == "log" and low <= 0):
        raise ConfigError(
            f"config.sweep.search has {spec}; 'low' must be below 'high', and above 0 for 'log'"
        )
    return Dimension(keys, [], low, high, scale)


def propose(search: Search, known: list[Trial], start: int) -> list[list]:
    """Returns the values of the trials `start` ... of one round, given all trials of the rounds before.

    A pure function of its arguments: the order in which trials ended, or what ran at the same time, is not
    among them.
    """
    if search.method == "random":
        draws = [np.random.default_rng((search.seed, start + n)) for n in range(search.round)]
        return [[one.value(draw.random()) for one in search.dimensions] for draw in draws]
    return by_tree(search, known, start)


def by_tree(search: Search, known: list[Trial], start: int) -> list[list]:
    """Proposes a round by optuna's tree-structured Parzen estimator; failed trials count as the worst."""
    from dlx.configuration import ConfigError

    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            "the method 'tpe' needs optuna: pip install 'dlx[sweep]', or say config.sweep.method='random'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names = [", ".join(one.keys) for one in search.dimensions]
    ranges = {name: distribution(optuna, one) for name, one in zip(names, search.dimensions, strict=True)}
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(
            seed=int(np.random.default_rng((search.seed, start)).integers(2**31))
        ),
        direction="maximize" if search.higher_is_better else "minimize",
    )
    states = optuna.trial.TrialState
    for trial in known:
        study.add_trial(
            optuna.trial.create_trial(
                state=states.PRUNED if trial.mean is None else states.COMPLETE,
                params=dict(zip(names, trial.values, strict=True)),
                distributions=ranges,
                value=trial.mean,
            )
        )
    found = [study.ask(ranges).params for _ in range(search.round)]
    return [
        [
            one.rounded(params[name]) if isinstance(params[name], float) else params[name]
            for name, one in zip(names, search.dimensions, strict=True)
        ]
        for params in found
    ]


def distribution(optuna, one: Dimension):
    """Returns a dimension as optuna knows it; of rows, their numbers."""
    if one.rows:
        return optuna.distributions.CategoricalDistribution(range(len(one.rows)))
    whole = isinstance(one.low, int) and isinstance(one.high, int)
    kind = optuna.distributions.IntDistribution if whole else optuna.distributions.FloatDistribution
    return kind(one.low, one.high, log=one.scale == "log")


def settings(search: Search, values: list) -> dict[str, Any]:
    """Returns what a trial sets: {key: value}."""
    pairs = zip(search.dimensions, values, strict=True)
    return {key: value for one, chosen in pairs for key, value in one.settings(chosen).items()}


def load(file: Path) -> list[Trial]:
    """Returns the trials of a search that its folder holds, in order."""
    from dlx.configuration import ConfigError

    if not file.exists():
        return []
    try:
        return [Trial(list(row["values"]), row["mean"]) for row in json.loads(file.read_text())["trials"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{file} is no record of a search ({error}); remove it, and it is made again"
        ) from error


def save(file: Path, search: Search, trials: list[Trial]) -> None:
    """Writes the trials of a search; the file appears whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"number": n, "values": t.values, "settings": settings(search, t.values), "mean": t.mean}
        for n, t in enumerate(trials)
    ]
    fresh = file.with_suffix(".tmp")
    fresh.write_text(json.dumps({"trials": rows}, indent=1) + "\n")
    fresh.replace(file)


def best(search: Search, means: list[float | None]) -> int | None:
    """Returns the number of the best trial, the first of equals; None if all of them failed."""
    sign = 1 if search.higher_is_better else -1
    known = [(sign * mean, -number) for number, mean in enumerate(means) if mean is not None]
    return -max(known)[1] if known else None
