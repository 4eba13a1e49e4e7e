import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import same

from dlx import checkpoint, losses, metrics, optimizers, sharding
from dlx.core import Mean, Plan, Task, Variables
from dlx.data import pipeline, sources
from dlx.models import MODELS
from dlx.preemption import Stopped
from dlx.train import NonFiniteError, fit

ADAM = optax.adam(1e-2)


def test_every_event_is_due_at_its_steps_and_at_the_last():
    plan = Plan(10, log_every=4, eval_every=0, save_every=5)
    assert [n for n in range(1, 11) if plan.due("log", n)] == [4, 8, 10]
    assert [n for n in range(1, 11) if plan.due("eval", n)] == [10]
    assert [n for n in range(1, 11) if plan.due("save", n)] == [5, 10]


def test_means_merge_by_addition_and_not_by_concatenation():
    merged = Mean(1.0, 2.0) + Mean(3.0, 4.0)
    assert isinstance(merged, Mean) and merged == Mean(4.0, 6.0)


def test_a_line_is_learned(line, single):
    task, _ = line
    state = fit(task, optax.adam(0.1), Plan(300), mesh=single)
    assert task.evaluators["validation"](state.variables)["distance"] < 0.05
    assert int(state.step) == 300


def test_the_step_is_traced_once(line, single):
    task, traces = line
    fit(task, ADAM, Plan(40, 7, 11, 13), mesh=single)
    assert len(traces) == 1


def test_numbers_are_written_in_order_each_once_and_belong_to_their_step(line, single):
    task, _ = line
    dense, sparse = [], []
    fit(task, ADAM, Plan(12, 1), mesh=single, write=lambda *entry: dense.append(entry))
    fit(task, ADAM, Plan(12, 4, 6, 5), mesh=single, write=lambda *entry: sparse.append(entry))
    assert [step for step, name, _ in dense if name == "train"] == list(range(1, 13))
    train = {step: values for step, name, values in sparse if name == "train"}
    assert list(train) == [4, 5, 8, 10, 12]  # when due, and whenever a save is due
    expected = {step: values for step, name, values in dense if name == "train"}
    assert all(expected[step] == values for step, values in train.items())
    assert [step for step, name, _ in sparse if name == "validation"] == [6, 12]
    assert [step for step, _, _ in sparse] == sorted(step for step, _, _ in sparse)


def test_the_key_of_a_step_differs_from_its_neighbours_and_from_another_seed(line, single):
    task, _ = line
    fixed = task._replace(batch=lambda step: task.batch(0), evaluators={})

    def losses(seed):
        seen = []
        fit(fixed, optax.sgd(0.0), Plan(3, 1), seed=seed, mesh=single, write=lambda *e: seen.append(e[2]))
        return [values["loss"] for values in seen]

    assert len(set(losses(0))) == 3  # the same batch and weights, and other noise at every step
    assert losses(0) == losses(0) != losses(1)


def test_training_on_eight_devices_equals_training_on_one(line, single):
    task, _ = line
    one = fit(task, ADAM, Plan(30), mesh=single)
    eight = fit(task, ADAM, Plan(30), mesh=sharding.mesh())
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_batch_that_the_devices_cannot_divide_is_refused_with_sizes_that_can(line):
    task, _ = line
    odd = task._replace(batch=lambda step: {"x": np.ones((12, 3), np.float32), "y": np.ones(12, np.float32)})
    with pytest.raises(ValueError, match="batch of 12 cannot be divided among 8 devices.*8 or 16"):
        fit(odd, ADAM, Plan(1))


def test_resuming_equals_never_having_stopped_bit_for_bit(line, single, tmp_path):
    task, _ = line
    seen = {"whole": [], "parts": []}
    whole = fit(task, ADAM, Plan(30, 5), mesh=single, write=lambda *e: seen["whole"].append(e))
    for steps in (13, 30):
        fit(
            task,
            ADAM,
            Plan(steps, 5),
            mesh=single,
            workdir=tmp_path,
            write=lambda *e: seen["parts"].append(e),
        )
    resumed = fit(task, ADAM, Plan(30), mesh=single, workdir=tmp_path)  # nothing left to do
    assert same(whole, resumed)
    assert [e for e in seen["parts"] if e[0] not in (13,)] == seen["whole"]


def scores(found):
    """The score of an evaluation that is best after 9 of 15 steps."""
    return -abs(found["validation"]["step"] - 9)


@pytest.mark.parametrize("stops", [(15,), (4, 15), (9, 12, 15), (10, 15)])
def test_the_best_step_is_the_same_however_often_the_run_was_stopped(stops, line, single, tmp_path):
    task, _ = line
    evaluated = task._replace(evaluators={"validation": lambda v: {"step": float(v.params["step"])}})
    for steps in stops:
        plan = Plan(steps, eval_every=3, save_every=5)
        fit(
            evaluated,
            ADAM,
            plan,
            mesh=single,
            workdir=tmp_path,
            view=lambda state: Variables({"step": state.step}, {}),
            score=scores,
        )
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").glob("[0-9]*"))
    assert kept[0] == 9 and kept[-1] == 15 and len(kept) == 3
    nine = fit(task, ADAM, Plan(9), mesh=single)
    with checkpoint.store(tmp_path) as store:
        layout = sharding.layout(jax.eval_shape(lambda: nine), single)
        assert same(store.restore(layout, best=True), nine)


def test_a_score_that_is_not_a_number_is_never_best(line, single, tmp_path):
    task, _ = line
    plan = Plan(6, eval_every=2, save_every=3)
    fit(task, ADAM, plan, mesh=single, workdir=tmp_path, score=lambda found: math.nan)
    assert checkpoint.scored(tmp_path / "checkpoints") == []


def test_evaluation_sees_the_view_and_the_state_does_not_change(line, single):
    task, _ = line
    seen = []
    looked = task._replace(evaluators={"validation": lambda v: seen.append(v) or {}})
    plain = fit(task, ADAM, Plan(4), mesh=single)
    other = Variables({"another": jnp.ones(2)}, {})
    viewed = fit(looked, ADAM, Plan(4), mesh=single, view=lambda state: other)
    assert len(seen) == 1 and same(seen[0], other) and same(plain, viewed)


def test_a_run_that_is_beyond_its_plan_is_refused(line, single, tmp_path):
    task, _ = line
    fit(task, ADAM, Plan(5), mesh=single, workdir=tmp_path)
    with pytest.raises(ValueError, match="at step 5 already, beyond the 3 steps"):
        fit(task, ADAM, Plan(3), mesh=single, workdir=tmp_path)


def digits_task(name, **settings):
    """The task of a model of images on embedded digits."""
    batch = pipeline.batches(sources.digits().splits["train"], 32, seed=0)
    model = MODELS[name](num_classes=10, **settings)

    def init(key):
        return model.init(key, jnp.zeros((1, 8, 8, 1)))

    def loss(variables, batch, key):
        logits, state = model.apply(variables, batch["image"] / 16, key=key)
        each = losses.softmax_cross_entropy(logits, batch["label"])
        return each.mean(), (state, {"loss": metrics.mean(each)})

    return Task(init, loss, batch)


def numbers(task, mesh, plan, **options):
    """Returns the state at the end and what was written."""
    seen = []
    return fit(task, ADAM, plan, mesh=mesh, write=lambda *entry: seen.append(entry), **options), seen


def test_several_steps_a_call_change_no_bit_of_what_is_learned_and_written(single):
    task = digits_task("mlp", hidden=(16, 16), dropout=0.3)
    one = numbers(task, single, Plan(31, log_every=6, save_every=10))
    for size in (4, 20, 100):
        several = numbers(task, single, Plan(31, log_every=6, save_every=10, steps_per_call=size))
        assert same(one[0], several[0]) and one[1] == several[1], size


def test_several_steps_a_call_of_a_convolutional_network(single):
    """Bit for bit the same however the calls are cut, and equal to single steps up to rounding.

    XLA on a CPU brings a convolution's gradient into another form where it is not in a loop.
    """
    task = digits_task("convnet", widths=(4, 8), depth=1, dropout=0.3)
    one = numbers(task, single, Plan(12, log_every=4))
    cut = [numbers(task, single, Plan(12, log_every=every, steps_per_call=5)) for every in (4, 6)]
    assert same(cut[0][0], cut[1][0]) and "batch_stats" in cut[0][0].variables.state
    for a, b in zip(jax.tree.leaves(one[0]), jax.tree.leaves(cut[0][0]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_a_call_ends_where_an_event_is_due():
    plan = Plan(23, log_every=5, eval_every=10, save_every=0, steps_per_call=4)
    ends, done = [], 0
    while done < plan.steps:
        done = plan.until(done)
        ends.append(done)
    assert ends == [4, 5, 9, 10, 14, 15, 19, 20, 23]
    assert plan.until(7) == 10 and Plan(9).until(3) == 4


def test_events_see_their_own_step_whatever_the_calls(line, single):
    task, _ = line
    plan = Plan(12, 4, 6, 5)
    one, several = (numbers(task, single, plan._replace(steps_per_call=size)) for size in (1, 7))
    assert same(one[0], several[0]) and one[1] == several[1]


def test_calls_of_any_length_are_one_program(line, single):
    task, traces = line
    fit(task, ADAM, Plan(40, 7, 11, 13), mesh=single)
    once = len(traces)
    fit(task, ADAM, Plan(40, 7, 11, 13, steps_per_call=9), mesh=single)
    assert len(traces) - once <= 3  # the shapes of what is reported, and the body of the loop


def test_resuming_within_a_call_changes_no_bit(line, single, tmp_path):
    task, _ = line
    plan = Plan(30, 10, steps_per_call=8)
    whole, _ = numbers(task, single, plan)
    for steps in (13, 30):
        parts, _ = numbers(task, single, plan._replace(steps=steps), workdir=tmp_path)
    assert same(whole, parts)


def test_eight_devices_take_several_steps_a_call_as_one_does(line, single):
    task, _ = line
    plan = Plan(20, steps_per_call=6)
    one, eight = fit(task, ADAM, plan, mesh=single), fit(task, ADAM, plan, mesh=sharding.mesh())
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_call_of_no_step_is_refused(line, single):
    task, _ = line
    with pytest.raises(ValueError, match="steps_per_call is 0; a call has at least 1 step"):
        fit(task, ADAM, Plan(3, steps_per_call=0), mesh=single)


@pytest.mark.parametrize("size", [1, 4])
def test_a_run_that_is_told_to_stop_saves_that_step_and_goes_on_from_it(size, line, single, tmp_path):
    task, _ = line
    plan = Plan(20, 5, 10, 10, steps_per_call=size)
    whole, numbers_whole = numbers(task, single, plan)
    asked, seen = [], []

    def stop():
        asked.append(1)
        return len(asked) == 3

    with pytest.raises(Stopped, match="stopped at step") as stopped:
        fit(task, ADAM, plan, mesh=single, workdir=tmp_path, stop=stop, write=lambda *e: seen.append(e))
    assert stopped.value.step == (3 if size == 1 else 9) and len(asked) == 3
    assert sorted(p.name for p in (tmp_path / "checkpoints").glob("[0-9]*")) == [str(stopped.value.step)]
    parts = fit(task, ADAM, plan, mesh=single, workdir=tmp_path, write=lambda *e: seen.append(e))
    assert same(whole, parts) and seen == numbers_whole


def poisoned(task, *steps):
    """The task with a target that is not a number in the batches of these steps, counted from 1."""

    def batch(step):
        found = task.batch(step)
        return found | {"y": found["y"] * np.float32(np.nan)} if step + 1 in steps else found

    return task._replace(batch=batch, evaluators={})


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("step", [1, 12, 20])
def test_the_first_step_that_is_not_finite_is_named_and_nothing_of_it_saved(
    step, size, line, single, tmp_path
):
    plan, seen = Plan(20, save_every=6, log_every=4, steps_per_call=size), []
    message = rf"^grad_norm is nan, loss is nan at step {step}: .*task\.batch\({step - 1}\)"
    with pytest.raises(NonFiniteError, match=message):
        fit(
            poisoned(line[0], step),
            ADAM,
            plan,
            mesh=single,
            workdir=tmp_path,
            write=lambda *e: seen.append(e),
        )
    assert all(written < step for written, _, _ in seen)
    kept = [int(p.name) for p in (tmp_path / "checkpoints").glob("[0-9]*")]
    assert max(kept, default=0) == (step - 1) // 6 * 6


def test_a_loss_that_is_infinite_stops_though_its_gradient_is_finite(line, single):
    def loss(variables, batch, key):
        found, (state, report) = line[0].loss(variables, batch, key)
        return found, (
            state,
            report | {"penalty": Mean(jnp.where(report["loss"].total > 0, jnp.inf, 0.0), 1.0)},
        )

    with pytest.raises(NonFiniteError, match="^penalty is inf at step 1:"):
        fit(line[0]._replace(loss=loss), ADAM, Plan(3), mesh=single)


def skips(most, **spec):
    """Adam that leaves out up to `most` steps in a row that are not finite."""
    return optimizers.make(
        {"name": "adam", "skip_nonfinite": most} | spec, {"name": "constant", "peak": 0.01}, 20
    )


@pytest.mark.parametrize("size", [1, 5])
def test_steps_that_are_not_finite_are_left_out_and_counted(size, line, single, tmp_path):
    """The weights, the moments and the model's state are as they were; an undisturbed neighbour shows it."""

    def loss(variables, batch, key):  # with a state that a step of NaN would spoil
        found, (_, report) = line[0].loss(variables, batch, key)
        return found, ({"seen": variables.state["seen"] + batch["y"].sum()}, report)

    def init(key):
        return Variables(line[0].init(key).params, {"seen": jnp.zeros(())})

    task = line[0]._replace(loss=loss, init=init)
    plan = Plan(9, log_every=1, steps_per_call=size)
    sick, seen = poisoned(task, 4, 5, 8), []
    state = fit(sick, skips(2), plan, mesh=single, write=lambda *e: seen.append(e[2]))
    assert np.isfinite(optax.tree.norm(state.variables))
    assert [values["skipped"] for values in seen] == [0, 0, 0, 1, 2, 2, 2, 3, 3]
    before, after = (fit(sick, skips(2), Plan(steps), mesh=single) for steps in (3, 5))
    assert same(before.variables, after.variables) and same(before.opt_state.inner, after.opt_state.inner)
    assert int(after.step) == 5
    for steps in (4, 9):  # stopped between two steps that are left out
        resumed = fit(sick, skips(2), plan._replace(steps=steps), mesh=single, workdir=tmp_path)
    assert same(resumed, state)


@pytest.mark.parametrize("spec", [{}, {"freeze": "^b$", "accumulate": 2, "average": 0.9}])
def test_more_in_a_row_than_allowed_stop_the_run(spec, line, single):
    fit(poisoned(line[0], 3, 4, 6, 7), skips(2, **spec), Plan(10), mesh=single)
    with pytest.raises(
        NonFiniteError, match=r"loss is nan at step 5, one more in a row than optimizer.skip_n"
    ):
        fit(poisoned(line[0], 3, 4, 5), skips(2, **spec), Plan(10), mesh=single)


def test_an_optimizer_that_could_skip_learns_the_same_where_nothing_is_skipped(line, single):
    plain, able = (fit(line[0], skips(most), Plan(20), mesh=single) for most in (0, 3))
    assert same(plain.variables, able.variables)
