"""Train a config, or resume its workdir."""

import sys
from collections.abc import Callable
from pathlib import Path

from experiments import commands


def add_arguments(parser) -> None:
    """Adds --config, --workdir and the places of data."""
    commands.add_config(parser)
    commands.add_workdir(parser)
    commands.add_data(parser)


def run(arguments) -> None:
    """Trains the config, or each of its stages that is not finished, in order."""
    from dlx import configuration

    config = configuration.load(arguments.config, arguments.overrides)
    commands.start(arguments)

    from experiments import runs

    config = runs.single(config)
    runs.check(arguments.workdir, config)
    stages = runs.stages(config)
    for name, stage in stages:
        runs.check(arguments.workdir / name, stage)
    for name, stage in stages:
        if name:
            print(f"stage {name}", file=sys.stderr)
        if name != stages[-1][0] and runs.finished(arguments.workdir / name, stage):
            continue
        fit(stage, arguments.workdir / name, lambda: runs.claim(arguments.workdir, config))


def fit(config, workdir: Path, claim: Callable[[], None]) -> None:
    """Trains one run to the last step of its plan, then measures the test data once.

    `claim()` is called when all is built: what fails before leaves no workdir.
    """
    import jax

    from dlx import optimizers, report, sharding, train
    from experiments import runs

    run = runs.build(config, workdir)
    mesh = sharding.mesh()
    evaluators = dict(run.task.evaluators)
    test = evaluators.pop("test", None)  # the test data is measured once, after training

    with report.opened(workdir, run.plan.steps) as reports:

        def begin(start, layout, compiled):
            print(report.summary(layout, compiled, mesh, run.experiment.describe(config)), file=sys.stderr)
            if start:
                print(f"resuming {workdir} at step {start}", file=sys.stderr)
            claim()
            runs.claim(workdir, config)
            reports.resume(start)

        state = train.fit(
            run.task._replace(evaluators=evaluators),
            run.optimizer,
            run.plan,
            seed=config.seed,
            mesh=mesh,
            workdir=workdir,
            write=reports.write,
            view=optimizers.averaged,
            begin=begin,
            given=run.given,
        )
        if test is not None:
            with jax.set_mesh(mesh):
                found = test(optimizers.averaged(state))
            reports.write(run.plan.steps, "test", found)
    if test is not None:
        print(f"test after {run.plan.steps} steps", report.table(found), sep="\n")
