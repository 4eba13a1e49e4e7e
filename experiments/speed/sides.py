"""What a row of `benchmark models` is made of: programs that do the same work, compiled and warm.

A row is a function of its settings that returns a `Contest`. Whatever its name says is measured, "training
step" or "decoding", is a function of how many times; nothing here knows what a batch holds.
"""

import ctypes
import gc
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax

from dlx import train
from dlx.core import Task, Variables

STEP, FORWARD = "training step", "forward pass"


class Side(NamedTuple):
    """A program that is compiled and warm.

    `runs` maps what is measured to `run(count)`, which does it `count` times, returns when all of that is
    done, and gives back one number that it computed. `compile_s` are the seconds that compiling the first of
    `runs` took, None for what is not compiled. `memory` holds the bytes of training, by how they were found:
    "planned" by the compiler, "resident" growth of this process, or "allocated" on a GPU, at their peak.
    """

    runs: Mapping[str, Callable[[int], float]]
    parameters: int
    compile_s: float | None = None
    memory: Mapping[str, int] = {}


class Contest(NamedTuple):
    """A row: a function that builds dlx's side, and one for each variant of the peer.

    `what` describes the work, `examples` counts what one run of the first measure handles. `macs` are the
    multiply-adds of one example's forward pass, where a share of a GPU's peak is to be told. `unit` is what
    is counted as an example.
    """

    what: str
    library: str
    examples: int
    ours: Callable[[], Side]
    peers: Mapping[str, Callable[[], Side]]
    macs: float | None = None
    unit: str = "examples"


def trained(task: Task, optimizer: optax.GradientTransformation, forward: Callable) -> Side:
    """Returns dlx's side: the step that `train.fit` runs, its state donated, and `forward`.

    `forward(variables, batch)` returns what the model gives in inference.
    """
    key = jax.random.key(0)
    batch = jax.device_put(task.batch(0))
    init = train.make_init(task, optimizer)
    shapes = jax.eval_shape(init, key)
    step = jax.jit(train.make_step(task.loss, optimizer), donate_argnums=0)

    clock = time.perf_counter()
    compiled = step.lower(shapes, batch, key).compile()
    compile_s = time.perf_counter() - clock
    inferred = jax.jit(forward).lower(shapes.variables, batch).compile()
    start = jax.jit(init, compiler_options=train.ONCE).lower(key).compile()
    last: dict = {}

    def steps(count: int) -> float:
        state = last.pop("state")
        for _ in range(count):
            state, report = compiled(state, batch, key)
        jax.block_until_ready((state, report))
        last["state"] = state
        return float(report["grad_norm"].total)

    def forwards(count: int) -> float:
        variables: Variables = last["state"].variables
        for _ in range(count):
            outputs = inferred(variables, batch)
        return float(jax.block_until_ready(outputs).ravel()[0])

    def begin() -> None:
        last["state"] = start(key)
        steps(2)

    resident = growth(begin)
    forwards(1)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes.variables.params))
    memory = planned(compiled) | ({"resident": resident} if resident else {})
    return Side({STEP: steps, FORWARD: forwards}, parameters, compile_s, memory)


def planned(compiled: Any) -> dict[str, int]:
    """Returns the bytes that an executable needs, donated ones counted once; {} where that is not told."""
    found = compiled.memory_analysis()
    if found is None:
        return {}
    size = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    return {"planned": size - found.alias_size_in_bytes}


def growth(act: Callable[[], Any]) -> int | None:
    """Returns by how many bytes the resident memory of this process grows at most while `act` runs.

    None where that is not known: on a GPU, whose memory is not the process's, and outside of Linux.
    """
    try:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not hide what is taken now
        Path("/proc/self/clear_refs").write_text("5")  # the peak is that from now on
    except (OSError, AttributeError):
        act()
        return None
    before = resident("VmRSS")
    act()
    return resident("VmHWM") - before if jax.default_backend() == "cpu" else None


def resident(field: str) -> int:
    """Returns a size of this process, in bytes, from /proc."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
