"""Runs of several processes over the loopback interface: they learn what one learns, and end together."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dlx import report
from experiments.commands import launch

ROOT = Path(__file__).parent.parent
DIGITS = (
    "--config=configs/image_classification/digits.py:smoke"  # BatchNorm, dropout, augmentation, averaging
)
PLAN = ["log_every=1", "eval_every=12", "save_every=12", "steps=24"]
BATCH = 48  # for 2 and 4 processes; 359 test images leave a last batch that is padded, on some of them wholly
SLOW = "--config.schedule.peak=1e-4"  # at 4e-3 rounding grows, from 1e-7 to 1e-4 of the loss in 30 steps
SETTINGS = [DIGITS, f"--config.batch={BATCH}", SLOW, *(f"--config.plan.{setting}" for setting in PLAN)]


def start(words, workdir, environment=None, program=("-m", "experiments")):
    """Starts a command of experiments, of one device, that lives no longer than a test."""
    hidden = ("SLURM_", "OMPI_", "JAX_NUM_CPU_DEVICES")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    return subprocess.Popen(
        [sys.executable, *program, *words, f"--workdir={workdir}"],
        cwd=ROOT,
        env=inherited | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def running(processes):
    """Ends what still runs when a test leaves."""
    try:
        yield processes
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
            process.kill()
            process.communicate()


def outcome(processes):
    """Waits for all; returns their exit statuses, outputs and errors."""
    said = [process.communicate(timeout=120) for process in processes]
    return [process.returncode for process in processes], *zip(*said, strict=True)


def wait_until(condition, processes):
    """Waits for what a run is about to do."""
    deadline = time.monotonic() + 100
    while not condition():
        if time.monotonic() > deadline or any(process.poll() is not None for process in processes):
            raise AssertionError(outcome(processes))
        time.sleep(0.02)


def numbers(workdir):
    """The records of a run without the speed."""
    return [record for record in report.read(workdir) if record["set"] != "speed"]


def assert_close(found, expected):
    assert [(r["step"], r["set"], set(r)) for r in found] == [(r["step"], r["set"], set(r)) for r in expected]
    for record, wanted in zip(found, expected, strict=True):
        for name in record.keys() - {"set"}:
            assert record[name] == pytest.approx(wanted[name], rel=1e-5), (name, record, wanted)


def told(port, count):
    """The flags of each of `count` processes."""
    return [launch.flags(port, count, index) for index in range(count)]


def slurm(count):
    """The variables that Slurm would set in each of `count` tasks on this machine, with an own port."""
    job = launch.free_port()
    return [
        {
            "SLURM_JOB_ID": str(job),
            "SLURM_STEP_NODELIST": "127.0.0.1",
            "SLURM_NTASKS": str(count),
            "SLURM_PROCID": str(index),
            "SLURM_LOCALID": str(index),
        }
        for index in range(count)
    ]


def open_mpi(count):
    """The same for `mpirun` of Open MPI."""
    job = launch.free_port() * 2**12
    return [
        {
            "OMPI_MCA_orte_hnp_uri": f"{job}.0;tcp://127.0.0.1:9999",
            "OMPI_COMM_WORLD_SIZE": str(count),
            "OMPI_COMM_WORLD_RANK": str(index),
            "OMPI_COMM_WORLD_LOCAL_RANK": str(index),
        }
        for index in range(count)
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The numbers of one process with one device, and its workdir."""
    workdir = tmp_path_factory.mktemp("alone")
    with running([start(["train", *SETTINGS], workdir)]) as processes:
        (status,), _, (errors,) = outcome(processes)
    assert status == 0, errors
    return numbers(workdir)


def test_two_processes_stop_together_and_four_go_on_and_all_learn_what_one_learns(alone, tmp_path):
    workdir = tmp_path / "several"
    words = ["train", *SETTINGS]
    with running([start([*words, *flags], workdir) for flags in told(launch.free_port(), 2)]) as two:
        wait_until(workdir.exists, two)
        two[1].terminate()  # one of them is told to stop, which both hear of within a second
        statuses, out, errors = outcome(two)
    assert statuses == [143, 143], errors
    stopped = int(re.search(r"stopped at step (\d+), which is saved", errors[0])[1])
    assert (workdir / "checkpoints" / str(stopped)).is_dir() and 0 < stopped < 24
    assert "Dense_0/kernel" in errors[0] and "step" not in errors[1] and out[1] == ""

    with running([start(words, workdir, told) for told in slurm(4)]) as four:
        statuses, out, errors = outcome(four)
    assert statuses == [0] * 4, errors
    assert f"resuming {workdir} at step {stopped}" in errors[0] and " 4 x cpu, data 4" in errors[0]
    assert "test after 24 steps" in out[0] and out[1:] == ("",) * 3 and errors[1:] == ("",) * 3
    assert_close(numbers(workdir), alone)

    with running([start(["evaluate", "--json"], workdir, told) for told in open_mpi(2)]) as two:
        statuses, out, errors = outcome(two)
    assert statuses == [0, 0] and out[1] == "", errors
    found = json.loads(out[0])
    (expected,) = [record for record in alone if record["set"] == "test"]
    assert found["test"] == pytest.approx({k: v for k, v in expected.items() if k in found["test"]}, rel=1e-5)


def begun(processes, workdir):
    """Waits until processes that train on and on have taken some steps."""
    wait_until(lambda: any(r["step"] >= 10 for r in report.read(workdir)), processes)
    return processes


def endless(patience, *settings):
    """The words with which each of two processes trains on and on."""
    words = ["train", DIGITS, "--config.plan.steps=1000000", f"--patience={patience}", *settings]
    return [[*words, *flags] for flags in told(launch.free_port(), 2)]


def test_when_one_process_dies_the_other_stops_and_says_so(tmp_path):
    with running([start(words, tmp_path / "run") for words in endless(30)]) as processes:
        begun(processes, tmp_path / "run")[1].kill()
        statuses, _, errors = outcome(processes)
    assert statuses == [75, -signal.SIGKILL], errors
    assert "error: a process of the run is gone" in errors[0]
    assert "the same command goes on from the last checkpoint" in errors[0]


def test_when_one_process_is_stopped_the_other_stops_and_names_it(tmp_path):
    """With steps so slow that both wait for the devices: neither has handed in more batches."""
    slow = ("--config.batch=16384", "--config.plan.log_every=2")
    with running([start(words, tmp_path / "run") for words in endless(4, *slow)]) as processes:
        begun(processes, tmp_path / "run")[1].send_signal(signal.SIGSTOP)
        status = processes[0].wait(timeout=60)
        errors = processes[0].stderr.read()
        assert status == 75, errors
        assert "process 1 of 2 has not been heard of for 4 seconds" in errors
        processes[1].send_signal(signal.SIGCONT)  # it finds that the run is over, and ends too
        assert processes[1].wait(timeout=60) != 0


HANGS = """
import sys, time
from dlx import feed
from experiments.__main__ import main

def place(*batch, left=iter(range(20)), whole=feed.place):
    return time.sleep(1000) if next(left, None) is None else whole(*batch)

feed.place = place
main(sys.argv[1:])
"""


def test_when_one_process_hangs_all_stop_and_name_it(tmp_path):
    first, second = endless(4)
    workdir = tmp_path / "run"
    hanging = start(second, workdir, program=("-c", HANGS))
    with running([start(first, workdir), hanging]) as processes:
        statuses, _, errors = outcome(processes)
    assert statuses == [75, 75], errors
    for own, text in enumerate(errors):
        assert "process 1 of 2 has handed in no batch for 4 seconds" in text, errors
        assert f"process {own} stops" in text
    assert "in place" in errors[1]  # where it hangs


LINGERS = """
import sys, time
from dlx import cluster

coordinator, own = sys.argv[1:3]
cluster.start(coordinator, 2, int(own), 4)
time.sleep(7 if own == "0" else 1)
cluster.leave(0)
"""


def test_a_process_that_has_left_is_not_lost_to_one_that_works_on(tmp_path):
    coordinator = f"127.0.0.1:{launch.free_port()}"
    several = [start([coordinator, own], tmp_path, program=("-c", LINGERS)) for own in "01"]
    with running(several) as processes:
        statuses, _, errors = outcome(processes)
    assert statuses == [0, 0], errors
