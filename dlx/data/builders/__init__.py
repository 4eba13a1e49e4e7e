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
    "california_housing": Builder(
        "dlx.data.builders.california_housing", "dlx_california_housing", "1.0.0", ()
    ),
    "uci_real_estate": Builder("dlx.data.builders.uci_real_estate", "dlx_uci_real_estate", "1.0.0", ()),
    "german_credit": Builder("dlx.data.builders.german_credit", "dlx_german_credit", "1.0.0", ()),
    "uci_credit_default": Builder(
        "dlx.data.builders.uci_credit_default", "dlx_uci_credit_default", "1.0.0", ()
    ),
    "uci_audit": Builder("dlx.data.builders.uci_audit", "dlx_uci_audit", "1.0.0", ()),
    "etth1": Builder("dlx.data.builders.etth1", "dlx_etth1", "1.0.0", ()),
    "beijing_pm25": Builder("dlx.data.builders.beijing_pm25", "dlx_beijing_pm25", "1.0.0", ()),
    "nass_crop_yield": Builder("dlx.data.builders.nass_crop_yield", "dlx_nass_crop_yield", "1.0.0", ()),
    "pddl_series": Builder("dlx.data.builders.pddl_series", "dlx_pddl_series", "1.0.0", ()),
    "plotly_stocks": Builder("dlx.data.builders.plotly_stocks", "dlx_plotly_stocks", "1.0.0", ()),
    "adbench_classical": Builder(
        "dlx.data.builders.adbench_classical", "dlx_adbench_classical", "1.0.0", ("normal", "anomaly")
    ),
    "nab_realknowncause": Builder(
        "dlx.data.builders.nab_realknowncause", "dlx_nab_realknowncause", "1.0.0", ()
    ),
}
