"""A run goes on on other devices than those it began on: the same batches, and nearly the same losses."""

import contextlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from test_sharding import ADAM, SMALL, TASKS

from dlx import preemption, report, sharding, train
from dlx.core import Plan
from experiments.__main__ import main

ROOT = Path(__file__).parent.parent
DIGITS = f"--config={ROOT / 'configs/image_classification/digits.py'}:smoke"


def losses(steps, workdir, shape, fsdp):
    """Trains up to so many steps on a mesh; returns the losses by step, and which batches were read."""
    task, found, read = TASKS["gpt"](), {}, []

    def batch(step):
        read.append(step)
        return task.batch(step)

    def write(step, name, values):
        found[step] = values["loss"]

    train.fit(
        task._replace(batch=batch),
        ADAM,
        Plan(steps, log_every=1),
        mesh=sharding.mesh(shape, jax.devices()[: shape["data"] * shape["model"]]),
        fsdp=fsdp,
        workdir=workdir,
        write=write,
    )
    return found, set(read)


def test_a_run_of_eight_devices_goes_on_on_one_two_and_four_and_back(tmp_path):
    eight = {"data": 4, "model": 2}, SMALL
    others = (
        ({"data": 1, "model": 1}, None),
        ({"data": 1, "model": 2}, None),
        ({"data": 4, "model": 1}, SMALL),
    )
    alone, _ = losses(12, None, *others[0])
    found = {}
    for part, where in enumerate([eight, others[0], eight, others[1], eight, others[2]]):
        some, read = losses(2 * part + 2, tmp_path, *where)
        assert read == set(some) - {2 * part + 2} | {2 * part} == {2 * part, 2 * part + 1}
        found |= {step: loss for step, loss in some.items() if step > 2 * part}
    assert list(found) == list(range(1, 13))
    np.testing.assert_allclose([*found.values()], [*alone.values()], rtol=1e-5)


def launched(workdir, *more):
    return main(["train", DIGITS, f"--workdir={workdir}", "--config.plan.log_every=1", *more])


def test_the_command_goes_on_on_another_mesh_and_evaluates_on_a_third(tmp_path, monkeypatch, capsys):
    assert launched(tmp_path / "whole") == 0

    @contextlib.contextmanager
    def soon():
        calls = itertools.count(1)
        yield lambda: next(calls) == 7

    with monkeypatch.context() as patch:
        patch.setattr(preemption, "noticed", soon)
        assert launched(tmp_path / "parts", "--mesh=data=4,model=2", "--fsdp") == 143
    command = [sys.executable, "-m", "experiments", "train", DIGITS, f"--workdir={tmp_path / 'parts'}"]
    command += ["--config.plan.log_every=1", "--mesh=model=2"]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "at step 7" in done.stderr and "data 1, model 2" in done.stderr
    whole, parts = (
        {(r["step"], r["set"]): r["loss"] for r in report.read(tmp_path / name) if "loss" in r}
        for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys() and len(whole) > 20
    assert [parts[key] for key in whole] == pytest.approx([*whole.values()], rel=1e-3)
    capsys.readouterr()
    assert main(["evaluate", f"--workdir={tmp_path / 'parts'}", "--mesh=data=8", "--fsdp", "--json"]) == 0
    assert f'"loss": {parts[max(whole)[0], "test"]:.3f}'[:-1] in capsys.readouterr().out
