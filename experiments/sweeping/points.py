"""The points of a sweep over a grid: axes and their product."""

import itertools
from typing import Any, NamedTuple


class Axis(NamedTuple):
    """What a sweep varies: the values of its keys, a name for each row of values, and a label for all."""

    keys: list[str]
    rows: list[list]
    names: list
    label: str


class Point(NamedTuple):
    """One setting of a sweep: its names on both axes (None without the axis), and the values it sets."""

    x: Any
    by: Any
    settings: dict[str, Any]

    def title(self) -> str:
        """Says where the point lies, in words."""
        return ", ".join(str(name) for name in (self.by, self.x) if name is not None) or "as it stands"


def axis(spec: Any, word: str) -> Axis:
    """Returns an axis of `config.sweep`; raises ConfigError that says what is wrong with it."""
    from dlx.configuration import ConfigError, lookup

    spec = dict(spec)
    for field in spec:
        lookup(dict.fromkeys(("key", "values", "names", "label")), field)
    if not spec.get("key") or not spec.get("values"):
        raise ConfigError(f"config.sweep.{word} is {spec}; it needs a 'key' and 'values'")
    several = not isinstance(spec["key"], str)
    keys = list(spec["key"]) if several else [spec["key"]]
    rows = [list(value) if several else [value] for value in spec["values"]]
    for row in rows:
        if len(row) != len(keys):
            raise ConfigError(f"config.sweep.{word} has the keys {keys}, and the values {row} for them")
    names = list(spec.get("names") or (row[0] if len(row) == 1 else ", ".join(map(str, row)) for row in rows))
    if len(names) != len(rows) or len(set(map(str, names))) != len(rows):
        raise ConfigError(f"config.sweep.{word} has {len(rows)} values and the names {names}: one for each")
    return Axis(keys, rows, names, spec.get("label") or ", ".join(keys))


def grid(config, path: str) -> list[Point]:
    """Returns the points of a config's sweep, a line of "by" after the other."""
    from dlx.configuration import ConfigError, lookup

    if "sweep" not in config:
        raise ConfigError(
            f"{path} has no config.sweep; 'sweep --help' and experiments/commands/sweep.py say more"
        )
    for field in config.sweep:
        lookup(dict.fromkeys(("x", "by", "metric", "set")), field)
    axes = {word: axis(config.sweep[word], word) for word in ("by", "x") if word in config.sweep}
    sides = []
    for word in ("by", "x"):
        found = axes.get(word)
        rows = [dict(zip(found.keys, row, strict=True)) for row in found.rows] if found else [{}]
        sides.append(list(zip(found.names if found else [None], rows, strict=True)))
    points = [Point(x, by, first | second) for (by, first), (x, second) in itertools.product(*sides)]
    for key in axes["by"].keys if len(axes) == 2 else []:
        if key in axes["x"].keys:
            raise ConfigError(f"both axes of config.sweep set {key!r}")
    return points
