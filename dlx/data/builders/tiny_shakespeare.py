"""Tiny Shakespeare: 1,115,394 characters of plays, in the split of nanoGPT.

One document a split. The first nine tenths are for training and the last tenth is "validation": it is what
published losses are measured on, and there is no test split beyond it.
"""

from pathlib import Path

from dlx.data.builders import files, text
from dlx.data.tokenizer import utf8

RAW = files.registered("https://raw.githubusercontent.com/karpathy/char-rnn/")

ABOUT = text.About(
    description="40,000 lines from plays of William Shakespeare.",
    homepage="https://github.com/karpathy/char-rnn",
    license="public domain",
    citation="""\
@misc{karpathy2015charrnn,
  author={Karpathy, Andrej},
  title={char-rnn},
  year={2015},
  howpublished={https://github.com/karpathy/char-rnn}
}""",
)


def read(path: Path) -> dict[str, list[text.Example]]:
    """Returns the two parts of the document."""
    play = utf8(text.content(path), str(path))
    cut = int(0.9 * len(play))
    return {"train": [{"text": play[:cut]}], "validation": [{"text": play[cut:]}]}


Builder = text.builder("tiny_shakespeare", RAW[0], ABOUT, ("text",), read, {"train": 1, "validation": 1})
