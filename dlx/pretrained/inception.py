"""Inception-v3 in torchvision.

torchvision's own weights want pixels between -1 and 1: built with them, its model rescales images that were
standardised by ImageNet's numbers before the first layer (`transform_input=True`). That is preprocessing, and
in its record; a model built without weights does nothing of the kind.
"""

from dlx.pretrained.rules import LEAVES, Entry, Library, Path

STEM = {
    "conv_1a": "Conv2d_1a_3x3",
    "conv_2a": "Conv2d_2a_3x3",
    "conv_2b": "Conv2d_2b_3x3",
    "conv_3b": "Conv2d_3b_1x1",
    "conv_4a": "Conv2d_4a_3x3",
    "head": "fc",
}
BRANCHES = {  # the convolutions of each module, in reading order
    "A": "branch1x1 branch5x5_1 branch5x5_2 branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3 branch_pool",
    "B": "branch3x3 branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3",
    "C": "branch1x1 branch7x7_1 branch7x7_2 branch7x7_3 branch7x7dbl_1 branch7x7dbl_2 branch7x7dbl_3 "
    "branch7x7dbl_4 branch7x7dbl_5 branch_pool",
    "D": "branch3x3_1 branch3x3_2 branch7x7x3_1 branch7x7x3_2 branch7x7x3_3 branch7x7x3_4",
    "E": "branch1x1 branch3x3_1 branch3x3_2a branch3x3_2b branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3a "
    "branch3x3dbl_3b branch_pool",
}
MODULES = {
    **dict.fromkeys(["mixed_5b", "mixed_5c", "mixed_5d"], "A"),
    **dict.fromkeys(["mixed_6a"], "B"),
    **dict.fromkeys(["mixed_6b", "mixed_6c", "mixed_6d", "mixed_6e"], "C"),
    **dict.fromkeys(["mixed_7a"], "D"),
    **dict.fromkeys(["mixed_7b", "mixed_7c"], "E"),
}


def entry(path: Path) -> Entry:
    """Finds a leaf: mixed_5b/ConvNorm_1/Conv_0/kernel is Mixed_5b.branch5x5_1.conv.weight."""
    _, first, *inner, leaf = path
    number = int(inner[0].removeprefix("ConvNorm_")) if inner and inner[0].startswith("ConvNorm_") else 0
    if first in STEM:
        there = STEM[first]
    elif first == "auxiliary":
        there = "AuxLogits." + ("fc" if inner[0] == "head" else f"conv{number}")
    else:
        there = f"{first.capitalize()}.{BRANCHES[MODULES[first]].split()[number]}"
    if "Conv_0" in inner:
        return Entry(f"{there}.conv.weight", "conv")
    if "BatchNorm_0" in inner:
        return Entry(f"{there}.bn.{LEAVES[leaf]}")
    return Entry(f"{there}.{LEAVES[leaf]}", "dense" if leaf == "kernel" else "same")


TORCHVISION = {"inception_v3": Library(entry, head="fc.bias", size=299)}
