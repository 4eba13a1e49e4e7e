"""Image classifiers of `benchmark models`: dlx's against torchvision's module of the same architecture.

Both train by SGD with momentum on the cross entropy of random labels. The peer is measured as it comes from
torchvision, in channels_last, and in channels_last behind torch.compile.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import torch
from torch.nn.functional import cross_entropy

from dlx import losses, metrics, optimizers
from dlx.configuration import lookup
from dlx.core import Task
from dlx.models import MODELS
from experiments.speed import sides, torch_side
from experiments.speed.sides import Contest

RATE, MOMENTUM = 1e-3, 0.9
AUXILIARY = 0.4  # the weight of a second classifier, in torchvision's training script
LAYOUTS = {
    "eager": {},
    "channels_last": {"layout": torch.channels_last},
    "torch.compile": {"layout": torch.channels_last, "compiled": True},
}


def small_resnet(**settings) -> torch.nn.Module:
    """Returns torchvision's ResNet-18 with the stem for images of 32 pixels that its users put in."""
    module = torchvision().resnet18(**settings)
    module.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    module.maxpool = torch.nn.Identity()
    return module


# name -> (settings of dlx's model, torchvision's module)
NETWORKS: dict[str, tuple[dict, Callable]] = {
    "resnet50": ({"name": "resnet50"}, lambda **settings: torchvision().resnet50(**settings)),
    "resnet18_small": ({"name": "resnet18", "stem": "small"}, small_resnet),
    "efficientnet_b0": (
        {"name": "efficientnet_b0"},
        lambda **settings: torchvision().efficientnet_b0(**settings),
    ),
    "vgg16": ({"name": "vgg16"}, lambda **settings: torchvision().vgg16(**settings)),
    "vit_b16": ({"name": "vit_b16"}, lambda **settings: torchvision().vit_b_16(**settings)),
    "inception_v3": (
        {"name": "inception_v3"},
        lambda **settings: torchvision().inception_v3(init_weights=False, **settings),
    ),
}


def contest(
    name: str, size: int, batch: int, classes: int = 1000, dtype: str = "float32", macs: float | None = None
) -> Contest:
    """Returns the row of a network of `NETWORKS` on square images of `size` pixels."""
    ours, theirs = lookup(NETWORKS, name)
    rng = np.random.default_rng(0)
    image = rng.normal(size=(batch, size, size, 3)).astype(np.float32)
    label = rng.integers(0, classes, batch).astype(np.int32)
    model = MODELS[ours["name"]](
        num_classes=classes, dtype=dtype, **{k: v for k, v in ours.items() if k != "name"}
    )

    def init(key):
        return model.init(key, jnp.zeros((1, size, size, 3)))

    def loss(variables, batch, key):
        outputs, state = model.apply(variables, batch["image"], key=key)
        heads = outputs if isinstance(outputs, tuple) else (outputs,)
        each, *others = (losses.softmax_cross_entropy(logits, batch["label"]) for logits in heads)
        total = each.mean() + AUXILIARY * sum(other.mean() for other in others)
        return total, (state, {"loss": metrics.mean(each)})

    def forward(variables, batch):
        return model.apply(variables, batch["image"])[0]

    def peer_loss(module, batch):
        outputs = module(batch["image"])
        heads = outputs if isinstance(outputs, tuple) else (outputs,)
        first, *others = (cross_entropy(logits, batch["label"]) for logits in heads)
        return first + AUXILIARY * sum(others)

    task = Task(init, loss, lambda step: {"image": image, "label": label})
    sgd = optimizers.make({"name": "momentum"}, {"name": "constant", "peak": RATE}, steps=1)
    tensors = {"image": image.transpose(0, 3, 1, 2).copy(), "label": label.astype(np.int64)}
    peer = functools.partial(
        torch_side.trained,
        functools.partial(theirs, weights=None, num_classes=classes),
        peer_loss,
        lambda module, batch: module(batch["image"]),
        tensors,
        optimizer=functools.partial(torch.optim.SGD, lr=RATE, momentum=MOMENTUM, fused=True),
        dtype=dtype,
    )
    kind = "" if dtype == "float32" else f", {dtype}"
    return Contest(
        f"{name}, {size} px, batch {batch}{kind}",
        "torchvision",
        batch,
        functools.partial(sides.trained, task, sgd, forward),
        {variant: functools.partial(peer, **settings) for variant, settings in LAYOUTS.items()},
        macs,
    )


@functools.cache
def torchvision():
    """Imports torchvision's models, with or without its compiled part, which none of them needs."""
    if not hasattr(torch.ops.torchvision, "nms"):
        torchvision.operators = torch.library.Library("torchvision", "DEF")  # lives as long as the process
        for name in ("nms", "qnms"):
            torchvision.operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from torchvision import models

    return models
