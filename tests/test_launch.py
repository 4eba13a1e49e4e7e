"""Launching: processes of this machine that end together, and jobs through submitit's local executor."""

import argparse
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from dlx.configuration import ConfigError
from experiments.__main__ import main
from experiments.commands import launch

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def home(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def script(monkeypatch, tmp_path):
    """Makes the processes run a given Python text in the place of a command; it gets their arguments."""

    def use(text):
        file = tmp_path / "script.py"
        file.write_text("import pathlib, signal, sys, time\nindex = sys.argv[-1][-1]\n" + text)
        monkeypatch.setattr(launch, "command", lambda words: [sys.executable, str(file), *words])

    return use


def parsed(*argv):
    """The arguments of the command, from the command line."""
    parser = argparse.ArgumentParser()
    launch.add_arguments(parser)
    return parser.parse_args(argv)


def test_every_process_is_told_of_the_others_and_its_lines_bear_its_number(script, capfd):
    script("print(*sys.argv[1:]); print('to the other stream', file=sys.stderr)")
    assert main(["launch", "--processes=2", "train", "--workdir=x", "--config.seed=3", "--processes=7"]) == 0
    out, errors = capfd.readouterr()
    lines = sorted(out.splitlines())
    assert [line[:4] for line in lines] == ["[0] ", "[1] "]
    for index, line in enumerate(lines):
        words = line[4:].split()
        assert words[:4] == [
            "train",
            "--workdir=x",
            "--config.seed=3",
            "--processes=7",
        ]  # the rest is the command's
        assert words[4].startswith("--coordinator=127.0.0.1:")
        assert words[5:] == ["--num_processes=2", f"--process_id={index}"]
    assert len({line.split()[5] for line in lines}) == 1
    assert sorted(errors.splitlines()) == ["[0] to the other stream", "[1] to the other stream"]


def test_when_one_process_fails_all_end_with_its_status(script, monkeypatch, capfd):
    monkeypatch.setattr(launch, "GRACE", 0.2)
    script("print('here', flush=True); time.sleep(60) if index != '1' else sys.exit(7)")
    began = time.monotonic()
    assert launch.local(["train"], 3) == 7
    assert time.monotonic() - began < 30
    script("import os; os.kill(os.getpid(), 9)")
    assert launch.local(["train"], 2) == 128 + 9
    assert "[2] here" in capfd.readouterr().out


def test_sigterm_is_handed_on(script):
    script("signal.signal(15, lambda *_: sys.exit(143)); time.sleep(60)")
    timer = threading.Timer(2.0, signal.raise_signal, [signal.SIGTERM])
    timer.start()
    assert launch.local(["train"], 2) == 143


@pytest.mark.parametrize(
    "argv, message",
    [
        (["train"], "give --processes=N"),
        (["--processes=2", "--slurm", "train"], "give --processes=N"),
        (["--processes=2"], "a command must follow"),
        (["--processes=0", "train"], "0 processes were asked for"),
        (["--processes=2", "sweep"], "'sweep' runs in one process, not in 2"),
        (["--cluster=local", "--nodes=2", "train"], "cannot submit to 'local'.*one node"),
    ],
)
def test_what_cannot_be_launched_is_refused(argv, message, tmp_path):
    if "--nodes=2" in argv:
        pytest.importorskip("submitit", reason="jobs go through submitit")
    with pytest.raises(ConfigError, match=message):
        launch.run(parsed(f"--logs={tmp_path}", *argv))


def test_a_job_asks_for_a_process_for_each_gpu_and_to_be_requeued(monkeypatch, tmp_path):
    submitit = pytest.importorskip("submitit", reason="jobs go through submitit")
    monkeypatch.setattr(submitit.SlurmExecutor, "affinity", classmethod(lambda cls: 2))
    texts = []

    def sbatch(executor, command):
        texts.append(executor._make_submission_file_text(command, "id"))
        raise ConfigError("enough is seen")

    monkeypatch.setattr(submitit.SlurmExecutor, "_submit_command", sbatch)
    line = "--slurm --nodes=2 --gpus_per_node=4 --time=90 --partition=gpu train"
    with pytest.raises(ConfigError, match="enough"):
        launch.run(parsed(f"--logs={tmp_path}", *line.split()))
    for flag in ("nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "time=90", "partition=gpu", "requeue"):
        assert f"#SBATCH --{flag}\n" in texts[0], texts[0]
    assert "--kill-on-bad-exit=1" in texts[0]


def test_a_job_whose_time_runs_out_saves_and_begins_again_and_one_that_fails_says_so(script, tmp_path):
    """Through submitit's local executor, which starts the tasks as Slurm would; the signal is Slurm's."""
    pytest.importorskip("submitit", reason="jobs go through submitit")
    script(
        "import os\n"
        "if not index.isdecimal(): sys.exit(3)\n"  # nobody told it of others: the job of one task
        f"mark = pathlib.Path({str(tmp_path)!r}) / ('task' + index)\n"
        "if mark.exists(): sys.exit(0)\n"
        "signal.signal(15, lambda *_: sys.exit(143))\n"
        "fresh = mark.with_suffix('.new'); fresh.write_text(str(os.getppid())); fresh.rename(mark)\n"
        "time.sleep(60)"
    )
    arguments = parsed("--cluster=local", "--tasks_per_node=2", f"--logs={tmp_path / 'logs'}", "train")
    job = launch.submit(arguments, 2)
    tasks = [tmp_path / "task0", tmp_path / "task1"]
    deadline = time.monotonic() + 60
    while not all(task.exists() for task in tasks):
        assert time.monotonic() < deadline, [job.task(index).stderr() for index in (0, 1)]
        time.sleep(0.05)
    for task in tasks:
        os.kill(int(task.read_text()), signal.SIGUSR2)  # "your time is almost over"
    failing = launch.submit(parsed("--cluster=local", f"--logs={tmp_path / 'logs'}", "train"), 1)
    assert "ended with status 3" in str(failing.exception())
    assert job.results() == [None, None]
    assert "Requeued job" in job.task(0).stdout() + job.task(0).stderr()
