"""Train a config, or resume its workdir."""

import sys

from experiments import commands


def add_arguments(parser) -> None:
    """Adds --config, --workdir and the places of data."""
    commands.add_config(parser)
    commands.add_workdir(parser)
    commands.add_data(parser)


def run(arguments) -> None:
    """Trains to the last step of the plan, then measures the test data once."""
    from dlx import configuration

    config = configuration.load(arguments.config, arguments.overrides)
    commands.start(arguments)

    import jax

    from dlx import optimizers, report, sharding, train
    from experiments import runs

    config = runs.single(config)
    runs.check(arguments.workdir, config)
    run = runs.build(config)
    mesh = sharding.mesh()
    evaluators = dict(run.task.evaluators)
    test = evaluators.pop("test", None)  # the test data is measured once, after training

    with report.opened(arguments.workdir, run.plan.steps) as reports:

        def begin(start, layout, compiled):
            print(report.summary(layout, compiled, mesh, run.experiment.describe(config)), file=sys.stderr)
            if start:
                print(f"resuming {arguments.workdir} at step {start}", file=sys.stderr)
            # only now that all is built: what fails before leaves no workdir
            runs.claim(arguments.workdir, config)
            reports.resume(start)

        state = train.fit(
            run.task._replace(evaluators=evaluators),
            run.optimizer,
            run.plan,
            seed=config.seed,
            mesh=mesh,
            workdir=arguments.workdir,
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
