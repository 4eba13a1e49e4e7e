import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlx import configuration, losses
from dlx.data import text
from dlx.data.sources import SOURCES
from dlx.data.tokenizer import TOKENIZERS, from_json
from experiments import translation
from experiments.page import compare

CONFIGS = Path(__file__).parent.parent / "configs/translation"


def small(name="transformer", **values):
    """The smoke variant, smaller still, with other values."""
    config = configuration.load(f"{CONFIGS / name}.py:smoke")
    with config.unlocked():
        config.source.count = 120
        config.model.width = 16
        config.model.dropout = 0.0
        config.update(values)
    return config


@pytest.fixture(scope="module")
def config():
    return small()


def variables(config, key=0):
    """Weights far from zero, so that sentences are translated differently."""
    found = translation.make_task(config).init(jax.random.key(key))
    return found._replace(params=jax.tree.map(lambda leaf: 2.0 * leaf, found.params))


def unseen():
    """Pairs of two lengths, as ids that no bucket fits exactly; 10 target tokens in all."""
    rng = np.random.default_rng(0)
    return [
        {
            side: rng.integers(3, 200, size, np.int32)
            for side, size in (("source", count + 1), ("tokens", count), ("targets", count))
        }
        for count in (3, 7)
    ]


def test_the_decoder_sees_the_target_shifted_by_one_and_both_ends_are_marked(config):
    known = translation.tokenizer(config)
    for split, examples in translation.data(config).splits.items():
        for example, pair in zip(examples, translation.pairs(config, split), strict=True):
            assert pair["tokens"][0] == known.special["bos"]
            assert pair["targets"][-1] == pair["source"][-1] == known.special["eos"]
            assert np.array_equal(pair["tokens"][1:], pair["targets"][:-1])
            assert known.decode(pair["targets"]) == example["target"]
            assert known.decode(pair["source"]) == example["source"]


def test_the_tokenizer_is_learned_from_the_training_split_alone_and_saved_with_the_run(config):
    train = SOURCES["synthetic_pairs"](count=120).splits["train"]
    texts = [example[side] for example in train for side in ("source", "target")]
    alone = TOKENIZERS["bpe"](texts, size=config.tokenizer.size, special=("pad", "bos", "eos"))
    saved = translation.files(config)
    assert saved == {"tokenizer.json": alone.json}
    again = from_json(saved["tokenizer.json"])
    assert np.array_equal(again.encode(texts[0]), translation.pairs(config, "train")[0]["source"][:-1])


def test_batches_hold_training_pairs_and_an_epoch_holds_each_of_them_once():
    config = small(batch=24, lengths=[6, 7, 16])
    batch = translation.batches(config)
    decode = translation.tokenizer(config).decode
    train = {(e["source"], e["target"]) for e in translation.data(config).splits["train"]}
    filled = text.buckets(translation.kept(config), config.lengths)
    assert [f"length_{length:03d}" for length in filled] == list(batch(0))
    for name, bucket in zip(batch(0), filled.values(), strict=True):
        count = len(batch(0)[name]["source"])
        for step in range(3):
            part = batch(step)[name]
            for source, target in zip(part["source"].tolist(), part["targets"].tolist(), strict=True):
                assert (decode(source), decode(target)) in train
        rows = [
            tuple(tuple(part[side][i].tolist()) for side in ("source", "targets"))
            for step in range(len(bucket["index"]) // count)
            for part in [batch(step)[name]]
            for i in range(count)
        ]
        stored = [*zip(*(map(tuple, bucket[side].tolist()) for side in ("source", "targets")), strict=True)]
        for row in set(rows):
            assert rows.count(row) <= stored.count(row)


def test_a_batch_is_divided_as_the_data_are():
    assert translation.shares([500, 250, 250], 64) == [32, 16, 16]
    assert translation.shares([990, 9, 1], 64) == [48, 8, 8]
    assert translation.shares([3, 3], 24) in ([16, 8], [8, 16])
    for batch in (60, 16):
        with pytest.raises(ValueError, match=r"multiple of 8 from 24 on"):
            translation.shares([5, 5, 5], batch)


@pytest.mark.parametrize("name", ["transformer", "gru"])
def test_the_loss_is_the_mean_over_target_tokens_whatever_the_padding(name):
    config = small(name)
    task, model = translation.make_task(config), translation.translator(config)
    weights = variables(config)
    examples = unseen()
    each = []
    for pair in examples:  # one by one, without padding
        one = {side: value[None] for side, value in pair.items()} | {
            "source_mask": np.ones((1, len(pair["source"])), bool)
        }
        logits, _ = translation.predict(model, weights, jax.tree.map(jnp.asarray, one))
        each.append(losses.softmax_cross_entropy(logits, one["targets"], config.label_smoothing))
    mean = np.concatenate([np.asarray(values)[0] for values in each]).mean()

    loss = jax.jit(functools.partial(task.loss, weights, key=jax.random.key(1)))
    together = {"a": text.pad(examples, 9)}
    apart = {"a": text.pad(examples[:1], 5), "b": text.pad(examples[1:], 11)}
    for batch in (together, apart):
        found, (_, report) = loss(batch)
        assert found == pytest.approx(mean, rel=1e-5)
        assert report["loss"].weight == 10


def test_a_batch_of_padding_alone_has_no_loss_and_a_finite_gradient(config):
    task, weights = translation.make_task(config), variables(config)
    empty = text.pad(unseen(), 8)
    empty["targets_mask"][:] = False
    gradient_of = jax.value_and_grad(task.loss, has_aux=True)
    (value, _), gradient = jax.jit(gradient_of)(weights, {"a": empty}, jax.random.key(0))
    assert value == 0
    assert all(np.isfinite(leaf).all() and not leaf.any() for leaf in jax.tree.leaves(gradient.params))


def test_validation_counts_every_target_token_once_and_its_perplexity_is_that_of_the_mean():
    found = []
    for batch, lengths in ((32, [10, 16]), (24, [8, 9, 12])):  # other padding, other buckets
        config = small(batch=batch, lengths=lengths)
        weights = variables(small())
        found.append(translation.make_task(config).evaluators["validation"](weights))
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0]["perplexity"] == pytest.approx(np.exp(found[0]["loss"]))
    assert 0 <= found[0]["token_accuracy"] <= 1


@pytest.mark.parametrize("name", ["transformer", "gru"])
def test_a_test_set_is_translated_in_its_order_as_one_sentence_at_a_time_is(name):
    sizes = [len(pair["source"]) for pair in translation.pairs(small(name), "test")]
    config = small(name, lengths=[int(np.median(sizes)) - 1, 16], batch=16)
    short = [size < np.median(sizes) for size in sizes]
    assert sorted(short, reverse=True) != short  # the buckets are not the order
    weights = variables(config)
    together = translation.translations(config)(weights)
    answer = translation.reply(config, weights)
    alone = ["".join(answer([e["source"]])) for e in translation.data(config).splits["test"]]
    assert together == alone
    assert len(set(together)) > len(set(e["source"] for e in translation.data(config).splits["test"])) / 3


def test_scores_are_those_of_sacrebleu_and_say_how_they_were_made(config, monkeypatch):
    sacrebleu = pytest.importorskip("sacrebleu", reason="the reference for BLEU")
    examples = (
        {"source": "a", "target": "the cat sat on the mat today"},
        {"source": "b", "target": "dogs bark at night in the town"},
        {"source": "a", "target": "a cat was sitting on a mat today"},
    )
    source = translation.data(config)
    test = source._replace(splits=source.splits | {"test": examples})
    monkeypatch.setattr(translation, "data", lambda config: test)
    measures = translation.judges(config)
    score = {name: judge for name, (judge, _) in measures.items()}
    targets = [example["target"] for example in examples]
    right, other = list(targets), [targets[0], targets[1], targets[0]]
    assert [judge(right) for judge in score.values()] == pytest.approx([100, 100, 100])
    assert score["bleu"](other) == pytest.approx(sacrebleu.corpus_bleu(other, [targets]).score)
    assert score["bleu"](other) < 99
    assert score["bleu_all_references"](other) == pytest.approx(100)
    one = [targets[2], "dogs are at work in the town", "never read"]
    assert score["bleu_all_references"](one) == pytest.approx(
        sacrebleu.corpus_bleu(one[:2], [targets[:2], [targets[2], None]]).score
    )
    assert score["chrf"](other) == pytest.approx(sacrebleu.corpus_chrf(other, [targets]).score)
    assert measures["bleu"][1].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert measures["bleu_all_references"][1].startswith("nrefs:var|")
    assert translation.describe(config)["bleu"] == measures["bleu"][1]


def test_the_memory_answers_with_the_most_similar_sentence_of_training_alone(config, monkeypatch):
    train = (
        {"source": "der Hund schläft", "target": "the dog sleeps"},
        {"source": "der Hund frisst", "target": "the dog eats"},
        {"source": "eine Katze schläft ?", "target": "does a cat sleep?"},
    )
    test = (
        {"source": "Der Hund frisst", "target": "the test's own"},
        {"source": "schläft die Katze ?", "target": "not to be found"},
        {"source": "Hund der schläft", "target": "nor this"},
    )
    source = translation.data(config)
    poisoned = source._replace(splits=source.splits | {"train": train, "test": test})
    monkeypatch.setattr(translation, "data", lambda config: poisoned)
    assert translation.remembered(config) == ["the dog eats", "does a cat sleep?", "the dog sleeps"]


def test_a_result_stands_beside_the_memory(config):
    found = dict(translation.make_task(config).evaluators["test"](variables(config)))
    (judge, _), answers = translation.judges(config)["bleu"], translation.remembered(config)
    peer = compare.reference({"metric": "bleu", "published": None, "test": [found]})
    assert next(iter(found)) == "bleu"
    assert peer == (judge(answers), "translation memory, same run", True, False)
    assert 0 < peer.value < 100


def test_without_sacrebleu_a_run_says_before_it_trains_what_to_install(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(ImportError, match=r"pip install dlx\[text\]"):
        translation.make_task(config)


def test_what_cannot_be_translated_is_refused(config):
    answer = translation.reply(config, variables(config))
    for nothing in ("", "  \n"):
        with pytest.raises(ValueError, match="nothing to translate"):
            answer([nothing])
    long = "kat " * 40
    count = len(translation.tokenizer(config).encode(long.strip()))
    with pytest.raises(ValueError, match=rf"has {count} tokens, and {config.longest - 1} can be"):
        answer(["der hunt", long])


def test_wrong_settings_are_named():
    with pytest.raises(configuration.ConfigError, match="gpt3"):
        translation.searcher(small(model={"name": "gpt3"}))
    with pytest.raises(configuration.ConfigError, match="bpee"):
        translation.tokenizer(small(tokenizer={"name": "bpee"}))
    with pytest.raises(ValueError, match=r"at most 2 tokens a side: raise config.lengths"):
        translation.batches(small(lengths=[2]))


def test_the_likelihood_that_a_hidden_source_token_takes_is_that_of_a_mask(config):
    weights = variables(config)
    pair = unseen()[0]
    worth = translation.erasure(config, weights, pair["source"], pair["tokens"])
    model, special = translation.translator(config), translation.tokenizer(config).special
    part = {
        "source": pair["source"][None],
        "tokens": np.insert(pair["tokens"], 0, special["bos"])[None],
    }
    targets = np.append(pair["tokens"], special["eos"]).astype(np.int32)[None]
    predict = jax.jit(functools.partial(translation.predict, model))

    def nats(mask):
        logits, _ = predict(weights, part | {"source_mask": mask[None]})
        return np.asarray(losses.softmax_cross_entropy(logits, targets))[0]

    seen = np.ones(len(pair["source"]), bool)
    for hidden in range(len(seen)):
        without = seen & (np.arange(len(seen)) != hidden)
        assert worth[:, hidden] == pytest.approx(nats(without) - nats(seen), abs=1e-4)


def test_the_demo_draws_its_figures(config, tmp_path):
    drawn = translation.demo(config, variables(config), tmp_path)
    assert {file.name for file in drawn} == {"translations.png", "bleu_by_length.png", "alignment.png"}
    assert all(file.stat().st_size > 5000 for file in drawn)
