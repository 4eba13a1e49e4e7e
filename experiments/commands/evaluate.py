"""Measure a trained workdir on its held-out data."""

import json

from experiments import commands


def add_arguments(parser) -> None:
    """Adds --workdir, --json and the places of data."""
    commands.add_workdir(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    commands.add_data(parser)


def run(arguments) -> None:
    """Prints what every evaluator of the run says of its newest checkpoint; the workdir stays as it is.

    Of a run in stages, that is the last one.
    """
    commands.start(arguments)

    import jax

    from dlx import report, sharding
    from experiments import runs

    _, run, step, variables = runs.restore(runs.parts(arguments.workdir)[-1])
    with jax.set_mesh(sharding.mesh()):
        found = {name: dict(evaluate(variables)) for name, evaluate in run.task.evaluators.items()}
    if arguments.json:
        print(json.dumps({"step": step} | found))
        return
    print(f"step {step}")
    for name, values in found.items():
        print(name, report.table(values), sep="\n")
