"""Anomaly detection: what is learned knows no label, no test row and no other set; scores know no future."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlx import configuration, optimizers, sharding, train
from dlx.configuration import ConfigError
from dlx.data.sources import SOURCES
from dlx.data.splits import Source
from experiments import anomaly_detection, runs

ROOT = Path(__file__).parent.parent


def smoke(name="adbench", *overrides):
    return configuration.load(str(ROOT / f"configs/anomaly_detection/{name}.py") + ":smoke", overrides)


@pytest.fixture(autouse=True)
def fresh():
    """Nothing is remembered from another test's source."""
    anomaly_detection.load.cache_clear()
    anomaly_detection._peers.cache_clear()


def drawn(config, seed=0):
    return jax.jit(anomaly_detection.make_task(config).init)(jax.random.key(seed))


def replace(monkeypatch, name, change):
    """Puts what `change` makes of the splits in the place of a source's; forgets what was read."""
    original = SOURCES[name]

    def changed(**settings):
        source = original(**settings)
        return Source(change(dict(source.splits)), source.classes)

    monkeypatch.setitem(SOURCES, name, changed)
    anomaly_detection.load.cache_clear()


def learned(config):
    task = anomaly_detection.make_task(config)
    batches = [[task.batch(step)[name]["x"].tobytes() for name in sorted(config.sets)] for step in (0, 9)]
    names = [set(task.batch(0)[name]) for name in config.sets]
    return batches, anomaly_detection.files(config), names


def test_training_sees_neither_labels_nor_test_rows(monkeypatch):
    config = smoke("adbench", "--config.source.train=all")
    before = learned(config)
    assert before[2] == [{"x"}, {"x"}]

    def poison(splits):
        for split, rows in splits.items():
            kept = rows if split == "train" else {key: column * 1000 for key, column in rows.items()}
            splits[split] = kept | {"label": 1 - rows["label"]}
        return splits

    replace(monkeypatch, "synthetic_anomalies", poison)
    assert learned(config) == before


def test_a_set_learns_the_same_with_others_and_alone():
    both, one = smoke(), smoke("adbench", "--config.sets=('ring',)")
    found = []
    for config in (both, one):
        run = runs.build(config)
        state = train.fit(
            run.task, run.optimizer, run.plan._replace(steps=5), mesh=sharding.mesh(devices=jax.devices()[:1])
        )
        variables = optimizers.averaged(state)
        found.append(anomaly_detection.scores(config)(variables)["ring"])
    np.testing.assert_allclose(*found, rtol=1e-4)
    ring, line = (drawn(both).params[name]["encoder"]["dense_0"]["kernel"] for name in ("ring", "line"))
    assert not np.array_equal(ring, line)


def test_areas_are_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics", reason="the reference implementation")
    config = smoke()
    found = anomaly_detection.scores(config)(drawn(config))
    report = anomaly_detection.report(config, found)
    areas = []
    for name, one in anomaly_detection.data(config).items():
        areas.append(
            [
                metrics.roc_auc_score(one.labels, found[name]),
                metrics.average_precision_score(one.labels, found[name]),
            ]
        )
        assert report[f"roc_auc/{name}"] == pytest.approx(areas[-1][0], abs=1e-5)
    assert [report["roc_auc"], report["average_precision"]] == pytest.approx(np.mean(areas, 0), abs=1e-5)
    assert next(iter(report)) == "roc_auc"
    assert report["roc_auc_unseen"] == report["roc_auc/ring"]  # the line is for development


def test_peers_learn_from_the_same_rows_and_score_the_same():
    forest = pytest.importorskip("sklearn.ensemble").IsolationForest
    config = smoke()
    one = anomaly_detection.data(config)["ring"]
    expected = -forest(random_state=0).fit(one.splits["train"]).score_samples(one.splits["test"])
    found = anomaly_detection.peers(config)
    np.testing.assert_allclose(found["isolation_forest"]["ring"], expected)
    assert {peer: len(own["ring"]) for peer, own in found.items()} == dict.fromkeys(found, len(one.labels))


@pytest.mark.parametrize("name", ["autoencoder", "variational_autoencoder", "deep_svdd"])
def test_scores_are_the_mean_of_the_members_distances(name):
    config = smoke()
    with config.unlocked():
        config.model = {"name": name, "hidden": [8], "code": 2}
    variables = drawn(config)
    found = anomaly_detection.scores(config)(variables)["line"]
    model = anomaly_detection.detector(config)
    x = jnp.asarray(anomaly_detection.data(config)["line"].splits["test"])
    outputs, _ = model.apply(anomaly_detection.part(variables, "line"), x)
    away = outputs.get("distance", np.square(outputs.get("reconstruction", x) - x).mean(-1))
    if name == "variational_autoencoder":
        mean, log_variance = outputs["mean"], outputs["log_variance"]
        away = 2 * away + 0.5 * (np.exp(log_variance) + mean**2 - 1 - log_variance).sum(-1)  # 4 columns
    np.testing.assert_allclose(found, np.mean(away, axis=0), rtol=1e-4)


def test_the_scores_of_a_stream_know_no_future(monkeypatch):
    config = smoke("nab")
    variables = drawn(config)
    later = 300  # of the test rows

    def everything():
        own = {"model": anomaly_detection.scores(config)(variables)["wave"]}
        own |= {peer: found["wave"] for peer, found in anomaly_detection.peers(config).items()}
        return {who: anomaly_detection.alarming(config, {"wave": found})[0][0] for who, found in own.items()}

    before = everything()

    def future(splits):
        test = splits["test"]
        rows = len(test["label"])
        changed = {
            key: np.where(np.arange(rows) < later, c, c + 7) for key, c in test.items() if "lag" in key
        }
        return splits | {"test": test | changed | {"label": 1 - test["label"]}}

    replace(monkeypatch, "synthetic_stream", future)
    anomaly_detection._peers.cache_clear()
    after = everything()
    assert set(before) == {"model", "isolation_forest", "one_class_svm", "moving_z"}
    for who in before:
        np.testing.assert_array_equal(before[who][:later], after[who][:later], err_msg=who)
        assert (before[who][later:] != after[who][later:]).any()


def test_the_metrics_of_a_stream_have_the_baselines_beside_them():
    config = smoke("nab")
    found = anomaly_detection.report(config, anomaly_detection.scores(config)(drawn(config)))
    assert next(iter(found)) == "nab_score"
    for metric in ("nab_score", "window_recall", "window_precision", "roc_auc"):
        assert all(f"{metric}{peer}" in found for peer in ("", "_moving_z", "_isolation_forest"))


def test_columns_without_a_difference_are_dropped_and_the_seed_chooses_the_split(monkeypatch):
    def constant(splits):
        fixed = {"train": 3.0, "validation": 3.0, "test": 5.0}
        return {s: rows | {"x9": np.full(len(rows["x0"]), fixed[s])} for s, rows in splits.items()}

    config = smoke()
    replace(monkeypatch, "synthetic_anomalies", constant)
    assert anomaly_detection.data(config)["ring"].columns.names == ("x0", "x1", "x2", "x3")
    texts = [anomaly_detection.files(smoke("adbench", f"--config.seed={seed}")) for seed in (0, 1, 10)]
    assert texts[0] != texts[1] and texts[0] == texts[2]


def test_sets_that_are_none_or_twice_are_refused():
    for sets in ("()", "('ring', 'ring')"):
        with pytest.raises(ConfigError, match="must be one set or more, none of them twice"):
            anomaly_detection.data(smoke("adbench", f"--config.sets={sets}"))


@pytest.mark.parametrize("name", ["adbench", "nab"])
def test_the_figures_are_drawn(name, tmp_path):
    config = smoke(name)
    for file in anomaly_detection.demo(config, drawn(config), tmp_path):
        assert file.stat().st_size > 5_000
    assert "2 sets" in anomaly_detection.describe(config)["data"]
