"""Weights from elsewhere: the state dicts of torchvision, timm and Hugging Face as `Variables`, and back.

    variables = pretrained.from_torchvision("resnet50", pretrained.load("resnet50.safetensors"))
    logits, _ = resnet.resnet50().apply(variables, images)

A state dict is a mapping of names to numpy arrays, so torch is not needed. What goes out comes back bit for
bit.
"""

from collections.abc import Callable
from typing import TypeVar

from dlx.core import Variables
from dlx.pretrained import bert, efficientnet, gpt, inception, llama, resnet, vgg, vit
from dlx.pretrained.files import load
from dlx.pretrained.preprocessing import PREPROCESSING, Preprocessing
from dlx.pretrained.rules import Library, PretrainedError, StateDict, convert, revert

TORCHVISION: dict[str, Library] = {
    **efficientnet.TORCHVISION,
    **inception.TORCHVISION,
    **resnet.TORCHVISION,
    **vgg.TORCHVISION,
    **vit.TORCHVISION,
}
TIMM: dict[str, Library] = {
    **efficientnet.TIMM,
    **resnet.TIMM,
    **vit.TIMM,
}
Rule = TypeVar("Rule")
HUGGINGFACE: dict[str, tuple[Callable[[StateDict], Variables], Callable[[Variables], dict]]] = {
    "bert": (bert.from_huggingface, bert.to_huggingface),
    "gpt2": (gpt.from_huggingface, gpt.to_huggingface),
    "llama": (llama.from_huggingface, llama.to_huggingface),
}

__all__ = [
    "HUGGINGFACE",
    "PREPROCESSING",
    "TIMM",
    "TORCHVISION",
    "Preprocessing",
    "PretrainedError",
    "from_huggingface",
    "from_timm",
    "from_torchvision",
    "load",
    "to_huggingface",
    "to_timm",
    "to_torchvision",
]


def from_torchvision(name: str, state_dict: StateDict) -> Variables:
    """Returns the `Variables` of `MODELS[name]` with the weights of torchvision's model of that architecture.

    The number of classes is that of the weights. Raises PretrainedError that lists every entry left over,
    missing or misshaped.
    """
    return convert(known(TORCHVISION, name, "torchvision"), name, state_dict)


def to_torchvision(name: str, variables: Variables) -> dict:
    """Returns the state dict that torchvision's model of that architecture loads."""
    return revert(known(TORCHVISION, name, "torchvision"), variables)


def from_timm(name: str, state_dict: StateDict) -> Variables:
    """Returns the `Variables` of `MODELS[name]` with the weights of timm's model of that architecture.

    The number of classes is that of the weights. Raises PretrainedError that lists every entry left over,
    missing or misshaped.
    """
    return convert(known(TIMM, name, "timm"), name, state_dict)


def to_timm(name: str, variables: Variables) -> dict:
    """Returns the state dict that timm's model of that architecture loads."""
    return revert(known(TIMM, name, "timm"), variables)


def from_huggingface(name: str, state_dict: StateDict) -> Variables:
    """Returns the `Variables` of "bert", "gpt2" or "llama" with the weights of its class in transformers.

    Sizes and heads are those of the weights. Raises PretrainedError that lists every entry left over,
    missing or misshaped.
    """
    return known(HUGGINGFACE, name, "Hugging Face")[0](state_dict)


def to_huggingface(name: str, variables: Variables) -> dict:
    """Returns the state dict that the class in transformers loads."""
    return known(HUGGINGFACE, name, "Hugging Face")[1](variables)


def known(table: dict[str, Rule], name: str, library: str) -> Rule:
    """Returns what a library calls the parts of a model, or says which models it knows."""
    if name not in table:
        raise PretrainedError(
            f"no weights of {library} for {name!r}; there are those of {', '.join(sorted(table))}"
        )
    return table[name]
