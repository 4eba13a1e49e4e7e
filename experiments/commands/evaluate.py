"""Measure a trained workdir on its held-out data."""

import json

from experiments import commands


def add_arguments(parser) -> None:
    """Adds --workdir, --json, the places of data, the mesh, and several processes."""
    commands.add_workdir(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    commands.add_data(parser)
    commands.add_mesh(parser)
    commands.add_processes(parser)


def run(arguments) -> None:
    """Prints what every evaluator of the run says of its newest checkpoint; the workdir stays as it is.

    Of a run in stages, that is the last one.
    """
    import jax

    jax.config.update("jax_enable_preemption_service", False)  # SIGTERM ends it: there is nothing to save
    commands.start(arguments)

    from dlx import report
    from experiments import runs

    mesh, fsdp = commands.place(arguments)
    with jax.set_mesh(mesh):
        _, run, step, variables = runs.restore(runs.parts(arguments.workdir)[-1], fsdp)
        found = {name: dict(evaluate(variables)) for name, evaluate in run.task.evaluators.items()}
    if arguments.json:
        print(json.dumps({"step": step} | found))
        return
    print(f"step {step}")
    for name, values in found.items():
        print(name, report.table(values), sep="\n")
