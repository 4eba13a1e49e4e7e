"""What is held out teaches nothing: the law of every application, on its smoke variant, for a few steps.

Held-out data are replaced by garbage where sources come into an experiment. With all of them poisoned, what
is learned from data (scalings, tokenizers, codes of columns) and the state after some steps stay the same bit
for bit. With the test data poisoned, so do the validation numbers, by which a model or a time to stop would
be chosen; and the test numbers do not, so the garbage was there to be seen.
"""

from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import same
from threadpoolctl import threadpool_limits

from dlx import configuration, optimizers, train
from dlx.data.series_sources import SERIES
from dlx.data.sources import SOURCES
from experiments import runs
from experiments.applications import EXPERIMENTS

ROOT = Path(__file__).parent.parent
STEPS = 3


def garbage(value, name=""):
    """Returns other values of the same kind, far away where there is room: of labels, only other labels."""
    if isinstance(value, dict):
        return {key: garbage(item, key) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(garbage(item, name) for item in value)
    if isinstance(value, str):
        return f"xyzzy {value[len(value) // 3 :: -1]}"  # no longer than what was there
    value = np.asarray(value)
    if name == "label":
        return value.max() - value if value.ndim else value
    if name in ("time", "day", "card"):
        return value
    if value.dtype.kind == "U":
        return np.full_like(value, "ultraviolet"[: value.dtype.itemsize // 4])
    return 255 - value if value.dtype == np.uint8 else 1000 * value + 7


def poison(patch, config, splits):
    """Makes garbage of `splits` of the sources of a config; returns what was looked up, as it happens."""
    seen = []

    def changed(original):
        def source(**settings):
            found = original(**settings)
            parts = dict(found.splits)
            parts.setdefault("test", parts["validation"])
            for split in splits:
                parts[split] = kinds(parts[split])
            seen.append(parts)
            return found._replace(splits=parts)

        return source

    def kinds(split):
        if isinstance(split, dict):
            return garbage(split)
        return [garbage(split[index]) for index in range(len(split))]

    def late(original):
        def series(**settings):
            found = original(**settings)
            border = config.borders[splits[0]] if splits else "9999"
            after = found.time >= np.datetime64(border)
            seen.append(after)
            return found._replace(values=np.where(after[:, None], garbage(found.values), found.values))

        return series

    for name in list(config.get("sources", [])) or [config.get("source", {}).get("name")]:
        if name in SOURCES:
            patch.setitem(SOURCES, name, changed(SOURCES[name]))
        elif name in SERIES:
            patch.setitem(SERIES, name, late(SERIES[name]))
    for experiment in EXPERIMENTS.values():
        for function in vars(experiment).values():
            if hasattr(function, "cache_clear"):
                function.cache_clear()
    return seen


def learned(config, single):
    """Returns what a run keeps of its data, and the state after a few steps."""
    run = runs.build(config)
    files = run.experiment.files(config) if hasattr(run.experiment, "files") else {}
    plan = run.plan._replace(steps=STEPS, eval_every=0, save_every=0)
    task = run.task._replace(evaluators={})
    return files, train.fit(task, run.optimizer, plan, seed=config.seed, mesh=single)


def numbers(config, state, single):
    """Returns what the evaluators say of a state: of the test data, and of all others."""
    with jax.set_mesh(single), threadpool_limits(1):  # threads of small trees wait for each other, no more
        evaluators = runs.build(config).task.evaluators
        found = {name: dict(measure(optimizers.averaged(state))) for name, measure in evaluators.items()}
    return found.pop("test"), found


@pytest.mark.parametrize("application", sorted(EXPERIMENTS))
def test_held_out_data_teach_nothing(application, single, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("DLX_DATA_DIR", raising=False)
    file = sorted((ROOT / "configs" / application).glob("*.py"))[0]
    config = configuration.load(f"{file}:smoke")

    with monkeypatch.context() as patch:
        seen = poison(patch, config, [])
        files, state = learned(config, single)
        test, others = numbers(config, state, single)
        assert seen or not {"source", "sources"} & set(config)
    with monkeypatch.context() as patch:
        poison(patch, config, ["validation", "test"])
        again, trained = learned(config, single)
        assert again == files and same(trained, state)
    with monkeypatch.context() as patch:
        poison(patch, config, ["test"])
        bad, unchanged = numbers(config, state, single)
        np.testing.assert_equal(unchanged, others)
        assert not seen or str(bad) != str(test)
    poison(monkeypatch, config, [])  # nothing is remembered
