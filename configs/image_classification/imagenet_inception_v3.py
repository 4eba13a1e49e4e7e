"""Inception-v3 on ImageNet, 100 epochs.

The recipe is that of Szegedy et al. 2015 on one machine: RMSProp with an epsilon of 1, gradients clipped at
2, 0.94 of the rate every two epochs, smoothed labels, an auxiliary classifier, averaged weights. The crops
are cut out of the middle square of an image, not out of all of it.

python -m experiments train --config=configs/image_classification/imagenet_inception_v3.py --workdir=runs/v3
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant has synthetic images and a small network."""
    config = ConfigDict()
    epoch = 4965  # steps, of 1,271,174 images
    config.experiment = "image_classification"
    config.seed, config.batch = 0, 256
    config.source = {"name": "imagenet", "size": 342, "skip_corrupt": False}
    config.augment = {"resized_crop": 299, "flip": True, "jitter": 0.2}
    config.model = {"name": "inception_v3", "dtype": "bfloat16"}
    config.label_smoothing = 0.1
    config.optimizer = {
        "name": "rmsprop",
        "decay": 0.9,
        "eps": 1.0,
        "clip": 2.0,
        "l2": 4e-5,
        "average": 0.9999,
    }
    config.schedule = {
        "name": "step",
        "peak": 0.045,
        "boundaries": [2 * epoch * count for count in range(1, 50)],
        "factor": 0.94,
    }
    config.plan = {"steps": 100 * epoch, "log_every": 100, "eval_every": 4 * epoch, "save_every": epoch}
    config.published = {
        "metric": "accuracy",
        "value": 0.77294,
        "higher_is_better": True,
        "source": "torchvision 0.29, Inception_V3_Weights.IMAGENET1K_V1, which its authors trained",
    }
    if scale == "smoke":
        config.source = {"name": "synthetic_images", "num_classes": 4, "size": 20, "noise": 8.0}
        config.batch, config.augment.resized_crop = 16, 16
        config.model = {"name": "mlp", "dtype": "float32"}
        config.schedule = {"name": "step", "peak": 0.2, "boundaries": [20]}
        config.plan = {"steps": 30, "log_every": 10, "eval_every": 20, "save_every": 20}
        config.optimizer.average = 0.9
    return config
