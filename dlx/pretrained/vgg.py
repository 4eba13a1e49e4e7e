"""VGG in torchvision, where features and activations are numbered together."""

from dlx.models.vgg import STAGES
from dlx.pretrained.rules import LEAVES, Entry, Library, Path


def library(depth: int, batch_norm: bool) -> Library:
    """Returns the names of one VGG: Conv_2/kernel of VGG-16 is features.5.weight."""
    numbers, position = [], 0
    for convolutions in STAGES[depth]:
        for _ in range(convolutions):
            numbers.append(position)
            position += 3 if batch_norm else 2  # a convolution, its normalisation, a ReLU
        position += 1  # pooling

    def entry(path: Path) -> Entry:
        _, module, leaf = path
        kind, number = module.split("_")
        if kind == "Dense":
            change = "dense after 7x7" if number == "0" else "dense"
            there = f"classifier.{3 * int(number)}"  # ReLU and dropout follow
        else:
            change = "conv"
            there = f"features.{numbers[int(number)] + (kind == 'BatchNorm')}"
        return Entry(f"{there}.{LEAVES[leaf]}", change if leaf == "kernel" else "same")

    return Library(entry, head="classifier.6.bias")


TORCHVISION = {
    "vgg16": library(16, batch_norm=False),
    "vgg19": library(19, batch_norm=False),
    "vgg16_bn": library(16, batch_norm=True),
    "vgg19_bn": library(19, batch_norm=True),
}
