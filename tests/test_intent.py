from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlx import configuration
from dlx.configuration import ConfigError
from dlx.data.sources import SOURCES
from dlx.data.splits import Source
from experiments import intent

CONFIGS = Path(__file__).parent.parent / "configs/intent"
CLASSES = ("alarm", "weather", "oos")
TEXTS = ("wake me at seven", "will it rain today", "who wrote this opera")


def assistant(held_out: str = "please") -> Source:
    """Questions of two intents and out of scope; held-out ones have a word of their own."""
    words = {"train": "now", "validation": held_out, "test": held_out}
    splits = {
        split: tuple({"text": f"{TEXTS[i % 3]} {word} {i}", "label": i % 3} for i in range(12))
        for split, word in words.items()
    }
    return Source(splits, CLASSES)


@pytest.fixture(scope="module", params=("clinc_cnn", "clinc_bilstm"))
def made(request):
    """A config, its model as a jitted function, and variables in which every number matters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SOURCES, "synthetic_sentences", assistant)
        config, rng = smoke(request.param), np.random.default_rng(0)
        intent.load.cache_clear()
        model = intent.classifier(config)
        variables = jax.jit(intent.make_task(config).init)(jax.random.key(0))
        variables = jax.tree.map(lambda x: jnp.float32(x + 0.3 * rng.normal(size=x.shape)), variables)
        yield config, jax.jit(lambda *inputs: model.apply(*inputs)[0]), variables
    intent.load.cache_clear()


def smoke(name: str):
    return configuration.load(str(CONFIGS / f"{name}.py") + ":smoke")


def test_the_vocabulary_and_what_is_learned_know_nothing_of_what_is_held_out(monkeypatch):
    config, learned = smoke("clinc_cnn"), []
    for word in ("walrus", "ostrich"):
        monkeypatch.setitem(SOURCES, "synthetic_sentences", lambda word=word: assistant(word))
        intent.load.cache_clear()
        batch = intent.make_task(config).batch(0)
        learned.append((intent.files(config), {name: array.tolist() for name, array in batch.items()}))
    intent.load.cache_clear()
    assert learned[0] == learned[1] and "walrus" not in learned[0][0]["tokenizer.json"]


def test_metrics_are_those_counted_by_hand():
    label = np.array([0, 0, 1, 1, 2, 2, 2, 2], np.int32)
    guess = np.array([0, 1, 1, 2, 2, 2, 2, 0])
    logits = (3 * np.eye(3)[guess]).astype(np.float32)
    found = intent.report(2, {"logits": logits, "label": label})
    assert found["in_scope_accuracy"] == pytest.approx(2 / 4)
    assert found["oos_recall"] == pytest.approx(3 / 4)
    assert found["oos_precision"] == pytest.approx(3 / 4)
    assert found["accuracy"] == pytest.approx(5 / 8)


def test_the_curve_out_of_scope_is_that_of_scikit_learn_on_the_largest_probability():
    reference = pytest.importorskip("sklearn.metrics", reason="the reference implementation")
    rng = np.random.default_rng(0)
    label = rng.integers(0, 5, 80).astype(np.int32)
    logits = rng.normal(size=(80, 5)).astype(np.float32)
    logits[np.arange(80), label] += 1
    chances = np.asarray(jax.nn.softmax(logits))
    expected = reference.roc_auc_score(label == 3, -chances[:, [0, 1, 2, 4]].max(-1))
    found = intent.report(3, {"logits": logits, "label": label})
    assert found["oos_roc_auc"] == pytest.approx(expected)
    guess = logits.argmax(-1)
    assert found["oos_precision"] == pytest.approx(reference.precision_score(label == 3, guess == 3))
    assert found["oos_recall"] == pytest.approx(reference.recall_score(label == 3, guess == 3))


def test_without_a_class_out_of_scope_all_is_in_scope():
    config = smoke("clinc_cnn")
    assert intent.outside(config) == -1
    label = np.array([0, 1], np.int32)
    found = intent.report(-1, {"logits": np.eye(2, dtype=np.float32), "label": label})
    assert found["in_scope_accuracy"] == found["accuracy"] == 1 and found["oos_recall"] == 0


def test_out_of_scope_is_the_last_of_151_classes_and_never_left_out(made):
    config, *_ = made
    assert intent.outside(config) == 2
    assert set(intent.arrays(config, "train")["label"]) == {0, 1, 2}


def test_padding_does_not_change_the_logits(made):
    config, apply, variables = made
    batch = intent.arrays(config, "test")
    logits = apply(variables, *intent.inputs(batch))
    noisy = np.where(batch["tokens_mask"], batch["tokens"], 6)
    np.testing.assert_allclose(apply(variables, noisy, batch["tokens_mask"]), logits, atol=1e-5)


def test_nothing_but_padding_gives_finite_logits_the_same_for_each(made):
    config, apply, variables = made
    tokens = np.random.default_rng(0).integers(0, 20, (4, config.length)).astype(np.int32)
    logits = np.asarray(apply(variables, tokens, np.zeros((4, config.length), bool)))
    assert np.isfinite(logits).all()
    np.testing.assert_array_equal(logits[1:], logits[:-1])


def test_a_question_gets_an_intent_or_is_out_of_scope(made):
    config, _, variables = made
    head = variables.params["head"]
    for best, name in enumerate(("alarm", "weather", "out of scope")):
        bias = jnp.zeros(3).at[best].set(50.0)
        params = variables.params | {"head": head | {"bias": bias}}
        said = "".join(intent.reply(config, variables._replace(params=params))(["hi", "will it rain"]))
        assert said == f"{name} 100%"
    answer = intent.reply(config, variables)
    assert "".join(answer(["\u4e16\u754c"])) == "out of scope (none of its words is known)"
    assert f"of its first {config.length} tokens" in "".join(answer(["rain " * 99]))
    with pytest.raises(ConfigError, match="empty"):
        list(answer([" "]))


def test_the_figures_are_drawn(made, tmp_path):
    config, _, variables = made
    for file in intent.demo(config, variables, tmp_path):
        assert file.stat().st_size > 5_000
