"""Every config builds, and its smoke variant learns without a network."""

import ast
from pathlib import Path

import jax
import pytest

from dlx import configuration, optimizers, sharding, train
from experiments import EXPERIMENTS, runs
from experiments.commands import DEFAULT

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(ROOT.glob("configs/*/*.py"))
NEEDED = {"experiment", "seed", "batch", "optimizer", "schedule", "plan"}


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_a_config_says_what_it_is_and_holds_what_a_run_needs(file):
    text = ast.get_docstring(ast.parse(file.read_text()))
    relative = file.relative_to(ROOT)
    assert "python -m experiments train" in text
    assert f"--config={relative}" in text or str(relative) == DEFAULT
    config = configuration.load(str(file))
    assert set(config.keys()) >= NEEDED and config.experiment in EXPERIMENTS
    assert file.parent.name == config.experiment
    if "published" in config:
        assert set(config.published) == {"metric", "value", "higher_is_better", "source"}
    smoke = configuration.load(f"{file}:smoke")
    assert set(smoke.model) == set(config.model)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_the_smoke_variant_learns(file, monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))  # nothing prepared,
    monkeypatch.delenv("DLX_DATA_DIR", raising=False)  # and no files to prepare from
    config = configuration.load(f"{file}:smoke")
    run = runs.build(config)
    losses = []
    train.fit(
        run.task,
        run.optimizer,
        run.plan._replace(log_every=1),
        seed=config.seed,
        mesh=sharding.mesh(devices=jax.devices()[:1]),
        write=lambda step, name, values: losses.append(values["loss"]) if name == "train" else None,
        view=optimizers.averaged,
    )
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
