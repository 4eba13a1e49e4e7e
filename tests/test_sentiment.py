from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlx import configuration
from dlx.configuration import ConfigError
from dlx.data import tokenizer as tokenizers
from dlx.data.sources import SOURCES
from dlx.data.splits import Source
from experiments import masked_language_modeling, sentiment

CONFIGS = Path(__file__).parent.parent / "configs"
KINDS = ("text_cnn", "bilstm", "bert_scratch")


@pytest.fixture(scope="module", params=KINDS)
def made(request):
    """A smoke config, its model as a jitted function, and variables in which every number matters."""
    config, rng = smoke(request.param), np.random.default_rng(0)
    model = sentiment.classifier(config)
    variables = jax.jit(sentiment.make_task(config).init)(jax.random.key(0))
    variables = jax.tree.map(lambda x: jnp.float32(x + 0.3 * rng.normal(size=x.shape)), variables)
    return config, jax.jit(lambda *inputs: model.apply(*inputs)[0]), variables


def smoke(name: str):
    return configuration.load(str(CONFIGS / f"sentiment/{name}.py") + ":smoke")


def source(held_out: str, fold: int = 0) -> Source:
    """Reviews whose held-out ones have a word of their own, and each fold another."""
    texts = {"train": "fine", "validation": held_out, "test": held_out}
    splits = {
        s: tuple({"text": f"a {t} film {fold}", "label": i % 2} for i in range(8)) for s, t in texts.items()
    }
    return Source(splits, ("negative", "positive"))


def test_the_vocabulary_and_what_is_learned_know_nothing_of_the_test_fold(monkeypatch):
    config, learned = smoke("text_cnn"), []
    for word in ("walrus", "ostrich"):
        monkeypatch.setitem(SOURCES, "synthetic_sentences", lambda word=word: source(word))
        sentiment.load.cache_clear()
        batch = sentiment.make_task(config).batch(0)
        learned.append((sentiment.files(config), {name: array.tolist() for name, array in batch.items()}))
    sentiment.load.cache_clear()
    assert learned[0] == learned[1]
    assert "walrus" not in learned[0][0]["tokenizer.json"]


def test_the_seed_chooses_the_fold_and_a_fold_that_is_named_stays(monkeypatch):
    asked = []

    def folds(*, fold, validation):
        asked.append(fold)
        return source("word", fold)

    monkeypatch.setitem(SOURCES, "sentence_polarity", folds)
    config = configuration.load(str(CONFIGS / "sentiment/text_cnn.py"))
    seen = []
    for seed in (0, 3, 13):
        config.seed = seed
        seen.append(sentiment.data(config).source.splits["test"][0]["text"])
    assert asked == [0, 3] and seen == ["a word film 0", "a word film 3", "a word film 3"]
    config.source.fold = 7
    assert sentiment.data(config).source.splits["test"][0]["text"] == "a word film 7"
    assert "fold 3" not in sentiment.describe(config)["data"]
    sentiment.load.cache_clear()


def test_every_fold_is_the_seed_of_a_run():
    for file in (CONFIGS / "sentiment").glob("*.py"):
        config = configuration.load(str(file))
        assert config.source.fold == -1 and config.published.metric == "accuracy"


def test_padding_does_not_change_the_logits(made):
    config, apply, variables = made
    batch = {name: array[:8] for name, array in sentiment.arrays(config, "test").items()}
    logits = apply(variables, *sentiment.inputs(batch))
    noisy = np.where(batch["tokens_mask"], batch["tokens"], 6)
    np.testing.assert_allclose(apply(variables, noisy, batch["tokens_mask"]), logits, atol=1e-4)
    assert not batch["tokens_mask"].all()


def test_nothing_but_padding_gives_finite_logits_the_same_for_each(made):
    config, apply, variables = made
    tokens = np.random.default_rng(0).integers(0, 20, (4, config.length)).astype(np.int32)
    logits = np.asarray(apply(variables, tokens, np.zeros((4, config.length), bool)))
    assert np.isfinite(logits).all()
    if not sentiment.is_bert(config):  # which says that those of BERT mean nothing
        np.testing.assert_array_equal(logits[1:], logits[:-1])


def test_long_sentences_are_cut_and_those_of_bert_keep_their_ends(made):
    config, *_ = made
    special = sentiment.data(config).tokenizer.special
    [short, long, empty] = sentiment.encoded(config, ["good", "good " * 99, ""])
    assert len(long) == config.length
    if sentiment.is_bert(config):
        assert [ids[0] for ids in (short, long, empty)] == [special["cls"]] * 3
        assert [ids[-1] for ids in (short, long, empty)] == [special["sep"]] * 3
    else:
        assert len(empty) == 0 and set(long) == set(short)


def test_a_sentence_gets_a_verdict_with_its_probability(made):
    config, apply, variables = made
    verdict = sentiment.reply(config, variables)
    text = "the cat sees a tree at home and it is good"
    [ids] = sentiment.encoded(config, [text])
    tokens = np.pad(ids, (0, config.length - len(ids)))[None]
    mask = np.arange(config.length)[None] < len(ids)
    chances = np.asarray(jax.nn.softmax(apply(variables, tokens, mask)))[0]
    name = ("negative", "positive")[int(chances.argmax())]
    assert "".join(verdict(["before", text])) == f"{name} {chances.max():.0%}"
    assert "none of its words is known" in "".join(verdict(["\u4e16\u754c"]))
    assert "nan" not in "".join(verdict(["\u4e16\u754c"]))
    assert "of its first" in "".join(verdict(["good " * 99]))
    for empty in ("", " \n"):
        with pytest.raises(ConfigError, match="empty"):
            list(verdict([empty]))


def test_the_weight_of_a_word_is_what_the_margin_loses_without_it(made):
    config, apply, variables = made
    margin, pieces, weights = sentiment.weigher(config, variables)("the old man likes a song")
    assert "".join(piece.removeprefix("##") for piece in pieces) == "theoldmanlikesasong"
    [ids] = sentiment.encoded(config, ["the old man likes a song"])
    tokens = np.pad(ids, (0, config.length - len(ids)))[None]
    mask = np.arange(config.length)[None] < len(ids)
    mask[0, 1 + sentiment.is_bert(config)] = False  # "old"
    logits = np.asarray(apply(variables, tokens, mask))[0]
    assert weights[1] == pytest.approx(margin - (logits[1] - logits[0]), abs=1e-3)
    assert len(weights) == len(pieces) and np.abs(weights).max() > 0


def test_metrics_are_those_of_scikit_learn():
    reference = pytest.importorskip("sklearn.metrics", reason="the reference implementation")
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 60).astype(np.int32)
    logits = rng.normal(size=(60, 2)).astype(np.float32)
    logits[:, 1] += label
    found, guess = sentiment.report({"logits": logits, "label": label}), logits.argmax(-1)
    chances = np.asarray(jax.nn.softmax(logits))
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(label, guess))
    assert found["f1"] == pytest.approx(reference.f1_score(label, guess))
    assert found["f1_macro"] == pytest.approx(reference.f1_score(label, guess, average="macro"))
    assert found["roc_auc"] == pytest.approx(reference.roc_auc_score(label, chances[:, 1]))
    assert found["loss"] == pytest.approx(reference.log_loss(label, chances), rel=1e-5)


def test_a_missing_run_to_build_on_is_named():
    config = smoke("bert")
    with config.unlocked():
        config.tokenizer = {"name": "file", "path": "nowhere/tokenizer.json"}
    with pytest.raises(ConfigError, match="no nowhere/tokenizer.json.*train that first"):
        sentiment.make_task(config)


def test_bert_begins_from_the_encoder_that_was_pretrained_with_its_vocabulary(tmp_path):
    """What `config.init` carries over has the same paths, shapes and tokens in both runs; heads differ."""
    first = configuration.load(str(CONFIGS / "masked_language_modeling/bert_tiny.py") + ":smoke")
    full = configuration.load(str(CONFIGS / "masked_language_modeling/bert_tiny.py"))
    tokenizers.save(masked_language_modeling.data(first).tokenizer, tmp_path / "tokenizer.json")
    second, scratch = (
        configuration.load(str(CONFIGS / f"sentiment/{n}.py")) for n in ("bert", "bert_scratch")
    )
    assert second.length == full.length
    changed = {line.split(":")[0] for line in configuration.difference(second, scratch)}
    assert changed == {f"config.init.{field}" for field in ("from", "config", "new_head")}
    for name in ("width", "depth", "heads"):
        assert second.model[name] == full.model[name]
    with second.unlocked(), first.unlocked():
        second.source = {"name": "synthetic_sentences"}
        second.tokenizer.path = str(tmp_path / "tokenizer.json")
        first.length, first.model = full.length, full.model
    assert sentiment.files(second) == masked_language_modeling.files(first)
    before, after = (
        jax.eval_shape(part.make_task(config).init, jax.random.key(0)).params
        for part, config in ((masked_language_modeling, first), (sentiment, second))
    )
    shapes = [jax.tree.map(lambda leaf: leaf.shape, tree["encoder"]) for tree in (before, after)]
    assert shapes[0] == shapes[1]
    assert before.keys() ^ after.keys() == {"masked_lm", "pooler", "classifier"}


def test_pieces_are_laid_out_in_lines(monkeypatch):
    monkeypatch.setattr(sentiment, "LINE", 8)
    assert sentiment.layout(["ab", "##c", "def", "gh", "##i"]) == [(0, 0), (0, 2), (0, 4), (1, 0), (1, 2)]


def test_the_figures_are_drawn(made, tmp_path):
    config, _, variables = made
    for file in sentiment.demo(config, variables, tmp_path):
        assert file.stat().st_size > 10_000
