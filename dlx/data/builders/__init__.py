"""The catalogue of data sets that are fetched: TFDS builders that prepare and read without TensorFlow.

A builder module imports TFDS and is imported only when its set must be prepared or its records read.
"""

import importlib
from typing import Any, NamedTuple

from dlx.data.builders.text_classes import INTENTS, POLARITY, TOPICS


class Builder(NamedTuple):
    """A data set of the catalogue; `module` has its TFDS builder, `Builder`, and what that reads, `RAW`."""

    module: str
    name: str  # the folder of the prepared set: ours, since stock TFDS sets of the same name differ
    version: str
    classes: tuple[str, ...]

    def load(self) -> Any:
        """Imports and returns the builder's module, and TFDS with it."""
        return importlib.import_module(self.module)


DIGITS = tuple("0123456789")
CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

BUILDERS = {
    "mnist": Builder("dlx.data.builders.mnist", "dlx_mnist", "1.0.0", DIGITS),
    "fashion_mnist": Builder("dlx.data.builders.fashion_mnist", "dlx_fashion_mnist", "1.0.0", CLOTHES),
    "sign_language_digits": Builder(
        "dlx.data.builders.sign_language_digits", "dlx_sign_language_digits", "1.0.0", DIGITS
    ),
    "tiny_shakespeare": Builder("dlx.data.builders.tiny_shakespeare", "dlx_tiny_shakespeare", "1.0.0", ()),
    "sentence_polarity": Builder(
        "dlx.data.builders.sentence_polarity", "dlx_sentence_polarity", "1.0.0", POLARITY
    ),
    "clinc_oos": Builder("dlx.data.builders.clinc_oos", "dlx_clinc_oos", "1.0.0", INTENTS),
    "tatoeba_deu_eng": Builder("dlx.data.builders.tatoeba_deu_eng", "dlx_tatoeba_deu_eng", "1.0.0", ()),
    "self_dialogue": Builder("dlx.data.builders.self_dialogue", "dlx_self_dialogue", "1.0.0", TOPICS),
    "pneumonia_mnist": Builder(
        "dlx.data.builders.pneumonia_mnist", "dlx_pneumonia_mnist", "1.0.0", ("normal", "pneumonia")
    ),
}
