"""Tatoeba German-English: 169,813 pairs of sentences (2018-05-13), no sentence in two splits.

Pairs that share a sentence of either language, but for case and punctuation, are a group, and a group is in
one split: the training split has neither the English nor the German of a test pair.
"""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from dlx.data.builders import archive, files, hashing, text
from dlx.data.tokenizer import utf8

RAW = files.registered("https://raw.githubusercontent.com/rioyshky/translation/")

ABOUT = text.About(
    description="Sentences of the Tatoeba project and their translations, as selected by ManyThings.org.",
    homepage="https://www.manythings.org/anki/",
    license="CC BY 2.0 (tatoeba.org and www.manythings.org/anki)",
    citation="@misc{tatoeba, title={Tatoeba: sentences and translations}, howpublished={https://tatoeba.org}}",
)

INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b"))  # soft hyphens and spaces of no width


def normalized(sentence: str) -> str:
    """Returns a sentence in Unicode's form NFC, with single plain spaces and nothing invisible."""
    return " ".join(unicodedata.normalize("NFC", sentence).translate(INVISIBLE).split())


def key(sentence: str) -> str:
    """Returns what a sentence and its variants in case, punctuation and spacing have in common."""
    return " ".join(re.findall(r"\w+", sentence.casefold())) or sentence


def groups(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Returns for each pair the name of its group: pairs that share a key on either side are in one.

    The name is the smallest English key of the group, whatever the order of the pairs.
    """
    ends = [(f"e {key(english)}", f"g {key(german)}") for english, german in pairs]
    above: dict[str, str] = {}

    def top(node: str) -> str:
        while (parent := above.setdefault(node, node)) != node:
            above[node] = node = above[parent]  # halves the path for those who come after
        return node

    for english, german in ends:
        low, high = sorted((top(english), top(german)))
        above[high] = low  # English keys come before German ones, so the top is the smallest of them
    return [top(english) for english, _ in ends]


def read(path: Path) -> dict[str, list[text.Example]]:
    """Returns the distinct pairs by split, {"source": German, "target": English}, in the file's order."""
    members = archive.read(path.resolve(), r"(deu\.txt)", 20_000_000)
    lines = utf8(members["deu.txt"], f"deu.txt in {path}").split("\n")
    halves = (line.split("\t") for line in lines if line)
    pairs = list(dict.fromkeys((normalized(english), normalized(german)) for english, german in halves))
    splits: dict[str, list[text.Example]] = {"train": [], "validation": [], "test": []}
    chosen = hashing.split_by(groups(pairs), {"validation": 0.02, "test": 0.02})
    for (english, german), split in zip(pairs, chosen, strict=True):
        splits[split].append({"source": german, "target": english})
    return splits


COUNTS = {"train": 163_061, "validation": 3_267, "test": 3_485}

Builder = text.builder("tatoeba_deu_eng", RAW[0], ABOUT, ("source", "target"), read, COUNTS)
