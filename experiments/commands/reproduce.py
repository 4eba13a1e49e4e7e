"""Train a config over seeds and compare with the published value."""

import hashlib
import json
import statistics
import subprocess
import sys
from pathlib import Path

from experiments import commands

RESULTS = Path("experiments/results")


def add_arguments(parser) -> None:
    """Adds the names of configs, --seeds and --workdir."""
    parser.add_argument(
        "names",
        nargs="+",
        metavar="NAME",
        help="a config's file, or its name such as digits, or a variant of it such as etth1_dlinear:720",
    )
    parser.add_argument(
        "--seeds", type=int, default=5, metavar="N", help="seeds 0 ... N-1 (default %(default)s)"
    )
    parser.add_argument(
        "--workdir", type=Path, default=Path("runs/reproduce"), metavar="DIR", help="where runs lie"
    )
    commands.add_data(parser)


def run(arguments) -> None:
    """Trains what is not trained yet, and writes experiments/results/<application>/<config>.json.

    The result of a variant is <config>-<variant>.json.
    """
    from dlx import configuration

    commands.use_data(arguments)
    for name in arguments.names:
        name, _, scale = name.partition(":")
        file = find(name)
        path, stem = (f"{file}:{scale}", f"{file.stem}-{scale}") if scale else (str(file), file.stem)
        config = configuration.load(path)
        if "sweep" in config:
            raise configuration.ConfigError(
                f"{file} is a sweep; say: python -m experiments sweep {file.stem}"
            )
        workdirs = [arguments.workdir / file.parent.name / stem / str(s) for s in range(arguments.seeds)]
        for seed, workdir in enumerate(workdirs):
            print(f"{path} seed {seed}", file=sys.stderr)
            command = ["train", f"--config={path}", f"--workdir={workdir}", f"--config.seed={seed}"]
            subprocess.run([sys.executable, "-m", "experiments", *command], check=True)
        result = summarize(config, workdirs)
        target = RESULTS / file.parent.name / f"{stem}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(result, indent=1) + "\n")
        print(line(result), f"written to {target}", sep="\n")


def find(name: str) -> Path:
    """Returns the config file of a name, such as "digits", "translation/gru" or the file itself.

    Raises ConfigError with the nearest names when there is none, and with all when there are several, unless
    the default config is one of them.
    """
    from dlx.configuration import ConfigError, lookup

    files = sorted(Path("configs").glob("*/*.py"))
    same = [file for file in files if file.stem == name]
    if (default := Path(commands.DEFAULT)) in same:
        return default
    if len(same) > 1:
        longer = " or ".join(f"{file.parent.name}/{name}" for file in same)
        raise ConfigError(f"{len(same)} configs are called {name!r}: say {longer}")
    names = {file.stem: file for file in files} | {str(file): file for file in files}
    return lookup(names | {f"{file.parent.name}/{file.stem}": file for file in files}, name)


def summarize(config, workdirs) -> dict:
    """Returns the result of finished runs, one per seed, in the form that is kept: that of the last stage."""
    import jax

    from dlx import report
    from experiments import runs
    from experiments.speed.table import machine

    parts = [[report.read(part) for part in runs.parts(workdir)] for workdir in workdirs]
    records = [stages[-1] for stages in parts]
    tests = [measured(run) for run in records]
    published = config.get("published")
    metric = published.metric if published else next(key for key in tests[0] if key not in ("step", "set"))
    values = [test[metric] for test in tests]
    mean, spread = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
    return {
        "metric": metric,
        "mean": mean,
        "std": spread,
        "seeds": list(range(len(workdirs))),
        "values": values,
        "published": published.to_dict() if published else None,
        "verdict": verdict(mean, spread, published),
        "test": [{key: value for key, value in test.items() if key not in ("step", "set")} for test in tests],
        "curve": [[r["step"], r[metric]] for r in records[0] if r["set"] == "validation" and metric in r],
        "train_seconds": [round(sum(map(seconds, stages)), 1) for stages in parts],
        "config_sha256": hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode()).hexdigest(),
        "machine": machine() | {"device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}"},
    }


def measured(records) -> dict:
    """Returns what a finished run measured on its test data or, where there are none, last on validation."""
    sets = {record["set"]: record for record in records}
    return sets.get("test", sets["validation"])


def verdict(mean: float, spread: float | None, published) -> str:
    """Returns "better", "matched" or "missed": matched is within one standard deviation over seeds.

    Without a published value the result is a "baseline".
    """
    if not published:
        return "baseline"
    gain = (mean - published["value"]) * (1 if published["higher_is_better"] else -1)
    return "matched" if abs(gain) <= (spread or 0) else "better" if gain > 0 else "missed"


def seconds(records) -> float:
    """Returns the time a run spent on training steps, from the speeds it wrote."""
    total, before, step = 0.0, 0, 0
    for record in records:
        if record["step"] != step:
            before, step = step, record["step"]
        if record["set"] == "speed":
            total += (step - before) / record["steps_per_second"]
    return total


def value(result: dict) -> str:
    """Returns the mean, and the standard deviation when there are seeds enough for one."""
    return f"{result['mean']:.4f}" + (f" ± {result['std']:.4f}" if result["std"] is not None else "")


def line(result: dict) -> str:
    """Says a result in one line."""
    text = f"{result['metric']} {value(result)} over {len(result['seeds'])} seeds: {result['verdict']}"
    if result["published"]:
        text += f" (published {result['published']['value']:g}, {result['published']['source']})"
    return text
