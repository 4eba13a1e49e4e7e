"""Where numbers go: the console, JSON lines and TensorBoard, the same numbers in each."""

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

FILE = "metrics.jsonl"


class Report(NamedTuple):
    """A run's outputs: `resume(start)` says where it goes on, then `write(step, name, {metric: float})`."""

    write: Callable[[int, str, Mapping[str, float]], None]
    resume: Callable[[int], None]


@contextlib.contextmanager
def opened(workdir: str | Path, steps: int, out: Any = None) -> Iterator[Report]:
    """Opens the report of a run of `steps` steps: `workdir/metrics.jsonl`, TensorBoard events, the console.

    A terminal shows a progress bar, anything else plain lines. `resume(start)` drops what an interrupted
    run wrote after its last checkpoint, and the test numbers, which are measured again at the end: so the
    file of a resumed run equals an undisturbed one's, but for the set "speed". On several processes only
    the first one writes. A number that is not finite is null in the file.
    """
    if jax.process_index() > 0:
        yield Report(lambda step, name, values: None, lambda start: None)
        return
    writer = events()
    file = Path(workdir) / FILE
    with contextlib.ExitStack() as stack:
        show = stack.enter_context(console(steps, out or sys.stderr))
        sinks: dict[str, Any] = {}

        def resume(start: int) -> None:
            kept = [r for r in read(workdir) if r["step"] <= start and r["set"] != "test"]
            with explained(file):
                file.parent.mkdir(parents=True, exist_ok=True)
                fresh = file.with_suffix(".tmp")
                fresh.write_text("".join(json.dumps(record) + "\n" for record in kept))
                fresh.replace(file)
                sinks["lines"] = stack.enter_context(file.open("a"))
            sinks["events"] = stack.enter_context(writer(str(workdir), purge_step=start + 1))
            sinks["clock"] = (time.monotonic(), start)

        def put(step: int, name: str, values: Mapping[str, float]) -> None:
            finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
            with explained(file):
                sinks["lines"].write(json.dumps({"step": step, "set": name} | finite) + "\n")
                sinks["lines"].flush()
                for key, value in values.items():
                    sinks["events"].add_scalar(f"{name}/{key}", value, step)

        def write(step: int, name: str, values: Mapping[str, float]) -> None:
            if not sinks:
                resume(step)
            put(step, name, values)
            rate = None
            (before, last), sinks["clock"] = sinks["clock"], (time.monotonic(), step)
            if name == "train" and step > last:
                rate = (step - last) / (sinks["clock"][0] - before)
                put(step, "speed", {"steps_per_second": rate})
            show(step, name, values, rate)

        yield Report(write, resume)


def events() -> type:
    """Returns tensorboardX's SummaryWriter without torch, whose import it tries and scalars do not need."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden:
            del sys.modules["torch"]
    return SummaryWriter


@contextlib.contextmanager
def explained(file: Path) -> Iterator[None]:
    """Turns a failed write into one message that names the file."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{file} cannot be written: {error.strerror}; checkpoints are intact") from error


@contextlib.contextmanager
def console(steps: int, out: Any) -> Iterator[Callable]:
    """Yields `show(step, name, values, rate)`: a progress bar on a terminal, plain lines elsewhere."""
    if not out.isatty():
        width = len(str(steps))

        def line(step, name, values, rate):
            speed = f"  ({rate:.4g} steps/s)" if rate else ""
            print(f"step {step:>{width}}/{steps}  {name:<10}  {numbers(values)}{speed}", file=out, flush=True)

        yield line
        return

    from tqdm import tqdm

    with tqdm(total=steps, file=out, unit="step", dynamic_ncols=True) as bar:

        def move(step, name, values, rate):
            bar.update(step - bar.n)
            if name == "train":
                bar.set_postfix_str(numbers(values))
            else:
                bar.write(f"step {step}  {name}  {numbers(values)}", file=out)

        yield move


def numbers(values: Mapping[str, float]) -> str:
    """Writes named numbers on one line, to four digits."""
    return "  ".join(f"{key} {value:.4g}" for key, value in values.items())


def table(values: Mapping[str, float]) -> str:
    """Writes named numbers below each other, to four decimals."""
    width = max(map(len, values), default=0)
    return "\n".join(f"  {key:<{width}}  {value:.4f}" for key, value in values.items())


def read(workdir: str | Path) -> list[dict[str, Any]]:
    """Returns the records of `metrics.jsonl`, in order; a last line cut off by a crash is left out."""
    records = []
    try:
        text = (Path(workdir) / FILE).read_text()
    except FileNotFoundError:
        return []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    return records


def summary(layout: Any, compiled: Any, mesh: Any, facts: Mapping[str, Any]) -> str:
    """Describes a run before it trains, as text.

    `layout` is the TrainState's tree of shapes, `compiled` the compiled step (for its floating point
    operations and its peak memory), `facts` are lines of the caller's own, such as data set sizes.
    """
    rows = []
    for path, leaf in jax.tree.leaves_with_path(layout.variables.params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        rows.append((name, "x".join(map(str, leaf.shape)) or "scalar", str(leaf.dtype), f"{leaf.size:,}"))
    total = f"{count(layout.variables.params):,}"
    rows = [("parameter", "shape", "dtype", "size"), *shortened(rows), ("total", "", "", total)]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    table = [
        f"  {a:<{widths[0]}}  {b:<{widths[1]}}  {c:<{widths[2]}}  {d:>{widths[3]}}" for a, b, c, d in rows
    ]
    memory = compiled.memory_analysis()
    peak = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    peak -= memory.alias_size_in_bytes  # what is donated is counted once
    flops = (compiled.cost_analysis() or {}).get("flops", 0)
    devices = f"{mesh.devices.size} x {mesh.devices.flat[0].device_kind}"
    lines = {
        "model state": f"{count(layout.variables.state):,} numbers without gradient",
        "optimizer": f"{count(layout.opt_state):,} numbers",
        "step": f"{flops / 1e9:.3g} GFLOP, {peak / 2**20:.4g} MiB peak per device",
        "mesh": f"{devices}, " + ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items()),
    } | dict(facts)
    width = max(map(len, lines))
    return "\n".join([*table, *(f"  {key:<{width}}  {value}" for key, value in lines.items())])


def count(tree: Any) -> int:
    """Returns how many numbers a tree of arrays or shapes holds."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def shortened(rows: list, most: int = 40) -> list:
    """Keeps the first and last rows of a long table, and says how many are left out."""
    if len(rows) <= most:
        return rows
    half = most // 2
    return [*rows[:half], (f"... {len(rows) - 2 * half} more", "", "", ""), *rows[-half:]]
