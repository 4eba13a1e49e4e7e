"""Commands of experiments as jobs of a cluster, or of this machine in its place, through submitit."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

CLUSTERS = ("local", "slurm")
DEFAULTS = {"timeout_min": 24 * 60}  # submitit's own would end a job after minutes
REQUEUES = 1000  # times that a job of Slurm which asks for it begins again when its time is over
LAST = 12  # lines of what a failed command said that are worth repeating


class Ended(NamedTuple):
    """How a command ended: its exit status, and the last lines that it wrote to standard error."""

    status: int
    words: str


def add_cluster(parser) -> None:
    """Adds --cluster with its short form --slurm, and --cluster_option."""
    parser.add_argument(
        "--cluster",
        choices=CLUSTERS,
        help="run as jobs through submitit: of Slurm, or on this machine as a cluster would",
    )
    parser.add_argument(
        "--slurm", dest="cluster", action="store_const", const="slurm", help="the same as --cluster=slurm"
    )
    parser.add_argument(
        "--cluster_option",
        dest="cluster_options",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a parameter of the jobs in submitit's words, such as timeout_min=600, gpus_per_node=1 or "
        "slurm_partition=gpu; may be repeated",
    )


def options(texts: Sequence[str]) -> dict[str, int | str]:
    """Returns the parameters that --cluster_option gave; raises ConfigError for what is not KEY=VALUE."""
    from dlx.configuration import ConfigError

    found: dict[str, int | str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise ConfigError(f"--cluster_option={text}; write KEY=VALUE, such as timeout_min=600")
        found[key] = int(value) if value.isdecimal() else value
    return found


def run(command: Sequence[str]) -> Ended:
    """Runs `python -m experiments COMMAND ...` in a process of its own, and tells how it ended."""
    argv = [sys.executable, "-m", "experiments", *command]
    done = subprocess.run(argv, capture_output=True, text=True)
    return Ended(done.returncode, "\n".join(done.stderr.strip().splitlines()[-LAST:]))


def submit(
    function, arguments: Sequence[Any], folder: Path, cluster: str, parameters: Mapping[str, Any]
) -> list[Any]:
    """Submits `function(argument)` for each of `arguments`, in one array of jobs; returns submitit's jobs.

    What the jobs say lies in `folder`, which every machine of the cluster must see, as must the repository:
    a job starts in the working directory of this process. `function` is found by its name in its module.
    """
    from dlx.configuration import ConfigError

    try:
        import submitit
    except ImportError as error:
        raise ConfigError("jobs of a cluster need submitit: pip install 'dlx[cluster]'") from error
    try:
        executor = submitit.AutoExecutor(folder, cluster=cluster, slurm_max_num_timeout=REQUEUES)
        executor.update_parameters(**DEFAULTS | dict(parameters))
    except (NameError, ValueError, RuntimeError, TypeError, AssertionError) as error:
        raise ConfigError(f"submitit cannot submit to {cluster!r}: {error}") from error
    return executor.map_array(function, arguments)
