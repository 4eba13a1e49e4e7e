"""A small convolutional network on chest X-rays of children: normal, or pneumonia.

python -m experiments train --config=configs/image_classification/pneumonia_mnist.py --workdir=runs/pneumonia
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant learns synthetic images."""
    config = ConfigDict()
    config.experiment = "image_classification"
    config.seed, config.batch = 0, 128
    config.source = {"name": "pneumonia_mnist"}
    config.augment = {"shift": 2.0, "rotate": 10.0, "scale": 0.1}
    config.model = {"name": "convnet", "widths": [16, 32, 64], "depth": 2, "dropout": 0.3}
    config.label_smoothing = 0.05
    config.optimizer = {"name": "adamw", "weight_decay": 0.05, "average": 0.99}
    config.schedule = {"name": "cosine", "peak": 2e-3, "warmup": 50}
    config.plan = {"steps": 500, "log_every": 50, "eval_every": 100, "save_every": 500}
    config.best = {"metric": "loss", "higher_is_better": False}
    config.published = {
        "metric": "roc_auc",
        "value": 0.944,
        "higher_is_better": True,
        "source": "Yang et al. 2023, MedMNIST v2, table 3, ResNet-18 at 28 pixels (as other pages quote it)",
    }
    if scale == "smoke":
        config.source = {"name": "synthetic_images", "num_classes": 2, "size": 12, "channels": 1}
        config.batch, config.model.widths = 32, [4, 8]
        config.schedule.warmup = 5
        config.plan = {"steps": 40, "log_every": 10, "eval_every": 20, "save_every": 20}
    return config
