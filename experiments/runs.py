"""A run: what its config builds, and what its workdir holds."""

from pathlib import Path
from typing import Any, NamedTuple

import jax

from dlx import checkpoint, optimizers, sharding, train
from dlx.configuration import ConfigError, difference, lookup, read, save
from dlx.core import Plan, Task, Variables
from experiments import EXPERIMENTS

CONFIG = "config.json"


class Run(NamedTuple):
    """What a config builds."""

    experiment: Any
    task: Task
    optimizer: Any
    plan: Plan


def build(config) -> Run:
    """Builds the task, the optimizer and the plan of a config."""
    experiment = lookup(EXPERIMENTS, config.experiment)
    plan = Plan(**config.plan)
    optimizer = optimizers.make(config.optimizer, config.schedule, plan.steps)
    return Run(experiment, experiment.make_task(config), optimizer, plan)


def check(workdir: Path, config) -> None:
    """Raises ConfigError, with nothing changed, when `workdir` holds the run of another config."""
    if (workdir / CONFIG).exists() and (changes := difference(read(workdir / CONFIG), config)):
        raise ConfigError(
            f"{workdir} is the run of another config:\n  " + "\n  ".join(changes) + "\n"
            "use another --workdir, or the config it was started with to resume it"
        )
    checkpoint.refuse_foreign(workdir / "checkpoints")


def claim(workdir: Path, config) -> None:
    """Makes `workdir` the run of `config`, with its `files`; raises ConfigError when it cannot be written."""
    kept = files(workdir, config)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not (workdir / CONFIG).exists():
            save(config, workdir / CONFIG)
        for name, text in kept.items():
            fresh = workdir / f"{name}.tmp"
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(workdir / name)
    except OSError as error:
        raise ConfigError(f"the workdir {workdir} cannot be written: {error.strerror}") from error


def files(workdir: Path, config) -> dict[str, str]:
    """Returns what the experiment learned from its training data and saves with a run, such as a tokenizer.

    {name: text}, from the experiment's `files(config)` where it has one. Raises ConfigError when the workdir
    has a file of that name with another text: its data, or what learns from them, are no longer the same.
    """
    experiment = lookup(EXPERIMENTS, config.experiment)
    kept = experiment.files(config) if hasattr(experiment, "files") else {}
    for name, text in kept.items():
        if (workdir / name).exists() and (workdir / name).read_bytes() != text.encode():
            raise ConfigError(
                f"{workdir / name} is not what {config.experiment} makes of its training data now: the data "
                "have changed since the run began, or the file has; bring them back, or use another --workdir"
            )
    return kept


def restore(workdir: Path) -> tuple[Any, Run, int, Variables]:
    """Returns the config, the run, the newest checkpoint's step, and its variables to evaluate."""
    config = read(workdir / CONFIG)
    run = build(config)
    files(workdir, config)
    init = train.make_init(run.task, run.optimizer)
    with checkpoint.store(workdir) as store:
        state = store.restore(sharding.layout(jax.eval_shape(init, jax.random.key(0)), sharding.mesh()))
    if state is None:
        raise ConfigError(f"{workdir} has no checkpoint yet; train it first")
    return config, run, int(state.step), optimizers.averaged(state)
