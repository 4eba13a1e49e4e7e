"""Two sides measured in turns, and the table of what came out."""

import importlib.metadata
import importlib.util
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeVar

Measured = TypeVar("Measured")
HOME = Path(__file__).resolve().parent.parent.parent
VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2"}  # Linux's name of what a processor has, the widest first


class Row(NamedTuple):
    """One comparison: the numbers of dlx and of its peer, one pair for each repeat, taken in turns.

    `unit` is "examples/s" (more is better), or "s" or "ms" (less is better). With `overhead` the row
    says how many percent dlx takes longer, else how many times it is faster.
    """

    what: str
    peer: str
    unit: str
    ours: list[float]
    theirs: list[float]
    overhead: bool = False

    def ratios(self) -> list[float]:
        """Returns how many times dlx is faster in each repeat, or its overhead as a fraction."""
        pairs = list(zip(self.ours, self.theirs, strict=True))
        if self.overhead:
            return [ours / theirs - 1 for ours, theirs in pairs]
        return [ours / theirs if self.unit.endswith("/s") else theirs / ours for ours, theirs in pairs]


class Found(NamedTuple):
    """What a benchmark found: its rows, remarks to print below them, and facts of the machine of its own.

    `details` are further numbers to keep, such as memory.
    """

    rows: list[Row]
    remarks: Sequence[str] = ()
    machine: Mapping[str, str] = MappingProxyType({})
    details: Sequence[Mapping] = ()


def in_turns(repeats: int, sides: Mapping[str, Callable[[], Measured]]) -> dict[str, list[Measured]]:
    """Calls every side once, in order, `repeats` times over, and returns what each measured."""
    if repeats < 1:
        raise ValueError(f"--repeats={repeats}; at least 1 is needed")
    numbers: dict[str, list[Measured]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            numbers[name].append(side())
    return numbers


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Returns the lower quartile, the median and the upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, statistics.median(values), high


def lines(found: Found) -> list[str]:
    """Returns the table, aligned under a heading, the remarks, and the machine."""
    heading = ("WHAT", "PEER", "DLX", "PEER'S", "DLX IS", "QUARTILES", "REPEATS")
    cells = [heading, *map(cell, found.rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(heading))]
    left = (0, 1)  # words to the left, numbers to the right
    table = [
        "  ".join(
            f"{text:<{width}}" if i in left else f"{text:>{width}}"
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    facts = machine() | dict(found.machine)
    return [*table, *found.remarks, ", ".join(f"{name} {value}" for name, value in facts.items())]


def cell(row: Row) -> tuple[str, ...]:
    """Returns the texts of a row."""
    low, middle, high = quartiles(row.ratios())
    digits = 2 if row.overhead else 1
    ours, theirs = (
        f"{value:,.0f} {row.unit}" if value >= 1000 else f"{value:.{digits}f} {row.unit}"
        for value in (statistics.median(row.ours), statistics.median(row.theirs))
    )
    if row.overhead:
        ratio, spread = f"{middle:+.2%}", f"{low:+.2%} .. {high:+.2%}"
    else:
        ratio, spread = f"{middle:.2f}x as fast", f"{low:.2f} .. {high:.2f}"
    return row.what, row.peer, ours, theirs, ratio, spread, str(len(row.ours))


def record(name: str, found: Found) -> dict:
    """Returns all that was measured, for JSON."""
    rows = []
    for row in found.rows:
        low, middle, high = quartiles(row.ratios())
        result = {"overhead" if row.overhead else "times_as_fast": middle, "quartiles": [low, high]}
        medians = {"dlx": statistics.median(row.ours), "peer": statistics.median(row.theirs)}
        repeats = {"dlx": row.ours, "peer": row.theirs}
        rows.append(
            {"what": row.what, "peer": row.peer, "unit": row.unit, "median": medians, "repeats": repeats}
            | result
        )
    return {
        "benchmark": name,
        "rows": rows,
        "remarks": list(found.remarks),
        "machine": machine() | dict(found.machine),
    } | ({"details": list(found.details)} if found.details else {})


def machine() -> dict[str, str]:
    """Returns the processor and the versions that numbers depend on; imports none of the libraries."""
    model, vectors = platform.processor() or platform.machine(), []
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = (line.partition(":") for line in info.read_text().splitlines())
        first = {name.strip(): value.strip() for name, _, value in reversed(list(lines))}
        model = first.get("model name", model)
        vectors = [name for flag, name in VECTORS.items() if flag in first.get("flags", "").split()]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    facts = {"processor": model} | ({"vectors": vectors[0]} if vectors else {})
    facts |= {"cores": str(cores), "python": platform.python_version()}
    for library in ("jax", "torch"):
        installed = importlib.util.find_spec(library) is not None
        facts[library] = importlib.metadata.version(library) if installed else "missing"
    written = (":!experiments/results", ":!README.md")  # by `reproduce`, `report` and this
    changes = ["git", "status", "--porcelain", "--untracked-files=no", "--", ".", *written]
    try:
        commit, changed = (
            subprocess.run(command, cwd=HOME, capture_output=True, text=True, check=True).stdout.strip()
            for command in (["git", "describe", "--always"], changes)
        )
        commit += "-dirty" if changed else ""
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    facts |= {"commit": commit, "platform": sys.platform}
    if hasattr(os, "getloadavg"):  # what else ran in the last minute, and what was measured
        facts["load"] = f"{os.getloadavg()[0]:.1f}"
    return facts
