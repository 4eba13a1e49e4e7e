"""The vision transformer in torchvision and timm."""

from functools import partial

from dlx.pretrained.rules import LEAVES, Entry, Library, Path

TORCHVISION_NAMES = {
    "token": "class_token",
    "positions": "encoder.pos_embedding",
    "patches": "conv_proj",
    "block": "encoder.layers.encoder_layer_{}",
    "norm_1": "ln_1",
    "attention/qkv": "self_attention.in_proj",
    "attention/out": "self_attention.out_proj",
    "norm_2": "ln_2",
    "dense_1": "mlp.0",
    "dense_2": "mlp.3",
    "norm": "encoder.ln",
    "head": "heads.head",
}
TIMM_NAMES = {
    "token": "cls_token",
    "positions": "pos_embed",
    "patches": "patch_embed.proj",
    "block": "blocks.{}",
    "norm_1": "norm1",
    "attention/qkv": "attn.qkv",
    "attention/out": "attn.proj",
    "norm_2": "norm2",
    "dense_1": "mlp.fc1",
    "dense_2": "mlp.fc2",
    "norm": "norm",
    "head": "head",
}


def entry(names: dict[str, str], path: Path) -> Entry:
    """Finds a leaf: block_3/attention/qkv/kernel is blocks.3.attn.qkv.weight in timm."""
    _, *modules, leaf = path
    if not modules:  # the class token and the positions are leaves by themselves
        return Entry(names[leaf])
    if modules[0].startswith("block_"):
        block, number = modules.pop(0).split("_")
        there = f"{names[block].format(number)}.{names['/'.join(modules)]}"
    else:
        there = names[modules[0]]
    there += "_" if there.endswith("in_proj") else "."  # torch's attention holds in_proj_weight itself
    change = {"patches": "conv"}.get(modules[0], "dense") if leaf == "kernel" else "same"
    return Entry(there + LEAVES[leaf], change)


def today(name: str) -> str:
    """Returns the name of an entry that torchvision's files of 2022 call by another."""
    return name.replace("mlp.linear_1.", "mlp.0.").replace("mlp.linear_2.", "mlp.3.")


NAMES = ("vit_s16", "vit_s32", "vit_b16", "vit_b32", "vit_l16", "vit_l32")
TORCHVISION = dict.fromkeys(
    (name for name in NAMES if not name.startswith("vit_s")),
    Library(
        partial(entry, TORCHVISION_NAMES),
        head="heads.head.bias",
        today=today,
        free=("encoder.pos_embedding",),
    ),
)
TIMM = dict.fromkeys(NAMES, Library(partial(entry, TIMM_NAMES), head="head.bias", free=("pos_embed",)))
