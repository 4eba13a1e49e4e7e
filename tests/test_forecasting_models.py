"""Forecasters against the formulas of their papers, PyTorch where that is shorter, and the laws they keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import mean_pinball_loss

from dlx import losses
from dlx.core import Model
from dlx.layers import reversible
from dlx.models import MODELS
from dlx.models.linear_forecast import moving_average
from dlx.models.patchtst import patches
from dlx.models.sequence_forecast import TemporalConvolution, causal

HISTORY, HORIZON, TARGETS, CHANNELS = 24, 6, 2, 3
SIZES = {
    "dlinear": {"kernel": 5},
    "nlinear": {},
    "lstm_forecaster": {"width": 8, "depth": 2, "dropout": 0.2},
    "tcn": {"width": 8, "depth": 2, "dropout": 0.2},
    "patchtst": {"patch": 8, "stride": 4, "width": 8, "depth": 1, "heads": 2, "hidden": 16, "dropout": 0.2},
}


def built(name, key, quantiles=1, **more):
    """A small model with its variables, every one of them moved from where it starts, and an input."""
    model = MODELS[name](TARGETS, HORIZON, quantiles, **SIZES[name] | more)
    x = 5 + jnp.asarray(
        np.random.default_rng(0).normal(size=(4, HISTORY, CHANNELS)).cumsum(axis=1), jnp.float32
    )
    return Model(model.init, jax.jit(model.apply)), moved(jax.jit(model.init)(key, x)), x


def moved(variables):
    """Variables of which none is 0, or 1, because it starts there."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: leaf + np.float32(0.1) * rng.random(leaf.shape, np.float32), variables)


@pytest.mark.parametrize("name", SIZES)
def test_a_forecaster_keeps_the_laws_of_a_model(name):
    model, variables, x = built(name, jax.random.key(0), quantiles=3)
    first, state = model.apply(variables, x)
    assert first.shape == (4, HORIZON, TARGETS, 3) and first.dtype == jnp.float32
    assert jax.tree.all(jax.tree.map(jnp.array_equal, state, variables.state))  # no key: inference
    assert np.allclose(model.apply(variables, x[1:2])[0], first[1:2], atol=1e-4)  # one by one
    noisy, _ = model.apply(variables, x, key=jax.random.key(1))
    assert np.array_equal(noisy, model.apply(variables, x, key=jax.random.key(1))[0])
    assert np.allclose(noisy, first, atol=1e-5) == ("dropout" not in SIZES[name])


@pytest.mark.parametrize("name", ["dlinear", "nlinear", "patchtst"])
def test_channels_are_forecast_each_by_itself_with_the_same_weights(name):
    model, variables, x = built(name, jax.random.key(0))
    plain, _ = model.apply(variables, x)
    other, _ = model.apply(variables, x.at[..., 1:].multiply(3))
    assert np.allclose(plain[:, :, 0], other[:, :, 0], atol=1e-4)
    swapped, _ = model.apply(variables, x[..., [1, 0, 2]])
    assert np.allclose(swapped, plain[:, :, ::-1], atol=1e-4)


@pytest.mark.parametrize("name", ["lstm_forecaster", "tcn"])
def test_covariates_are_seen(name):
    model, variables, x = built(name, jax.random.key(0))
    assert not np.allclose(
        model.apply(variables, x)[0], model.apply(variables, x.at[..., 2].add(1))[0], atol=1e-3
    )


@pytest.mark.parametrize("name", ["nlinear", "patchtst", "lstm_forecaster", "tcn"])
def test_a_level_added_to_the_history_is_added_to_the_forecast(name):
    own = {"reversible": True} if name in ("lstm_forecaster", "tcn") else {}
    model, variables, x = built(name, jax.random.key(0), **own)
    level = jnp.array([100.0, -50.0, 0.0])
    plain, _ = model.apply(variables, x)
    assert np.allclose(model.apply(variables, x + level)[0], plain + level[:2, None], atol=2e-3)
    if own:
        fixed, variables, x = built(name, jax.random.key(0))
        shifted = fixed.apply(variables, x + level)[0] - fixed.apply(variables, x)[0]
        assert not np.allclose(shifted[:, :, 0], 100, atol=1)


# Parity


def test_dlinear_is_the_formula_of_the_paper_and_so_are_its_gradients():
    model, variables, x = built("dlinear", jax.random.key(0), quantiles=2)
    rows = np.clip(np.arange(HISTORY)[:, None] + np.arange(-2, 3), 0, HISTORY - 1)
    pull = np.random.default_rng(2).normal(size=(4, HORIZON, TARGETS, 2)).astype(np.float32)

    def formula(params, x):
        trend = x[:, rows, :TARGETS].mean(axis=2)
        parts = {"trend": trend, "seasonal": x[..., :TARGETS] - trend}
        lines = {name: jnp.einsum("btc,tk->bck", parts[name], w["kernel"]) for name, w in params.items()}
        y = sum(line + params[name]["bias"] for name, line in lines.items())
        return y.reshape(4, TARGETS, HORIZON, 2).swapaxes(1, 2)

    def ours(params, x):
        return model.apply(variables._replace(params=params), x)[0]

    given = variables.params, x
    assert np.allclose(ours(*given), formula(*given), atol=1e-4)
    gradients = [
        jax.grad(lambda params, x, f=f: (f(params, x) * pull).sum(), argnums=(0, 1))(*given)
        for f in (ours, formula)
    ]
    jax.tree.map(lambda mine, plain: np.testing.assert_allclose(mine, plain, atol=2e-4), *gradients)


def test_nlinear_is_the_formula_of_the_paper():
    model, variables, x = built("nlinear", jax.random.key(0))
    x = np.asarray(x, np.float64)[..., :TARGETS]
    weights = variables.params["linear"]
    y = np.einsum("btc,th->bhc", x - x[:, -1:], np.asarray(weights["kernel"]))
    y = y + np.asarray(weights["bias"])[:, None] + x[:, -1:]
    assert np.allclose(model.apply(variables, jnp.asarray(x, jnp.float32))[0][..., 0], y, atol=1e-4)


def tensors(tree):
    """The arrays of nested dicts as tensors."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    return jax.tree.map(lambda leaf: torch.tensor(np.array(leaf)), tree)


def test_patchtst_is_that_of_torch():
    """In PyTorch's words: instance normalisation, unfold, attention that starts at the scores of the layer
    below, batch norm over tokens."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    functional = torch.nn.functional
    model, variables, x = built("patchtst", jax.random.key(0), depth=2)
    params, stats = tensors(variables.params), tensors(variables.state["batch_stats"])
    given = torch.tensor(np.array(x))[..., :TARGETS]
    mean, std = given.mean(1, keepdim=True), torch.sqrt(given.var(1, keepdim=True, unbiased=False) + 1e-5)
    z = ((given - mean) / std).permute(0, 2, 1)  # [b, c, t]
    z = torch.nn.ReplicationPad1d((0, 4))(z).unfold(-1, 8, 4).flatten(0, 1)  # [b c, patches, 8]
    z = z @ params["patches"]["kernel"] + params["patches"]["bias"] + params["positions"]

    def linear(x, weights):
        return x @ weights["kernel"] + weights["bias"]

    def norm(x, name):
        wide, weights = stats[name], params[name]
        flat = x.transpose(1, 2)
        flat = functional.batch_norm(flat, wide["mean"], wide["var"], weights["scale"], weights["bias"])
        return flat.transpose(1, 2)

    scores = torch.zeros(1, 1)
    for layer in range(2):
        weights = params[f"attention_{layer}"]
        query, key, value = (
            part.unflatten(-1, (2, 4)).transpose(1, 2) for part in linear(z, weights["qkv"]).split(8, dim=-1)
        )
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=scores)
        scores = scores + query @ key.transpose(2, 3) / 4**0.5
        z = norm(z + linear(seen.transpose(1, 2).flatten(2), weights["out"]), f"norm_{layer}_1")
        hidden = functional.gelu(linear(z, params[f"dense_{layer}_1"]))
        z = norm(z + linear(hidden, params[f"dense_{layer}_2"]), f"norm_{layer}_2")
    y = linear(z.flatten(1), params["forecast"]).reshape(4, TARGETS, HORIZON).transpose(1, 2) * std + mean
    assert np.allclose(model.apply(variables, x)[0][..., 0], y.numpy(), rtol=1e-4, atol=1e-4)


def test_the_paper_s_patchtst_has_42_patches_and_as_many_parameters_as_its_sum():
    assert patches(jnp.zeros((1, 336)), 16, 8).shape == (1, 42, 16)
    model = MODELS["patchtst"](7, 96)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 336, 7)))
    width, hidden = 16, 128
    layer = 4 * (width * width + width) + 2 * width * hidden + hidden + width + 4 * width
    count = (16 * width + width) + 42 * width + 3 * layer + 96 * (42 * width + 1)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes.params)) == count == 81_728


@pytest.mark.parametrize(("name", "count"), [("dlinear", 64_704), ("nlinear", 32_352)])
def test_the_linear_models_have_the_published_number_of_parameters(name, count):
    model = MODELS[name](7, 96)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 336, 7)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes.params)) == count  # 2 or 1 times 337 * 96


def test_a_block_of_the_tcn_is_that_of_torch():
    """Conv1d with dilation and weight normalisation, padded on the left, twice, and what came in."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    functional = torch.nn.functional
    body = TemporalConvolution(width=5, depth=2, kernel=3, dropout=0.0)
    x = jax.random.normal(jax.random.key(0), (2, 12, 3))
    variables = body.init(jax.random.key(1), x, train=False)
    given = moved(dict(variables))
    params, scales = dict(tensors(given["params"])), {}
    for name in [name for name in params if name.startswith("WeightNorm")]:
        for path, scale in params.pop(name).items():
            scales[path.split("/")[0]] = scale
    z = torch.tensor(np.array(x)).transpose(1, 2)
    for block in range(2):
        y = z
        for half in range(2):
            weights = params[f"convolution_{block}_{half}"]
            matrix = weights["kernel"] / weights["kernel"].norm(dim=0) * scales[f"convolution_{block}_{half}"]
            filters = matrix.reshape(3, -1, 5).permute(2, 1, 0)  # [out, in, place]
            y = functional.pad(y, (2 * 2**block, 0))
            y = torch.relu(functional.conv1d(y, filters, weights["bias"], dilation=2**block))
        if block == 0:
            z = (z.transpose(1, 2) @ params["shortcut_0"]["kernel"] + params["shortcut_0"]["bias"]).transpose(
                1, 2
            )
        z = torch.relu(z + y)
    assert np.allclose(body.apply(given, x, train=False), z.transpose(1, 2).numpy(), atol=1e-5)


# The temporal convolutional network


def test_the_tcn_does_not_see_the_future_and_sees_as_far_back_as_it_says():
    body = TemporalConvolution(width=4, depth=2, kernel=3, dropout=0.0)
    x = jax.random.normal(jax.random.key(0), (1, 30, 2))
    variables = body.init(jax.random.key(1), x, train=False)
    seen = jax.jacobian(lambda x: body.apply(variables, x, train=False)[0].sum(-1))(x)[:, 0]  # [out, in, d]
    matters = np.abs(np.asarray(seen)).max(-1) > 0
    later = np.arange(30)[:, None] - np.arange(30)  # steps from an input to an output
    assert not matters[later < 0].any() and not matters[later >= 13].any()  # 1 + 2 * 2 * 3 steps
    assert matters[(later >= 0) & (later < 13)].mean() > 0.6  # where a ReLU is off, nothing passes


def test_causal_puts_earlier_steps_beside_each():
    found = causal(jnp.arange(1.0, 6)[None, :, None], kernel=3, dilation=2)[0]
    assert found.tolist() == [[0, 0, 1], [0, 0, 2], [0, 1, 3], [0, 2, 4], [1, 3, 5]]


# Layers and losses


def test_reversible_normalisation_goes_there_and_back():
    x = 7 + 3 * jax.random.normal(jax.random.key(0), (3, 50, 2)) * jnp.array([1.0, 20.0])
    scaled, scale = reversible.normalize(x)
    assert np.allclose(scaled.mean(axis=1), 0, atol=1e-5) and np.allclose(scaled.std(axis=1), 1, atol=1e-4)
    assert np.allclose(reversible.restore(scaled, scale), x, rtol=1e-5, atol=1e-4)
    several = jnp.stack([scaled, 2 * scaled], axis=-1)
    assert np.allclose(reversible.restore(several, scale)[..., 0], x, rtol=1e-5, atol=1e-4)
    flat, scale = reversible.normalize(jnp.full((1, 9, 1), 4.0))
    assert np.all(flat == 0) and np.allclose(reversible.restore(flat, scale), 4)  # a constant is no NaN


@pytest.mark.parametrize("width", [1, 3, 25])
def test_the_moving_average_is_that_of_brute_force(width):
    x = np.random.default_rng(0).normal(size=(2, 30, 3)).astype(np.float32)
    rows = np.clip(np.arange(30)[:, None] + np.arange(width) - width // 2, 0, 29)
    assert np.allclose(moving_average(jnp.asarray(x), width), x[:, rows].mean(axis=2), atol=1e-5)


def test_a_moving_average_without_a_middle_is_refused():
    with pytest.raises(ValueError, match="kernel=4 steps has no middle; give an odd number"):
        MODELS["dlinear"](1, 5, kernel=4)


def test_the_quantile_loss_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    predictions, targets, levels = rng.normal(size=(50, 3)), rng.normal(size=50), [0.1, 0.5, 0.9]
    predictions[0, 0] = targets[0]
    found = losses.quantile_loss(predictions, targets, levels)
    assert found.shape == (50,)
    expected = [mean_pinball_loss(targets, predictions[:, i], alpha=q) for i, q in enumerate(levels)]
    assert float(found.mean()) == pytest.approx(np.mean(expected), rel=1e-5)
    for level in levels:  # no number has a smaller loss than the quantile of the targets

        def loss(guess, level=level):
            return float(losses.quantile_loss(np.full((50, 1), guess), targets, [level]).mean())

        best = loss(np.quantile(targets, level))
        assert all(best <= loss(guess) + 1e-6 for guess in np.linspace(-2, 2, 41))


@pytest.mark.parametrize("levels", [[0.1], [0.0, 0.5], [0.5, 1.0]])
def test_quantiles_that_are_none_are_refused(levels):
    with pytest.raises(ValueError, match="2 predictions need as many quantiles between 0 and 1"):
        losses.quantile_loss(np.zeros((4, 2)), np.zeros(4), levels)
