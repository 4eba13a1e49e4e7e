"""What was done to the images that a weight set was trained on, and must be done to yours."""

from typing import NamedTuple


class Preprocessing(NamedTuple):
    """The way from a photograph to a model's input.

    Scale the shorter side to `resize` pixels by `interpolation`, cut the middle `size` x `size` out, and give
    pixels between 0 and 255 to the model behind `dlx.nn.standardized(model, mean, std)`.
    """

    size: int = 224
    resize: int = 256
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)  # ImageNet's: 255 * (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)  # 255 * (0.229, 0.224, 0.225)


HALF = (127.5, 127.5, 127.5)  # as mean and as deviation: pixels between -1 and 1

PREPROCESSING = {  # weight sets by the names of those who published them
    **dict.fromkeys(
        [
            *(f"torchvision/{name}.IMAGENET1K_V1" for name in ("vgg16", "vgg19", "vgg16_bn", "vgg19_bn")),
            *(f"torchvision/resnet{depth}.IMAGENET1K_V1" for depth in (18, 34, 50, 101, 152)),
            *(f"torchvision/{name}.IMAGENET1K_V1" for name in ("vit_b_16", "vit_b_32", "vit_l_32")),
        ],
        Preprocessing(),
    ),
    **dict.fromkeys(
        [f"torchvision/resnet{depth}.IMAGENET1K_V2" for depth in (50, 101, 152)], Preprocessing(224, 232)
    ),
    "torchvision/vit_l_16.IMAGENET1K_V1": Preprocessing(224, 242),
    # torchvision standardises by ImageNet's numbers and lets the model undo that: the outcome is this
    "torchvision/inception_v3.IMAGENET1K_V1": Preprocessing(299, 342, "bilinear", HALF, HALF),
    "torchvision/efficientnet_b0.IMAGENET1K_V1": Preprocessing(224, 256, "bicubic"),
    "torchvision/efficientnet_b1.IMAGENET1K_V1": Preprocessing(240, 256, "bicubic"),
    "torchvision/efficientnet_b1.IMAGENET1K_V2": Preprocessing(240, 255, "bilinear"),
    "torchvision/efficientnet_b2.IMAGENET1K_V1": Preprocessing(288, 288, "bicubic"),
    "torchvision/efficientnet_b3.IMAGENET1K_V1": Preprocessing(300, 320, "bicubic"),
    "torchvision/efficientnet_b4.IMAGENET1K_V1": Preprocessing(380, 384, "bicubic"),
    "torchvision/efficientnet_b5.IMAGENET1K_V1": Preprocessing(456, 456, "bicubic"),
    "torchvision/efficientnet_b6.IMAGENET1K_V1": Preprocessing(528, 528, "bicubic"),
    "torchvision/efficientnet_b7.IMAGENET1K_V1": Preprocessing(600, 600, "bicubic"),
    "timm/resnet18.a1_in1k": Preprocessing(224, 235, "bicubic"),
    "timm/resnet34.a1_in1k": Preprocessing(224, 235, "bicubic"),
    "timm/resnet50.a1_in1k": Preprocessing(224, 235, "bicubic"),
    "timm/resnet101.a1h_in1k": Preprocessing(224, 235, "bicubic"),
    "timm/resnet152.a1h_in1k": Preprocessing(224, 235, "bicubic"),
    "timm/efficientnet_b0.ra_in1k": Preprocessing(224, 256, "bicubic"),
    "timm/efficientnet_b1.ra4_e3600_r240_in1k": Preprocessing(240, 266, "bicubic", HALF, HALF),
    "timm/efficientnet_b2.ra_in1k": Preprocessing(256, 292, "bicubic"),
    "timm/efficientnet_b3.ra2_in1k": Preprocessing(288, 329, "bicubic"),
    "timm/efficientnet_b4.ra2_in1k": Preprocessing(320, 365, "bicubic"),
    "timm/vit_small_patch16_224.augreg_in21k_ft_in1k": Preprocessing(224, 248, "bicubic", HALF, HALF),
    "timm/vit_small_patch32_224.augreg_in21k_ft_in1k": Preprocessing(224, 248, "bicubic", HALF, HALF),
    "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k": Preprocessing(224, 248, "bicubic", HALF, HALF),
    "timm/vit_base_patch32_224.augreg_in21k_ft_in1k": Preprocessing(224, 248, "bicubic", HALF, HALF),
    "timm/vit_large_patch16_224.augreg_in21k_ft_in1k": Preprocessing(224, 248, "bicubic", HALF, HALF),
}
