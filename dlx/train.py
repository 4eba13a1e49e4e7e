"""The training loop. There is one."""

import math
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dlx import checkpoint, feed, lock, metrics, sharding
from dlx.core import Batch, Key, Mean, Metrics, Plan, Task, TrainState, Variables
from dlx.preemption import Stopped

ONCE = {"xla_backend_optimization_level": 0}  # what runs once is compiled for speed of compilation
NOTHING: Mapping = {}
AHEAD = 4  # calls dispatched before the numbers of one are read
BROKEN = "broken"  # among a step's metrics: its number, when the run must end there, else 0


class NonFiniteError(FloatingPointError):
    """A metric of training, such as the loss, is not a finite number; the message names step and batch."""


def make_init(task: Task, optimizer: optax.GradientTransformation) -> Callable:
    """Returns the pure function `(key, given={}) -> TrainState`: the state before the first step.

    Leaves of the variables that `given` holds by path, such as "params/Dense_0/kernel", are those; all others
    are drawn from the key.
    """

    def init(key: Key, given: Mapping[str, Any] = NOTHING) -> TrainState:
        leaves, structure = jax.tree.flatten_with_path(task.init(key))
        chosen = [given.get(jax.tree_util.keystr(p, simple=True, separator="/"), leaf) for p, leaf in leaves]
        variables = jax.tree.unflatten(structure, chosen)
        return TrainState(jnp.int32(0), variables, optimizer.init(variables.params))

    return init


def make_step(loss, optimizer: optax.GradientTransformation) -> Callable:
    """Returns the pure function `(state, batch, key) -> (state, metrics)`: one update of `optimizer`.

    It hears whether all metrics of the step are `finite`, and where it leaves out those that are not
    (`optimizers.skipping`), the model's state stays as it was too. The metrics have one entry more, `BROKEN`.
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def step(state: TrainState, batch: Batch, key: Key) -> tuple[TrainState, Metrics]:
        params, model_state = state.variables
        key = jax.random.fold_in(key, state.step)

        def objective(params):
            return loss(Variables(params, model_state), batch, key)

        grads, (model_state, report) = jax.grad(objective, has_aux=True)(params)
        report = dict(report) | {"grad_norm": metrics.mean(optax.tree.norm(grads))}
        finite = metrics.finite(report)
        updates, opt_state = optimizer.update(grads, state.opt_state, params, finite=finite)
        left = optax.tree.get(opt_state, "skips_left")
        if left is not None:
            model_state = jax.tree.map(partial(jnp.where, finite), model_state, state.variables.state)
            skipped = optax.tree.get(opt_state, "skipped").astype(jnp.float32)
            report, finite = report | {"skipped": Mean(skipped, jnp.float32(1))}, finite | (left >= 0)
        variables = Variables(optax.apply_updates(params, updates), model_state)
        report = report | {BROKEN: Mean(jnp.where(finite, 0, state.step + 1), jnp.int32(1))}
        return TrainState(state.step + 1, variables, opt_state), report

    return step


def make_steps(step: Callable) -> Callable:
    """Returns `(state, batches, key, count) -> (state, metrics of the last)`: `count` updates in a row.

    The metrics are those of the first that is `BROKEN`, if any is.
    `batches` are stacked, [n, b, ...]; the first `count` are used. One program serves every count up to n, so
    that what a step computes does not depend on how many are left until an event.
    """

    def steps(state: TrainState, batches: Batch, key: Key, count: jax.Array) -> tuple[TrainState, Metrics]:
        def one(index, found):
            state, before = found
            state, report = step(state, jax.tree.map(lambda stacked: stacked[index], batches), key)
            return state, jax.tree.map(partial(jnp.where, before[BROKEN].total > 0), before, report)

        _, report = jax.eval_shape(step, state, jax.tree.map(lambda stacked: stacked[0], batches), key)
        report = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), report)
        return jax.lax.fori_loop(0, count, one, (state, report))

    return steps


def fit(
    task: Task,
    optimizer: optax.GradientTransformation,
    plan: Plan,
    *,
    seed: int = 0,
    mesh=None,
    fsdp: int | None = None,
    workdir=None,
    write: Callable = lambda step, name, values: None,
    view: Callable[[TrainState], Variables] = lambda state: state.variables,
    begin: Callable = lambda start, layout, compiled: None,
    given: Callable[[Variables], Mapping[str, Any]] = lambda shapes: NOTHING,
    score: Callable[[Mapping[str, Mapping[str, float]]], float] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> TrainState:
    """Trains `task` for `plan.steps` updates in all, resuming from `workdir` if it can.

    `write(step, name, {metric: float})` takes the numbers; `view` is what evaluation sees of a state
    (`optimizers.averaged`, say); `begin(start, layout, compiled)` is called once, before the first step.
    A run that starts (one that resumes does not ask) takes from `given(shapes)`, by path, the leaves of the
    variables that shall not be drawn; `shapes` are all of them. Without a `mesh` the batch is divided among
    all devices; with `fsdp` arrays of at least so many elements are too, see `sharding.layout`. Without a
    `workdir` nothing is saved, and only one process at a time trains in one (`lock.held`).
    With a `score` of what the evaluators said, {name: {metric: float}}, the state of which it is highest is
    saved too, and stays; `checkpoint.store(workdir)` finds it.
    `stop()` is asked after every call of the devices (`preemption.noticed`, say); when it is true the run
    saves its state and raises Stopped. A step whose metrics are not finite raises NonFiniteError, some calls
    later, but before anything of it is saved.
    `train(n + m)` equals `train(n)`, then resuming for `m`, bit for bit: keys and batches are functions
    of the step.
    """
    mesh = sharding.mesh() if mesh is None else mesh
    init_key, step_key = jax.random.split(jax.random.key(seed))
    init = make_init(task, optimizer)

    with jax.set_mesh(mesh), lock.held(workdir), checkpoint.store(workdir) as store:
        layout = sharding.layout(jax.eval_shape(init, init_key), mesh, fsdp=fsdp)
        placement = jax.tree.map(lambda leaf: leaf.sharding, layout)
        state = store.restore(layout)
        if state is None:
            start_from = given(layout.variables)  # an argument: as constants, weights would bloat the program
            state = jax.jit(init, out_shardings=placement, compiler_options=ONCE)(init_key, start_from)
        start = int(state.step)
        if start > plan.steps:
            raise ValueError(
                f"{workdir} is at step {start} already, beyond the {plan.steps} steps of the plan"
            )
        loss = sharding.gathering(task.loss, placement.variables)
        step, size = make_step(loss, optimizer), plan.steps_per_call
        if size < 1:
            raise ValueError(f"steps_per_call is {size}; a call has at least 1 step")
        call = jax.jit(
            step if size == 1 else make_steps(step), donate_argnums=0, out_shardings=(placement, None)
        )
        example = task.batch(start)
        sharding.check_batch(feed.whole(len(jax.tree.leaves(example)[0])), mesh)

        def arguments(batches: list) -> tuple:
            if size == 1:
                return feed.place(batches[0]), step_key
            return feed.place(feed.stack(batches, size), None), step_key, len(batches)

        compiled = call.lower(state, *arguments([example])).compile()
        begin(start, layout, compiled)

        running: deque = deque()  # calls that the devices may still be at work on

        def settle(most: int) -> None:
            while len(running) > most:
                done, report, log = running.popleft()
                if broken := int(report.pop(BROKEN).total):
                    raise nonfinite(broken, metrics.summarize(report))
                if log:
                    write(done, "train", metrics.summarize(report))

        done, best = start, -math.inf if score is None else store.best(start)
        while done < plan.steps:
            before, done = done, plan.until(done)
            state, report = compiled(state, *arguments([task.batch(step) for step in range(before, done)]))
            log, evaluate, save = (plan.due(event, done) for event in ("log", "eval", "save"))
            running.append((done, report, log or save))
            stopping = stop()
            settle(0 if evaluate or save or stopping else AHEAD)
            if evaluate:
                seen = sharding.gather(view(state))
                found = {name: evaluator(seen) for name, evaluator in task.evaluators.items()}
                for name, values in found.items():
                    write(done, name, values)
            rating = score(found) if evaluate and score else -math.inf
            if save or stopping or rating > best:
                store.save(done, state, rating if rating > best else None)
            best = rating if rating > best else best
            if stopping:
                raise Stopped(done)
    return state


def nonfinite(step: int, values: Mapping[str, float]) -> NonFiniteError:
    """Returns the error of the first step whose metrics were not finite, given those metrics."""
    wrong = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    more = ", one more in a row than optimizer.skip_nonfinite allows" if "skipped" in values else ""
    return NonFiniteError(
        f"{', '.join(wrong)} at step {step}{more}: stopped, and what is saved is from before it. The batch "
        f"of that step is task.batch({step - 1}). Usual causes: too high a learning rate (schedule.peak), no "
        "warm-up, no clipping (optimizer.clip)"
    )
