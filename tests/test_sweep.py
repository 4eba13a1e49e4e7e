"""The sweep command: its grid, what it trains and skips, its table and its picture."""

import itertools
import json
import math
import statistics
import types
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from dlx import configuration
from experiments import runs, submission
from experiments.__main__ import main
from experiments.commands import list as listing
from experiments.commands import report, reproduce
from experiments.sweeping import drawing, jobs, points, search

ROOT = Path(__file__).parent.parent
SMOKE = "--config=configs/image_classification/fine_tuning.py:smoke"
SHORT = [
    "--config.schedule.warmup=1",
    "--config.plan.steps=4",
    "--config.plan.eval_every=2",
    "--config.plan.save_every=0",
]
X = {"key": "schedule.peak", "values": [1e-3, 1e-2]}
BY = {"key": ["batch", "init.from"], "values": [[16, ""], [32, "a run"]], "names": ["small", "large"]}


@pytest.fixture(autouse=True)
def home(monkeypatch):
    monkeypatch.chdir(ROOT)


def grid(**axes):
    return points.grid(ConfigDict({"sweep": axes}), "a config")


def test_a_grid_is_the_product_of_its_axes_line_by_line():
    found = grid(x=X, by=BY)
    assert [(p.by, p.x) for p in found] == [
        ("small", 1e-3),
        ("small", 1e-2),
        ("large", 1e-3),
        ("large", 1e-2),
    ]
    assert found[3].settings == {"batch": 32, "init.from": "a run", "schedule.peak": 1e-2}
    assert [(p.by, p.x, p.settings) for p in grid(x={"key": "model.name", "values": ["mlp"]})] == [
        (None, "mlp", {"model.name": "mlp"})
    ]
    assert [p.settings for p in grid(by={"key": "batch", "values": [1, 2]})] == [{"batch": 1}, {"batch": 2}]
    assert [p.settings for p in grid()] == [{}]  # seeds alone


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"x": {"key": "batch"}}, "config.sweep.x is .* needs a 'key' and 'values'"),
        ({"x": {"key": "batch", "value": [1]}}, "unknown name 'value'; did you mean 'values'"),
        (
            {"x": {"key": ["a", "b"], "values": [[1, 2], [3]]}},
            r"has the keys \['a', 'b'\], and the values \[3\]",
        ),
        ({"x": {"key": "a", "values": [1, 2], "names": ["one"]}}, "2 values and the names .*one for each"),
        ({"x": {"key": "a", "values": [1, 1]}}, "one for each"),
        ({"x": X, "by": X}, "both axes of config.sweep set 'schedule.peak'"),
        ({"z": X}, "unknown name 'z'"),
    ],
    ids=str,
)
def test_a_grid_that_makes_no_sense_is_named(axes, message):
    with pytest.raises(ValueError, match=message):
        grid(**axes)


def test_a_config_without_a_sweep_and_one_with_are_sent_to_the_right_command(capsys):
    assert main(["sweep", "digits"]) == 2
    assert "digits.py has no config.sweep" in capsys.readouterr().err
    assert main(["reproduce", "fine_tuning"]) == 2
    assert "python -m experiments sweep fine_tuning" in capsys.readouterr().err
    assert main(["sweep", "fine_tuning", "--jobs=0"]) == 2
    assert "--jobs=0; at least 1" in capsys.readouterr().err


def test_a_setting_that_no_config_takes_is_refused_before_anything_is_trained(tmp_path, capsys):
    wrong = "--config.sweep.x.key=source.per_clas"
    assert main(["sweep", SMOKE, wrong, f"--workdir={tmp_path}"]) == 2
    assert "did you mean 'per_class'" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Runs the sweep in this process, on two sizes, two starts and two seeds; returns what it trained."""
    seen = []

    def here(command, **_):
        seen.append(command[3:])
        return types.SimpleNamespace(returncode=main(command[3:]), stderr="")

    monkeypatch.setattr(submission, "subprocess", types.SimpleNamespace(run=here))
    target = tmp_path / "results" / "result.json"

    def go(*more, seeds=2):
        seen.clear()
        options = ["--config.sweep.x.values=(10,)", f"--seeds={seeds}", f"--workdir={tmp_path}"]
        assert main(["sweep", SMOKE, *SHORT, *options, f"--json={target}", *more]) == 0
        return json.loads(target.read_text()), list(seen)

    return go


def test_a_sweep_trains_writes_draws_and_skips_what_is_finished(trained, tmp_path, capsys):
    result, commands = trained(seeds=1)
    assert len(commands) == 2 and result["seeds"] == [0] and result["rows"][0]["std"] is None
    capsys.readouterr()
    result, commands = trained()
    assert [c[-1] for c in commands] == ["--config.seed=1"] * 2  # seed 0 was there
    assert (tmp_path / "results" / "result.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert [r["x"] for r in result["rows"]] == [10, 10] and result["rows"][0]["by"] == "from scratch"
    for row in result["rows"]:
        assert row["mean"] == pytest.approx(sum(row["values"]) / 2) and len(row["values"]) == 2
        assert drawing.value(row) in printed and "±" in drawing.value(row)
        assert set(row["others"]) >= {"loss", "roc_auc_macro"} and len(row["train_seconds"]) == 2
    assert (result["metric"], result["set"]) == ("accuracy", "test") and result["machine"]["cores"]
    first = next(iter((tmp_path / "image_classification" / "fine_tuning-smoke").glob("from_scratch_10-*/0")))
    config = json.loads((first / "config.json").read_text())
    assert config["source"]["per_class"] == 10 and "sweep" not in config
    test = next(json.loads(t) for t in (first / "metrics.jsonl").read_text().splitlines() if '"test"' in t)
    assert test["accuracy"] == result["rows"][0]["values"][0]
    assert trained()[1] == []


def test_the_validation_set_counts_when_the_sweep_says_so_and_its_curve_is_kept(trained):
    with pytest.MonkeyPatch.context() as patch:
        full = configuration.load

        def on_validation(path, overrides=()):
            config = full(path, overrides)
            with config.unlocked():
                config.sweep.set = "validation"
            return config

        patch.setattr(configuration, "load", on_validation)
        result, _ = trained(seeds=1)
    assert result["set"] == "validation"
    for row in result["rows"]:
        assert [step for step, _ in row["curve"]] == [2, 4] and row["curve"][-1][1] == row["values"][0]


def test_a_failed_run_is_named_with_the_end_of_its_words(monkeypatch, tmp_path, capsys):
    failed = types.SimpleNamespace(returncode=2, stderr="much\nerror: the reason")
    monkeypatch.setattr(submission, "subprocess", types.SimpleNamespace(run=lambda *_, **__: failed))
    assert main(["sweep", SMOKE, "--seeds=1", f"--workdir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert "from scratch, 10, seed 0 failed" in error and "error: the reason" in error


def row(x, by, mean, std=0.1):
    return {"x": x, "by": by, "mean": mean, "std": std, "values": [mean], "curve": [[1, 0.5], [2, mean]]}


RESULTS = {
    "numbers": [row(x, by, 0.5 + x / 100) for by in ("a", "b") for x in (1, 10)],
    "words": [row(x, by, 0.5) for by in ("a", "b") for x in ("tanh", "relu")],
    "one line": [row(x, None, 0.5, None) for x in (1, 2)],
    "a diverged run": [row(1, "a", None, None), row(2, "a", 0.5)],
    "curves": [row(None, by, 0.7) for by in ("a", "b")],
}


def written(rows):
    result = {"metric": "accuracy", "set": "test", "labels": {"x": "size", "by": "kind"}, "seeds": [0, 1]}
    return result | {"rows": rows, "published": None, "machine": {"device": "1 x cpu", "cores": 2}}


@pytest.mark.parametrize("kind", RESULTS)
def test_every_form_of_a_sweep_has_a_table_and_a_picture(kind, tmp_path):
    result = written(RESULTS[kind])
    assert drawing.draw(result, tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    text = "\n".join(drawing.table(result))
    spread = "" if kind == "one line" else " ± 0.10"
    assert {"numbers": "0.51", "one line": "0.5", "curves": "0.70"}.get(kind, "0.50") + spread in text
    assert ("not finite" in text) == (kind == "a diverged run")


def test_list_and_report_show_a_sweep(tmp_path, monkeypatch):
    folder = tmp_path / "image_classification"
    folder.mkdir()
    (folder / "fine_tuning.json").write_text(json.dumps(written(RESULTS["numbers"])))
    monkeypatch.setattr(reproduce, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    config = "configs/image_classification/fine_tuning.py"
    assert "0.5100 to 0.6000, 4 settings (n=2)" in "\n".join(listing.table([listing.row(config)]))
    table = report.accuracies()
    assert "0.5100 to 0.6000, 4 settings | 2 |" in table and "fine_tuning.png)" in table


SEARCH = {
    "search": [
        {"key": "rate", "low": 1e-4, "high": 1.0, "scale": "log"},
        {"key": "depth", "low": 1, "high": 4},
        {"key": ["kind", "size"], "values": [["a", 1], ["b", 2], ["c", 3]]},
    ],
    "method": "random",
    "trials": 8,
    "round": 4,
    "seed": 3,
    "metric": "loss",
    "higher_is_better": False,
}


def reads(**changes):
    return search.read(ConfigDict({"sweep": SEARCH | changes}), "a config")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": []}, "at least one key"),
        ({"search": [{"key": "a", "low": 1}]}, "needs a 'key', and 'values' or 'low' and 'high'"),
        ({"search": [{"key": "a", "low": 1, "high": 2, "values": [1]}]}, "and 'values' or 'low'"),
        ({"search": [{"key": "a", "low": 2, "high": 1}]}, "'low' must be below 'high'"),
        ({"search": [{"key": "a", "low": 0, "high": 1, "scale": "log"}]}, "above 0 for 'log'"),
        ({"search": [{"key": "a", "low": "0", "high": 1}]}, "are numbers"),
        ({"search": [{"key": "a", "low": 0, "high": 1, "scale": "ln"}]}, "unknown name 'ln'"),
        ({"search": [{"key": "a", "lo": 0, "high": 1}]}, "unknown name 'lo'; did you mean 'low'"),
        ({"search": [{"key": ["a", "b"], "values": [[1]]}]}, r"keys \['a', 'b'\], and the values"),
        ({"search": 2 * [{"key": "a", "low": 0, "high": 1}]}, "each once"),
        ({"method": "annealing"}, "unknown name 'annealing'; there are random, tpe"),
        ({"trials": 0}, "config.sweep.trials=0"),
        ({"set": "test"}, "chooses on the set 'validation'"),
        ({"higher_is_better": None}, "higher_is_better is missing"),
        ({"x": X}, "unknown name 'x'"),
    ],
    ids=str,
)
def test_a_search_that_makes_no_sense_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        reads(**changes)


def test_random_trials_are_a_function_of_the_seed_and_their_number_and_fill_the_ranges():
    space = reads(round=600)
    drawn = search.propose(space, [], 0)
    later = search.propose(reads(round=10), [], 50)
    assert later == drawn[50:60] and drawn != search.propose(reads(round=600, seed=4), [], 0)
    rates, depths, rows = zip(*drawn, strict=True)
    shares = [-math.log10(rate) / 4 for rate in rates]  # uniform in the logarithm
    assert 0 <= min(shares) < 0.01 and 0.99 < max(shares) <= 1 and abs(statistics.fmean(shares) - 0.5) < 0.04
    assert min(depths.count(depth) for depth in (1, 2, 3, 4)) > 110 and set(rows) == {0, 1, 2}
    assert search.settings(space, [0.1, 2, 1]) == {"rate": 0.1, "depth": 2, "kind": "b", "size": 2}
    assert all(float(f"{rate:.4g}") == rate for rate in rates)  # as it is written in a command


def test_the_tree_of_parzen_learns_from_the_trials_and_from_them_alone():
    pytest.importorskip("optuna", reason="the method tpe is optuna's")
    space = reads(method="tpe")

    def loss(values):
        return (math.log10(values[0]) + 3) ** 2 + (values[2] != 1)

    known = []
    for start in range(0, 40, 4):
        proposed = search.propose(space, known, start)
        assert proposed == search.propose(space, list(known), start)
        known += [search.Trial(values, loss(values)) for values in proposed]
    early, late = ([trial.mean for trial in part] for part in (known[:12], known[28:]))
    assert statistics.fmean(late) < 0.5 * statistics.fmean(early)
    best = search.best(space, [trial.mean for trial in known])
    assert known[best].mean == min(trial.mean for trial in known)


def test_a_failed_trial_counts_as_the_worst():
    pytest.importorskip("optuna", reason="the method tpe is optuna's")
    space = reads(method="tpe", round=8, search=[{"key": "rate", "low": 0.0, "high": 1.0}])
    shares = [n / 20 for n in range(20)]
    known = [search.Trial([share], None if share > 0.5 else 1.0) for share in shares]
    found = [values[0] for start in (24, 32, 40) for values in search.propose(space, known, start)]
    assert sum(share > 0.5 for share in found) < 0.3 * len(found)
    assert search.best(space, [None, 2.0, 1.0, 1.0, None]) == 2 and search.best(space, [None]) is None


TINY = """
from ml_collections import ConfigDict

def get_config(scale="full"):
    config = ConfigDict()
    config.experiment, config.seed, config.batch = "image_classification", 0, 16
    config.source = {"name": "synthetic_images", "num_classes": 2, "size": 4, "count": 64, "validation": 0.2}
    config.augment, config.model = {}, {"name": "mlp", "hidden": [8]}
    config.label_smoothing = 0.0
    config.optimizer = {"name": "adamw", "weight_decay": 0.0}
    config.schedule = {"name": "cosine", "peak": 1e-2, "warmup": 1}
    config.plan = {"steps": 3, "log_every": 1, "eval_every": 3, "save_every": 0}
    config.sweep = {
        "search": [
            {"key": "schedule.peak", "low": 1e-3, "high": 1e-1, "scale": "log"},
            {"key": "model.hidden", "values": [[4], [8]]},
        ],
        "method": "random", "trials": 4, "round": 2, "metric": "loss", "higher_is_better": False,
    }
    return config
"""


def pretend(command):
    """Leaves behind what a run of TINY would, of a loss that is least at a rate of 0.01 and 8 units."""
    path, workdir = (command[place].partition("=")[2] for place in (1, 2))
    config = runs.single(configuration.load(path, [w for w in command[3:] if w.startswith("--config.")]))
    Path(workdir).mkdir(parents=True)
    configuration.save(config, Path(workdir) / "config.json")
    loss = (math.log10(config.schedule.peak) + 2) ** 2 + 8 / sum(config.model.hidden) + config.seed / 100
    lines = [
        {"step": 3, "set": name, "loss": loss + more} for name, more in (("validation", 0), ("test", 0.5))
    ]
    (Path(workdir) / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return 0


@pytest.fixture
def searched(tmp_path, monkeypatch):
    """Runs a search whose runs are pretended; `status(command)` may end one with another status than 0."""
    seen = []
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "tiny.py").write_text(TINY)

    def go(*more, folder="runs", expected=0, status=lambda command: 0):
        seen.clear()

        def here(command, **_):
            seen.append(command[3:])
            code = status(command) or pretend(command[3:])
            return types.SimpleNamespace(returncode=code, stderr=f"words of {code}")

        monkeypatch.setattr(submission, "subprocess", types.SimpleNamespace(run=here))
        target = tmp_path / folder / "result.json"
        config = f"--config={tmp_path / 'app' / 'tiny.py'}"
        options = [config, f"--workdir={tmp_path / folder}", f"--json={target}", "--seeds=2", *more]
        assert main(["sweep", *options]) == expected
        return json.loads(target.read_text()) if expected == 0 else None, list(seen)

    return go


def test_a_search_trains_measures_resumes_and_goes_on(searched, tmp_path, capsys):
    result, commands = searched()
    assert len(commands) == 8 and [row["x"] for row in result["rows"]] == [0, 1, 2, 3]
    assert len({json.dumps(row["settings"]) for row in result["rows"]}) == 4 and result["set"] == "validation"
    means = [row["mean"] for row in result["rows"]]
    assert result["best"] == means.index(min(means))
    assert result["test"]["values"] == [v + 0.5 for v in result["rows"][result["best"]]["values"]]
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].split() == ["trial", "schedule.peak", "model.hidden", "loss"]
    assert printed[2].split()[0] == str(result["best"])  # the best first
    assert f"the best, trial {result['best']}, on the test set" in printed[6]
    assert (tmp_path / "runs" / "result.png").read_bytes().startswith(b"\x89PNG")

    again, commands = searched()
    assert commands == [] and again["rows"] == result["rows"]
    more, commands = searched("--config.sweep.trials=5")
    assert len(commands) == 2 and more["rows"][:4] == result["rows"]  # an interrupted round is the same round
    tree = "--config.sweep.method=tpe"
    whole, _ = searched(tree, folder="whole")
    searched(tree, "--config.sweep.trials=3", folder="parts")
    parts, _ = searched(tree, folder="parts")
    assert [row["settings"] for row in parts["rows"]] == [row["settings"] for row in whole["rows"]]
    fewer, commands = searched("--config.sweep.trials=2")
    assert commands == [] and fewer["rows"] == result["rows"][:2]


def test_a_search_that_is_stopped_anywhere_ends_as_if_it_had_not_been(searched, capsys):
    whole, _ = searched("--config.sweep.method=tpe")
    for stop in (1, 3, 6):
        codes = itertools.chain([0] * stop, [143])
        searched(
            "--config.sweep.method=tpe", folder=f"at {stop}", expected=2, status=lambda _, c=codes: next(c)
        )
        assert "words of 143" in capsys.readouterr().err
        result, commands = searched("--config.sweep.method=tpe", folder=f"at {stop}")
        assert len(commands) == 8 - stop
        strip = [{k: v for k, v in row.items() if k != "train_seconds"} for row in result["rows"]]
        assert strip == [{k: v for k, v in row.items() if k != "train_seconds"} for row in whole["rows"]]


def test_a_trial_that_fails_is_shown_and_not_tried_again(searched, capsys):
    def fails(command):
        return 2 if "--config.model.hidden=(4,)" in command and command[-1].endswith("seed=1") else 0

    result, _ = searched(status=fails)
    lost = [row for row in result["rows"] if row["mean"] is None]
    assert lost and all(row["settings"]["model.hidden"] == [4] for row in lost)
    assert lost[0]["error"] == "words of 2" and result["rows"][result["best"]]["settings"][
        "model.hidden"
    ] == [8]
    assert "not finite" not in (out := capsys.readouterr().out) and "failed" in out
    again, commands = searched(status=fails)
    assert commands == [] and [row["mean"] for row in again["rows"]] == [
        row["mean"] for row in result["rows"]
    ]
    searched(folder="all", expected=2, status=lambda command: 1)
    assert "every trial failed" in capsys.readouterr().err


def test_runs_of_a_sweep_run_as_jobs_of_submitit(tmp_path):
    pytest.importorskip("submitit", reason="jobs of a cluster are submitit's")
    point = points.Point("here", None, {})
    commands = (["train", "--help"], ["train", "--nonsense"], ["evaluate", "--help"])
    todo = [jobs.Job(point, seed, tmp_path, command, None) for seed, command in enumerate(commands)]
    launch = jobs.on_cluster("local", 2, tmp_path / "jobs", {"timeout_min": 5})
    found = {job.seed: ended for job, ended in launch(todo)}
    assert [found[seed].status for seed in range(3)] == [0, 2, 0]
    assert "the following arguments are required: --workdir" in found[1].words
    with pytest.raises(ValueError, match="submitit cannot submit to 'slurm'"):
        list(jobs.on_cluster("slurm", 2, tmp_path / "jobs", {})(todo))


def test_the_options_of_a_cluster_are_read():
    assert submission.options(["timeout_min=5", "slurm_partition=gpu"]) == {
        "timeout_min": 5,
        "slurm_partition": "gpu",
    }
    with pytest.raises(ValueError, match="write KEY=VALUE"):
        submission.options(["timeout_min"])
