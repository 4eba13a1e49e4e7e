"""What the runs of a sweep measured, in the form that is kept: a row for each point."""

import statistics
from typing import Any

from experiments.commands import reproduce
from experiments.sweeping.jobs import Job
from experiments.sweeping.points import Point, axis


def measured(job: Job) -> list[list[dict]]:
    """Returns the records of a run, of each of its stages."""
    from dlx import report
    from experiments import runs

    return [report.read(part) for part in runs.parts(job.workdir)]


def metric(config, done: Job, chosen: str) -> tuple[str, list[str]]:
    """Returns the metric that counts in the set `chosen`, and all that a finished run measured in it."""
    from dlx.configuration import ConfigError

    published = config.get("published")
    first = next((record for record in measured(done)[-1] if record["set"] == chosen), {})
    known = [name for name in first if name not in ("step", "set")]
    name = config.sweep.get("metric") or (published.metric if published else next(iter(known), ""))
    if name not in known:
        raise ConfigError(f"the set {chosen!r} has no metric {name!r}; it has {known}")
    return name, known


def row(point: Point, done: list[Job], chosen: str, name: str, known: list[str]) -> dict[str, Any]:
    """Returns what the runs of a point, one for each seed, measured last in a set, and on the way."""
    found = [measured(job) for job in done]
    ends = [[r for r in stages[-1] if r["set"] == chosen][-1] for stages in found]
    curves = [[(r["step"], r[name]) for r in stages[-1] if r["set"] == chosen] for stages in found]
    return (
        {"x": point.x, "by": point.by, "settings": point.settings}
        | spread([end[name] for end in ends])
        | {"values": [end[name] for end in ends]}
        | {"others": {other: spread([end[other] for end in ends]) for other in known if other != name}}
        | {"curve": [[step, statistics.fmean(v)] for step, v in along(curves)]}
        | {"train_seconds": [round(sum(map(reproduce.seconds, stages)), 1) for stages in found]}
    )


def result(config, name: str, chosen: str, seeds: int, rows: list[dict]) -> dict[str, Any]:
    """Returns the result of a finished sweep."""
    import jax

    from dlx import configuration
    from experiments.speed.table import machine

    published = config.get("published")
    axes = {word: axis(config.sweep[word], word) for word in ("x", "by") if word in config.sweep}
    return {
        "metric": name,
        "set": chosen,
        "labels": {word: found.label for word, found in axes.items()},
        "seeds": list(range(seeds)),
        "rows": rows,
        "published": published.to_dict() if published else None,
        "config_sha256": configuration.digest(config),
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
