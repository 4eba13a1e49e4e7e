"""From command to first step, and to the finished digits run, against a plain PyTorch script.

Both sides are commands, each in a process of its own, timed by the caller from the start of the process.
"First step": until the numbers of step 1 are printed, in a command that differs from the run in
`plan.log_every=1` alone and is killed then. (dlx prints them when step 3 is under way, as its loop never
waits for the step it has just started: a delay that counts against it.) "Finished run": until the process has
ended, with its checkpoints and the test. dlx is measured with an empty compilation cache, and again with one
that an earlier run has filled; the same numbers of the peer stand beside both.
"""

import collections
import functools
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dlx import configuration
from experiments.commands import DEFAULT
from experiments.speed.table import HOME, Found, Row, in_turns

REPEATS = 5
UNTIL = ("first step", "finished run")
PEER = "experiments/speed/torch_digits.py"
FIRST = re.compile(r"step +1/\d+ +train")
ACCURACY = re.compile(r"^ +accuracy +([\d.]+)|test .* accuracy ([\d.]+)", re.MULTILINE)


def measure(
    repeats: int | None = None, *, path: str = DEFAULT, caches: tuple[str, ...] = ("empty", "filled")
) -> Found:
    """Measures both commands on the config at `path`, dlx with each of the compilation `caches`."""
    every = ["--config.plan.log_every=1"]
    accuracies: dict[str, list[float]] = {"dlx": [], "PyTorch": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        configuration.save(configuration.load(str(HOME / path)), folder / "run.json")
        configuration.save(configuration.load(str(HOME / path), every), folder / "first.json")

        def fresh() -> Path:
            return Path(tempfile.mkdtemp(dir=folder))

        def ours(cache: str, first: bool) -> float:
            overrides = every if first else []
            arguments = ["train", f"--config={path}", f"--workdir={fresh()}", *overrides]
            programs = filled if cache == "filled" else fresh()
            return run("dlx", ["-m", "experiments", *arguments], programs, first)

        def theirs(first: bool) -> float:
            numbers = folder / ("first.json" if first else "run.json")
            return run("PyTorch", [PEER, str(numbers), str(fresh())], folder, first)

        def run(side: str, arguments: list[str], programs: Path, first: bool) -> float:
            seconds, text = clocked(arguments, programs, first)
            if not first:
                accuracies[side].append(accuracy(text))
            return seconds

        filled = fresh()
        if "filled" in caches:
            ours("filled", first=False)
            theirs(first=True)  # the libraries of both sides have been read from the disk once
            accuracies["dlx"].clear()
        sides = {}
        for until in UNTIL:
            first = until == "first step"
            for cache in caches:
                sides["dlx", until, cache] = functools.partial(ours, cache, first)
            sides["PyTorch", until, ""] = functools.partial(theirs, first)
        seconds = in_turns(repeats or REPEATS, sides)
    rows = [
        Row(
            f"{until}, {cache} compilation cache",
            "plain PyTorch script",
            "s",
            seconds["dlx", until, cache],
            seconds["PyTorch", until, ""],
        )
        for until in UNTIL
        for cache in caches
    ]
    scores = ", ".join(f"{side} {statistics.median(values):.4f}" for side, values in accuracies.items())
    return Found(rows, [f"median test accuracy: {scores}"])


def clocked(arguments: list[str], cache: Path, first: bool) -> tuple[float, str]:
    """Runs a Python command; returns its seconds, until its first step or its end, and what it printed."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    clock = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=HOME,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    printed = collections.deque(maxlen=200)
    with process:
        try:
            for line in process.stdout or ():
                printed.append(line)
                if first and FIRST.search(line):
                    return time.perf_counter() - clock, "".join(printed)
        finally:
            if first:
                process.kill()
        status = process.wait()
    seconds = time.perf_counter() - clock
    if status or first:
        reason = signal.Signals(-status).name if status < 0 else f"status {status}"
        raise RuntimeError(f"{' '.join(arguments)} ended with {reason}:\n{''.join(printed)}")
    return seconds, "".join(printed)


def accuracy(text: str) -> float:
    """Returns the test accuracy that a command printed."""
    found = ACCURACY.findall(text)
    if not found:
        raise RuntimeError(f"no test accuracy in:\n{text}")
    return float(found[-1][0] or found[-1][1])
