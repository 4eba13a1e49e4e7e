"""Train a config over a grid of settings and seeds, and draw what they change.

The grid is in the config:

    config.sweep = {
        "x": {"key": "source.per_class", "values": [10, 25, 100], "label": "images per class"},
        "by": {
            "key": ["init.from", "schedule.peak"],
            "values": [["", 3e-3], ["runs/pretrained", 1e-3]],
            "names": ["from scratch", "fine-tuned"],
        },
        "metric": "accuracy",
    }

"x" runs along the picture, "by" makes a line of each of its values; either may be missing. Without "x" the
lines run along the steps of training. An axis has one key, or several, and then each of its values is a list
of theirs. "metric" is that of config.published unless given, "set" is "test" (the default) or "validation",
whose last measurement counts: settings are chosen on "validation", reported on "test".
"""

import hashlib
import itertools
import json
import re
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from experiments import commands
from experiments.commands import reproduce


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


class Job(NamedTuple):
    """One run of a sweep: a point, a seed, the command that trains it and the config it has."""

    point: Point
    seed: int
    workdir: Path
    command: list[str]
    config: Any


def add_arguments(parser) -> None:
    """Adds a config's name, or --config, and --seeds, --jobs, --workdir, --json."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="a config with a sweep; none: --config's")
    commands.add_config(parser)
    parser.add_argument(
        "--seeds", type=int, default=5, metavar="N", help="seeds 0 ... N-1 (default %(default)s)"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="runs at a time on this machine (default %(default)s)",
    )
    parser.add_argument(
        "--workdir", type=Path, default=Path("runs/sweep"), metavar="DIR", help="where runs lie"
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="where the result goes, and beside it the picture (default experiments/results/APPLICATION/"
        "CONFIG.json; with overrides or a variant of the config, the folder of its runs)",
    )
    commands.add_data(parser)


def run(arguments) -> None:
    """Trains what is not trained yet; prints the table, writes it as JSON and draws it."""
    from dlx import configuration

    commands.use_data(arguments)
    for option in ("seeds", "jobs"):
        if (number := getattr(arguments, option)) < 1:
            raise configuration.ConfigError(f"--{option}={number}; at least 1 is needed")
    path = str(reproduce.find(arguments.name)) if arguments.name else arguments.config
    config = configuration.load(path, arguments.overrides)
    points = grid(config, path)
    file, _, scale = path.partition(":")
    folder = arguments.workdir / Path(file).parent.name / (Path(file).stem + (f"-{scale}" if scale else ""))
    todo = jobs(path, arguments.overrides, points, arguments.seeds, folder)
    train(todo, arguments.jobs, arguments.data_dir, arguments.manual_dir)

    result = summarize(config, points, todo)
    target = arguments.json
    if target is None and (scale or arguments.overrides):
        target = folder / f"{mark(arguments.overrides)}.json"
    target = target or reproduce.RESULTS / Path(file).parent.name / f"{Path(file).stem}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n")
    pictures = [draw(result, target.with_suffix(".png")), *compared(config, result, target)]
    print(*table(result), f"written to {target} and {', '.join(map(str, pictures))}", sep="\n")


def compared(config, result: dict, target: Path) -> list[Path]:
    """Returns the pictures that the experiment itself draws of a sweep, where it has `compare`."""
    from dlx.configuration import lookup
    from experiments.applications import EXPERIMENTS

    experiment = lookup(EXPERIMENTS, config.experiment)
    return experiment.compare(config, result, target) if hasattr(experiment, "compare") else []


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


def jobs(path: str, overrides: list[str], points: list[Point], seeds: int, folder: Path) -> list[Job]:
    """Returns every run; raises ConfigError, before any is trained, for a setting that no config takes."""
    from dlx import configuration
    from experiments import runs

    overrides = [text for text in overrides if not text.startswith("--config.sweep")]
    found = []
    for point, seed in itertools.product(points, range(seeds)):
        settings = [
            f"--config.{key}={written(value)}" for key, value in (point.settings | {"seed": seed}).items()
        ]
        config = runs.single(configuration.load(path, [*overrides, *settings]))
        name = re.sub(r"[^\w.+-]+", "_", point.title()).strip("_")
        workdir = folder / f"{name}-{mark(overrides + settings[:-1])}" / str(seed)
        runs.check(workdir, config)
        command = ["train", f"--config={path}", f"--workdir={workdir}", *overrides, *settings]
        found.append(Job(point, seed, workdir, command, config))
    return found


def mark(texts: list[str]) -> str:
    """Returns a short name of some overrides, another for others."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:8]


def written(value: Any) -> str:
    """Returns a value as it stands in an override on the command line."""
    return value if isinstance(value, str) else repr(tuple(value)) if isinstance(value, list) else repr(value)


def train(todo: list[Job], at_once: int, data_dir: str | None, manual_dir: str | None) -> None:
    """Trains the runs that are not finished, `at_once` at a time, each in a process of its own."""
    from experiments import runs

    places = {"--data_dir": data_dir, "--manual_dir": manual_dir}
    shared = [f"{option}={place}" for option, place in places.items() if place]
    left = [job for job in todo if not runs.finished(job.workdir, job.config)]
    print(f"{len(todo)} runs, {len(todo) - len(left)} of them finished", file=sys.stderr)

    def start(job: Job):
        command = [sys.executable, "-m", "experiments", *job.command, *shared]
        return subprocess.run(command, capture_output=True, text=True)

    with ThreadPoolExecutor(at_once) as pool:
        running = {pool.submit(start, job): job for job in left}
        try:
            for number, future in enumerate(as_completed(running), 1):
                job, done = running[future], future.result()
                if done.returncode:
                    last = "\n".join(done.stderr.strip().splitlines()[-12:])
                    raise RuntimeError(f"{job.point.title()}, seed {job.seed} failed:\n{last}")
                print(
                    f"[{number}/{len(left)}] {job.point.title()}, seed {job.seed}",
                    file=sys.stderr,
                    flush=True,
                )
        finally:
            pool.shutdown(cancel_futures=True)


def summarize(config, points: list[Point], done: list[Job]) -> dict:
    """Returns the result of a finished sweep in the form that is kept: a row for each point."""
    import jax

    from dlx import report
    from dlx.configuration import ConfigError
    from experiments import runs
    from experiments.speed.table import machine

    published = config.get("published")
    chosen = config.sweep.get("set", "test")
    parts = [[report.read(part) for part in runs.parts(job.workdir)] for job in done]
    records = [stages[-1] for stages in parts]
    first = next((r for r in records[0] if r["set"] == chosen), {})
    known = [name for name in first if name not in ("step", "set")]
    metric = config.sweep.get("metric") or (published.metric if published else next(iter(known), ""))
    if metric not in known:
        raise ConfigError(f"the set {chosen!r} has no metric {metric!r}; it has {known}")
    rows = []
    for point in points:
        mine = [stages for job, stages in zip(done, parts, strict=True) if job.point == point]
        ends = [[r for r in stages[-1] if r["set"] == chosen][-1] for stages in mine]
        curves = [[(r["step"], r[metric]) for r in stages[-1] if r["set"] == chosen] for stages in mine]
        rows.append(
            {"x": point.x, "by": point.by, "settings": point.settings}
            | spread([end[metric] for end in ends])
            | {"values": [end[metric] for end in ends]}
            | {"others": {name: spread([end[name] for end in ends]) for name in known if name != metric}}
            | {"curve": [[step, statistics.fmean(v)] for step, v in along(curves)]}
            | {"train_seconds": [round(sum(map(reproduce.seconds, stages)), 1) for stages in mine]}
        )
    axes = {word: axis(config.sweep[word], word) for word in ("x", "by") if word in config.sweep}
    return {
        "metric": metric,
        "set": chosen,
        "labels": {word: found.label for word, found in axes.items()},
        "seeds": sorted({job.seed for job in done}),
        "rows": rows,
        "published": published.to_dict() if published else None,
        "config_sha256": hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode()).hexdigest(),
        "machine": machine() | {"device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}"},
    }


def spread(values: list) -> dict:
    """Returns mean and standard deviation over seeds: no deviation of one, and neither of what is missing."""
    if any(value is None for value in values):  # as infinity and NaN are written
        return {"mean": None, "std": None}
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else None}


def along(curves: list[list]) -> list[tuple[int, list]]:
    """Returns (step, the values of all runs) for each step that they all measured."""
    tables = [dict(curve) for curve in curves]
    return [
        (step, [t[step] for t in tables])
        for step in tables[0]
        if all(t.get(step) is not None for t in tables)
    ]


def table(result: dict) -> list[str]:
    """Returns the means and deviations as aligned lines: a line for each x, a column for each of "by"."""
    xs = list(dict.fromkeys(row["x"] for row in result["rows"]))
    columns = list(dict.fromkeys(row["by"] for row in result["rows"]))
    found = {(row["x"], row["by"]): row for row in result["rows"]}
    head = [result["labels"].get("x", ""), *("" if name is None else str(name) for name in columns)]
    cells = [head, *(["" if x is None else str(x), *(value(found[x, c]) for c in columns)] for x in xs)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    seeds = f"{result['metric']} of the {result['set']} set, {len(result['seeds'])} seeds"
    lines = ["  ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]
    return [seeds, *lines]


def extent(result: dict) -> str:
    """Returns the range of a sweep's means, for where there is room for no more."""
    means = [row["mean"] for row in result["rows"] if row["mean"] is not None]
    low, high = (min(means), max(means)) if means else (float("nan"), float("nan"))
    return f"{low:.4f} to {high:.4f}, {len(result['rows'])} settings"


def value(row: dict) -> str:
    """Returns a row's mean and standard deviation, or that a run of it diverged."""
    return "not finite" if row["mean"] is None else reproduce.value(row)


def draw(result: dict, file: Path) -> Path:
    """Draws the metric along x with error bars of one standard deviation, or along the steps without x."""
    from dlx import figures

    figure, canvas = figures.canvas(figsize=(6.4, 4.2))
    names = list(dict.fromkeys(row["by"] for row in result["rows"]))
    along_steps = all(row["x"] is None and len(row["curve"]) > 1 for row in result["rows"])
    for number, name in enumerate(names):
        rows = [row for row in result["rows"] if row["by"] == name]
        style = {"color": f"C{number}", "label": None if name is None else str(name)}
        if along_steps:
            style["label"] = f"{style['label'] or 'at the end'}: {value(rows[0])}"
            canvas.plot(*zip(*rows[0]["curve"], strict=True), **style)
        else:
            measured = [row for row in rows if row["mean"] is not None]
            places = positions(canvas, result, number - (len(names) - 1) / 2, measured)
            error = [row["std"] or 0 for row in measured]
            canvas.errorbar(places, [row["mean"] for row in measured], error, marker="o", capsize=4, **style)
    seeds = len(result["seeds"])
    bars = f"mean and standard deviation of {seeds} seeds" if seeds > 1 else "one seed"
    canvas.set_title(f"{file.stem.replace('_', ' ')}, {bars}", fontsize=10)
    canvas.set_xlabel("step" if along_steps else result["labels"].get("x", ""))
    canvas.set_ylabel(f"{result['metric'].replace('_', ' ')} ({result['set']})")
    canvas.grid(alpha=0.3)
    if names != [None] or along_steps:
        canvas.legend(title=result["labels"].get("by"), frameon=False)
    return figures.save(figure, file)


def positions(canvas, result: dict, side: float, rows: list[dict]) -> list[float]:
    """Returns where rows lie along x, a little to one side so that error bars stay apart, and marks the axis.

    Numbers lie to scale, a logarithmic one where they reach over a factor of 5; all else in even steps.
    """
    xs = list(dict.fromkeys(row["x"] for row in result["rows"]))
    numeric = all(isinstance(x, int | float) and not isinstance(x, bool) for x in xs)
    logarithmic = numeric and min(xs) > 0 and max(xs) >= 5 * min(xs)
    if logarithmic:
        canvas.set_xscale("log")
    canvas.set_xticks(xs if numeric else range(len(xs)), ["" if x is None else str(x) for x in xs])
    canvas.minorticks_off()
    if logarithmic:
        return [row["x"] * (max(xs) / min(xs)) ** (0.008 * side) for row in rows]
    if numeric:
        return [row["x"] + 0.008 * (max(xs) - min(xs)) * side for row in rows]
    return [xs.index(row["x"]) + 0.06 * side for row in rows]
