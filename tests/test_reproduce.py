import json
import types
from pathlib import Path

import pytest

from dlx import configuration
from experiments.__main__ import main
from experiments.commands import report, reproduce
from experiments.commands.reproduce import find, line, seconds, verdict

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


def test_one_smoke_run_is_trained_measured_written_and_shown(tmp_path, monkeypatch, capfd):
    """The whole path on the default config, shortened; what it writes is what the tables read."""
    monkeypatch.chdir(Path(__file__).parent.parent)
    monkeypatch.setattr(reproduce, "RESULTS", tmp_path / "results")
    full = configuration.load

    def short(path, overrides=()):
        return full(f"{path}:smoke", overrides)

    monkeypatch.setattr(configuration, "load", short)
    here = types.SimpleNamespace(run=lambda command, check: main(command[3:]))  # not in a process of its own
    monkeypatch.setattr(reproduce, "subprocess", here)
    assert main(["reproduce", "digits", "--seeds=2", f"--workdir={tmp_path / 'runs'}"]) == 0
    result = json.loads((tmp_path / "results" / "image_classification" / "digits.json").read_text())
    assert result["seeds"] == [0, 1] and len(result["values"]) == 2 and result["verdict"] == "baseline"
    assert result["mean"] == pytest.approx(sum(result["values"]) / 2)
    assert line(result) in capfd.readouterr().out


def test_a_table_goes_between_its_markers_and_a_missing_marker_is_named():
    text = "a\n" + "".join(
        f"<!-- {name}: python -m experiments report -->\nold\n<!-- end of {name} -->\nb\n"
        for name in ("results", "speed", "models")
    )
    new = report.insert(text)
    assert "old" not in new and new.startswith("a\n") and report.insert(new) == new
    with pytest.raises(ValueError, match="end of speed"):
        report.insert(text.replace("<!-- end of speed -->", ""))
