"""The runs of a sweep, and where they run: in processes of this machine, or as jobs of a cluster."""

import hashlib
import itertools
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from experiments import submission
from experiments.submission import Ended
from experiments.sweeping.points import Point

FAILED = (1, 2)  # statuses of a run that went wrong by itself; by others somebody stopped it
POLL = 0.5  # seconds between looks at the jobs of a cluster


class Job(NamedTuple):
    """One run of a sweep: a point, a seed, the command that trains it and the config it has."""

    point: Point
    seed: int
    workdir: Path
    command: list[str]
    config: Any


Launch = Callable[[list[Job]], Iterator[tuple[Job, Ended]]]


def jobs(
    path: str, overrides: list[str], points: list[Point], seeds: int, folder: Path, shared: list[str]
) -> list[Job]:
    """Returns every run; raises ConfigError, before any is trained, for a setting that no config takes."""
    from dlx import configuration
    from experiments import runs

    overrides = [text for text in overrides if not text.startswith("--config.sweep")]
    found = []
    for point, seed in itertools.product(points, range(seeds)):
        settings = [
            f"--config.{key}={written(value)}" for key, value in (point.settings | {"seed": seed}).items()
        ]
        config = runs.single(configuration.load(path, [*overrides, *settings]))
        name = re.sub(r"[^\w.+-]+", "_", point.title()).strip("_")
        workdir = folder / f"{name}-{mark(overrides + settings[:-1])}" / str(seed)
        runs.check(workdir, config)
        command = ["train", f"--config={path}", f"--workdir={workdir}", *shared, *overrides, *settings]
        found.append(Job(point, seed, workdir, command, config))
    return found


def mark(texts: Any) -> str:
    """Returns a short name of some overrides, another for others."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:8]


def written(value: Any) -> str:
    """Returns a value as it stands in an override on the command line."""
    return value if isinstance(value, str) else repr(tuple(value)) if isinstance(value, list) else repr(value)


def train(todo: list[Job], launch: Launch, *, forgiving: bool = False) -> dict[Path, str]:
    """Trains the runs that are not finished; returns the last words of those that failed, by workdir.

    Unless `forgiving`, the first that fails is an error, and no other is started. A run that somebody stopped
    is an error in any case.
    """
    from experiments import runs

    left = [job for job in todo if not runs.finished(job.workdir, job.config)]
    print(f"{len(todo)} runs, {len(todo) - len(left)} of them finished", file=sys.stderr)
    failed: dict[Path, str] = {}
    for number, (job, ended) in enumerate(launch(left), 1):
        name = f"{job.point.title()}, seed {job.seed}"
        if ended.status and not (forgiving and ended.status in FAILED):
            raise RuntimeError(f"{name} failed:\n{ended.words}")
        if ended.status:
            failed[job.workdir] = ended.words
        print(f"[{number}/{len(left)}] {name}{' failed' * bool(ended.status)}", file=sys.stderr, flush=True)
    return failed


def here(at_once: int) -> Launch:
    """Runs jobs in processes of this machine, so many at a time."""

    def launch(todo: list[Job]) -> Iterator[tuple[Job, Ended]]:
        with ThreadPoolExecutor(at_once) as pool:
            running = {pool.submit(submission.run, job.command): job for job in todo}
            try:
                for future in as_completed(running):
                    yield running[future], future.result()
            finally:
                pool.shutdown(cancel_futures=True)

    return launch


def on_cluster(cluster: str, at_once: int, folder: Path, parameters: Mapping[str, Any]) -> Launch:
    """Runs jobs through submitit, whose files lie in `folder`; of an array, Slurm runs so many at a time."""
    limit = {"slurm_array_parallelism": at_once}

    def launch(todo: list[Job]) -> Iterator[tuple[Job, Ended]]:
        size = at_once if cluster == "local" else max(1, len(todo))  # submitit's own starts all at once
        for start in range(0, len(todo), size):
            part = todo[start : start + size]
            commands = [job.command for job in part]
            tickets = submission.submit(submission.run, commands, folder, cluster, limit | dict(parameters))
            waiting = dict(enumerate(tickets))
            try:
                while waiting:
                    for number in [n for n, ticket in waiting.items() if ticket.done()]:
                        yield part[number], ended(waiting.pop(number))
                    time.sleep(POLL if waiting else 0)
            finally:
                for ticket in waiting.values():
                    ticket.cancel(check=False)

    return launch


def ended(ticket: Any) -> Ended:
    """Returns how a job of submitit ended: as its command did, or that the job itself was lost."""
    if (error := ticket.exception()) is None:
        return ticket.result()
    return Ended(-1, f"the job {ticket.job_id} itself was lost: {error}")
