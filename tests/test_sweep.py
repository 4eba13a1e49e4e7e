"""The sweep command: its grid, what it trains and skips, its table and its picture."""

import json
import types
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from dlx import configuration
from experiments.__main__ import main
from experiments.commands import list as listing
from experiments.commands import report, reproduce, sweep

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
    return sweep.grid(ConfigDict({"sweep": axes}), "a config")


def test_a_grid_is_the_product_of_its_axes_line_by_line():
    points = grid(x=X, by=BY)
    assert [(p.by, p.x) for p in points] == [
        ("small", 1e-3),
        ("small", 1e-2),
        ("large", 1e-3),
        ("large", 1e-2),
    ]
    assert points[3].settings == {"batch": 32, "init.from": "a run", "schedule.peak": 1e-2}
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
    assert 'Did you mean "per_class"' in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Runs the sweep in this process, on two sizes, two starts and two seeds; returns what it trained."""
    seen = []

    def here(command, **_):
        seen.append(command[3:])
        return types.SimpleNamespace(returncode=main(command[3:]), stderr="")

    monkeypatch.setattr(sweep, "subprocess", types.SimpleNamespace(run=here))
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
        assert sweep.value(row) in printed and "±" in sweep.value(row)
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
    monkeypatch.setattr(sweep, "subprocess", types.SimpleNamespace(run=lambda *_, **__: failed))
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
    assert sweep.draw(result, tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    text = "\n".join(sweep.table(result))
    assert "0.5000" in text or "0.7000" in text or "0.5100" in text
    assert ("not finite" in text) == (kind == "a diverged run")


def test_list_and_report_show_a_sweep(tmp_path, monkeypatch):
    folder = tmp_path / "image_classification"
    folder.mkdir()
    (folder / "fine_tuning.json").write_text(json.dumps(written(RESULTS["numbers"])))
    monkeypatch.setattr(reproduce, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    config = Path("configs/image_classification/fine_tuning.py")
    assert "0.5100 to 0.6000, 4 settings (n=2)" in "\n".join(listing.table([listing.row(config)]))
    table = report.accuracies()
    assert "0.5100 to 0.6000, 4 settings | 2 |" in table and "fine_tuning.png)" in table
