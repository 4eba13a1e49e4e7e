"""The forecasting experiment: what it learns from, what it measures, and what it refuses."""

import json

import jax
import numpy as np
import pytest

from dlx import configuration
from dlx.configuration import ConfigError
from dlx.core import Mean, Model, Variables
from dlx.data import series
from dlx.data.series_sources import synthetic_series
from experiments import forecasting


def smoke(**changes):
    """The smoke config of the DLinear run with other values."""
    config = configuration.load("configs/forecasting/etth1_dlinear.py:smoke").copy_and_resolve_references()
    config.unlock()
    for name, value in changes.items():
        config[name] = value
    return config.lock()


def constant(value):
    """A model whose forecast is a number, or one for each quantile."""
    levels = np.atleast_1d(np.float32(value))

    def apply(variables, history, key=None):
        return np.broadcast_to(levels, (len(history), 12, 2, len(levels))) + 0 * history[:, :1, :1, None], {}

    return Model(lambda key, history: Variables({}, {}), apply)


def brute(config, forecast):
    """Squared and absolute errors of all test windows, one by one, where there is something to compare."""
    found, table, starts = forecasting.data(config)
    gaps = []
    for start in starts["test"]:
        middle = start + config.history
        history = table.inputs[start:middle, :2].astype(np.float64)
        for h in range(config.horizon):
            for c in range(2):
                value = (found.values[middle + h, c] - table.scaling.mean[c]) / table.scaling.std[c]
                if not np.isnan(value):
                    gaps.append(forecast(history[:, c], h) - value)
    return np.mean(np.square(gaps)), np.mean(np.abs(gaps))


def test_metrics_and_naive_rows_are_those_of_brute_force(monkeypatch):
    source = {"name": "synthetic_series", "channels": 2, "missing": 0.2, "count": 560}
    config = smoke(source=source, season=24, batch=16)
    monkeypatch.setitem(forecasting.MODELS, "dlinear", lambda kernel, **_: constant(0.25))
    found = forecasting.make_task(config).evaluators["test"](Variables({}, {}))
    expected = {
        "": lambda x, h: 0.25,
        "_last": lambda x, h: x[-1],
        "_mean": lambda x, h: x.mean(),
        "_seasonal": lambda x, h: x[len(x) - 24 + h],
        "_drift": lambda x, h: x[-1] + (h + 1) * (x[-1] - x[0]) / 47,
    }
    for name, forecast in expected.items():
        mse, mae = brute(config, forecast)
        assert found[f"mse{name}"] == pytest.approx(mse, rel=1e-4), name
        assert found[f"mae{name}"] == pytest.approx(mae, rel=1e-4), name
    best = min(value for name, value in found.items() if name.startswith("mse_"))
    assert found["skill"] == pytest.approx(1 - found["mse"] / best)
    assert next(iter(found)) == "skill" and "rmse" not in found


def test_quantiles_are_put_in_order_and_their_coverage_counted(monkeypatch):
    config = smoke(quantiles=[0.1, 0.5, 0.9])
    monkeypatch.setitem(forecasting.MODELS, "dlinear", lambda kernel, **_: constant([0.5, 0.1, -0.6]))
    found = forecasting.make_task(config).evaluators["test"](Variables({}, {}))
    _, table, starts = forecasting.data(config)
    truth = table.targets[starts["test"][:, None] + np.arange(48, 60)]
    assert found["coverage"] == pytest.approx(((truth >= -0.6) & (truth <= 0.5)).mean(), abs=1e-5)
    assert found["width"] == pytest.approx(1.1, rel=1e-5)
    assert found["mse"] == pytest.approx(np.square(truth - 0.1).mean(), rel=1e-4)


def test_what_is_not_observed_has_no_part_in_the_loss():
    config = smoke(source={"name": "synthetic_series", "channels": 2, "missing": 0.3})
    task = forecasting.make_task(config)
    variables, batch = task.init(jax.random.key(0)), task.batch(0)
    assert 0.5 < batch["observed"].mean() < 0.9
    loss = jax.jit(task.loss)
    plain = loss(variables, batch, jax.random.key(1))[0]
    wild = np.where(batch["observed"], batch["horizon"], 1e6).astype(np.float32)
    assert loss(variables, batch | {"horizon": wild}, jax.random.key(1))[0] == plain
    none = batch | {"observed": np.zeros_like(batch["observed"])}
    assert loss(variables, none, jax.random.key(1))[0] == 0


def test_returns_have_a_price_that_stays_as_a_naive_row():
    config = smoke(
        source={"name": "synthetic_series", "channels": 2}, targets=["x0"], season=0, log_returns=False
    )
    assert not {"zero", "seasonal", "seasonal_drift"} & set(forecasting.naive(config))
    whole = synthetic_series()
    prices = whole._replace(values=np.exp(whole.values))
    returns = series.log_returns(prices)
    data = forecasting.Data(returns, series.table(returns, ["x0"], "2020-01-16"), {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forecasting, "data", lambda config: data)
        zero = forecasting.naive(smoke(targets=["x0"], log_returns=True))["zero"](np.ones((2, 48, 1)))
    mean, std = data.table.scaling
    assert zero.shape == (2, 12, 1) and np.allclose(zero * std + mean, 0)


def test_the_error_in_the_units_of_the_target_is_reported_for_one_target():
    config = smoke(targets=["x1"])
    std = float(forecasting.data(config).table.scaling.std[0])
    sums = {"mse": Mean(np.float64(4), np.float64(1)), "mae": Mean(np.float64(2), np.float64(1))}
    found = forecasting.summary(config, "validation", lambda: {"mse_last": 5.0}, sums)
    assert found == {"skill": pytest.approx(0.2), "mse": 4, "mae": 2, "rmse": pytest.approx(2 * std)}


def test_the_scaling_is_kept_with_the_run():
    config = smoke()
    kept = json.loads(forecasting.files(config)["scaling.json"])
    values = synthetic_series().values[: 24 * 15]
    assert kept["columns"] == ["x0", "x1"]
    assert kept["mean"] == pytest.approx(values.mean(axis=0)) and kept["std"] == pytest.approx(
        values.std(axis=0)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantiles": [0.1, 0.9]}, "must grow and hold 0.5"),
        ({"quantiles": [0.9, 0.5, 0.1]}, "must grow"),
        ({"targets": ["x7"]}, "no column 'x7'; the series has x0, x1"),
        ({"history": 5000}, "fewer than a window of 5000"),
        ({"season": 100}, "repeats the last 100 of 48 steps"),
        ({"source": {"name": "etth2"}}, "unknown name 'etth2'; did you mean 'etth1'"),
        ({"borders": {"validation": "2020-01-16", "test": "2020-01-10", "end": ""}}, "must grow"),
    ],
)
def test_a_config_that_cannot_be_is_refused(changes, message):
    with pytest.raises((ConfigError, ValueError), match=message):
        task = forecasting.make_task(smoke(**changes))
        task.evaluators["test"](task.init(jax.random.key(0)))


@pytest.mark.parametrize("name", ["dlinear", "nlinear", "patchtst"])
def test_each_published_horizon_is_a_variant(name):
    values = [configuration.load(f"configs/forecasting/etth1_{name}.py:{h}") for h in (192, 336, 720)]
    assert [config.horizon for config in values] == [192, 336, 720]
    assert len({config.published["value"] for config in values}) == 3
    assert all(str(config.horizon) in config.published.source for config in values)


def test_the_figures_are_drawn(tmp_path):
    config = smoke(
        quantiles=[0.1, 0.5, 0.9], source={"name": "synthetic_series", "missing": 0.1, "channels": 2}
    )
    task = forecasting.make_task(config)
    found = forecasting.demo(config, task.init(jax.random.key(0)), tmp_path)
    assert [path.name for path in found] == ["forecasts.png", "steps.png"]
    assert all(path.stat().st_size > 20_000 for path in found)
    assert "windows of 48 + 12" in forecasting.describe(config)["data"]
