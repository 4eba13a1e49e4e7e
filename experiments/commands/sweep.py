"""Train a config over a grid of settings, or a search among them, and seeds, and draw what they change.

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

With "search" in the place of the axes, settings are drawn from ranges: see experiments/sweeping/search.py.
"""

import json
from pathlib import Path

from experiments import commands, submission
from experiments.commands import reproduce
from experiments.sweeping import drawing, results
from experiments.sweeping import search as searching
from experiments.sweeping.jobs import Launch, here, jobs, mark, on_cluster, train
from experiments.sweeping.points import Point, grid


def add_arguments(parser) -> None:
    """Adds a config's name, or --config, and --seeds, --jobs, --workdir, --json and where runs run."""
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="a config with a sweep, or a variant of it such as fine_tuning:smoke; none: --config's",
    )
    commands.add_config(parser)
    parser.add_argument(
        "--seeds", type=int, default=5, metavar="N", help="seeds 0 ... N-1 (default %(default)s)"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="runs at a time, on this machine or a cluster (default %(default)s)",
    )
    parser.add_argument(
        "--workdir",
        type=Path,
        default=Path("runs/sweep"),
        metavar="DIR",
        help="where runs lie (default %(default)s)",
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="where the result goes, and beside it the picture (default experiments/results/APPLICATION/"
        "CONFIG.json; with overrides or a variant of the config, the folder of its runs)",
    )
    submission.add_cluster(parser)
    commands.add_data(parser)


def run(arguments) -> None:
    """Trains what is not trained yet; prints the table, writes it as JSON and draws it."""
    from dlx import configuration

    commands.use_data(arguments)
    for option in ("seeds", "jobs"):
        if (number := getattr(arguments, option)) < 1:
            raise configuration.ConfigError(f"--{option}={number}; at least 1 is needed")
    name, colon, variant = (arguments.name or "").partition(":")
    path = f"{reproduce.find(name)}{colon}{variant}" if name else arguments.config
    config = configuration.load(path, arguments.overrides)
    file, _, scale = path.partition(":")
    folder = arguments.workdir / Path(file).parent.name / (Path(file).stem + (f"-{scale}" if scale else ""))
    parameters = submission.options(arguments.cluster_options)
    launch = here(arguments.jobs)
    if arguments.cluster:
        launch = on_cluster(arguments.cluster, arguments.jobs, arguments.workdir / "submitit", parameters)
    makes = searched if "search" in config.get("sweep", {}) else gridded
    result = makes(config, path, arguments, folder, launch)

    target = arguments.json
    if target is None and (scale or arguments.overrides):
        target = folder / f"{mark(arguments.overrides)}.json"
    target = target or reproduce.RESULTS / Path(file).parent.name / f"{Path(file).stem}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n")
    pictures = [drawing.draw(result, target.with_suffix(".png")), *compared(config, result, target)]
    print(*drawing.table(result), f"written to {target} and {', '.join(map(str, pictures))}", sep="\n")


def compared(config, result: dict, target: Path) -> list[Path]:
    """Returns the pictures that the experiment itself draws of a sweep, where it has `compare`."""
    from dlx.configuration import lookup
    from experiments.applications import EXPERIMENTS

    experiment = lookup(EXPERIMENTS, config.experiment)
    return experiment.compare(config, result, target) if hasattr(experiment, "compare") else []


def gridded(config, path: str, arguments, folder: Path, launch: Launch) -> dict:
    """Trains every point of a grid with every seed, and returns the result."""
    points = grid(config, path)
    todo = jobs(path, arguments.overrides, points, arguments.seeds, folder, data(arguments))
    train(todo, launch)
    chosen = config.sweep.get("set", "test")
    name, known = results.metric(config, todo[0], chosen)
    mine = [[job for job in todo if job.point == point] for point in points]
    rows = [results.row(p, done, chosen, name, known) for p, done in zip(points, mine, strict=True)]
    return results.result(config, name, chosen, arguments.seeds, rows)


def searched(config, path: str, arguments, folder: Path, launch: Launch) -> dict:
    """Trains a search round by round, and returns the result, with the best trial's on the test set.

    The trials stand in `folder`, in a file for each search, so that the same command goes on with them. A
    trial of which a run fails, as one does whose loss is not finite, counts as worse than all others.
    """
    search = searching.read(config, path)
    overrides = [text for text in arguments.overrides if not text.startswith("--config.sweep")]
    spec = {key: value for key, value in config.sweep.to_dict().items() if key != "trials"}
    file = folder / f"search-{mark([overrides, spec, arguments.seeds])}.json"
    trials, rows, chosen = searching.load(file), [], "validation"
    done = {}  # the runs of each trial that did not fail
    name, known = "", []
    for start in range(0, search.trials, search.round):
        stop = min(start + search.round, search.trials)
        values = [trial.values for trial in trials[start:stop]]
        if start + len(values) < stop:
            values += searching.propose(search, trials[:start], start)[len(values) : stop - start]
        points = [Point(start + n, None, searching.settings(search, v)) for n, v in enumerate(values)]
        lost = {number for number, trial in enumerate(trials) if trial.mean is None}
        todo = jobs(path, arguments.overrides, points, arguments.seeds, folder, data(arguments))
        failed = train([job for job in todo if job.point.x not in lost], launch, forgiving=True)
        for point, value in zip(points, values, strict=True):
            mine = [job for job in todo if job.point == point]
            words = [failed[job.workdir] for job in mine if job.workdir in failed]
            if words or point.x in lost:
                rows.append(unmeasured(point, words))
            else:
                name, known = results.metric(config, mine[0], chosen) if not name else (name, known)
                rows.append(results.row(point, mine, chosen, name, known))
                done[point.x] = mine
            if point.x >= len(trials):
                trials.append(searching.Trial(value, rows[-1]["mean"]))
        if not done:
            raise RuntimeError(f"every trial failed, the last one with:\n{rows[-1]['error']}")
        searching.save(file, search, trials)
    best = searching.best(search, [row["mean"] for row in rows])
    result = results.result(config, name, chosen, arguments.seeds, rows) | {
        "labels": {"x": "trial"},
        "search": search._asdict() | {"dimensions": [one._asdict() for one in search.dimensions]},
        "best": best,
    }
    if best is not None and (on_test := [measured_on_test(job, name) for job in done[best]]):
        result["test"] = results.spread(on_test) | {"values": on_test}
    return result


def unmeasured(point: Point, words: list[str]) -> dict:
    """Returns the row of a trial of which a run failed."""
    nothing = {"mean": None, "std": None, "values": [], "others": {}, "curve": [], "train_seconds": []}
    error = words[0] if words else "a run of it failed before"
    return {"x": point.x, "by": None, "settings": point.settings} | nothing | {"error": error}


def measured_on_test(job, name: str):
    """Returns what a finished run measured of a metric on its test data; None if it did not."""
    last = [record for record in results.measured(job)[-1] if record["set"] == "test"][-1]
    return last.get(name)


def data(arguments) -> list[str]:
    """Returns what the command says of its data, for the commands of its runs."""
    places = ("data_dir", "manual_dir", "data_workers")
    given = {place: getattr(arguments, place) for place in places}
    return [f"--{place}={value}" for place, value in given.items() if value is not None]
