"""Models by the field's names; each is a function from sizes to a `Model`."""

from collections.abc import Callable

from dlx.core import Model
from dlx.models import convnet, efficientnet, inception, lenet, mlp, resnet, vgg, vit

MODELS: dict[str, Callable[..., Model]] = {
    "convnet": convnet.convnet,
    "efficientnet_b0": efficientnet.efficientnet_b0,
    "efficientnet_b1": efficientnet.efficientnet_b1,
    "efficientnet_b2": efficientnet.efficientnet_b2,
    "efficientnet_b3": efficientnet.efficientnet_b3,
    "efficientnet_b4": efficientnet.efficientnet_b4,
    "efficientnet_b5": efficientnet.efficientnet_b5,
    "efficientnet_b6": efficientnet.efficientnet_b6,
    "efficientnet_b7": efficientnet.efficientnet_b7,
    "inception_v3": inception.inception_v3,
    "lenet": lenet.lenet,
    "mlp": mlp.mlp,
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "resnet101": resnet.resnet101,
    "resnet152": resnet.resnet152,
    "vgg16": vgg.vgg16,
    "vgg16_bn": vgg.vgg16_bn,
    "vgg19": vgg.vgg19,
    "vgg19_bn": vgg.vgg19_bn,
    "vit_b16": vit.vit_b16,
    "vit_b32": vit.vit_b32,
    "vit_l16": vit.vit_l16,
    "vit_l32": vit.vit_l32,
    "vit_s16": vit.vit_s16,
    "vit_s32": vit.vit_s32,
}
