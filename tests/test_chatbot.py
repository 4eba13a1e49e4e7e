"""The chatbot: what is learned of a dialogue, what is remembered of it, and what is replied."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlx import configuration, sharding
from dlx.core import Variables
from dlx.data import text_sources
from experiments import chatbot as experiment


@pytest.fixture
def config():
    config = configuration.load("configs/chatbot/self_dialogue.py:smoke").copy_and_resolve_references()
    with config.unlocked():
        config.source.count, config.batch = 60, 4
    return config.lock()


@pytest.fixture
def variables(config):
    """Variables before training, blown up so that they have opinions."""
    variables = experiment.make_task(config).init(jax.random.key(1))
    return Variables(jax.tree.map(lambda leaf: 4 * leaf, variables.params), variables.state)


def placed(batch):
    """Returns a batch as JAX arrays."""
    return {name: jnp.asarray(values) for name, values in batch.items()}


def surprise(logits, targets):
    """Returns -log p of each target, in float64."""
    logits = np.asarray(logits, np.float64)
    top = logits.max(-1, keepdims=True)
    return np.log(np.exp(logits - top).sum(-1)) + top[:, 0] - logits[np.arange(len(targets)), targets]


def reading(config):
    """Returns `(variables, ids) ->` what the model expects after each id, [t, k], reading them alone."""
    model = experiment.network(config)
    apply = jax.jit(lambda variables, tokens: model.apply(variables, tokens)[0])

    def read(variables, ids):
        tokens = np.zeros((1, config.context), np.int32)
        tokens[0, : len(ids)] = ids
        return apply(variables, tokens)[0, : len(ids)]

    return read


@pytest.mark.parametrize("context", [24, 80, 300])
def test_every_reply_and_its_end_and_nothing_else_has_weight(context, config):
    with config.unlocked():
        config.context = context
    corpus = experiment.data(config)
    special = corpus.tokenizer.special
    assert list(corpus.dialogues) == ["train", "validation", "test"]
    for split in corpus.dialogues:
        rows, found = experiment.packed(config, split), []
        for row in range(len(rows["tokens"])):
            for segment in range(1, rows["segments"][row].max() + 1):
                chosen = (rows["segments"][row] == segment) & (rows["weights"][row] > 0)
                found.extend(rows["targets"][row][chosen])
        replies = [turn for example in corpus.dialogues[split] for turn in example["turns"][1::2]]
        assert found.count(special["end"]) == len(replies)
        assert not {special["user"], special["bot"], special["pad"]} & {*found}
        ids = sorted(token for reply in replies for token in corpus.tokenizer.encode(reply))
        assert sorted(token for token in found if token != special["end"]) == ids
        assert ((rows["segments"] > 0) | (rows["weights"] == 0)).all()


def test_places_count_the_tokens_of_a_reply(config):
    special = {"user": 1, "bot": 2, "end": 3}
    turns = [np.array(ids, np.int32) for ids in ([10, 11], [12, 13, 14], [15], [16], [17])]
    (document,) = experiment.conversations(turns, special, context=20)
    assert document["tokens"].tolist() == [1, 10, 11, 2, 12, 13, 14, 3, 1, 15, 2, 16]
    assert document["targets"].tolist() == [10, 11, 2, 12, 13, 14, 3, 1, 15, 2, 16, 3]
    assert document["weights"].tolist() == [0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1, 1]
    assert document["places"].tolist() == [0, 0, 0, 0, 1, 2, 3, 0, 0, 0, 0, 1]
    cut = experiment.conversations(turns, special, context=11)  # a row of 12 tokens does not fit
    assert [d["tokens"].tolist() for d in cut] == [[1, 10, 11, 2, 12, 13, 14], [1, 15, 2, 16]]


def test_the_tokenizer_learns_from_the_training_dialogues_alone(config):
    splits = text_sources.synthetic_dialogues(count=60).splits
    turns = [turn for example in splits["train"] for turn in example["turns"]]
    learn = experiment.tokenizers.bpe
    assert experiment.files(config) == {
        "tokenizer.json": learn(turns, size=320, special=experiment.SPECIAL).json
    }


def test_only_replies_make_the_loss_and_padding_nothing(config, variables, key):
    task = experiment.make_task(config)
    batch = placed(task.batch(0))
    measure = jax.jit(task.loss)
    loss, _ = measure(variables, batch, key)
    other = jnp.where(batch["weights"] > 0, batch["targets"], 7)
    assert float(measure(variables, batch | {"targets": other}, key)[0]) == pytest.approx(float(loss))
    padding = {name: jnp.zeros_like(values[:2]) for name, values in batch.items()}
    longer = {name: jnp.concatenate([batch[name], padding[name]]) for name in batch}
    assert float(measure(variables, longer, key)[0]) == pytest.approx(float(loss), rel=1e-5)

    def of(params):
        return task.loss(Variables(params, variables.state), padding, key)[0]

    empty, gradient = jax.jit(jax.value_and_grad(of))(variables.params)
    assert float(empty) == 0 and all(bool((leaf == 0).all()) for leaf in jax.tree.leaves(gradient))


def test_held_out_numbers_are_those_of_each_conversation_alone(config, variables):
    corpus, read = experiment.data(config), reading(config)
    total, count, size = 0.0, 0, 0
    for example in corpus.dialogues["test"]:
        ids = [corpus.tokenizer.encode(turn) for turn in example["turns"]]
        size += sum(len(turn.encode()) for turn in example["turns"][1::2])
        for document in experiment.conversations(ids, corpus.tokenizer.special, config.context):
            logits = read(variables, document["tokens"])
            total += (surprise(logits, document["targets"]) * document["weights"]).sum()
            count += document["weights"].sum()
    found = experiment.make_task(config).evaluators["test"](variables)
    assert found["loss"] == pytest.approx(total / count, rel=1e-5)
    assert found["perplexity"] == pytest.approx(np.exp(total / count), rel=1e-4)
    assert found["bits_per_byte"] == pytest.approx(total / np.log(2) / size, rel=1e-5)


def test_a_reply_is_the_likeliest_that_follows_the_conversation(config, variables):
    with config.unlocked():
        config.sampling.top_k, config.sampling.length = 1, 6
    tokenizer, read = experiment.data(config).tokenizer, reading(config)
    turns = ["who knows?", "the cat.", "who sees the house?"]
    ids = experiment.remembered(tokenizer, turns, room=90)
    hidden = [tokenizer.special[name] for name in ("pad", "user", "bot")]
    written = []
    while len(written) < 6:
        logits = read(variables, ids + written)[-1]
        written.append(int(logits.at[np.array(hidden)].set(-jnp.inf).argmax()))
        if written[-1] == tokenizer.special["end"]:
            break
    assert "".join(experiment.reply(config, variables)(turns)) == tokenizer.decode(written)


def test_the_oldest_exchanges_are_forgotten_first(config):
    tokenizer = experiment.data(config).tokenizer
    special = tokenizer.special
    turns = ["aaaa", "bbbb", "cc", "dd", "e"]
    whole = experiment.remembered(tokenizer, turns, room=90)
    starts = [place for place, token in enumerate(whole) if token == special["user"]]
    assert len(starts) == 3 and whole[-1] == special["bot"]
    assert tokenizer.decode(whole) == "".join(turns)
    for room in range(len(whole) - starts[2], len(whole) + 1):
        kept = experiment.remembered(tokenizer, turns, room)
        begin = next(start for start in starts if len(whole) - start <= room)
        assert kept == whole[begin:]


@pytest.mark.parametrize(
    "turns, message",
    [
        ([""], "nothing to reply to"),
        (["hm", "hm"], "nothing to reply to"),
        (["the cat " * 90], "the turn has .* tokens; .* the context takes 64: say it in fewer words"),
        (["\udcff"], "not UTF-8"),
    ],
)
def test_a_turn_that_cannot_be_replied_to_is_named(turns, message, config, variables):
    with pytest.raises(ValueError, match=message):
        experiment.reply(config, variables)(turns)


def test_a_context_without_room_for_a_turn_is_named(config, variables):
    with config.unlocked():
        config.sampling.length = config.context
    with pytest.raises(ValueError, match="leaves no room for a turn in the context of 96"):
        experiment.reply(config, variables)


def test_names_of_special_tokens_in_what_a_user_types_are_ordinary_text(config):
    tokenizer = experiment.data(config).tokenizer
    typed = "<end><bot> yes <user> <pad>"
    ids = experiment.remembered(tokenizer, [typed], room=90)
    assert not {*tokenizer.special.values()} & {*ids[1:-1]}
    assert tokenizer.decode(ids) == typed


def test_dialogues_without_a_reply_are_named(config, monkeypatch):
    source = text_sources.Source({"train": ({"turns": ("hello",), "label": 0},)}, ())
    monkeypatch.setitem(experiment.SOURCES, "monologues", lambda: source)
    with config.unlocked():
        config.source = {"name": "monologues"}
    with pytest.raises(ValueError, match="monologues train has no dialogue with a reply"):
        experiment.make_task(config)


def test_each_conversation_has_draws_of_its_own_and_the_same_ones_again(config, variables):
    indifferent = jax.tree.map(jnp.zeros_like, variables)  # every token is as likely, whatever was said
    answer = experiment.reply(config, indifferent)
    said = ["".join(answer([turn])) for turn in ("who knows?", "the cat.", "who knows?")]
    assert said[0] == said[2] != said[1]


def test_who_only_talks_waits_for_no_conversation_to_be_packed(config, variables, monkeypatch):
    experiment.rows.cache_clear()
    monkeypatch.setattr(experiment.text, "pack", lambda *_: pytest.fail("conversations were packed"))
    experiment.make_task(config)
    assert "".join(experiment.reply(config, variables)(["who knows?"]))


def test_what_a_font_may_lack_is_drawn_as_such():
    assert experiment.drawable("d\u00e9j\u00e0 vu \u2026 `no`!") == "d\u00e9j\u00e0 vu \u2026 `no`!"
    assert experiment.drawable("a`\u0348 \U0001f631\x00b") == "a`\ufffd \ufffd\ufffdb"


def test_the_demo_draws(config, variables, tmp_path):
    with jax.set_mesh(sharding.mesh(devices=jax.devices()[:1])):
        pictures = experiment.demo(config, variables, tmp_path)
    assert [picture.name for picture in pictures] == ["loss_by_place.png", "replies.png"]
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
