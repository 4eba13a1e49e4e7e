"""What a training step takes on 1, 2, 4 and 8 devices.

On a machine without so many accelerators they are simulated ones of its CPU. Those share its cores, so the
times say what dividing a step costs, and nothing of how much faster it would be on devices of their own.
"""

import contextlib
from collections.abc import Callable
from time import perf_counter

import jax

from dlx import configuration, feed, sharding, train
from dlx.core import Plan
from experiments import runs
from experiments.speed.table import Found, Row, in_turns

CONFIGS = (
    "image_classification/mnist_mlp",
    "image_classification/digits",
    "language_modeling/shakespeare_small",
)
REPEATS, STEPS = 21, 10


def measure(
    repeats: int | None = None, *, names: tuple[str, ...] = CONFIGS, counts: tuple[int, ...] = (2, 4, 8)
) -> Found:
    """Measures the smoke variants of a perceptron, a convolutional network and a GPT, the batch divided."""
    with contextlib.suppress(RuntimeError):  # JAX has its devices already
        jax.config.update("jax_num_cpu_devices", max(counts))
    devices = max(jax.devices(), jax.devices("cpu"), key=len)
    if len(devices) < max(counts):
        raise RuntimeError(f"{max(counts)} devices cannot be had where JAX runs already with {len(devices)}")
    rows = []
    for name in names:
        steps = {count: stepping(name, devices[:count]) for count in (1, *counts)}
        found = in_turns(repeats or REPEATS, {str(count): step for count, step in steps.items()})
        for count in counts:
            what = f"{name}, smoke, {count} devices, training step"
            rows.append(Row(what, "1 device", "ms", found[str(count)], found["1"]))
    return Found(rows, machine={"device": devices[0].device_kind})


def stepping(name: str, devices: list) -> Callable[[], float]:
    """Returns a function that trains for some steps on these devices and returns the milliseconds of one.

    Each step is waited for: simulated devices must not run ahead of one another.
    """
    run = runs.build(configuration.load(f"configs/{name}.py:smoke"))
    mesh, last = sharding.mesh(devices=devices), {}

    def begin(start, layout, compiled):
        last["step"] = compiled

    last["state"] = train.fit(run.task, run.optimizer, Plan(2), mesh=mesh, begin=begin)

    def taken() -> float:
        with jax.set_mesh(mesh):
            batch, key = feed.place(run.task.batch(0)), jax.random.key(0)
            clock = perf_counter()
            for _ in range(STEPS):
                last["state"], _ = jax.block_until_ready(last["step"](last["state"], batch, key))
            return 1e3 * (perf_counter() - clock) / STEPS

    taken()
    return taken
