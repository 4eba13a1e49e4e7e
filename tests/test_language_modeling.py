"""Language modeling: what is counted, what is carried along, and how a text goes on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlx import configuration, optimizers, sharding, train
from dlx.configuration import ConfigError
from dlx.core import Plan, Variables
from dlx.data import tokenizer as tokenizers
from experiments import language_modeling as experiment

TEXTS = {"train": "to be or nöt to be, thät is thé question. " * 8, "validation": "to qué stion thé bö. " * 5}


def load(name, tmp_path, texts=TEXTS, **changes):
    """Returns the smoke variant of a config, on texts of our own."""
    config = configuration.load(f"configs/language_modeling/{name}.py:smoke").copy_and_resolve_references()
    for split, text in texts.items():
        (tmp_path / f"{split}.txt").write_text(text, encoding="utf-8")
    with config.unlocked():
        config.source = {"name": "text_files", "files": {s: str(tmp_path / f"{s}.txt") for s in texts}}
        config.batch, config.context = 4, 8
        config.update_from_flattened_dict(changes)
    return config.lock()


def untrained(config):
    """Returns the variables before training, blown up so that they have opinions."""
    variables = experiment.make_task(config).init(jax.random.key(1))
    return Variables(jax.tree.map(lambda leaf: 8 * leaf, variables.params), variables.state)


def placed(batch):
    """Returns a batch as JAX arrays."""
    return {name: jnp.asarray(values) for name, values in batch.items()}


def reading(config, room):
    """Returns `(variables, ids) ->` what the model expects after each id, [t, k], in up to `room`."""
    model = experiment.network(config)
    apply = jax.jit(lambda params, tokens: model.apply(Variables(params, {}), tokens)[0])

    def read(variables, ids):
        tokens = np.zeros((1, room), np.int32)
        tokens[0, : len(ids)] = ids
        outputs = apply(variables.params, tokens)
        logits = outputs[0] if experiment.is_recurrent(config) else outputs
        return np.asarray(logits[0, : len(ids)])

    return read


def surprise(logits, target):
    """Returns -log p of a target, in float64."""
    logits = np.asarray(logits, np.float64)
    return np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[target]


@pytest.mark.parametrize("name", ["shakespeare_small", "shakespeare_lstm"])
def test_held_out_text_counts_every_token_but_the_first_once(name, tmp_path):
    config = load(name, tmp_path)
    variables = untrained(config)
    ids = tokenizers.characters([TEXTS["train"]]).encode(TEXTS["validation"])
    count = len(ids) - 1
    length = -(-count // config.batch) if name.endswith("lstm") else config.context
    total, read = 0.0, reading(config, length)
    for start in range(0, count, length):
        row = ids[start : min(start + length, count)]
        logits = read(variables, row)
        total += sum(surprise(logits[i], ids[start + i + 1]) for i in range(len(row)))
    found = experiment.make_task(config).evaluators["validation"](variables)
    assert found["loss"] == pytest.approx(total / count, rel=1e-5)
    assert found["perplexity"] == pytest.approx(np.exp(total / count), rel=1e-4)
    size = len(TEXTS["validation"].encode()) - 1  # its first character, which nothing predicts, is one byte
    assert size > count and found["bits_per_byte"] == pytest.approx(total / np.log(2) / size, rel=1e-5)


def test_the_vocabulary_is_that_of_the_training_text_alone(tmp_path):
    with pytest.raises(ValueError, match="'z'.*is none of the"):
        experiment.make_task(load("shakespeare_small", tmp_path, TEXTS | {"validation": "to zebra"}))


def test_batches_come_from_the_training_text_alone(tmp_path):
    config = load("shakespeare_small", tmp_path)
    task, tokenizer = experiment.make_task(config), experiment.data(config).tokenizer
    for step in range(20):
        for row in task.batch(step)["tokens"]:
            assert tokenizer.decode(row) in TEXTS["train"]


def counted(known, context, token, vocabulary):
    """Returns the share of a token after a context as the paper's recursion has it, from the longest down."""
    shorter = counted(known, context[1:], token, vocabulary) if context else 1 / vocabulary
    size = len(context)
    after = [known[i + size] for i in range(len(known) - size) if known[i : i + size] == context]
    if not after:
        return shorter
    return (after.count(token) + len(set(after)) * shorter) / (len(after) + len(set(after)))


@pytest.mark.parametrize("order", [1, 2, 4])
def test_counts_of_tokens_are_mixed_as_the_paper_has_it_and_sum_to_one(order):
    rng, vocabulary = np.random.default_rng(order), 5
    known, held_out = rng.integers(0, 3, 60), rng.integers(0, vocabulary, 40)
    found = experiment.n_gram(known, held_out, order, vocabulary)
    asked = held_out.tolist()
    expected = [
        counted(known.tolist(), asked[max(0, i + 1 - order) : i], asked[i], vocabulary)
        for i in range(1, len(asked))
    ]
    np.testing.assert_allclose(found, -np.log(expected), rtol=1e-12)
    endings = [experiment.n_gram(known, np.r_[held_out, t], order, vocabulary)[-1] for t in range(vocabulary)]
    assert np.exp(-np.array(endings)).sum() == pytest.approx(1)


def test_a_peer_that_counts_stands_beside_the_loss(tmp_path):
    config = load("shakespeare_lstm", tmp_path)
    found = experiment.make_task(config).evaluators["validation"](untrained(config))
    corpus = experiment.data(config)
    expected = experiment.n_gram(
        corpus.tokens["train"], corpus.tokens["validation"], config.peer.order, corpus.tokenizer.size
    )
    assert found["loss_n_gram"] == pytest.approx(expected.mean()) and found["loss"] > found["loss_n_gram"]
    with config.unlocked():
        config.peer.name = "n_grams"
    with pytest.raises(ConfigError, match="unknown name 'n_grams'; did you mean 'n_gram'"):
        experiment.make_task(config).evaluators["validation"](untrained(config))


def test_a_source_without_training_text_is_named(tmp_path):
    with pytest.raises(ValueError, match="needs a split 'train'"):
        experiment.make_task(load("shakespeare_small", tmp_path, {"validation": "to be"}))


def test_text_shorter_than_the_context_is_named(tmp_path):
    with pytest.raises(ValueError, match="the stream has 5 tokens"):
        experiment.make_task(load("shakespeare_small", tmp_path, {"train": "to be"}))


def test_the_state_of_a_recurrent_model_is_carried_and_forgotten(tmp_path, key):
    config = load("shakespeare_lstm", tmp_path)
    task, variables = experiment.make_task(config), untrained(config)
    first, second = placed(task.batch(0)), placed(task.batch(1))
    assert first["reset"].all() and not second["reset"].any()
    measure = jax.jit(task.loss)
    _, (state, _) = measure(variables, first, key)
    loss, _ = measure(Variables(variables.params, state), second, key)

    both = np.concatenate([first["tokens"], second["tokens"]], axis=1)
    read = reading(config, 2 * config.context)
    later = np.concatenate([read(variables, row)[config.context :] for row in both])
    expected = np.mean([surprise(*pair) for pair in zip(later, second["targets"].ravel(), strict=True)])
    assert float(loss) == pytest.approx(expected, rel=1e-5)

    fresh, _ = measure(variables, first, key)
    again, _ = measure(Variables(variables.params, state), first, key)
    assert float(fresh) == float(again) != float(loss)


def test_a_recurrent_run_resumes_with_its_state_bit_for_bit(tmp_path, single):
    config = load("shakespeare_lstm", tmp_path)

    def run(steps, workdir):
        optimizer = optimizers.make(config.optimizer, config.schedule, 60)
        return train.fit(
            experiment.make_task(config), optimizer, Plan(steps), seed=0, mesh=single, workdir=workdir
        )

    whole = run(4, tmp_path / "whole")
    run(2, tmp_path / "parts")
    parts = run(4, tmp_path / "parts")
    same = jax.tree.map(lambda a, b: np.array_equal(np.asarray(a), np.asarray(b)), whole, parts)
    assert all(jax.tree.leaves(same)) and jax.tree.leaves(whole.variables.state)[0].any()


def greedily(config, variables, text):
    """Returns what the model finds likeliest to follow, without a cache."""
    tokenizer, read = experiment.data(config).tokenizer, reading(config, config.context)
    ids = list(tokenizer.encode(text))[-config.context :]
    written = []
    for _ in range(config.sampling.length):
        written.append(int(read(variables, ids)[-1].argmax()))
        if len(ids) == config.context:  # it is full: the last half, and what was just written
            ids = [*ids, written[-1]][-(config.context // 2) :]
        else:
            ids.append(written[-1])
    return tokenizer.decode(written)


@pytest.mark.parametrize("prompt", ["to b", "question", "the question is", "t"])
def test_a_reply_continues_the_prompt_beyond_the_context(prompt, tmp_path):
    config = load("shakespeare_small", tmp_path, **{"sampling.top_k": 1, "sampling.length": 21})
    prompt = prompt.replace("the", "thé")
    variables = untrained(config)
    said = "".join(experiment.reply(config, variables)([prompt]))
    assert said == greedily(config, variables, prompt) and len(said) == 21


def test_of_a_prompt_longer_than_the_context_the_end_is_seen_and_a_note_says_so(tmp_path, capsys):
    config = load("shakespeare_small", tmp_path)
    answer = experiment.reply(config, untrained(config))
    short = "".join(answer(["thät is "]))
    assert not capsys.readouterr().err
    assert "".join(answer(["to be or nöt thät is "])) == short
    assert "the prompt has 21 tokens, of which the model sees the last 8" in capsys.readouterr().err


def test_turns_are_lines_of_one_text(tmp_path):
    config = load("shakespeare_small", tmp_path, {"train": "to be\nor not\n" * 9})
    answer = experiment.reply(config, untrained(config))
    assert "".join(answer(["to", "be"])) == "".join(answer(["to\nbe"]))


@pytest.mark.parametrize(
    "prompt, message", [("", "the prompt is empty"), ("β", "is none of the"), ("\udcff", "not UTF-8")]
)
def test_a_prompt_that_cannot_be_continued_is_named(prompt, message, tmp_path):
    config = load("shakespeare_small", tmp_path)
    with pytest.raises(ValueError, match=message):
        experiment.reply(config, untrained(config))([prompt])


def test_a_recurrent_model_continues_a_prompt_of_any_length(tmp_path):
    config = load("shakespeare_lstm", tmp_path, **{"sampling.top_k": 1, "sampling.length": 5})
    variables, tokenizer = untrained(config), experiment.data(config).tokenizer
    prompt = TEXTS["train"][:50]
    text, read = prompt, reading(config, 60)
    for _ in range(5):
        text += tokenizer.decode([int(read(variables, tokenizer.encode(text))[-1].argmax())])
    assert "".join(experiment.reply(config, variables)([prompt])) == text.removeprefix(prompt)


def test_a_tokenizer_is_read_from_its_file_and_saved_with_the_run(tmp_path):
    learned = tokenizers.bpe([TEXTS["train"]], size=270)
    tokenizers.save(learned, tmp_path / "tokenizer.json")
    spec = {"tokenizer": {"name": "file", "path": str(tmp_path)}}
    config = load("gpt2", tmp_path, TEXTS)
    with config.unlocked():
        config.tokenizer = spec["tokenizer"]
    assert experiment.files(config) == {"tokenizer.json": learned.json}
    assert experiment.data(config).tokenizer.size == learned.size
    with config.unlocked():
        config.tokenizer.path = str(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="there is no tokenizer at .*nowhere"):
        experiment.make_task(config)


@pytest.mark.parametrize("name", ["shakespeare_small", "shakespeare_lstm"])
def test_the_demo_draws(name, tmp_path):
    config = load(name, tmp_path)
    with jax.set_mesh(sharding.mesh(devices=jax.devices()[:1])):
        pictures = experiment.demo(config, untrained(config), tmp_path)
    assert [picture.name for picture in pictures] == ["loss_by_position.png", "samples.png"]
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
