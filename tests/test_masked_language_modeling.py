import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlx import configuration
from dlx.configuration import ConfigError
from dlx.data.splits import Source
from experiments import masked_language_modeling as experiment

FILE = Path(__file__).parent.parent / "configs/masked_language_modeling/bert_tiny.py"


@pytest.fixture(scope="module")
def config():
    return configuration.load(f"{FILE}:smoke")


@pytest.fixture(scope="module")
def made(config):
    """The task, its loss, and variables in which every number matters."""
    task, rng = experiment.make_task(config), np.random.default_rng(0)
    variables = jax.jit(task.init)(jax.random.key(0))
    variables = jax.tree.map(lambda x: jnp.float32(x + 0.3 * rng.normal(size=x.shape)), variables)
    return task, jax.jit(lambda *inputs: task.loss(*inputs, None)), variables


def test_every_training_document_is_in_one_row_and_no_other_is(config):
    corpus, rows = experiment.data(config), experiment.packed(config, "train")
    cls, sep = corpus.tokenizer.special["cls"], corpus.tokenizer.special["sep"]
    assert (rows["tokens"][:, 0] == cls).all() and not (rows["tokens"][:, 1:] == cls).any()
    assert (rows["tokens"][~rows["tokens_mask"]] == 0).all()
    found = []
    for row, mask in zip(rows["tokens"], rows["tokens_mask"], strict=True):
        parts = np.split(row[mask], np.flatnonzero(row[mask] == sep))
        found += [corpus.tokenizer.decode(part) for part in parts]
    texts = [sentence for document in corpus.splits["train"] for sentence in document]
    assert sorted(text for text in found if text) == sorted(texts)
    held_out = {d for split in ("validation", "test") for d in corpus.splits[split]}
    assert held_out and not held_out & set(corpus.splits["train"])


def test_a_dialogue_stays_together_and_of_a_pair_only_the_english_is_read():
    assert experiment.sentences({"turns": ("hello", "you"), "label": 1}) == ("hello", "you")
    assert experiment.sentences({"source": "hallo", "target": "hello"}) == ("hello",)


def test_the_vocabulary_and_the_rows_to_learn_from_know_nothing_of_what_is_held_out(config, monkeypatch):
    def source(held_out):
        examples = {"train": ["the cat sees it"] * 9, "validation": [held_out], "test": ["zebra"]}
        splits = {s: tuple({"text": f"{t} {i}"} for i, t in enumerate(x)) for s, x in examples.items()}
        return lambda: Source(splits, ())

    learned = []
    for held_out in ("walrus", "ostrich"):
        monkeypatch.setattr(experiment, "SOURCES", {"synthetic_sentences": source(held_out)})
        experiment.load.cache_clear()
        learned.append((experiment.files(config), experiment.packed(config, "train")["tokens"].tolist()))
    experiment.load.cache_clear()
    assert learned[0] == learned[1]
    assert "the" in learned[0][0]["tokenizer.json"] and "zebra" not in learned[0][0]["tokenizer.json"]


def test_what_is_held_out_is_not_also_in_the_training_text(config, monkeypatch):
    texts = {"train": ("seen", "seen", "known"), "validation": ("known", "fresh"), "test": ("new", "new")}
    splits = {split: tuple({"text": text} for text in found) for split, found in texts.items()}
    monkeypatch.setattr(experiment, "SOURCES", {"synthetic_sentences": lambda: Source(splits, ())})
    experiment.load.cache_clear()
    found = experiment.data(config).splits
    experiment.load.cache_clear()
    assert found == {
        "train": [("seen",), ("known",)],
        "validation": [("fresh",)],
        "test": [("new",)],
    }


def test_sentence_polarity_teaches_the_pretrained_model_nothing():
    """Else the ten test folds of configs/sentiment/bert.py would have been seen."""
    full = configuration.load(str(FILE))
    assert full.sources and "sentence_polarity" not in full.sources


def test_only_hidden_tokens_count_and_masks_are_those_of_the_step(config, made):
    task, loss, variables = made
    batch = task.batch(3)
    again, other = task.batch(3), task.batch(4)
    assert all((batch[name] == again[name]).all() for name in batch)
    assert not (batch["tokens"] == other["tokens"]).all()
    value, (_, found) = loss(variables, batch)
    logits, _ = jax.jit(partial(experiment.predict, experiment.network(config)))(variables, batch)
    log_chances = np.asarray(jax.nn.log_softmax(logits), np.float64)
    chosen = np.take_along_axis(log_chances, batch["masked_targets"][..., None], -1)[..., 0]
    expected = -(chosen * batch["masked_weights"]).sum() / batch["masked_weights"].sum()
    assert float(value) == pytest.approx(expected, rel=1e-5)
    right = (log_chances.argmax(-1) == batch["masked_targets"]) * batch["masked_weights"]
    accuracy = float(found["masked_accuracy"].total / found["masked_accuracy"].weight)
    assert accuracy == pytest.approx(right.sum() / batch["masked_weights"].sum())


def test_padding_does_not_change_the_loss(made):
    task, loss, variables = made
    batch = task.batch(0)
    noisy = dict(batch, tokens=np.where(batch["tokens_mask"], batch["tokens"], 7))
    assert not batch["tokens_mask"].all()
    expected = pytest.approx(float(loss(variables, batch)[0]), rel=1e-6)
    assert float(loss(variables, noisy)[0]) == expected


def test_a_batch_of_nothing_but_padding_has_loss_zero_and_no_gradient(made):
    task, _, variables = made
    batch = {name: np.zeros_like(array) for name, array in task.batch(0).items()}
    value, gradient = jax.jit(jax.value_and_grad(lambda v, b: task.loss(v, b, None)[0]))(variables, batch)
    assert value == 0 and all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


def test_held_out_numbers_do_not_depend_on_the_size_of_the_batch_or_the_call(config, made):
    task, _, variables = made
    found = task.evaluators["validation"](variables)
    assert found == task.evaluators["validation"](variables)
    assert found["perplexity"] == pytest.approx(np.exp(found["loss"]))
    hidden = sum(batch["masked_weights"].sum() for batch in experiment.passes(config, "validation")())
    rows = experiment.packed(config, "validation")["tokens_mask"]
    assert 0.05 * rows.sum() < hidden < 0.15 * rows.sum()  # of the rows that fill the last batch, none


def test_a_hidden_word_is_filled_and_special_tokens_never_are(config, made):
    *_, variables = made
    special = experiment.data(config).tokenizer.special
    head = variables.params["masked_lm"]
    head = head | {"bias": head["bias"].at[np.array(list(special.values()))].set(99)}
    variables = variables._replace(params=variables.params | {"masked_lm": head})
    [first, second] = experiment.filler(config, variables)("the [MASK] sees a [MASK] at home")
    assert len(first) == len(second) == 5 and first != second
    assert all(word and "[" not in word and 0 < chance <= 1 for word, chance in first + second)
    said = "".join(experiment.reply(config, variables)(["an earlier turn", "the [MASK] sees a tree"]))
    assert said.startswith(
        f"the {experiment.filler(config, variables)('the [MASK] sees a tree')[0][0][0]} sees"
    )


@pytest.mark.parametrize(
    "sentence, message",
    [("", "hides nothing"), ("no mask", "hides nothing"), ("[MASK]" + " a" * 40, "shorten")],
)
def test_a_sentence_that_cannot_be_filled_is_refused(config, made, sentence, message):
    with pytest.raises(ConfigError, match=message):
        list(experiment.reply(config, made[2])([sentence]))


def test_words_that_are_all_unknown_are_filled_all_the_same(config, made):
    said = "".join(experiment.reply(config, made[2])(["\u4e16\u754c [MASK]"]))
    assert "%" in said and "nan" not in said


def test_no_sources_are_refused(config):
    empty = config.copy_and_resolve_references()
    empty.sources = []
    with pytest.raises(ConfigError, match="sources is empty"):
        experiment.make_task(empty)


def test_the_figures_are_drawn_and_the_vocabulary_is_saved(config, made, tmp_path):
    for file in experiment.demo(config, made[2], tmp_path):
        assert file.stat().st_size > 10_000
    assert json.loads(experiment.files(config)["tokenizer.json"])["kind"] == "tokenizers"
