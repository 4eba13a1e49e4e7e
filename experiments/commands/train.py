"""Train a config, or resume its workdir."""

from collections.abc import Callable
from pathlib import Path

from experiments import commands


def add_arguments(parser) -> None:
    """Adds --config, --workdir, the places of data, the mesh, and several processes."""
    commands.add_config(parser)
    commands.add_workdir(parser)
    commands.add_data(parser)
    commands.add_mesh(parser)
    commands.add_processes(parser)


def run(arguments) -> None:
    """Trains the config, or each of its stages that is not finished, in order."""
    from dlx import configuration

    config = configuration.load(arguments.config, arguments.overrides)
    commands.start(arguments)

    from experiments import runs

    place = commands.place(arguments)
    config = runs.single(config)
    runs.check(arguments.workdir, config)
    stages = runs.stages(config)
    for name, stage in stages:
        runs.check(arguments.workdir / name, stage)
    for name, stage in stages:
        if name:
            commands.tell(f"stage {name}")
        if name != stages[-1][0] and runs.finished(arguments.workdir / name, stage):
            continue
        fit(stage, arguments.workdir / name, lambda: runs.claim(arguments.workdir, config), *place)


def fit(config, workdir: Path, claim: Callable[[], None], mesh, fsdp: int | None) -> None:
    """Trains one run to the last step of its plan, then measures the test data once, on its result.

    `claim()` is called when all is built: what fails before leaves no workdir.
    """
    import jax

    from dlx import optimizers, preemption, report, train
    from experiments import runs

    with jax.set_mesh(mesh):
        run = runs.build(config, workdir)
    evaluators = dict(run.task.evaluators)
    test = evaluators.pop("test", None)  # the test data is measured once, after training

    with report.opened(workdir, run.plan.steps) as reports:

        def begin(start, layout, compiled):
            commands.tell(report.summary(layout, compiled, mesh, run.experiment.describe(config)))
            if start:
                commands.tell(f"resuming {workdir} at step {start}")
            claim()
            runs.claim(workdir, config)
            reports.resume(start)

        with preemption.noticed() as stop:
            train.fit(
                run.task._replace(evaluators=evaluators),
                run.optimizer,
                run.plan,
                seed=config.seed,
                mesh=mesh,
                fsdp=fsdp,
                workdir=workdir,
                write=reports.write,
                view=optimizers.averaged,
                begin=begin,
                given=run.given,
                score=runs.rating(config),
                stop=stop,
            )
        if test is not None:
            with jax.set_mesh(mesh):
                step, variables = runs.result(workdir, config, run, fsdp)
                found = dict(test(variables)) | ({"best_step": step} if config.get("best") else {})
            reports.write(run.plan.steps, "test", found)
    if test is not None:
        print(f"test after {step} steps", report.table(found), sep="\n")
