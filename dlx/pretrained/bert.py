"""BERT in transformers: BertModel, and BertFor MaskedLM, PreTraining, Sequence- and TokenClassification."""

import re

import jax
import numpy as np

from dlx.core import Variables
from dlx.models.bert import bert
from dlx.pretrained.rules import Entry, Library, Path, PretrainedError, StateDict, fill, flat, revert

NAMES = {
    "encoder/words": "bert.embeddings.word_embeddings",
    "encoder/positions": "bert.embeddings.position_embeddings",
    "encoder/types": "bert.embeddings.token_type_embeddings",
    "encoder/norm": "bert.embeddings.LayerNorm",
    "attention/query": "attention.self.query",
    "attention/key": "attention.self.key",
    "attention/value": "attention.self.value",
    "attention/out": "attention.output.dense",
    "norm_1": "attention.output.LayerNorm",
    "dense_1": "intermediate.dense",
    "dense_2": "output.dense",
    "norm_2": "output.LayerNorm",
    "pooler": "bert.pooler.dense",
    "masked_lm": "cls.predictions",
    "masked_lm/dense": "cls.predictions.transform.dense",
    "masked_lm/norm": "cls.predictions.transform.LayerNorm",
    "next_sentence": "cls.seq_relationship",
    "classifier": "classifier",
    "tagger": "classifier",
}
TIED = {  # second names of the same weights
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
WORDS = "bert.embeddings.word_embeddings.weight"


def entry(path: Path) -> Entry:
    """Finds a leaf: encoder/block_3/dense_1/kernel is bert.encoder.layer.3.intermediate.dense.weight."""
    _, *modules, leaf = path
    if leaf == "positions":
        return Entry(NAMES["encoder/positions"] + ".weight")
    if len(modules) > 1 and modules[1].startswith("block_"):
        number = modules[1].removeprefix("block_")
        there = f"bert.encoder.layer.{number}.{NAMES['/'.join(modules[2:])]}"
    else:
        there = NAMES["/".join(modules)]
    ending = "bias" if leaf == "bias" else "weight"
    return Entry(f"{there}.{ending}", "dense" if leaf == "kernel" else "same")


def today(name: str) -> str:
    """Returns an entry's name under "bert."; the first files speak of gamma and beta in normalisations."""
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    return f"bert.{name}" if name.startswith(("embeddings.", "encoder.", "pooler.")) else name


LIBRARY = Library(entry, ignored=("embeddings.position_ids",), today=today)


def leaves(weights: StateDict) -> dict[Path, jax.ShapeDtypeStruct]:
    """Returns the leaves of the model whose weights these are: the sizes and the head are theirs."""

    def shape(name: str, *default: int) -> tuple[int, ...]:
        found = np.shape(weights.get(name, np.broadcast_to(0, default)))
        return found if len(found) == len(default) else default

    layers = [re.match(r"bert\.encoder\.layer\.(\d+)\.", name) for name in weights]
    vocabulary, width = shape(WORDS, 30522, 768)
    head = "encoder"
    if any(name.startswith("cls.predictions.") for name in weights):
        head = "pretraining" if "cls.seq_relationship.weight" in weights else "masked_lm"
    elif "classifier.weight" in weights:
        head = "classifier" if "bert.pooler.dense.weight" in weights else "tagger"
    model = bert(
        head,
        num_classes=shape("classifier.bias", 2)[0],
        vocabulary=vocabulary,
        width=width,
        depth=1 + max((int(layer[1]) for layer in layers if layer), default=11),
        heads=1,  # how many there are does not show in the weights
        hidden=shape("bert.encoder.layer.0.intermediate.dense.bias", 4 * width)[0],
        context=shape("bert.embeddings.position_embeddings.weight", 512, width)[0],
        segments=shape("bert.embeddings.token_type_embeddings.weight", 2, width)[0],
    )
    variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 1), np.dtype("int32")))
    return flat({"params": variables.params})


def from_huggingface(state_dict: StateDict) -> Variables:
    """Returns the `Variables` of `models.bert.bert`, with the head that the weights have.

    Raises PretrainedError that lists every entry left over, missing or misshaped, and for a decoder that is
    not the embedding of the words.
    """
    weights = {today(name): array for name, array in state_dict.items()}
    for second, first in TIED.items():
        if second in weights and first in weights and not np.array_equal(weights[second], weights[first]):
            raise PretrainedError(f"{second} is not {first}: the model has one matrix for both")
        weights.pop(second, None)
    return fill(LIBRARY, "bert", weights, leaves(weights))


def to_huggingface(variables: Variables) -> dict:
    """Returns the state dict that the class with this head in transformers loads."""
    weights = revert(LIBRARY, variables)
    if set(variables.params) <= {"encoder", "pooler"}:  # BertModel itself
        return {name.removeprefix("bert."): array for name, array in weights.items()}
    tied = (
        {second: weights[first] for second, first in TIED.items()} if "masked_lm" in variables.params else {}
    )
    return weights | tied
