"""Where text comes from: sources whose splits are sequences of examples with strings.

An example is {"text": str}, with "label" int where there are classes; {"source": str, "target": str} of a
translation; or {"turns": tuple of str, "label": int} of a dialogue. Sets of the catalogue are prepared on
first use, as those of `dlx.data.sources` are. What is held out never depends on the seed of a run.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dlx.data.builders import BUILDERS, hashing
from dlx.data.builders.catalogue import arrays
from dlx.data.splits import Arrays, Source, check
from dlx.data.tokenizer import utf8

Texts = tuple[dict[str, Any], ...]


def tiny_shakespeare(*, manual_dir: str | Path | None = None) -> Source:
    """Tiny Shakespeare (Karpathy 2015): 1,115,394 characters in the split of nanoGPT, one {"text"} a split.

    "train" is the first nine tenths and "validation" the last tenth, on which published losses are measured;
    there is no "test". A validation loss that chose when to stop is a little better than a test loss.
    """
    return _catalogued("tiny_shakespeare", ("text",), manual_dir)


def sentence_polarity(
    *, fold: int = 0, validation: float | int = 0.1, manual_dir: str | Path | None = None
) -> Source:
    """Sentence polarity (Pang and Lee 2005): 10,662 {"text", "label"}, ten folds as in Kim (2014).

    "test" is fold 0..9, about a tenth; the fraction `validation` of the rest is held out from training. The
    folds go by the text, so equal sentences are in one split; Kim's were drawn anew in every run.
    """
    if fold not in range(10):
        raise ValueError(f"fold={fold} is none of the folds 0..9")
    whole = _catalogued("sentence_polarity", ("text",), manual_dir)
    splits: dict[str, list] = {"train": [], "validation": [], "test": []}
    for example in whole.splits["train"]:
        place = 10 * hashing.share(example["text"])
        held = (place % 1) < validation  # what is left of the hash after it has chosen the fold
        splits["test" if int(place) == fold else "validation" if held else "train"].append(example)
    return _source("sentence_polarity", splits, ("text",), whole.classes)


def clinc_oos(*, manual_dir: str | Path | None = None) -> Source:
    """CLINC150 (Larson et al. 2019): {"text", "label"} with its official splits, of the full data set.

    15,000 questions to train on, 3,000 and 4,500 to validate and test, in 150 intents in equal shares, and
    100, 100 and 1,000 out of scope, the last class, "oos".
    """
    return _catalogued("clinc_oos", ("text",), manual_dir)


def tatoeba_deu_eng(*, manual_dir: str | Path | None = None) -> Source:
    """German-English sentences of Tatoeba: {"source": German, "target": English}.

    163,061 pairs to train on, 3,267 and 3,485 to validate and test. No sentence of either language is in two
    splits, nor a variant of it in case or punctuation. A German sentence may have several English ones.
    """
    return _catalogued("tatoeba_deu_eng", ("source", "target"), manual_dir)


def self_dialogue(*, manual_dir: str | Path | None = None) -> Source:
    """Self-dialogues (Fainberg et al. 2018): {"turns", "label"}, conversations of two voices on 23 topics.

    21,797 dialogues to train on, 1,175 and 1,184 to validate and test; mostly 10 or 20 turns, the voices take
    turns. The label is the topic.
    """
    return _catalogued("self_dialogue", ("turns",), manual_dir)


SUBJECTS = ("the cat", "a dog", "the old man", "a child", "the small bird")
VERBS = ("sees", "likes", "finds", "wants")
OBJECTS = ("the house", "a tree", "the red ball", "a song")
PLACES = ("at home", "in town", "by night", "again")
WORDS = {  # of a language that is English word by word, but for its order
    "the": "der", "a": "ein", "cat": "kat", "dog": "hunt", "old": "alt", "man": "mant", "child": "kint",
    "small": "klen", "bird": "fogl", "sees": "sit", "likes": "makt", "finds": "fint", "wants": "vil",
    "house": "hus", "tree": "bom", "red": "rot", "ball": "bal", "song": "lit", "at": "tu", "home": "hem",
    "in": "im", "town": "stat", "by": "bi", "night": "naxt", "again": "neu",
}  # fmt: skip
PRAISE = (("dull", "bad", "boring", "weak"), ("great", "good", "lovely", "bright"))
TOPICS = ("father", "mother")


def synthetic_text(*, count: int = 400, seed: int = 0) -> Source:
    """Sentences of a small grammar, a line each: one {"text"} a split, needs no network.

    `count` lines to train on and a quarter as many to validate.
    """
    rng = np.random.default_rng(seed)
    lines = [f"{sentence}.\n" for sentence in _sentences(rng, count + count // 4)]
    splits = {"train": lines[:count], "validation": lines[count:]}
    joined = {split: [{"text": "".join(part)}] for split, part in splits.items()}
    return _source("synthetic_text", joined, ("text",), ())


def synthetic_sentences(*, count: int = 400, seed: int = 0) -> Source:
    """Reviews of one word of praise or blame among others: {"text", "label"}, needs no network.

    `count` examples of both classes in equal shares, about a tenth of them to validate, a tenth to test.
    """
    rng = np.random.default_rng(seed)
    examples = [
        {"text": f"{sentence} and it is {rng.choice(PRAISE[index % 2])}", "label": index % 2}
        for index, sentence in enumerate(_sentences(rng, count))
    ]
    splits = _apart(examples, "text")
    return _source("synthetic_sentences", splits, ("text",), BUILDERS["sentence_polarity"].classes)


def synthetic_pairs(*, count: int = 400, seed: int = 0) -> Source:
    """Sentences and their translation, word by word and in reverse: {"source", "target"}, needs no network.

    `count` pairs, about a tenth of them to validate, a tenth to test; the target is English.
    """
    rng = np.random.default_rng(seed)
    examples = [
        {"source": " ".join(WORDS[word] for word in reversed(sentence.split())), "target": sentence}
        for sentence in _sentences(rng, count)
    ]
    return _source("synthetic_pairs", _apart(examples, "target"), ("source", "target"), ())


def synthetic_dialogues(*, count: int = 200, turns: int = 4, seed: int = 0) -> Source:
    """Dialogues whose replies repeat what was asked about: {"turns", "label"}, needs no network.

    `count` dialogues of an even number of `turns`, about a tenth to validate, a tenth to test.
    """
    if turns < 2 or turns % 2:
        raise ValueError(f"turns={turns} must be even and at least 2: questions and their answers")
    rng = np.random.default_rng(seed)
    examples = []
    for index in range(count):
        names = _sentences(rng, turns // 2)
        said = [(f"who knows that {name}?", f"{name}, says the {TOPICS[index % 2]}.") for name in names]
        examples.append({"turns": tuple(turn for pair in said for turn in pair), "label": index % 2})
    return _source("synthetic_dialogues", _apart(examples, "turns"), ("turns",), TOPICS)


def text_files(files: Mapping[str, str | Path], *, name: str = "text") -> Source:
    """Reads one UTF-8 document a split: {split: path} gives {split: ({"text"},)}.

    Raises a ValueError that names the file if it is empty or no UTF-8.
    """
    splits = {split: [{"text": utf8(Path(path).read_bytes(), str(path))}] for split, path in files.items()}
    return _source("text_files", splits, ("text",), ())


TEXT_SOURCES = {
    "tiny_shakespeare": tiny_shakespeare,
    "sentence_polarity": sentence_polarity,
    "clinc_oos": clinc_oos,
    "tatoeba_deu_eng": tatoeba_deu_eng,
    "self_dialogue": self_dialogue,
    "text_files": text_files,
    "synthetic_text": synthetic_text,
    "synthetic_sentences": synthetic_sentences,
    "synthetic_pairs": synthetic_pairs,
    "synthetic_dialogues": synthetic_dialogues,
}


def checked(
    examples: Iterable[Mapping[str, Any]], texts: Sequence[str], classes: Sequence[str], name: str
) -> Texts:
    """Returns the examples of a split, having checked them; a ValueError names the first fault.

    Refused: no examples, the fields of `texts` that are empty or blank, a dialogue without turns or with an
    empty one, and labels outside 0..len(classes)-1.
    """
    kept = tuple(dict(example) for example in examples)
    if not kept:
        raise ValueError(f"{name} is empty; a split needs at least one example")
    for index, example in enumerate(kept):
        for field in texts:
            value = example[field]
            parts = value if isinstance(value, tuple) else (value,)
            if not parts or not all(part.strip() for part in parts):
                raise ValueError(f"{name} has no text under {field!r} in example {index}: {value!r}; drop it")
    if classes:
        check({"label": np.array([example["label"] for example in kept])}, classes, name)
    return kept


def _source(name: str, splits: Mapping[str, list], texts: Sequence[str], classes: Sequence[str]) -> Source:
    """Checks every split that has examples; the first must have some."""
    first = next(iter(splits))
    return Source(
        {
            split: checked(examples, texts, classes, f"{name} {split}")
            for split, examples in splits.items()
            if examples or split == first
        },
        tuple(classes),
    )


def _catalogued(name: str, texts: Sequence[str], manual_dir: str | Path | None) -> Source:
    """Reads a set of the catalogue, preparing it first if need be."""
    splits = {split: _examples(stored, texts) for split, stored in arrays(name, manual_dir).items()}
    return _source(name, splits, texts, BUILDERS[name].classes)


def _examples(stored: Arrays, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the examples that a prepared split holds; the turns of a dialogue are its lines."""
    columns: dict[str, list] = {}
    for field in texts:
        data, ends = stored[field].tobytes(), [0, *stored[f"{field}_ends"].tolist()]
        strings = [data[start:end].decode() for start, end in itertools.pairwise(ends)]
        columns[field] = [tuple(s.split("\n")) for s in strings] if field == "turns" else strings
    if "label" in stored:
        columns["label"] = stored["label"].tolist()
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _sentences(rng: np.random.Generator, count: int) -> list[str]:
    """Draws sentences of subject, verb, object and place."""
    parts = (SUBJECTS, VERBS, OBJECTS, PLACES)
    return [" ".join(rng.choice(words) for words in parts) for _ in range(count)]


def _apart(examples: list, field: str) -> dict[str, list]:
    """Holds about a tenth out to validate and a tenth to test; what is equal in `field` is in one split."""
    splits: dict[str, list] = {"train": [], "validation": [], "test": []}
    chosen = hashing.split_by([str(example[field]) for example in examples], {"validation": 0.1, "test": 0.1})
    for example, split in zip(examples, chosen, strict=True):
        splits[split].append(example)
    return splits
