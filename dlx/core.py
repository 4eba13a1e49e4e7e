"""The six words that everything else is said in, and their laws."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

Key = jax.Array  # a typed key of `jax.random.key`
Params = Any  # a nested dict of arrays
Batch = Mapping[str, Any]  # named arrays that share their leading axis
Metrics = Mapping[str, "Mean"]


class Variables(NamedTuple):
    """What a model knows: `params` get gradients, `state` (batch statistics, learned scaling) does not."""

    params: Params
    state: Params


class Model(NamedTuple):
    """Two pure functions.

    `init(key, *inputs) -> Variables` and `apply(variables, *inputs, key=None) -> (outputs, state)`.
    No key means inference: deterministic, the state returned unchanged. With a key the model trains:
    dropout draws from the key and the state returned is the next one. Decoding caches are inputs and
    outputs, never state.
    """

    init: Callable[..., Variables]
    apply: Callable[..., tuple[Any, Params]]


class Task(NamedTuple):
    """What is learned; never how it is optimised, logged, sharded or saved.

    `init(key) -> Variables`; `loss(variables, batch, key) -> (scalar, (state, {name: Mean}))`;
    `batch(step) -> Batch` of numpy arrays, a pure function of the step; `evaluators` maps a name to
    `variables -> {metric: float}`.
    """

    init: Callable[[Key], Variables]
    loss: Callable[[Variables, Batch, Key], tuple[jax.Array, tuple[Params, Metrics]]]
    batch: Callable[[int], Batch]
    evaluators: Mapping[str, Callable[[Variables], Mapping[str, float]]] = {}


class TrainState(NamedTuple):
    """All that a checkpoint holds: keys and data positions are functions of `step`."""

    step: jax.Array
    variables: Variables
    opt_state: Any


class Plan(NamedTuple):
    """All that the loop knows of time, in steps; every event is also due at the last step (0: only then).

    `steps_per_call` steps are one call of the devices, or fewer, for a call ends where an event is due. It
    changes no bit of what a perceptron learns, and rounding elsewhere. It pays where a step takes less than
    a few milliseconds; so many batches are in memory for each call, and a handful of calls are under way.
    """

    steps: int
    log_every: int = 0
    eval_every: int = 0
    save_every: int = 0
    steps_per_call: int = 1

    def due(self, event: str, done: int) -> bool:
        """Tells whether `event` ("log", "eval" or "save") happens after `done` steps."""
        every = getattr(self, f"{event}_every")
        return done == self.steps or (every > 0 and done % every == 0)

    def until(self, done: int) -> int:
        """Returns after which step the call ends that begins after `done` steps."""
        every = [size for size in (self.log_every, self.eval_every, self.save_every) if size > 0]
        return min(done + self.steps_per_call, self.steps, *(done - done % size + size for size in every))


class Mean(NamedTuple):
    """A metric is a sum and a count: merging is `+`, and the division happens once, at the end.

    `total` and `weight` are scalars, or arrays for several means at once (one per class, say).
    """

    total: Any
    weight: Any

    def __add__(self, other):
        """Merges two means of the same thing."""
        return Mean(self.total + other.total, self.weight + other.weight)
