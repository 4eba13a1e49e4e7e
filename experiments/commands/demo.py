"""Draw the figures of a trained workdir."""

from experiments import commands


def add_arguments(parser) -> None:
    """Adds --workdir and the places of data."""
    commands.add_workdir(parser)
    commands.add_data(parser)


def run(arguments) -> None:
    """Prints the test results and writes learning curves and the experiment's pictures to workdir/figures."""
    commands.start(arguments)

    import jax

    from dlx import figures, report, sharding
    from experiments import runs

    config, run, step, variables = runs.restore(arguments.workdir)
    folder = arguments.workdir / "figures"
    with jax.set_mesh(sharding.mesh()):
        found = run.task.evaluators["test"](variables)
        pictures = run.experiment.demo(config, variables, folder)
    records = report.read(arguments.workdir)
    shown = [name for name in records[0] if name not in ("step", "set", "grad_norm")]
    pictures.append(figures.learning_curves(records, shown, folder / "curves.png"))
    print(f"test after {step} steps", report.table(found), sep="\n")
    print("figures:", *pictures, sep="\n  ")
