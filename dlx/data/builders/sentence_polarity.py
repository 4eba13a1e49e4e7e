"""Sentence polarity 1.0: 10,662 sentences of film reviews, half of them positive; no split."""

from pathlib import Path

from dlx.data.builders import archive, files, text
from dlx.data.tokenizer import utf8

RAW = files.registered("https://raw.githubusercontent.com/nltk/nltk_data/gh-pages/packages/corpora/sentence")

ABOUT = text.About(
    description="Sentences from reviews on Rotten Tomatoes, labelled by the verdict of their review.",
    homepage="https://www.cs.cornell.edu/people/pabo/movie-review-data/",
    license="CC BY 4.0",
    citation="""\
@inproceedings{pang2005seeing,
  title={Seeing stars: Exploiting class relationships for sentiment categorization with respect to rating
    scales},
  author={Pang, Bo and Lee, Lillian},
  booktitle={Proceedings of the ACL},
  year={2005}
}""",
)


def read(path: Path) -> dict[str, list[text.Example]]:
    """Returns the sentences, first the negative ones; label 1 is positive."""
    members = archive.read(path.resolve(), r"rt-polarity\.(neg|pos)", 2_000_000)
    sentences = {
        label: utf8(members[name], f"rt-polarity.{name} in {path}").split("\n")
        for label, name in enumerate(("neg", "pos"))
    }
    return {
        "train": [
            {"text": " ".join(sentence.split()), "label": label}
            for label, lines in sentences.items()
            for sentence in lines
            if sentence.strip()
        ]
    }


Builder = text.builder("sentence_polarity", RAW[0], ABOUT, ("text",), read, {"train": 10_662})
