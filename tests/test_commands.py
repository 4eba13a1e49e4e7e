"""The command line, as a user types it."""

import io
import json
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from dlx.configuration import ConfigError
from experiments import runs
from experiments.__main__ import COMMANDS, main
from experiments.commands import demo

ROOT = Path(__file__).parent.parent
SMOKE = "--config=configs/image_classification/digits.py:smoke"


@pytest.fixture(autouse=True)
def home(monkeypatch):
    monkeypatch.chdir(ROOT)


def train(workdir):
    """Runs the train command in a process of its own, on one device."""
    command = [sys.executable, "-m", "experiments", "train", SMOKE, f"--workdir={workdir}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run, and what the command printed."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, train(workdir)


def test_the_best_step_on_validation_data_is_what_a_run_results_in(tmp_path, capsys):
    """The rate rises beyond what can be learned with, so the best step comes before the last."""
    text = (ROOT / "configs/image_classification/digits.py").read_text()
    end = "    return config\n"
    assert text.endswith(end)
    config, workdir = tmp_path / "rising.py", tmp_path / "run"
    config.write_text(
        text.removesuffix(end)
        + '    config.schedule = {"name": "linear", "peak": 0.5, "warmup": 60}\n'
        + '    config.best = {"metric": "accuracy", "higher_is_better": True}\n'
        + '    config.plan = {"steps": 60, "log_every": 60, "eval_every": 6, "save_every": 20}\n'
        + end
    )
    assert main(["train", f"--config={config}:smoke", f"--workdir={workdir}"]) == 0
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    seen = {r["step"]: r["accuracy"] for r in records if r["set"] == "validation"}
    best = max(seen, key=seen.get)  # the earliest of equals
    assert best < 60
    (test,) = (r for r in records if r["set"] == "test")
    assert test["best_step"] == best and test["step"] == 60
    capsys.readouterr()
    assert main(["evaluate", f"--workdir={workdir}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["step"] == best
    assert found["validation"]["accuracy"] == seen[best]
    assert found["test"]["accuracy"] == test["accuracy"]


def test_choosing_a_step_needs_validation_data_and_a_metric_that_is_there():
    config = ConfigDict({"experiment": "digits", "best": {"metric": "loss", "higher_is_better": False}})
    rate = runs.rating(config)
    assert rate({"validation": {"loss": 2.0}, "test": {"loss": 0.0}}) == -2.0
    with pytest.raises(ConfigError, match="config.best: digits has no validation data"):
        rate({"test": {"loss": 0.0}})
    with pytest.raises(ConfigError, match="loss.*los"):
        rate({"validation": {"los": 0.0}})
    assert runs.rating(ConfigDict({"best": {}})) is None  # a stage whose config chooses, and which does not


def test_without_a_command_all_are_shown(capsys):
    with pytest.raises(SystemExit) as stopped:
        main([])
    said = capsys.readouterr().out
    assert stopped.value.code == 0 and all(f"\n    {name}" in said for name in COMMANDS)


def test_every_command_has_help(capsys):
    for name in COMMANDS:
        with pytest.raises(SystemExit) as stopped:
            main([name, "--help"])
        assert stopped.value.code == 0
        assert name in capsys.readouterr().out


def test_a_reader_who_leaves_ends_a_command_silently():
    """As in `demo --prompt ... | head`: no message, and the status of a program that SIGPIPE ended."""
    command = [sys.executable, "-m", "experiments", "list"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        running.stdout.close()
        assert running.stderr.read() == b"" and running.wait() == 141


def test_training_summarises_the_run_then_prints_the_test_accuracy(trained):
    workdir, done = trained
    for part in ("Dense_0/kernel", "total", "GFLOP", "MiB", "cpu", "train 1,294", "step 150/150"):
        assert part in done.stderr, part
    assert "\r" not in done.stderr  # plain lines, since it is no terminal
    assert "test after 150 steps" in done.stdout and "accuracy" in done.stdout
    assert json.loads((workdir / "config.json").read_text())["experiment"] == "image_classification"
    assert list(workdir.glob("events.*")) and (workdir / "checkpoints" / "150").is_dir()


def test_evaluate_repeats_the_test_numbers(trained, capsys):
    workdir, _ = trained
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    (expected,) = [r for r in records if r["set"] == "test"]
    assert main(["evaluate", f"--workdir={workdir}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["step"] == expected["best_step"] <= expected["step"] == 150
    expected = {k: v for k, v in expected.items() if k not in ("step", "set", "best_step")}
    assert found["test"] == pytest.approx(expected, rel=1e-5)  # here on eight devices, there on one


def test_demo_draws_the_figures(trained, capsys):
    workdir, _ = trained
    assert main(["demo", f"--workdir={workdir}"]) == 0
    assert "accuracy" in capsys.readouterr().out
    for name in ("curves", "confusion", "predictions"):
        assert (workdir / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_training_a_finished_run_again_changes_nothing(trained):
    workdir, _ = trained
    before = (workdir / "metrics.jsonl").read_text()
    done = train(workdir)
    assert "resuming" in done.stderr and (workdir / "metrics.jsonl").read_text() == before


def test_another_config_is_refused_and_the_difference_shown(trained, capsys):
    workdir, _ = trained
    assert main(["train", SMOKE, f"--workdir={workdir}", "--config.schedule.peak=0.5"]) == 2
    assert "config.schedule.peak: 0.004 -> 0.5" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["--config=configs/image_classification/digit.py"],
            "did you mean 'configs/image_classification/digits.py'",
        ),
        (["--config.modle.name=mlp"], "has no config.modle; did you mean 'model'"),
        (["--config.model.name=mpl"], "unknown name 'mpl'; did you mean 'mlp'"),
        (["--config.optimizer.name=adamm"], "adam"),
        (["--config.source.name=digit"], "did you mean 'digits'"),
        (["--config.plan.steps=0"], "steps"),
        (["--config.batch=0"], "batch"),
        (
            ["--config.batch=12"],
            "use a multiple of 8, for example 8 or 16",
        ),  # on the eight devices of the tests
    ],
)
def test_bad_input_is_named_and_leaves_no_workdir(arguments, message, tmp_path, capsys):
    assert main(["train", *([] if arguments[0].startswith("--config=") else [SMOKE]), *arguments,
                 f"--workdir={tmp_path / 'run'}"]) == 2  # fmt: skip
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_what_is_no_option_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["list", "--config.x=1"])
    assert "does not understand '--config.x=1'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", "--workdri=x"])


def test_a_workdir_that_is_no_run_is_named(tmp_path, capsys):
    for command in ("evaluate", "demo"):
        assert main([command, f"--workdir={tmp_path}"]) == 2
        assert f"there is no run at {tmp_path}" in capsys.readouterr().err


def test_a_workdir_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["train", SMOKE, f"--workdir={tmp_path / 'file' / 'run'}"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_foreign_checkpoints_are_refused_untouched(tmp_path, capsys):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "weights.bin").write_text("mine")
    assert main(["train", SMOKE, f"--workdir={tmp_path}"]) == 2
    assert "stays untouched" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["checkpoints", "weights.bin"]


def test_a_missing_file_without_network_fails_at_once_saying_which_file_goes_where(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k not in ("DLX_DATA_DIR", "TFDS_DATA_DIR")}
    environment["https_proxy"] = environment["http_proxy"] = "http://127.0.0.1:9"  # nobody answers there
    command = [sys.executable, "-m", "experiments", "prepare", "mnist", f"--data_dir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "train-images-idx3-ubyte.gz" in done.stderr and "sha256" in done.stderr.lower()
    assert not list(tmp_path.rglob("*.array_record*"))


def test_prepare_knows_every_set_of_the_catalogue_and_those_that_need_nothing(monkeypatch, capsys):
    from dlx import configuration
    from dlx.data import builders, sources

    asked = []

    def ready(name):
        asked.append(name)
        return sources.Prepared(Path("somewhere"), {"train": 17_420}, False)

    monkeypatch.setattr(sources, "prepare", ready)
    assert main(["prepare", *builders.BUILDERS]) == 0
    assert asked == list(builders.BUILDERS) and "etth1: already prepared" in capsys.readouterr().out
    assert main(["prepare", "digits", "synthetic_series"]) == 0
    assert capsys.readouterr().out.count("needs no preparation") == 2
    assert main(["prepare", "eth1"]) == 2
    assert "did you mean 'etth1'" in capsys.readouterr().err
    several = configuration.load("configs/masked_language_modeling/bert_tiny.py").sources
    for name, needed in {
        "forecasting/etth1_dlinear": ["etth1"],
        "masked_language_modeling/bert_tiny": list(several),
        "descent/quadratic": [],
    }.items():
        asked.clear()
        assert main(["prepare", f"--config=configs/{name}.py"]) == 0
        assert asked == needed and bool(needed) != ("uses no data set" in capsys.readouterr().out)


def test_list_shows_every_config(capsys):
    assert main(["list"]) == 0
    table = capsys.readouterr().out
    configs = [str(p.relative_to(ROOT)) for p in ROOT.glob("configs/*/*.py")]
    for result in ROOT.glob("experiments/results/*/*-*.json"):
        stem, _, variant = result.stem.partition("-")
        configs.append(f"configs/{result.parent.name}/{stem}.py:{variant}")
    assert all(name in table for name in configs) and "PUBLISHED" in table
    assert main(["list", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(row["config"] for row in rows) == sorted(configs)


def test_an_interrupted_command_says_how_to_go_on(monkeypatch, capsys):
    from experiments.commands import list as command

    def interrupt(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run", interrupt)
    assert main(["list"]) == 130
    assert "goes on from the last checkpoint" in capsys.readouterr().err


TEXT = ["--config=configs/language_modeling/shakespeare_small.py:smoke", "--config.plan.steps=6",
        "--config.sampling.length=12"]  # fmt: skip


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """A language model that was trained for a moment."""
    workdir = tmp_path_factory.mktemp("writer") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        assert main(["train", *TEXT, f"--workdir={workdir}"]) == 0
    return workdir


def typed(monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def test_demo_prints_the_reply_to_a_prompt(writer, capsys):
    assert main(["demo", f"--workdir={writer}", "--prompt", "the cat sees "]) == 0
    said = capsys.readouterr().out
    assert len(said) == 13 and said.endswith("\n")
    assert not (writer / "figures").exists()
    assert main(["demo", f"--workdir={writer}", "--prompt", "the cat sees "]) == 0
    assert capsys.readouterr().out == said


def test_a_chat_replies_to_every_line_with_its_history(monkeypatch, capsys):
    heard = []

    def answer(turns):
        heard.append(list(turns))
        if turns[-1] == "hush":
            raise ValueError("I was told to hush")
        yield from ("<", turns[-1], ">")

    typed(monkeypatch, "one\n\n  \nhush\ntwo é\nthree".encode())
    assert demo.chat(answer, demo.typed()) == 2  # for the turn that failed
    printed = capsys.readouterr()
    assert printed.out == "<one>\n<two é>\n<three>\n" and printed.err == "error: I was told to hush\n"
    history = ["one", "<one>", "two é", "<two é>", "three"]
    assert heard == [["one"], ["one", "<one>", "hush"], history[:3], history]


def test_a_chat_reads_standard_input_and_ends_with_it(writer, monkeypatch, capsys):
    typed(monkeypatch, b"the cat\na dog\n")
    assert main(["demo", f"--workdir={writer}", "--chat"]) == 0
    assert capsys.readouterr().out.count("\n") >= 2
    typed(monkeypatch, b"")
    assert main(["demo", f"--workdir={writer}", "--chat"]) == 0
    assert capsys.readouterr().out == ""


def test_a_chat_in_a_terminal_asks_streams_and_ends_at_ctrl_d(writer):
    pty = pytest.importorskip("pty", reason="terminals of Unix")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "experiments", "demo", f"--workdir={writer}", "--chat"]
    talk = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL, cwd=ROOT)
    os.close(theirs)
    pieces: list[bytes] = []

    def until(mark):
        while not b"".join(pieces).endswith(mark):
            ready, _, _ = select.select([ours], [], [], 120)
            assert ready, f"silent for two minutes after {pieces}"
            pieces.append(os.read(ours, 1024))

    until(b"> ")
    assert b"".join(pieces) == b"> "
    pieces.clear()
    os.write(ours, b"the cat\n")
    until(b"\r\n> ")
    echo, reply = b"".join(pieces).split(b"\r\n", 1)
    said = reply.removesuffix(b"\r\n> ").replace(b"\r\n", b"\n")
    assert echo == b"the cat" and len(said) == 12
    assert len(pieces) > 3  # the reply came in pieces, not at once
    os.write(ours, b"\x04")
    assert talk.wait(60) == 0
    assert os.read(ours, 1024) == b"\r\n"
    os.close(ours)


@pytest.mark.parametrize(
    "arguments, line, message",
    [
        (["--prompt", ""], b"", "the prompt is empty"),
        (["--prompt", "€"], b"", "'€' (U+20AC) at position 0 is none of the"),
        (["--chat"], b"caf\xe9\n", "line 1 of standard input is not UTF-8: byte 0xe9 at offset 3"),
    ],
)
def test_what_cannot_be_replied_to_is_named(arguments, line, message, writer, monkeypatch, capsys):
    typed(monkeypatch, line)
    assert main(["demo", f"--workdir={writer}", *arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and not printed.out


def test_an_experiment_without_replies_says_so(trained, capsys):
    workdir, _ = trained
    assert main(["demo", f"--workdir={workdir}", "--prompt", "hello"]) == 2
    assert "image_classification has no replies" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["demo", f"--workdir={workdir}", "--prompt", "hello", "--chat"])


def test_the_demo_of_a_language_model_draws_its_held_out_split(writer, capsys):
    assert main(["demo", f"--workdir={writer}"]) == 0
    assert "validation after 6 steps" in capsys.readouterr().out
    for name in ("curves", "loss_by_position", "samples"):
        assert (writer / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_tokenizer_is_saved_with_the_run_and_another_one_refused(writer, capsys):
    from dlx.data import tokenizer

    file = writer / "tokenizer.json"
    text = file.read_text(encoding="utf-8")
    assert tokenizer.from_json(text).json == text
    try:
        tokenizer.save(tokenizer.characters(["another"]), file)
        for command in (["train", *TEXT], ["evaluate"], ["demo"]):
            assert main([*command, f"--workdir={writer}"]) == 2
            assert "tokenizer.json is not what language_modeling makes" in capsys.readouterr().err
        assert tokenizer.load(file).size == 7  # untouched by those who refused it
    finally:
        file.write_text(text, encoding="utf-8")
