"""Optimizers against optax's own and against steps computed by hand in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from dlx import optimizers
from dlx.core import TrainState, Variables

RATE = 0.125
CONSTANT = {"name": "constant", "peak": RATE}


def parameters(dtype=jnp.float32):
    generator = np.random.default_rng(0)
    tree = {
        "Dense_0": {"kernel": generator.normal(size=(3, 4)), "bias": generator.normal(size=4)},
        "LayerNorm_0": {"scale": generator.normal(size=4)},
        "head": {"kernel": generator.normal(size=(4, 2)), "bias": generator.normal(size=2)},
    }
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def gradients(params, step):
    """Some gradient that depends on the parameters and on the step."""
    return jax.tree.map(lambda leaf: jnp.sin((3 + step) * leaf + step), params)


def train(optimizer, steps, params=None, gradient=gradients):
    params = parameters() if params is None else params
    state = optimizer.init(params)

    @jax.jit
    def update(params, state, step):
        updates, state = optimizer.update(gradient(params, step), state, params)
        return optax.apply_updates(params, updates), state

    for step in range(steps):
        params, state = update(params, state, step)
    return params, state


def make(spec, schedule=None, steps=100):
    return optimizers.make(spec, schedule or CONSTANT, steps)


def assert_close(first, second, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, atol), first, second)


def assert_same(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


# Schedules.


def rate(spec, step, steps=100):
    return float(jax.jit(optimizers.schedule(spec, steps))(step))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"name": "constant"}, {0: 1, 99: 1, 1000: 1}),
        ({"name": "constant", "warmup": 10}, {0: 0, 5: 0.5, 10: 1, 99: 1}),
        ({"name": "cosine"}, {0: 1, 50: 0.5, 25: (1 + np.sqrt(0.5)) / 2, 100: 0, 1000: 0}),
        ({"name": "cosine", "warmup": 20, "final": 0.1}, {0: 0, 10: 0.5, 20: 1, 60: 0.55, 100: 0.1}),
        ({"name": "linear"}, {0: 1, 25: 0.75, 100: 0, 1000: 0}),
        ({"name": "linear", "warmup": 50, "final": 0.2}, {0: 0, 25: 0.5, 50: 1, 75: 0.6, 100: 0.2}),
        ({"name": "step", "boundaries": [30, 60]}, {0: 1, 29: 1, 30: 0.1, 59: 0.1, 60: 0.01, 99: 0.01}),
        (
            {"name": "step", "boundaries": [30], "factor": 0.5, "warmup": 10},
            {0: 0, 5: 0.5, 10: 1, 29: 1, 30: 0.5},
        ),
        ({"name": "rsqrt"}, {0: 1, 3: 0.5, 99: 0.1}),
        ({"name": "rsqrt", "warmup": 25}, {0: 0, 5: 0.2, 25: 1, 100: 0.5}),  # = min(t / w, sqrt(w / t))
        ({"name": "rsqrt", "warmup": 10, "timescale": 30}, {0: 0, 10: 1, 100: 0.5}),
        ({"name": "one_cycle"}, {0: 0.04, 15: 0.52, 30: 1, 65: 0.5, 100: 0.000004}),
        (
            {"name": "one_cycle", "rise": 0.5, "initial": 0.5, "final": 0.5},
            {0: 0.5, 25: 0.75, 50: 1, 75: 0.75},
        ),
    ],
    ids=str,
)
def test_a_schedule_has_these_values(spec, expected):
    for step, value in expected.items():
        assert rate(spec | {"peak": 3.0}, step) == pytest.approx(3 * value, rel=1e-4, abs=1e-6)


def test_one_cycle_is_optaxs():
    theirs = optax.cosine_onecycle_schedule(200, 0.7, 0.25, 10.0, 100.0)
    spec = {"name": "one_cycle", "peak": 0.7, "rise": 0.25, "initial": 1 / 10, "final": 1 / 1000}
    ours = optimizers.schedule(spec, 200)
    np.testing.assert_allclose([ours(i) for i in range(201)], [theirs(i) for i in range(201)], rtol=1e-4)


@given(
    st.sampled_from(sorted(optimizers.SCHEDULES)),
    st.floats(1e-6, 10),
    st.integers(1, 40),
    st.floats(0, 1),
    st.integers(0, 60),
)
@settings(max_examples=60, deadline=None)
def test_a_rate_is_always_between_zero_and_the_peak(name, peak, steps, part, step):
    spec = {"name": name, "peak": peak, "warmup": int(part * steps), "boundaries": [int(part * steps) + 3]}
    taken = {"one_cycle": ["name", "peak"], "step": list(spec)}.get(name, ["name", "peak", "warmup"])
    value = float(optimizers.schedule({key: spec[key] for key in taken}, steps)(step))
    assert 0 <= value <= peak * (1 + 1e-6)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"peak": 1.0}, "has no name; choose one of .*'cosine'"),
        ({"name": "cosin", "peak": 1.0}, "unknown schedule 'cosin', did you mean 'cosine'?"),
        ({"name": "cosine"}, r"lacks \['peak'\]"),
        ({"name": "step", "peak": 1.0}, r"lacks \['boundaries'\]"),
        ({"name": "cosine", "peak": 1.0, "warm_up": 3}, "'cosine' has no 'warm_up', did you mean 'warmup'?"),
        ({"name": "one_cycle", "peak": 1.0, "warmup": 3}, "'one_cycle' has no 'warmup'.*'rise'"),
        ({"name": "constant", "peak": 1.0, "steps": 3}, "'constant' has no 'steps'"),
        ({"name": "linear", "peak": 0.0}, "peak must be a number above 0, not 0.0"),
        ({"name": "linear", "peak": -1.0}, "peak must be a number above 0, not -1.0"),
        ({"name": "linear", "peak": float("nan")}, "peak must be a number above 0, not nan"),
        ({"name": "one_cycle", "peak": -1.0}, "peak must be"),
        (
            {"name": "rsqrt", "peak": 1.0, "warmup": 101},
            "warmup of 101 steps is longer than training, which has 100",
        ),
        ({"name": "linear", "peak": 1.0, "warmup": -1}, "warmup must be an integer at least 0, not -1"),
        ({"name": "cosine", "peak": 1.0, "final": -1}, "final must be a number at least 0, not -1"),
        ({"name": "step", "peak": 1.0, "boundaries": [5, 3]}, r"boundaries must grow .* not \[5, 3\]"),
        ({"name": "step", "peak": 1.0, "boundaries": [5], "warmup": 5}, "come after the warm-up of 5"),
        ({"name": "step", "peak": 1.0, "boundaries": [5], "factor": 0}, "factor must be a number above 0"),
        (
            {"name": "one_cycle", "peak": 1.0, "rise": 1.0},
            "rise must be a number above 0 and below 1, not 1.0",
        ),
        ({"name": "rsqrt", "peak": 1.0, "timescale": 0}, "timescale must be a number above 0"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_schedule_that_makes_no_sense_is_named(spec, message):
    with pytest.raises(ValueError, match=message):
        optimizers.schedule(spec, 100)


# Optimizers by name.


def by_hand(steps, momentum=0.0, nesterov=False, l2=0.0):
    """Gradient descent in numpy, after Sutskever et al. 2013 in the form that PyTorch uses."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), parameters())
    velocity = jax.tree.map(np.zeros_like, params)
    for step in range(steps):
        gradient = jax.tree.map(lambda leaf, step=step: np.sin((3 + step) * leaf + step) + l2 * leaf, params)
        velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, gradient)
        direction = jax.tree.map(lambda v, g: momentum * v + g, velocity, gradient) if nesterov else velocity
        params = jax.tree.map(lambda p, d: p - RATE * d, params, direction)
    return params


@pytest.mark.parametrize(
    ("spec", "hand"),
    [
        ({"name": "sgd"}, {}),
        ({"name": "sgd", "l2": 0.1, "decay_exclude": []}, {"l2": 0.1}),
        ({"name": "momentum"}, {"momentum": 0.9}),
        ({"name": "momentum", "momentum": 0.5}, {"momentum": 0.5}),
        ({"name": "nesterov"}, {"momentum": 0.9, "nesterov": True}),
        (
            {"name": "nesterov", "l2": 0.1, "decay_exclude": []},
            {"momentum": 0.9, "nesterov": True, "l2": 0.1},
        ),
    ],
    ids=str,
)
def test_descent_is_that_by_hand(spec, hand):
    assert_close(train(make(spec), 5)[0], by_hand(5, **hand), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "reference"),
    [
        ({"name": "adam", "b2": 0.95}, optax.adam(RATE, b2=0.95)),
        ({"name": "adamw", "b1": 0.8, "decay_exclude": []}, optax.adamw(RATE, b1=0.8)),
        ({"name": "adam", "weight_decay": 0.3, "decay_exclude": []}, optax.adamw(RATE, weight_decay=0.3)),
        ({"name": "lion", "decay_exclude": []}, optax.lion(RATE)),
        ({"name": "nadamw", "decay_exclude": []}, optax.nadamw(RATE)),
        (
            {"name": "muon", "weight_decay": 0.1, "decay_exclude": ["bias|scale"]},
            optax.contrib.muon(RATE, weight_decay=0.1),
        ),
        (
            {"name": "rmsprop", "centered": True, "clip": 0.5},
            optax.chain(optax.clip_by_global_norm(0.5), optax.rmsprop(RATE, centered=True)),
        ),
        ({"name": "sgd", "clip_value": 0.1}, optax.chain(optax.clip(0.1), optax.sgd(RATE))),
    ],
    ids=lambda value: value.get("name") if isinstance(value, dict) else "",
)
def test_a_spec_is_the_chain_of_optax(spec, reference):
    assert_close(train(make(spec), 4)[0], train(reference, 4)[0], rtol=1e-4, atol=1e-5)


def test_a_decay_follows_the_schedule():
    schedule = {"name": "cosine", "peak": 0.1, "warmup": 2}
    ours = make({"name": "adam", "weight_decay": 0.3, "decay_exclude": []}, schedule, 6)
    theirs = optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 0.1, 2, 6), weight_decay=0.3)
    assert_close(train(ours, 6)[0], train(theirs, 6)[0], rtol=1e-4)


@pytest.mark.parametrize("name", sorted(optimizers.OPTIMIZERS))
def test_every_optimizer_lowers_a_quadratic(name):
    peak = {"adadelta": 3.0, "lars": 0.1, "sgd": 0.1, "optimistic": 0.1}.get(name, 0.03)
    optimizer = make(
        {"name": name} | ({"trust_coefficient": 0.1} if name == "lars" else {}),
        {"name": "cosine", "peak": peak, "warmup": 5},
        60,
    )

    def gradient(params, step):
        return jax.tree.map(lambda leaf: leaf - 0.5, params)

    def loss(params):
        return sum(jnp.sum((leaf - 0.5) ** 2) for leaf in jax.tree.leaves(params))

    assert loss(train(optimizer, 60, gradient=gradient)[0]) < 0.8 * loss(parameters())


@pytest.mark.parametrize("name", sorted(set(optimizers.OPTIMIZERS) - {"yogi"}))  # its moments start at 1e-6
def test_no_optimizer_decays_of_its_own(name):
    optimizer = make({"name": name, "weight_decay": 0.0})
    before = parameters()
    after, _ = train(optimizer, 2, gradient=lambda params, step: jax.tree.map(jnp.zeros_like, params))
    assert changed(before, after) == set()


def described(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), tree)


@pytest.mark.parametrize("name", sorted(optimizers.OPTIMIZERS))
def test_no_dtype_changes_in_training(name):
    """A schedule or a decay that promotes would compile anew, and would not restore."""
    spec = {"name": name, "weight_decay": 0.1, "l2": 0.1, "clip": 1.0, "clip_value": 1.0, "average": 0.9}
    spec |= {"accumulate": 2, "skip_nonfinite": 3, "freeze": "head"}
    spec |= {"rates": {"bias": 0.5}, "unfreeze": {"kernel": 2}}
    for options in (spec, {"name": name, "weight_decay": 0.1, "l2": 0.1, "clip": 1.0}):
        optimizer = make(options, {"name": "cosine", "peak": 0.1, "warmup": 5})
        params = parameters(jnp.bfloat16)
        state = jax.eval_shape(optimizer.init, params)
        updates, after = jax.eval_shape(optimizer.update, params, state, params)
        assert described(after) == described(state)
        assert described(updates) == described(params)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "has no name; choose one of .*'adamw'"),
        ({"name": "adamm"}, "unknown optimizer 'adamm', did you mean 'adam"),
        ({"name": 3}, "unknown optimizer 3; choose one of"),
        ({"name": "adam", "beta2": 0.9}, "'adam' has no 'beta2'.*'b2'"),
        ({"name": "adam", "weightdecay": 0.9}, "'adam' has no 'weightdecay', did you mean 'weight_decay'?"),
        ({"name": "adam", "learning_rate": 0.9}, "'adam' has no 'learning_rate'"),
        ({"name": "adamw", "mask": None}, "'adamw' has no 'mask'"),
        ({"name": "adam", "weight_decay": -0.1}, "weight_decay must be a number at least 0, not -0.1"),
        ({"name": "adam", "l2": -0.1}, "l2 must be a number at least 0, not -0.1"),
        ({"name": "adam", "clip": 0}, "clip must be a number above 0, not 0"),
        ({"name": "adam", "clip_value": -1}, "clip_value must be a number above 0, not -1"),
        ({"name": "adam", "accumulate": 0}, "accumulate must be an integer at least 1, not 0"),
        ({"name": "adam", "average": 1.0}, "average must be a number above 0 and below 1, not 1.0"),
        ({"name": "adam", "skip_nonfinite": -1}, "skip_nonfinite must be an integer at least 0, not -1"),
        ({"name": "adam", "skip_nonfinite": True}, "skip_nonfinite must be an integer at least 0, not True"),
        ({"name": "adam", "b1": 1.0}, "b1 must be a number at least 0 and below 1, not 1.0"),
        ({"name": "momentum", "momentum": 9}, "momentum must be a number at least 0 and below 1, not 9"),
        ({"name": "adam", "freeze": "(head"}, r"freeze holds '\(head', no regular expression"),
        ({"name": "adam", "rates": {"(head": 1}}, r"rates holds '\(head', no regular expression"),
        ({"name": "adam", "rates": {"head": -1}}, r"rates\['head'\] must be a number at least 0, not -1"),
        ({"name": "adam", "unfreeze": {"head": 0.5}}, r"unfreeze\['head'\] must be an integer .*, not 0.5"),
    ],
    ids=str,
)
def test_an_optimizer_that_makes_no_sense_is_named(spec, message):
    with pytest.raises(ValueError, match=message):
        make(spec)


def test_a_value_of_the_wrong_type_is_named():
    for option, wrong in {"weight_decay": "0.1", "accumulate": 2.0, "average": "0.9", "clip": []}.items():
        with pytest.raises(Exception, match=option):
            make({"name": "adam", option: wrong})
    for option, wrong in {"peak": "0.1", "warmup": 0.5}.items():
        with pytest.raises(Exception, match=option):
            optimizers.schedule(CONSTANT | {option: wrong}, 100)


def test_a_config_dict_will_do():
    spec = ConfigDict({"name": "adam", "freeze": ["head"], "b2": 0.9, "rates": {"bias": 0.5}})
    params = parameters()
    after = train(make(spec, ConfigDict(CONSTANT)), 1)[0]
    assert_same(after["head"], params["head"])


# What is done around them.


def changed(before, after):
    paths = jax.tree_util.tree_leaves_with_path(
        jax.tree.map(lambda a, b: bool((a != b).any()), before, after)
    )
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path, moved in paths if moved}


@pytest.mark.parametrize("option", ["weight_decay", "l2"])
@pytest.mark.parametrize(
    ("exclude", "decays"),
    [
        (None, {"Dense_0/kernel", "head/kernel"}),
        ([], {"Dense_0/kernel", "Dense_0/bias", "LayerNorm_0/scale", "head/kernel", "head/bias"}),
        ("bias$", {"Dense_0/kernel", "LayerNorm_0/scale", "head/kernel"}),
        (["head", "^Dense_0/bias"], {"Dense_0/kernel", "LayerNorm_0/scale"}),
    ],
    ids=["default", "nothing", "a name", "two"],  # sets have no order, so no name either
)
def test_decay_touches_what_no_pattern_excludes(option, exclude, decays):
    spec = {"name": "sgd", option: 0.1, "decay_exclude": exclude}
    before = parameters()
    after = train(make(spec), 1, gradient=lambda params, step: jax.tree.map(jnp.zeros_like, params))[0]
    assert changed(before, after) == decays
    shrunk = jax.tree.map(lambda leaf: leaf * (1 - RATE * 0.1), before)
    assert_close(after["Dense_0"]["kernel"], shrunk["Dense_0"]["kernel"])


def test_the_biases_of_stacked_layers_do_not_decay():
    params = {"layers": {"Dense_0": {"kernel": jnp.ones((2, 3, 3)), "bias": jnp.ones((2, 3))}}}
    spec = {"name": "sgd", "weight_decay": 0.1}
    after = train(make(spec), 1, params, lambda params, step: jax.tree.map(jnp.zeros_like, params))[0]
    assert changed(params, after) == {"layers/Dense_0/kernel"}


@pytest.mark.parametrize("option", ["freeze", "decay_exclude", "rates", "unfreeze"])
def test_a_pattern_that_finds_nothing_is_named(option):
    patterns = ["head", "Dense_1/kernel"]
    mapped = dict.fromkeys(patterns, 0)
    optimizer = make({"name": "adam", option: mapped if option in ("rates", "unfreeze") else patterns})
    with pytest.raises(
        ValueError, match=f"{option} pattern 'Dense_1/kernel' finds no parameter; there are .*Dense_0/kernel"
    ):
        optimizer.init(parameters())
    with pytest.raises(ValueError, match=option):
        jax.eval_shape(optimizer.init, parameters())


def test_frozen_parameters_do_not_move_and_the_optimizer_holds_nothing_for_them():
    spec = {
        "name": "adam",
        "weight_decay": 0.1,
        "l2": 0.1,
        "average": 0.9,
        "accumulate": 2,
        "skip_nonfinite": 1,
    }
    before = parameters()

    def gradient(params, step):
        return gradients(params, step) | {
            "Dense_0": jax.tree.map(lambda leaf: leaf * jnp.nan, params["Dense_0"])
        }

    after, state = train(make(spec | {"freeze": "^Dense"}), 6, gradient=gradient)
    assert changed(before, after) == {"LayerNorm_0/scale", "head/kernel", "head/bias"}
    assert (3, 4) not in [leaf.shape for leaf in jax.tree.leaves(state)]  # Dense_0/kernel
    assert (4, 2) in [leaf.shape for leaf in jax.tree.leaves(state)]
    without = {name: leaf for name, leaf in before.items() if name != "Dense_0"}
    assert_same(after | {"Dense_0": None}, train(make(spec), 6, without)[0] | {"Dense_0": None})


@pytest.mark.parametrize(
    "options", [{"freeze": "."}, {"rates": {".": 0}}, {"freeze": "k", "rates": {"[^k]$": 0}}]
)
def test_freezing_everything_is_an_error(options):
    with pytest.raises(ValueError, match="freeze finds all 5 parameters"):
        make({"name": "adam"} | options).init(parameters())


@pytest.mark.parametrize("name", ["sgd", "momentum", "adamw", "lion"])
def test_a_rate_is_that_of_an_optimizer_with_this_learning_rate(name):
    """Each parameter against one trained alone, at the product of the factors that find it."""
    spec = {"name": name, "weight_decay": 0.1, "decay_exclude": []}
    after, _ = train(make(spec | {"rates": {"^Dense": 0.5, "kernel": 0.25}}), 5)
    factors = {"Dense_0/kernel": 0.125, "Dense_0/bias": 0.5, "head/kernel": 0.25}
    for layer, leaves in parameters().items():
        for leaf in leaves:
            factor = factors.get(f"{layer}/{leaf}", 1)
            alone = make(spec, {"name": "constant", "peak": RATE * factor})
            expected, _ = train(alone, 5, {layer: {leaf: leaves[leaf]}})
            assert_close(after[layer][leaf], expected[layer][leaf])


def test_a_rate_of_zero_freezes():
    rates, state = train(make({"name": "adam", "rates": {"^Dense": 0, "head": 0.5}}), 4)
    frozen, held = train(make({"name": "adam", "freeze": "^Dense", "rates": {"head": 0.5}}), 4)
    assert_same(rates, frozen)
    assert_same(rates["Dense_0"], parameters()["Dense_0"])
    assert jax.tree.structure(state) == jax.tree.structure(held)


def test_a_parameter_rests_until_its_step_then_moves_by_moments_that_ran():
    """Against momentum by hand in numpy, where the velocity runs from the first step."""
    after = [
        train(make({"name": "momentum", "unfreeze": {"^Dense": 2, "Dense_0/bias": 3}}), n)[0]
        for n in range(6)
    ]
    for layer, leaf, start in (("Dense_0", "kernel", 2), ("Dense_0", "bias", 3), ("head", "kernel", 0)):
        weights = np.asarray(parameters()[layer][leaf], np.float64)
        velocity = np.zeros_like(weights)
        for step in range(5):
            velocity = 0.9 * velocity + np.sin((3 + step) * weights + step)
            weights = weights - RATE * velocity * (step >= start)
            np.testing.assert_allclose(after[step + 1][layer][leaf], weights, rtol=1e-4, atol=1e-5)
    assert_same(after[2]["Dense_0"], parameters()["Dense_0"])
    assert changed(after[2], after[3]) >= {"Dense_0/kernel"} and "Dense_0/bias" not in changed(
        after[2], after[3]
    )


def test_unfreezing_counts_steps_not_updates():
    spec = {"name": "adamw", "weight_decay": 0.1, "accumulate": 2, "unfreeze": {"head": 4}}
    before = parameters()
    assert changed(before, train(make(spec), 5)[0]) & {"head/kernel", "head/bias"} == set()
    assert changed(before, train(make(spec), 6)[0]) >= {"head/kernel", "head/bias"}


def test_training_on_from_a_state_is_training_through_whatever_is_done_by_path():
    spec = {
        "name": "adamw",
        "rates": {"Dense": 0.3},
        "unfreeze": {"head": 3},
        "freeze": "scale",
        "average": 0.9,
    }
    optimizer = make(spec, {"name": "cosine", "peak": 0.1, "warmup": 2})

    @jax.jit
    def update(params, state, step):
        updates, state = optimizer.update(gradients(params, step), state, params)
        return optax.apply_updates(params, updates), state

    def go(params, state, steps):
        for step in steps:
            params, state = update(params, state, step)
        return jax.device_get((params, state))

    start = (parameters(), optimizer.init(parameters()))
    for stop in (2, 3, 4):
        assert_same(go(*go(*start, range(stop)), range(stop, 7)), go(*start, range(7)))


def test_the_norm_is_clipped_to_the_bound_and_only_down():
    params = parameters()
    for scale, expected in ((100.0, 0.5), (1e-3, None)):
        optimizer = make({"name": "sgd", "clip": 0.5})
        gradient = jax.tree.map(lambda leaf, scale=scale: scale * leaf, params)
        updates, _ = optimizer.update(gradient, optimizer.init(params), params)
        norm = RATE * float(expected or optax.tree.norm(gradient))
        assert float(optax.tree.norm(updates)) == pytest.approx(norm, rel=1e-5)


def test_accumulated_quarters_are_one_large_batch():
    generator = np.random.default_rng(0)
    inputs, targets = generator.normal(size=(12, 8, 3)), generator.normal(size=(12, 8, 4))
    inputs, targets = jnp.float32(inputs), jnp.float32(targets)

    def on(inputs, targets):
        def loss(params):
            dense = params["Dense_0"]
            return jnp.mean((inputs @ dense["kernel"] + dense["bias"] - targets) ** 2)

        return jax.grad(loss)

    schedule = {"name": "linear", "peak": 0.5}
    options = {"weight_decay": 0.1, "clip": 0.3, "average": 0.5}
    many, many_state = train(
        make({"name": "sgd", "accumulate": 4} | options, schedule, 12),
        12,
        gradient=lambda params, step: on(inputs[step], targets[step])(params),
    )
    large = inputs.reshape(3, 32, 3), targets.reshape(3, 32, 4)
    one, one_state = train(
        make({"name": "sgd"} | options, schedule, 3),  # the rate at update i is that at step 4 i
        3,
        gradient=lambda params, step: on(large[0][step], large[1][step])(params),
    )
    assert_close(many, one)
    averages = [
        optimizers.averaged(TrainState(jnp.int32(0), Variables(p, {}), s)).params
        for p, s in ((many, many_state), (one, one_state))
    ]
    assert_close(*averages)
    assert changed(many, averages[0])


def test_nothing_moves_before_the_last_of_the_accumulated_steps():
    before = parameters()
    optimizer = make({"name": "adamw", "accumulate": 4, "weight_decay": 0.1})
    assert_same(train(optimizer, 3)[0], before)
    assert changed(before, train(optimizer, 4)[0])


def state_of(params, opt_state):
    return TrainState(jnp.int32(0), Variables(params, {"batch_stats": jnp.ones(2)}), opt_state)


WRAPPED = [
    {},
    {"accumulate": 2},
    {"skip_nonfinite": 2},
    {"freeze": "head"},
    {"accumulate": 2, "skip_nonfinite": 2, "freeze": "head", "clip": 1.0, "weight_decay": 0.1},
]


@pytest.mark.parametrize("options", WRAPPED, ids=str)
def test_the_average_is_that_by_hand(options):
    optimizer = make({"name": "adam", "average": 0.8} | options)
    every = options.get("accumulate", 1)
    weights = [train(optimizer, every * done)[0] for done in range(1, 5)]
    shares = 0.8 ** np.arange(3, -1, -1)
    expected = jax.tree.map(
        lambda *leaves: sum(s * leaf for s, leaf in zip(shares, leaves, strict=True)) / shares.sum(), *weights
    )
    params, opt_state = train(optimizer, every * 4)
    variables = jax.jit(optimizers.averaged)(state_of(params, opt_state))
    assert_close(variables.params, expected, rtol=1e-4)
    assert variables.state["batch_stats"].tolist() == [1, 1]
    assert "Dense_0/kernel" in changed(params, variables.params)
    if "freeze" in options:
        assert_same(variables.params["head"], params["head"])


def test_averaging_changes_no_update():
    plain, average = make({"name": "adam"}), make({"name": "adam", "average": 0.9})
    assert_same(train(plain, 3)[0], train(average, 3)[0])


def test_before_training_the_average_is_the_initial_weights():
    params = parameters(jnp.bfloat16)
    opt_state = make({"name": "adam", "average": 0.9}).init(params)
    found = optimizers.averaged(state_of(params, opt_state)).params
    assert_same(found, params)
    assert found["head"]["bias"].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(opt_state[-1].params)} == {jnp.dtype("float32")}


def test_a_state_without_an_average_is_evaluated_as_it_is():
    params = parameters()
    state = state_of(params, make({"name": "adam"}).init(params))
    assert optimizers.averaged(state) is state.variables
    two = optax.chain(optimizers.averaging(0.9), optimizers.averaging(0.8))
    with pytest.raises(ValueError, match="keeps 2 averages"):
        optimizers.averaged(state_of(params, two.init(params)))


def test_a_state_with_an_average_can_be_donated():
    optimizer = make({"name": "adam", "average": 0.9})
    params = parameters()
    state = optimizer.init(params)

    def step(params, state):
        updates, state = optimizer.update(gradients(params, 0), state, params)
        return optax.apply_updates(params, updates), state

    params, state = jax.jit(step, donate_argnums=(0, 1))(params, state)
    assert np.isfinite(optax.tree.norm(params))


def test_steps_with_a_gradient_of_nan_are_skipped_and_counted_in_a_row():
    def gradient(params, step):
        return jax.tree.map(lambda leaf: jnp.where((step >= 1) & (step <= 3), jnp.nan, leaf), params)

    optimizer = make({"name": "adam", "skip_nonfinite": 2, "average": 0.9, "accumulate": 1})
    first, state = train(optimizer, 1, gradient=gradient)
    third, later = train(optimizer, 3, gradient=gradient)
    assert_same(first, third)
    assert_same(optimizers.averaged(state_of(first, state)), optimizers.averaged(state_of(third, later)))
    lefts = [
        int(optax.tree.get(train(optimizer, n, gradient=gradient)[1], "skips_left")) for n in range(1, 6)
    ]
    assert lefts == [2, 1, 0, -1, 2]  # below 0 the run ends
    assert int(optax.tree.get(train(optimizer, 5, gradient=gradient)[1], "skipped")) == 3
    assert not np.isfinite(optax.tree.norm(train(make({"name": "adam"}), 2, gradient=gradient)[0]))


def test_training_is_deterministic_and_a_state_is_arrays():
    spec = {"name": "muon", "average": 0.9, "accumulate": 2, "freeze": "head/bias", "skip_nonfinite": 1}
    first, second = train(make(spec), 4), train(make(spec), 4)
    assert_same(first, second)
    leaves, structure = jax.tree.flatten(first[1])
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    assert structure == jax.tree.structure(make(spec).init(parameters()))
