"""python -m experiments COMMAND: finds the command, nothing else."""

import argparse
import gc
import importlib
import os
import sys
import traceback
from pathlib import Path

from dlx.preemption import Stopped
from experiments.commands import tell

COMMANDS = {
    "train": "train a config, or resume its workdir",
    "evaluate": "measure a trained workdir on its held-out data",
    "demo": "draw the figures of a trained workdir",
    "prepare": "download and verify data sets",
    "list": "list every config with its published and measured result",
    "reproduce": "train a config over seeds and compare with the published value",
    "sweep": "train a config over a grid of settings and seeds, and draw what they change",
    "launch": "start several processes of a command: on this machine, or as a job of Slurm",
    "report": "write the table of measured results into README.md",
    "benchmark": "measure speed side by side with PyTorch",
    "memory": "say what a training step needs of each device of a mesh",
    "faults": "hurt a training run in every way machines do, and count what is lost",
}
HOME = Path(__file__).resolve().parent.parent


def main(argv: list[str]) -> int:
    """Runs a command; returns the exit status.

    That is 0, 2 for what the user can mend, 130 when interrupted, 143 when told to stop (the step at which
    it was is saved), or 141 when nobody reads on, as after `| head`: the numbers by which shells tell of
    programs that SIGINT, SIGTERM or SIGPIPE ended. Of a run of several processes each returns 75 when another
    one is lost: the same command goes on from the last checkpoint.
    """
    parser = argparse.ArgumentParser(
        prog="python -m experiments",
        description="Launch experiments. Without --config the default one trains on embedded data.",
        epilog="'python -m experiments COMMAND --help' tells more; DLX_TRACEBACK=1 shows where errors arise.",
        allow_abbrev=False,
    )
    if not argv:
        argv = ["--help"]
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False
        )
        if argv[:1] == [name]:
            module = importlib.import_module(f"experiments.commands.{name}")
            module.add_arguments(command)
    arguments, rest = parser.parse_known_args(argv)
    overrides = [text for text in rest if text.startswith(("--config.", "--noconfig."))]
    if overrides != rest or (overrides and "config" not in arguments):
        wrong = next(text for text in rest if text not in overrides or "config" not in arguments)
        parser.error(f"{arguments.command} does not understand {wrong!r}")
    if overrides:
        arguments.overrides = overrides
    try:
        status = module.run(arguments) or 0
        sys.stdout.flush()  # here, where a reader who has left is no error, and not as Python exits
        return status
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())  # for what is still in their buffers
        return 141
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    except Stopped as stopped:
        tell(f"{stopped}; the same command goes on from there")
        return 143
    except (ValueError, OSError, RuntimeError, ArithmeticError) as error:
        from dlx import cluster

        if message := cluster.lost(error):
            print(f"error: {message}; the same command goes on from the last checkpoint", file=sys.stderr)
            return cluster.LOST
        if not raised_here(error) or os.environ.get("DLX_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2


def raised_here(error: BaseException) -> bool:
    """Tells whether dlx itself raised an error, so that its message says all; others keep their traceback."""
    file = Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
    return any(file.is_relative_to(HOME / part) for part in ("dlx", "experiments"))


if __name__ == "__main__":
    try:
        status = main(sys.argv[1:])
    except Exception:
        traceback.print_exc()
        status = 1
    if "jax" in sys.modules:  # else there are no other processes
        from dlx import cluster

        cluster.leave(status)
    gc.freeze()  # or Python searches all that JAX holds for garbage before it exits, half a second
    sys.exit(status)
