"""Train configs over seeds and compare with the published values.

A result is experiments/results/<application>/<config>.json, of a variant <config>-<variant>.json. It holds
the mean and deviation of the metric over seeds, all that each seed measured on the test data, once, at the
step that `config.best` chose on validation data, else at its last; the published value and the verdict;
learning curves, thinned; and what made it: the hash of the config, the commit, the hardware and the versions.
Runs that are finished are not trained again; those that were interrupted go on from their last checkpoint.
"""

import importlib.metadata
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from experiments import commands

RESULTS = Path("experiments/results")
GRACE = 60.0  # seconds that a run has to save itself when time is up
POINTS = 40  # of a learning curve that are kept


class Wanted(NamedTuple):
    """What one name asks for: the config's path as `--config` takes it, and where its result goes."""

    path: str
    config: Any
    target: Path
    runs: Path  # the folder of its workdirs, one for each seed


def add_arguments(parser) -> None:
    """Adds the names of configs, --all, --seeds, --jobs, --budget and --workdir."""
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="a config's file, or its name such as digits, or a variant of it such as etth1_dlinear:720",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="every config but the sweeps, and every variant that has a result; one that fails, for its data "
        "are missing say, does not stop the others",
    )
    parser.add_argument(
        "--seeds", type=int, default=5, metavar="N", help="seeds 0 ... N-1 (default %(default)s)"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="runs at a time on this machine (default: one for every two CPU cores; on accelerators, one)",
    )
    parser.add_argument(
        "--budget",
        metavar="TIME",
        help="stop after about so long, such as 90s, 30m or 2h; the same command goes on from there",
    )
    parser.add_argument(
        "--workdir",
        type=Path,
        default=Path("runs/reproduce"),
        metavar="DIR",
        help="where runs lie (default %(default)s)",
    )
    commands.add_data(parser)


def run(arguments) -> int:
    """Trains what is not trained yet, prints and writes a result for each config; 2 when one failed."""
    from dlx.configuration import ConfigError

    commands.use_data(arguments)
    if bool(arguments.names) == arguments.all:
        raise ConfigError("say which configs to reproduce: their names, or --all")
    for option in ("seeds", "jobs"):
        if (number := getattr(arguments, option)) is not None and number < 1:
            raise ConfigError(f"--{option}={number}; at least 1 is needed")
    end = time.monotonic() + duration(arguments.budget)
    todo = [asked(name, arguments.workdir) for name in arguments.names or everything()]
    jobs = arguments.jobs or at_once(device())
    left, failed = [], []
    for wanted in todo:
        try:
            finished = train(wanted, arguments.seeds, jobs, end)
        except (RuntimeError, ConfigError) as error:
            if not arguments.all:
                raise
            failed.append(wanted.path)
            print(f"{wanted.path} failed: {error}", file=sys.stderr)
            continue
        if len(finished) < arguments.seeds:
            left.append(f"{wanted.path} ({len(finished)} of {arguments.seeds} seeds)")
        if finished:
            conclude(wanted, finished)
    if left:
        print("the budget is spent; the same command goes on with:", *left, sep="\n  ")
    if failed:
        print("failed, as said above:", *failed, sep="\n  ")
    return 2 if failed else 0


def duration(text: str | None) -> float:
    """Returns seconds from a text such as "90s", "30m", "1.5h" or "90"; infinity from None."""
    from dlx.configuration import ConfigError

    if text is None:
        return math.inf
    if not (found := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text)):
        raise ConfigError(f"--budget={text} is not a time; write it as 90s, 30m, 2h or 1d")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


def asked(name: str, workdir: Path) -> Wanted:
    """Returns what a name asks for; raises ConfigError for a name that nothing has, and for a sweep."""
    from dlx import configuration

    name, _, scale = name.partition(":")
    file = find(name)
    path, stem = (f"{file}:{scale}", f"{file.stem}-{scale}") if scale else (str(file), file.stem)
    config = configuration.load(path)
    if "sweep" in config:
        raise configuration.ConfigError(f"{file} is a sweep; say: python -m experiments sweep {file.stem}")
    application = file.parent.name
    results = workdir if scale == "smoke" else RESULTS  # of synthetic data, which is no result
    return Wanted(path, config, results / application / f"{stem}.json", workdir / application / stem)


def everything() -> list[str]:
    """Returns what --all means: configs that are no sweeps, each with the variants that have a result."""
    from dlx import configuration

    found = []
    for file in sorted(Path("configs").glob("*/*.py")):
        if "sweep" not in configuration.load(str(file)):
            found += [str(file), *variants(file)]
    return found


def variants(file: Path) -> list[str]:
    """Returns the variants of a config that have a result, as "file.py:variant"."""
    found = sorted((RESULTS / file.parent.name).glob(f"{file.stem}-*.json"))
    return [f"{file}:{result.stem.removeprefix(f'{file.stem}-')}" for result in found]


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


def device() -> str:
    """Returns how many devices JAX finds and of what kind, asked in a process of its own.

    A process that has looked holds the memory of an accelerator, which the runs need.
    """
    code = "import jax; found = jax.devices(); print(len(found), 'x', found[0].device_kind)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"JAX finds no device:\n{done.stderr.strip()}")
    return done.stdout.strip()


def at_once(found: str) -> int:
    """Returns how many runs share a machine: one for every two CPU cores, one alone on accelerators."""
    if "cpu" not in found:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // 2)


def train(wanted: Wanted, seeds: int, jobs: int, end: float) -> list[Path]:
    """Trains the seeds that are not finished, `jobs` at a time, and returns the workdirs of all finished.

    At `end`, a time of `time.monotonic`, those under way are stopped. Raises ConfigError, before any trains,
    for a workdir of another config, and RuntimeError when a run fails.
    """
    from dlx import configuration
    from experiments import runs

    workdirs = [wanted.runs / str(seed) for seed in range(seeds)]
    ready = []
    for seed, workdir in enumerate(workdirs):
        config = configuration.load(wanted.path, [f"--config.seed={seed}"])
        runs.check(workdir, config)
        ready.append(runs.finished(workdir, config))

    def start(seed: int) -> bool:
        print(f"{wanted.path} seed {seed}", file=sys.stderr, flush=True)
        command = ["train", f"--config={wanted.path}", f"--workdir={workdirs[seed]}", f"--config.seed={seed}"]
        return launch(command, end - time.monotonic(), shown=jobs == 1)

    with ThreadPoolExecutor(jobs) as pool:
        running = {seed: pool.submit(start, seed) for seed in range(seeds) if not ready[seed]}
        try:
            done = {seed: future.result() for seed, future in running.items()}
        finally:
            pool.shutdown(cancel_futures=True)
    return [workdir for seed, workdir in enumerate(workdirs) if ready[seed] or done[seed]]


def launch(command: list[str], timeout: float, shown: bool) -> bool:
    """Runs a command of experiments in a process of its own; tells whether it ended within `timeout` seconds.

    Past that it is told to end, and can save itself. With `shown` it prints to the terminal, else nothing
    but, in the RuntimeError of one that fails, its last lines.
    """
    if timeout <= 0:
        return False
    pipe = None if shown else subprocess.PIPE
    words = [sys.executable, "-m", "experiments", *command]
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True) as child:
        try:
            _, errors = child.communicate(timeout=None if timeout == math.inf else timeout)
        except subprocess.TimeoutExpired:
            child.terminate()
            try:
                child.communicate(timeout=GRACE)
            except subprocess.TimeoutExpired:
                child.kill()
                child.communicate()
            return False
    if child.returncode:
        last = "" if shown else ":\n" + "\n".join(errors.strip().splitlines()[-12:])
        raise RuntimeError(f"{' '.join(command)} ended with status {child.returncode}{last}")
    return True


def conclude(wanted: Wanted, finished: Sequence[Path]) -> None:
    """Prints the result of finished runs and writes it, unless a result of more seeds is there."""
    result = summarize(wanted.config, finished)
    print(line(result))
    if wanted.target.is_file():
        before = json.loads(wanted.target.read_text())
        if len(before["seeds"]) > len(result["seeds"]):
            print(f"{wanted.target} stays as it is: it is over {len(before['seeds'])} seeds")
            return
    wanted.target.parent.mkdir(parents=True, exist_ok=True)
    wanted.target.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {wanted.target}")


def summarize(config, workdirs: Sequence[Path]) -> dict:
    """Returns the result of finished runs, one per seed, in the form that is kept: that of the last stage."""
    from dlx import configuration, report
    from experiments import runs
    from experiments.speed.table import machine

    parts = [[report.read(part) for part in runs.parts(workdir)] for workdir in workdirs]
    records = [stages[-1] for stages in parts]
    tests = [measured(runs.stages(config)[-1][1], run) for run in records]
    published = config.get("published")
    metric = published.metric if published else next(key for key in tests[0] if key not in ("step", "set"))
    values = [test[metric] for test in tests]
    mean, spread = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
    versions = {name: importlib.metadata.version(name) for name in ("flax", "optax", "numpy")}
    return {
        "metric": metric,
        "mean": mean,
        "std": spread,
        "seeds": [configuration.read(workdir / runs.CONFIG).seed for workdir in workdirs],
        "values": values,
        "published": published.to_dict() if published else None,
        "verdict": verdict(mean, spread, published),
        "test": [{key: value for key, value in test.items() if key not in ("step", "set")} for test in tests],
        "curves": curves(records, metric),
        "train_seconds": [round(sum(map(seconds, stages)), 1) for stages in parts],
        "config_sha256": configuration.digest(config),
        "machine": machine() | versions | {"device": device()},
    }


def measured(config, records: Sequence[dict]) -> dict:
    """Returns what a finished run measured on its test data or, where there are none, on validation data.

    That is then of the step that `config.best` chooses, as "best_step" says, or of the last.
    """
    from experiments import runs

    sets = {record["set"]: record for record in records}
    if "test" in sets:
        return sets["test"]
    if (rate := runs.rating(config)) is None:
        return sets["validation"]
    rated = [(rate({"validation": record}), record) for record in records if record["set"] == "validation"]
    _, best = max(((value, r) for value, r in rated if math.isfinite(value)), key=lambda pair: pair[0])
    return best | {"best_step": best["step"]}


def curves(records: Sequence[Sequence[dict]], metric: str) -> dict:
    """Returns the learning curves of runs, thinned: {"metric", "set", "seeds": [[[step, value], ...], ...]}.

    They are of the metric on the validation data or, where it is not measured there, of the loss, and without
    validation data of the training loss.
    """
    known = {(r["set"], name) for run in records for r in run for name in r}
    choices = [("validation", metric), ("validation", "loss"), ("train", "loss")]
    split, name = next(choice for choice in choices if choice in known)
    found = [[(r["step"], r.get(name)) for r in run if r["set"] == split] for run in records]
    kept = [thinned([[step, value] for step, value in run if value is not None]) for run in found]
    return {
        "metric": name,
        "set": split,
        "seeds": [[[step, float(f"{value:.5g}")] for step, value in run] for run in kept],
    }


def thinned(points: list, most: int = POINTS) -> list:
    """Returns at most `most` of some points, in even steps, the first and the last among them."""
    if len(points) <= most:
        return points
    return [points[round(index * (len(points) - 1) / (most - 1))] for index in range(most)]


def verdict(mean: float, spread: float | None, published) -> str:
    """Returns "better", "matched" or "missed": matched is within one standard deviation over seeds.

    Without a published value the result is a "baseline".
    """
    if not published:
        return "baseline"
    gain = (mean - published["value"]) * (1 if published["higher_is_better"] else -1)
    return "matched" if abs(gain) <= (spread or 0) else "better" if gain > 0 else "missed"


def judged(result: dict) -> str:
    """Returns the verdict with how many standard deviations over seeds it is off, where there are seeds."""
    published, spread = result["published"], result["std"]
    if not published or not spread:
        return result["verdict"]
    between = "within" if result["verdict"] == "matched" else "by"
    return f"{result['verdict']} {between} {deviations(result['mean'] - published['value'], spread)}"


def deviations(difference: float, spread: float) -> str:
    """Says how many standard deviations, which are not 0, a difference is."""
    away = abs(difference) / spread
    return f"{'>99' if away > 99 else f'{away:.{0 if away > 9.95 else 1}f}'} sd"


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
    """Returns the mean and, to its second digit, the standard deviation where there are seeds for one."""
    mean, spread = result["mean"], result["std"]
    if spread is None:
        return f"{mean:.5g}"
    digits = min(6, max(0, 1 - math.floor(math.log10(spread)))) if spread else 4
    return f"{mean:.{digits}f} ± {spread:.{digits}f}"


def line(result: dict) -> str:
    """Says a result in one line."""
    text = f"{result['metric']} {value(result)} over {len(result['seeds'])} seeds: {judged(result)}"
    if result["published"]:
        text += f" (published {result['published']['value']:g}, {result['published']['source']})"
    return text
