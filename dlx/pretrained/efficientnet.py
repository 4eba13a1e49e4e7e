"""EfficientNet in torchvision, B0 to B7, and in timm, B0 to B4.

timm has more under the name: its `tf_efficientnet_*` surround images unevenly, as TensorFlow does, and its
B5 to B7 normalise with epsilon 1e-5, not 1e-3. Those are other networks and have no entry here.
"""

import re

from dlx.pretrained.rules import LEAVES, Entry, Library, Path

TORCHVISION_PARTS = {
    "stem_conv": "features.0.0",
    "stem_norm": "features.0.1",
    "head_conv": "features.8.0",
    "head_norm": "features.8.1",
    "head": "classifier.1",
}
TORCHVISION_BLOCK = {  # where there is an expansion; else every number is one less
    "expand_conv": (0, ".0"),
    "expand_norm": (0, ".1"),
    "depthwise_conv": (1, ".0"),
    "depthwise_norm": (1, ".1"),
    "squeeze": (2, ".fc1"),
    "excite": (2, ".fc2"),
    "project_conv": (3, ".0"),
    "project_norm": (3, ".1"),
}
TIMM_PARTS = {
    "stem_conv": "conv_stem",
    "stem_norm": "bn1",
    "head_conv": "conv_head",
    "head_norm": "bn2",
    "head": "classifier",
}
TIMM_BLOCK = {
    "expand_conv": "conv_pw",
    "expand_norm": "bn1",
    "depthwise_conv": "conv_dw",
    "depthwise_norm": "bn2",
    "squeeze": "se.conv_reduce",
    "excite": "se.conv_expand",
    "project_conv": "conv_pwl",
    "project_norm": "bn3",
}
TIMM_FIRST = TIMM_BLOCK | {"depthwise_norm": "bn1", "project_conv": "conv_pw", "project_norm": "bn2"}


def named(there: str, path: Path) -> Entry:
    """Returns the entry of a leaf in the part called `there`."""
    change = ("dense" if path[1] == "head" else "conv") if path[-1] == "kernel" else "same"
    return Entry(f"{there}.{LEAVES[path[-1]]}", change)


def place(module: str) -> tuple[int, int]:
    """Returns the stage, from 1, and the number in it, from 0, of a block's name."""
    stage, number = re.findall(r"\d+", module)
    return int(stage), int(number)


def torchvision(path: Path) -> Entry:
    """Finds a leaf: stage2_block0/gate/squeeze/kernel is features.2.0.block.2.fc1.weight."""
    _, first, *inner, _ = path
    if first in TORCHVISION_PARTS:
        return named(TORCHVISION_PARTS[first], path)
    stage, number = place(first)
    step, part = TORCHVISION_BLOCK[inner[-1]]
    return named(f"features.{stage}.{number}.block.{step - (stage == 1)}{part}", path)


def timm(path: Path) -> Entry:
    """Finds a leaf: stage2_block0/gate/squeeze/kernel is blocks.1.0.se.conv_reduce.weight."""
    _, first, *inner, _ = path
    if first in TIMM_PARTS:
        return named(TIMM_PARTS[first], path)
    stage, number = place(first)
    part = (TIMM_FIRST if stage == 1 else TIMM_BLOCK)[inner[-1]]
    return named(f"blocks.{stage - 1}.{number}.{part}", path)


TORCHVISION = {
    f"efficientnet_b{variant}": Library(torchvision, head="classifier.1.bias") for variant in range(8)
}
TIMM = {f"efficientnet_b{variant}": Library(timm, head="classifier.bias") for variant in range(5)}
