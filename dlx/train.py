"""The training loop. There is one."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dlx import checkpoint, feed, metrics, sharding
from dlx.core import Batch, Key, Metrics, Plan, Task, TrainState, Variables

ONCE = {"xla_backend_optimization_level": 0}  # what runs once is compiled for speed of compilation
NOTHING: Mapping = {}
AHEAD = 4  # calls dispatched before the numbers of one are read


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
    """Returns the pure function `(state, batch, key) -> (state, metrics)`: one update of `optimizer`."""

    def step(state: TrainState, batch: Batch, key: Key) -> tuple[TrainState, Metrics]:
        params, model_state = state.variables
        key = jax.random.fold_in(key, state.step)

        def objective(params):
            return loss(Variables(params, model_state), batch, key)

        grads, (model_state, report) = jax.grad(objective, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, state.opt_state, params)
        variables = Variables(optax.apply_updates(params, updates), model_state)
        report = dict(report) | {"grad_norm": metrics.mean(optax.tree.norm(grads))}
        return TrainState(state.step + 1, variables, opt_state), report

    return step


def make_steps(step: Callable) -> Callable:
    """Returns `(state, batches, key, count) -> (state, metrics of the last)`: `count` updates in a row.

    `batches` are stacked, [n, b, ...]; the first `count` are used. One program serves every count up to n, so
    that what a step computes does not depend on how many are left until an event.
    """

    def steps(state: TrainState, batches: Batch, key: Key, count: jax.Array) -> tuple[TrainState, Metrics]:
        def one(index, found):
            return step(found[0], jax.tree.map(lambda stacked: stacked[index], batches), key)

        _, report = jax.eval_shape(one, 0, (state, None))
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
    workdir=None,
    write: Callable = lambda step, name, values: None,
    view: Callable[[TrainState], Variables] = lambda state: state.variables,
    begin: Callable = lambda start, layout, compiled: None,
    given: Callable[[Variables], Mapping[str, Any]] = lambda shapes: NOTHING,
) -> TrainState:
    """Trains `task` for `plan.steps` updates in all, resuming from `workdir` if it can.

    `write(step, name, {metric: float})` takes the numbers; `view` is what evaluation sees of a state
    (`optimizers.averaged`, say); `begin(start, layout, compiled)` is called once, before the first step.
    A run that starts (one that resumes does not ask) takes from `given(shapes)`, by path, the leaves of the
    variables that shall not be drawn; `shapes` are all of them. Without a `mesh` the state is on all devices;
    without a `workdir` nothing is saved.
    `train(n + m)` equals `train(n)`, then resuming for `m`, bit for bit: keys and batches are functions
    of the step.
    """
    mesh = sharding.mesh() if mesh is None else mesh
    init_key, step_key = jax.random.split(jax.random.key(seed))
    init = make_init(task, optimizer)

    with jax.set_mesh(mesh), checkpoint.store(workdir) as store:
        layout = sharding.layout(jax.eval_shape(init, init_key), mesh)
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
        step, size = make_step(task.loss, optimizer), plan.steps_per_call
        if size < 1:
            raise ValueError(f"steps_per_call is {size}; a call has at least 1 step")
        call = jax.jit(
            step if size == 1 else make_steps(step), donate_argnums=0, out_shardings=(placement, None)
        )
        example = task.batch(start)
        sharding.check_batch(len(jax.tree.leaves(example)[0]) * jax.process_count(), mesh)

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
                if log:
                    write(done, "train", metrics.summarize(report))
                elif done % AHEAD == 0:
                    jax.block_until_ready(report["grad_norm"])

        done = start
        while done < plan.steps:
            before, done = done, plan.until(done)
            state, report = compiled(state, *arguments([task.batch(step) for step in range(before, done)]))
            log, evaluate, save = (plan.due(event, done) for event in ("log", "eval", "save"))
            running.append((done, report, log or save))
            settle(0 if evaluate or save else AHEAD)
            if evaluate:
                for name, evaluator in task.evaluators.items():
                    write(done, name, evaluator(view(state)))
            if save:
                store.save(done, state)
    return state
