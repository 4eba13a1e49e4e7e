"""ResNet-50 on ImageNet, 90 epochs.

The recipe is torchvision's for ResNet, close to that of He et al. 2015: momentum, coupled decay, a tenth of
the rate every 30 epochs. The crops are cut out of the middle square of an image, not out of all of it.

python -m experiments train --config=configs/image_classification/imagenet_resnet50.py --workdir=runs/resnet50
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant has synthetic images and a small network."""
    config = ConfigDict()
    epoch = 4965  # steps, of 1,271,174 images
    config.experiment = "image_classification"
    config.seed, config.batch = 0, 256
    config.source = {"name": "imagenet", "size": 256, "skip_corrupt": False}
    config.augment = {"resized_crop": 224, "flip": True}
    config.model = {"name": "resnet50", "dtype": "bfloat16"}
    config.label_smoothing = 0.0
    config.optimizer = {"name": "momentum", "l2": 1e-4}
    config.schedule = {"name": "step", "peak": 0.1, "boundaries": [30 * epoch, 60 * epoch]}
    config.plan = {"steps": 90 * epoch, "log_every": 100, "eval_every": 4 * epoch, "save_every": epoch}
    config.published = {
        "metric": "accuracy",
        "value": 0.7613,
        "higher_is_better": True,
        "source": "torchvision 0.29, ResNet50_Weights.IMAGENET1K_V1",
    }
    if scale == "smoke":
        config.source = {"name": "synthetic_images", "num_classes": 4, "size": 20, "noise": 8.0}
        config.batch, config.augment.resized_crop = 16, 16
        config.model = {"name": "mlp", "dtype": "float32"}
        config.schedule = {"name": "step", "peak": 0.02, "boundaries": [20]}
        config.plan = {"steps": 30, "log_every": 10, "eval_every": 20, "save_every": 20}
    return config
