"""Residual networks in torchvision and timm, which name their parts alike."""

from dlx.pretrained.rules import LEAVES, Entry, Library, Path

STEM = {"stem_conv": "conv1", "stem_norm": "bn1", "head": "fc"}
SHORTCUT = {"shortcut_conv": "downsample.0", "shortcut_norm": "downsample.1"}


def entry(path: Path) -> Entry:
    """Finds a leaf: stage1_block0/Conv_0/kernel is layer1.0.conv1.weight."""
    _, *modules, leaf = path
    if len(modules) == 1:
        there = STEM[modules[0]]
    else:
        stage, block = modules[0].removeprefix("stage").split("_block")
        there = f"layer{stage}.{block}.{part(modules[1])}"
    change = "same" if leaf != "kernel" else "dense" if there == "fc" else "conv"
    return Entry(f"{there}.{LEAVES[leaf]}", change)


def part(module: str) -> str:
    """Returns the name of a part of a block: that of BatchNorm_2 is bn3."""
    if module in SHORTCUT:
        return SHORTCUT[module]
    kind, number = module.split("_")
    return f"{'conv' if kind == 'Conv' else 'bn'}{int(number) + 1}"


RESNET = Library(entry, head="fc.bias")
TORCHVISION = {f"resnet{depth}": RESNET for depth in (18, 34, 50, 101, 152)}
TIMM = TORCHVISION
