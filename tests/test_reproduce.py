import json
import math
import subprocess
import types
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from dlx import configuration
from experiments.__main__ import main
from experiments.commands import report, reproduce
from experiments.commands.reproduce import duration, find, judged, launch, line, seconds, verdict

PUBLISHED = {"metric": "accuracy", "value": 0.9, "higher_is_better": True, "source": "a paper"}


@pytest.mark.parametrize(
    "mean, spread, higher, expected",
    [
        (0.95, 0.01, True, "better"),
        (0.905, 0.01, True, "matched"),
        (0.895, 0.01, True, "matched"),
        (0.85, 0.01, True, "missed"),
        (0.85, 0.01, False, "better"),
        (0.95, None, False, "missed"),
        (0.9, None, True, "matched"),
    ],
)
def test_a_verdict_looks_at_the_direction_and_the_spread(mean, spread, higher, expected):
    assert verdict(mean, spread, PUBLISHED | {"higher_is_better": higher}) == expected


def test_without_a_published_value_it_is_a_baseline():
    assert verdict(0.5, None, None) == "baseline"


def test_a_name_finds_its_config_and_a_typo_the_nearest():
    assert find("digits") == find("configs/image_classification/digits.py")  # the default one has the name
    assert find("deep_belief/digits") == Path("configs/deep_belief/digits.py")
    with pytest.raises(ValueError, match="did you mean 'digits'"):
        find("digit")


def test_a_name_that_two_configs_have_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for application in ("chatbot", "translation"):
        (tmp_path / "configs" / application).mkdir(parents=True)
        (tmp_path / "configs" / application / "gru.py").touch()
    with pytest.raises(ValueError, match="2 configs are called 'gru': say chatbot/gru or translation/gru"):
        find("gru")
    assert find("translation/gru") == find("configs/translation/gru.py") == Path("configs/translation/gru.py")


def test_training_time_is_that_of_the_steps_alone():
    records = [
        {"step": 10, "set": "train"},
        {"step": 10, "set": "speed", "steps_per_second": 5.0},
        {"step": 10, "set": "validation"},
        {"step": 30, "set": "train"},
        {"step": 30, "set": "speed", "steps_per_second": 10.0},
    ]
    assert seconds(records) == pytest.approx(2.0 + 2.0)


def test_without_test_data_a_run_results_in_the_step_that_is_best_on_validation_data():
    losses = {1: 3.0, 2: 1.0, 3: math.nan, 4: 1.0, 5: 2.0}
    records = [{"step": step, "set": "validation", "loss": loss} for step, loss in losses.items()]
    best = ConfigDict({"experiment": "any", "best": {"metric": "loss", "higher_is_better": False}})
    assert reproduce.measured(best, records) == records[1] | {"best_step": 2}  # the earliest of equals
    assert reproduce.measured(ConfigDict({"best": {}}), records) == records[-1]
    tested = [*records, {"step": 5, "set": "test", "loss": 9.0}]
    assert reproduce.measured(best, tested) == tested[-1]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The default config is its smoke variant, results go to a folder of their own, runs are in this process.

    Yields the seeds that were launched; a test may say in `here.fate` what becomes of one instead.
    """
    monkeypatch.chdir(Path(__file__).parent.parent)
    monkeypatch.setattr(reproduce, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(reproduce, "device", lambda: "1 x cpu")
    full, state = configuration.load, types.SimpleNamespace(launched=[], fate={})

    def launch(command, timeout, shown):
        seed = int(command[-1].rpartition("=")[2])
        state.launched.append(seed)
        fate = state.fate.get(seed, lambda: main(command) == 0)
        return fate()

    monkeypatch.setattr(configuration, "load", lambda path, given=(): full(f"{path}:smoke", given))
    monkeypatch.setattr(reproduce, "launch", launch)
    state.command = ["reproduce", "digits", "--jobs=1", f"--workdir={tmp_path / 'runs'}"]
    state.result = tmp_path / "results" / "image_classification" / "digits.json"
    return state


def test_smoke_runs_are_trained_measured_written_and_shown_and_go_on_where_they_stopped(here, capfd):
    """The whole path on the default config, shortened; what it writes is what the tables read."""
    assert main([*here.command, "--seeds=1"]) == 0
    here.fate[1] = lambda: False  # time is up
    assert main([*here.command, "--seeds=2", "--budget=1h"]) == 0
    assert "goes on with:\n  configs/image_classification/digits.py (1 of 2 seeds)" in capfd.readouterr().out
    assert json.loads(here.result.read_text())["seeds"] == [0]
    here.fate.clear()
    assert main([*here.command, "--seeds=2"]) == 0
    assert here.launched == [0, 1, 1]  # what is finished is not trained again
    result = json.loads(here.result.read_text())
    assert result["seeds"] == [0, 1] and len(result["values"]) == 2 and result["verdict"] == "baseline"
    assert result["mean"] == pytest.approx(sum(result["values"]) / 2)
    assert line(result) in capfd.readouterr().out
    found = result["curves"]
    assert (found["metric"], found["set"], len(found["seeds"])) == ("accuracy", "validation", 2)
    assert found["seeds"][0][-1][0] == configuration.load("configs/image_classification/digits.py").plan.steps
    assert {"jax", "flax", "commit", "device"} <= set(result["machine"])

    assert main([*here.command, "--seeds=1"]) == 0  # fewer seeds take nothing away
    assert "it is over 2 seeds" in capfd.readouterr().out
    assert json.loads(here.result.read_text()) == result


def test_with_all_a_config_that_fails_does_not_stop_the_others(here, monkeypatch, capfd):
    fine = reproduce.asked("digits", Path("unused"))
    tried = []

    def train(wanted, seeds, jobs, end):
        tried.append(wanted.path)
        if "fails" in wanted.path:
            raise RuntimeError("its files are not there")
        return []

    monkeypatch.setattr(reproduce, "everything", lambda: ["fails", "digits"])
    monkeypatch.setattr(reproduce, "asked", lambda name, workdir: fine._replace(path=name))
    monkeypatch.setattr(reproduce, "train", train)
    assert main(["reproduce", "--all"]) == 2 and tried == ["fails", "digits"]
    assert "fails failed: its files are not there" in capfd.readouterr().err
    with pytest.raises(RuntimeError, match="not there"):
        main(["reproduce", "fails"])


def test_all_means_every_config_but_sweeps_and_the_variants_that_have_results(monkeypatch):
    monkeypatch.chdir(Path(__file__).parent.parent)
    found = reproduce.everything()
    assert (
        "configs/forecasting/etth1_dlinear.py" in found
        and "configs/forecasting/etth1_dlinear.py:720" in found
    )
    assert not any("fine_tuning" in name for name in found) and len(found) == len(set(found))


def test_names_and_all_exclude_each_other_and_numbers_are_checked(capsys):
    for words in ([], ["digits", "--all"], ["digits", "--seeds=0"], ["digits", "--budget=soon"]):
        assert main(["reproduce", *words]) == 2
    assert "--budget=soon is not a time; write it as 90s, 30m" in capsys.readouterr().err
    assert [duration(text) for text in ("90", "90s", "30m", "1.5h", "1d")] == [90, 90, 1800, 5400, 86400]


def test_a_run_past_its_time_is_told_to_end_and_one_that_fails_says_why(monkeypatch):
    told = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(3)); time.sleep(60)"
    original = subprocess.Popen

    def popen(words, **settings):
        return original([words[0], "-c", words[3]], **settings)

    monkeypatch.setattr(reproduce.subprocess, "Popen", popen)
    assert launch([told], 1.0, shown=False) is False
    assert launch(["pass"], 60.0, shown=False) is True
    assert launch(["pass"], 0.0, shown=False) is False
    with pytest.raises(RuntimeError, match="(?s)status 1.*no such thing"):
        launch(["raise KeyError('no such thing')"], 60.0, shown=False)


def test_curves_are_thinned_and_are_of_the_loss_where_the_metric_is_not_watched():
    run = [{"step": n, "set": "validation", "loss": 1 / n} for n in range(1, 1001)]
    found = reproduce.curves([run, run], "bleu")
    assert found["metric"] == "loss" and [len(seed) for seed in found["seeds"]] == [reproduce.POINTS] * 2
    assert found["seeds"][0][0] == [1, 1.0] and found["seeds"][0][-1] == [1000, 0.001]
    run = [{"step": 1, "set": "train", "loss": 2.0}, {"step": 2, "set": "train", "loss": None}]
    assert reproduce.curves([run], "bleu") == {"metric": "loss", "set": "train", "seeds": [[[1, 2.0]]]}


def test_a_verdict_tells_the_deviations():
    result = {"mean": 0.95, "std": 0.02, "published": PUBLISHED, "verdict": "better"}
    assert judged(result) == "better by 2.5 sd"
    assert judged(result | {"mean": 0.91, "verdict": "matched"}) == "matched within 0.5 sd"
    assert judged(result | {"std": None}) == "better"
    assert judged(result | {"std": 1e-6}) == "better by >99 sd"


def test_the_spread_says_how_many_digits_are_shown():
    assert reproduce.value({"mean": 49701.9691, "std": 31.2628}) == "49702 ± 31"
    assert reproduce.value({"mean": 0.43606, "std": 0.000018}) == "0.436060 ± 0.000018"
    assert reproduce.value({"mean": 0.5, "std": 0.0}) == "0.5000 ± 0.0000"
    assert reproduce.value({"mean": 0.906444, "std": None}) == "0.90644"


def test_a_smoke_run_is_no_result_of_the_project(tmp_path):
    wanted = reproduce.asked("digits:smoke", tmp_path)
    assert wanted.target == tmp_path / "image_classification" / "digits-smoke.json"
    assert reproduce.asked("digits", tmp_path).target.parts[:2] == ("experiments", "results")


def measured(file):
    """Returns the config, and its variant, of which a file is the result."""
    name, _, variant = file.stem.partition("-")
    return f"configs/{file.parent.name}/{name}.py" + (f":{variant}" if variant else "")


def test_every_result_is_of_its_config_as_it_is_today():
    """One that changed since is to be measured again: `reproduce NAME`, or `sweep NAME`."""
    stale = []
    for file in report.results():
        path = measured(file)
        result, config = json.loads(file.read_text()), configuration.load(path)
        published = config.published.to_dict() if "published" in config else None
        if (result["config_sha256"], result["published"]) != (configuration.digest(config), published):
            stale.append(path)
    assert stale == []


def test_every_result_is_of_the_step_that_is_best_on_validation_data():
    """Either the config chooses it, or the last step is the best for every seed."""
    wrong = []
    for file in report.results():
        result = json.loads(file.read_text())
        if "curves" not in result:  # a sweep's
            continue
        if configuration.load(measured(file)).get("best"):
            chosen = all("best_step" in seed for seed in result["test"])
        else:
            better = max if result["curves"]["metric"] == "accuracy" else min
            ends = [[value for _, value in curve] for curve in result["curves"]["seeds"]]
            chosen = result["curves"]["set"] == "validation" and all(c[-1] == better(c) for c in ends)
        if not chosen:
            wrong.append(str(file))
    assert wrong == []


def test_a_table_goes_between_its_markers_and_a_missing_marker_is_named():
    text = "a\n" + "".join(
        f"<!-- {name}: python -m experiments report -->\nold\n<!-- end of {name} -->\nb\n"
        for name in ("results", "speed", "models")
    )
    new = report.insert(text)
    assert "old" not in new and new.startswith("a\n") and report.insert(new) == new
    with pytest.raises(ValueError, match="end of speed"):
        report.insert(text.replace("<!-- end of speed -->", ""))
