"""Start several processes of a command: on this machine, or as a job of Slurm.

    python -m experiments launch --processes=4 train --config=... --workdir=...
    python -m experiments launch --slurm --nodes=2 --gpus_per_node=8 --time=1440 train --config=...

On this machine they meet over the loopback interface, each line of their output says which one wrote it, and
when one dies all are stopped. A job of Slurm starts one process for each GPU. When its time runs out the run
saves its state at that very step, and the job goes back into the queue, to go on from there.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

from experiments import submission

SEVERAL = ("train", "evaluate")  # the commands whose processes find each other
GRACE = 10.0  # seconds that the others have to say why they end, once one has
LOOPBACK = "127.0.0.1"


class Line(NamedTuple):
    """The command line of every process of a job, and where they meet if the job is on one machine."""

    words: list[str]
    port: int


def add_arguments(parser) -> None:
    """Adds --processes, --cluster and the size of its job, --logs, and the command to be started."""
    parser.add_argument("--processes", type=int, metavar="N", help="so many processes on this machine")
    submission.add_cluster(parser)
    job = parser.add_argument_group("the size of a job")
    job.add_argument("--nodes", type=int, default=1, metavar="N", help="machines (default %(default)s)")
    job.add_argument(
        "--tasks_per_node",
        type=int,
        metavar="N",
        help="processes on each (default one for each GPU, or 1 without GPUs)",
    )
    job.add_argument("--gpus_per_node", type=int, default=0, metavar="N", help="GPUs of each (default 0)")
    job.add_argument("--time", type=int, metavar="MINUTES", help="the job's time limit (default a day)")
    job.add_argument("--partition", metavar="NAME", help="the partition of Slurm (default the cluster's)")
    parser.add_argument(
        "--logs",
        type=Path,
        default=Path("runs/jobs"),
        metavar="DIR",
        help="what jobs write, on a disk that all machines see (default %(default)s)",
    )
    parser.add_argument(
        "line", nargs="...", metavar="COMMAND ...", help="the command to start, with its arguments"
    )


def run(arguments) -> int:
    """Starts the processes and waits for them; or submits the job, and says where it writes."""
    from dlx.configuration import ConfigError

    if (arguments.processes is None) == (arguments.cluster is None):
        raise ConfigError("give --processes=N, to start them on this machine, or --slurm, to submit a job")
    if not arguments.line:
        raise ConfigError("a command must follow, such as: launch --processes=2 train --workdir=runs/digits")
    each = arguments.tasks_per_node or arguments.gpus_per_node or 1
    count = arguments.nodes * each if arguments.processes is None else arguments.processes
    if count < 1:
        raise ConfigError(f"{count} processes were asked for; at least 1 is needed")
    if count > 1 and arguments.line[0] not in SEVERAL:
        raise ConfigError(
            f"{arguments.line[0]!r} runs in one process, not in {count}; those of {' and '.join(SEVERAL)} "
            "find each other"
        )
    if arguments.processes is not None:
        return local(arguments.line, count)
    job = submit(arguments, each)
    print(f"job {job.job_id} of {count} process{'es' if count > 1 else ''} writes to {job.paths.stderr}")
    return 0


def flags(port: int, count: int, index: int) -> list[str]:
    """Returns what tells a process on this machine of the others."""
    if count == 1:
        return []
    return [f"--coordinator={LOOPBACK}:{port}", f"--num_processes={count}", f"--process_id={index}"]


def free_port() -> int:
    """Returns a port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def command(words: Sequence[str]) -> list[str]:
    """Returns the command line of a command of experiments."""
    return [sys.executable, "-m", "experiments", *words]


def local(words: Sequence[str], count: int) -> int:
    """Runs `count` processes of a command here; returns the exit status of the first that failed, else 0.

    SIGTERM is handed on to them. Of several GPUs each process takes that of its own number.
    """
    port, running, ended = free_port(), [], []
    for index in range(count):
        own = {"JAX_LOCAL_DEVICE_IDS": str(index)} if count > 1 else {}
        running.append(
            subprocess.Popen(
                command([*words, *flags(port, count, index)]),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=os.environ | own,
            )
        )
    copies = [
        threading.Thread(target=copy, args=(source, sink, f"[{index}] "))
        for index, process in enumerate(running)
        for source, sink in ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
    ]
    for thread in copies:
        thread.start()

    def hand_on(number, frame):
        for process in running:
            if process.poll() is None:
                process.send_signal(number)

    before = signal.signal(signal.SIGTERM, hand_on)
    deadline = float("inf")
    try:
        while len(ended) < count and time.monotonic() < deadline:
            time.sleep(0.05)
            ended += [p for p in running if p not in ended and p.poll() is not None]
            if deadline == float("inf") and any(process.returncode for process in ended):
                deadline = time.monotonic() + GRACE
    finally:
        signal.signal(signal.SIGTERM, before)
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()
        for thread in copies:
            thread.join()
    status = next((process.returncode for process in ended if process.returncode), 0)
    return status if status >= 0 else 128 - status


def copy(source: IO[bytes], sink: IO[str], mark: str) -> None:
    """Writes every line of `source` to `sink`, behind a mark, until it ends."""
    with source:
        for line in source:
            sink.write(mark + line.decode(errors="replace"))
            sink.flush()


def submit(arguments, each: int):
    """Submits the job; returns it, in submitit's form."""
    chosen = {
        "name": f"dlx-{arguments.line[0]}",
        "nodes": arguments.nodes,
        "tasks_per_node": each,
        "slurm_srun_args": ["--kill-on-bad-exit=1"],
        "slurm_additional_parameters": {"requeue": True},  # when Slurm itself takes the machines away
    }
    optional = {
        "gpus_per_node": arguments.gpus_per_node or None,
        "timeout_min": arguments.time,
        "slurm_partition": arguments.partition,
    }
    chosen |= {name: value for name, value in optional.items() if value is not None}
    chosen |= submission.options(arguments.cluster_options)
    line = Line(command(arguments.line), free_port())
    (job,) = submission.submit(Task(), [line], arguments.logs, arguments.cluster, chosen)
    return job


class Task:
    """What each process of a job does: it runs the command, in a process of its own.

    Before the job's time is over submitit's signal comes: the command gets SIGTERM in its place, saves, and
    ends with 143, and then submitit puts the job back into the queue. Where SIGTERM itself comes, from Slurm
    or `scancel`, it is left to them whether the job begins again.
    """

    def __call__(self, line: Line) -> None:
        """Runs the command; raises RuntimeError when it fails."""
        import submitit

        job = submitit.JobEnvironment()
        known = os.environ.get("SUBMITIT_EXECUTOR") == "slurm"  # then JAX asks Slurm
        told = [] if known else flags(line.port, job.num_tasks, job.global_rank)
        soon = signal.Signals[f"SIG{job.USR_SIG}"]
        requeue, came = signal.getsignal(soon), []
        # a session of its own: Slurm signals all processes of the session that it knows
        process = subprocess.Popen([*line.words, *told], start_new_session=True)

        def end(number, frame):
            came.append(number)
            process.terminate()

        for number in (soon, signal.SIGTERM):
            signal.signal(number, end)
        try:
            status = process.wait()
        finally:
            process.kill()
        if status == 143 and soon in came and callable(requeue):
            requeue(soon, None)  # ends the first process; on the others it returns
        elif status:
            raise RuntimeError(f"{' '.join(line.words)} ended with status {status}; its output says why")

    def checkpoint(self, line: Line):
        """Returns what the job does when it begins again: the same, for the command resumes its workdir."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, line)
