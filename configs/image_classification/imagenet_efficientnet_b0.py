r"""EfficientNet-B0 on ImageNet, 350 epochs.

The recipe is that of Tan and Le 2019, with RandAugment in place of AutoAugment: RMSProp with momentum, 0.97
of the rate every 2.4 epochs, stochastic depth, averaged weights. The crops are cut out of the middle square
of an image, not out of all of it.

python -m experiments train --workdir=runs/b0 \
    --config=configs/image_classification/imagenet_efficientnet_b0.py
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant has synthetic images and a small network."""
    config = ConfigDict()
    epoch = 1241  # steps, of 1,271,174 images
    config.experiment = "image_classification"
    config.seed, config.batch = 0, 1024
    config.source = {"name": "imagenet", "size": 256, "skip_corrupt": False}
    config.augment = {"resized_crop": 224, "flip": True, "rand_augment": [2, 9.0]}
    config.model = {"name": "efficientnet_b0", "dtype": "bfloat16"}
    config.label_smoothing = 0.1
    config.optimizer = {
        "name": "rmsprop",
        "decay": 0.9,
        "eps": 1e-3,
        "momentum": 0.9,
        "l2": 1e-5,
        "average": 0.9999,
    }
    config.schedule = {
        "name": "step",
        "peak": 0.064,
        "warmup": 5 * epoch,
        "boundaries": [12 * epoch * count // 5 for count in range(3, 146)],
        "factor": 0.97,
    }
    config.plan = {"steps": 350 * epoch, "log_every": 100, "eval_every": 4 * epoch, "save_every": epoch}
    config.published = {
        "metric": "accuracy",
        "value": 0.77692,
        "higher_is_better": True,
        "source": "torchvision 0.29, EfficientNet_B0_Weights.IMAGENET1K_V1, which come from timm",
    }
    if scale == "smoke":
        config.source = {"name": "synthetic_images", "num_classes": 4, "size": 20, "noise": 8.0}
        config.batch, config.augment.resized_crop = 16, 16
        config.model = {"name": "mlp", "dtype": "float32"}
        config.schedule = {"name": "step", "peak": 2e-3, "warmup": 5, "boundaries": [40], "factor": 0.97}
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 20, "save_every": 20}
        config.optimizer.average = 0.9
    return config
