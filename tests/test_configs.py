"""Every config builds, and its smoke variant learns without a network."""

import ast
import json
import os
from pathlib import Path

import jax
import pytest

from dlx import configuration, optimizers, sharding, train
from experiments import runs
from experiments.applications import EXPERIMENTS
from experiments.commands import DEFAULT

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(ROOT.glob("configs/*/*.py"))
AGAIN = 3  # steps that are trained twice
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


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda file: file.stem)
def smoke(request, tmp_path_factory):
    """The losses of a smoke variant, step by step, with nothing prepared and no files to prepare from.

    And all numbers of its first steps, once of this run and once of another of those steps alone.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("data")))
        patch.delenv("DLX_DATA_DIR", raising=False)
        config = configuration.load(f"{request.param}:smoke")

        def numbers(**changes) -> list[dict]:
            run, found = runs.build(config), []
            train.fit(
                run.task._replace(evaluators={} if "steps" in changes else run.task.evaluators),
                run.optimizer,
                run.plan._replace(log_every=1, **changes),
                seed=config.seed,
                mesh=sharding.mesh(devices=jax.devices()[:1]),
                write=lambda step, name, values: found.append(values) if name == "train" else None,
                view=optimizers.averaged,
            )
            return found

        whole = numbers()
        losses = [values["loss"] for values in whole]
        twice = whole[:AGAIN], numbers(steps=AGAIN, eval_every=0, save_every=0)
    return request.param.relative_to(ROOT / "configs").with_suffix(""), losses, twice


def test_the_smoke_variant_learns(smoke):
    _, losses, _ = smoke
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_the_smoke_variant_has_its_golden_losses(smoke):
    """A change of the first losses means that something learns differently than it did.

    When that is meant (another initialisation, another order of data), run the tests once with
    DLX_UPDATE_GOLDEN=1, look at the difference in tests/golden, and say why in the commit. The tolerance
    is for other processors; later steps are left out, for rounding grows with them.
    """
    name, losses, _ = smoke
    file = ROOT / "tests/golden" / name.with_suffix(".json")
    if os.environ.get("DLX_UPDATE_GOLDEN"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(losses[:8]) + "\n")
    golden = json.loads(file.read_text())
    assert losses[0] == pytest.approx(golden[0], rel=1e-4)
    assert losses[: len(golden)] == pytest.approx(golden, rel=5e-3)


def test_the_smoke_variant_is_deterministic(smoke):
    """Losses and the norms of gradients, which see every parameter, are the same bits in a second run."""
    _, _, (first, second) = smoke
    assert len(second) == AGAIN and "grad_norm" in first[0]
    assert first == second
