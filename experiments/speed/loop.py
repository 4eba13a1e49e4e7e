"""What `dlx.train.fit` costs beyond the bare jitted step.

Both sides run the same executable: the one that `fit` compiled and handed to `begin`. The bare side calls it
in a plain Python loop on a batch that is placed already, and waits once, at the end. The clock of `fit`
starts in `begin`, after compilation, and stops when the state it returned is ready; it places a batch from
the host for every step and reports every 50.
"""

import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlx import feed, losses, metrics, report, sharding, train
from dlx.core import Plan, Task
from dlx.data import pipeline
from dlx.data.sources import synthetic_images
from dlx.models import MODELS
from experiments.speed.table import Found, Row, in_turns

CLASSES = 10
REPEATS = 21


class Sides(NamedTuple):
    """The two loops over one step; each takes a number of steps and returns the seconds of one step.

    `bare` goes on from the state and with the executable of the last `fit`.
    """

    fit: Callable[[int], float]
    bare: Callable[[int], float]


def measure(
    repeats: int | None = None,
    *,
    milliseconds: tuple[float, ...] = (1, 5, 20),
    seconds: float = 2.0,
    batch: int = 128,
) -> Found:
    """Measures steps of about these `milliseconds`, each side for about `seconds` at a time."""
    split = synthetic_images(num_classes=CLASSES, size=28, channels=1, count=8 * batch).splits["train"]
    drawn = pipeline.batches(split, batch, seed=0)
    constant = drawn(0)
    rows = []
    for target in milliseconds:
        width = calibrated(target / 1e3, constant)
        steps = max(2, round(seconds / (target / 1e3)))
        kinds = {"constant batch": (lambda step: constant, contextlib.nullcontext(unread))}
        if target == 5:
            kinds["shuffled batches, reports written"] = (drawn, written(steps))
        for kind, (batches, opened) in kinds.items():
            with opened as write:
                both = sides(width, batches, write)
                both.fit(2), both.bare(2)
                found = in_turns(
                    repeats or REPEATS, {"fit": _of(both.fit, steps), "bare": _of(both.bare, steps)}
                )
            fit, bare = ([1e3 * value for value in found[side]] for side in ("fit", "bare"))
            what = f"fit, steps of {target:g} ms, {kind}"
            rows.append(Row(what, f"bare step, MLP 2 x {width}", "ms", fit, bare, overhead=True))
    return Found(rows, machine={"device": jax.devices()[0].device_kind})


def unread(step: int, name: str, values) -> None:
    """Takes the numbers of a step and leaves them."""


@contextlib.contextmanager
def written(steps: int) -> Iterator[Callable]:
    """Yields a `write` to JSON lines, TensorBoard and a console, as the train command has."""
    with tempfile.TemporaryDirectory() as folder, report.opened(folder, steps, io.StringIO()) as reports:
        yield reports.write


def calibrated(seconds: float, batch) -> int:
    """Returns the width of an MLP whose training step takes about `seconds` here."""
    width = 256
    for _ in range(4):
        both = sides(width, lambda step: batch)
        both.fit(2)
        taken = min(both.bare(max(3, round(0.1 / seconds))) for _ in range(3))
        if 0.85 < taken / seconds < 1.15:
            break
        # the time is between linear (input, update) and square (between hidden layers) in the width
        width = int(np.clip(round(width * (seconds / taken) ** 0.65 / 16) * 16, 16, 4096))
    return width


def sides(width: int, batches: Callable, write: Callable = unread) -> Sides:
    """Returns the two loops over the step of an MLP with two hidden layers of `width`, under Adam."""
    model = MODELS["mlp"](CLASSES, hidden=[width, width])
    mesh = sharding.mesh(devices=jax.devices()[:1])
    last: dict = {}

    def init(key):
        return model.init(key, jnp.zeros((1, *batches(0)["image"].shape[1:])))

    def loss(variables, batch, key):
        logits, state = model.apply(variables, batch["image"] / 255.0, key=key)
        each = losses.softmax_cross_entropy(logits, batch["label"])
        return each.mean(), (state, {"loss": metrics.mean(each)})

    task = Task(init, loss, batches)

    def fit(steps: int) -> float:
        def begin(start, layout, compiled):
            state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding), layout)
            for _ in range(2):  # its first calls, which the bare loop does not pay either
                state, _ = compiled(state, feed.place(batches(0)), key)
            jax.block_until_ready(state)
            last["step"], last["clock"] = compiled, time.perf_counter()

        state = train.fit(
            task, optax.adam(1e-4), Plan(steps, log_every=50), mesh=mesh, begin=begin, write=write
        )
        jax.block_until_ready(state)
        taken = time.perf_counter() - last["clock"]
        last["state"] = state
        return taken / steps

    def bare(steps: int) -> float:
        step, state = last["step"], last.pop("state")
        with jax.set_mesh(mesh):
            batch = jax.block_until_ready(feed.place(batches(0)))
            clock = time.perf_counter()
            for _ in range(steps):
                state, found = step(state, batch, key)
            jax.block_until_ready((state, found))
            taken = time.perf_counter() - clock
        last["state"] = state
        return taken / steps

    key = jax.random.key(1)
    return Sides(fit, bare)


def _of(side: Callable[[int], float], steps: int) -> Callable[[], float]:
    return lambda: side(steps)
