"""Exact resume: a run that was stopped ends where it would have ended, bit for bit."""

import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from conftest import same

from dlx import configuration, optimizers, report, sharding, train
from experiments import runs

ROOT = Path(__file__).parent.parent
DIGITS = str(
    ROOT / "configs/image_classification/digits.py:smoke"
)  # BatchNorm, dropout, augmentation, averaging


def complete(workdir, plan, *steps):
    """Trains digits for each number of steps in turn on one workdir; returns the state and the numbers."""
    config = configuration.load(DIGITS)
    run = runs.build(config)
    for count in steps:
        with report.opened(workdir, count, io.StringIO()) as reports:
            state = train.fit(
                run.task._replace(evaluators={"validation": run.task.evaluators["validation"]}),
                run.optimizer,
                plan._replace(steps=count),
                seed=3,
                mesh=sharding.mesh(devices=jax.devices()[:1]),
                workdir=workdir,
                write=reports.write,
                view=optimizers.averaged,
                begin=lambda start, layout, compiled: reports.resume(start),
            )
    return state, [r for r in report.read(workdir) if r["set"] != "speed"]


@pytest.mark.parametrize("first", [1, 17, 30])
def test_stopping_and_going_on_changes_no_bit_of_the_state_and_no_number_in_the_log(first, tmp_path):
    plan = runs.Plan(40, log_every=5, eval_every=10)
    whole, numbers = complete(tmp_path / "whole", plan, 40)
    parts, stopped = complete(tmp_path / "parts", plan, first, 40)
    assert "batch_stats" in whole.variables.state and whole.step == 40
    assert same(whole, parts)
    assert [r for r in stopped if r["step"] % 5 == 0] == numbers


def launch(workdir):
    """Starts the train command on a small, slowed run that saves often."""
    overrides = ["--config.plan.steps=120", "--config.plan.save_every=10", "--config.plan.log_every=5"]
    command = [sys.executable, "-m", "experiments", "train", f"--config={DIGITS}", f"--workdir={workdir}"]
    return subprocess.Popen(command + overrides, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finished(workdir):
    """Runs to the end; returns the checksums of the final state, and the numbers it wrote."""
    process = launch(workdir)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors.decode()
    manifest = json.loads((workdir / "checkpoints" / "120" / "manifest" / "metadata").read_text())
    return manifest, [r for r in report.read(workdir) if r["set"] != "speed"]


def test_a_killed_process_ends_where_it_would_have_ended(tmp_path):
    undisturbed = finished(tmp_path / "whole")
    killed = tmp_path / "killed"
    for wait in (20, 50, 80):  # kill -9 once a number of a step beyond this is on disk
        process = launch(killed)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if any(r["step"] > wait for r in report.read(killed)):
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert finished(killed) == undisturbed
