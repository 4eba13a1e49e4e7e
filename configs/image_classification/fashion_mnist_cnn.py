"""Two convolutions on Fashion-MNIST.

This network has 1.7 million parameters, the published one fewer than 100 thousand.

python -m experiments train --config=configs/image_classification/fashion_mnist_cnn.py --workdir=runs/fashion
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant learns synthetic images."""
    config = ConfigDict()
    config.experiment = "image_classification"
    config.seed, config.batch = 0, 128
    config.source = {"name": "fashion_mnist", "validation": 0.05}
    config.augment = {"flip": True, "shift": 1.0, "rotate": 0.0, "scale": 0.05, "shear": 0.0}
    config.model = {"name": "lenet", "features": [32, 64, 512], "dropout": 0.5}
    config.label_smoothing = 0.0
    config.optimizer = {"name": "adamw", "weight_decay": 0.05, "average": 0.998}
    config.schedule = {"name": "cosine", "peak": 2e-3, "warmup": 400}
    config.plan = {"steps": 9000, "log_every": 100, "eval_every": 1000, "save_every": 1500}
    config.best = {"metric": "accuracy", "higher_is_better": True}
    config.published = {
        "metric": "accuracy",
        "value": 0.925,
        "higher_is_better": True,
        "source": "zalandoresearch/fashion-mnist README: two convolutions, fewer than 100k parameters",
    }
    if scale == "smoke":
        config.source = {"name": "synthetic_images", "num_classes": 4, "size": 12, "channels": 1}
        config.batch, config.model.features = 32, [4, 8, 32]
        config.schedule.warmup = 5
        config.plan = {"steps": 40, "log_every": 10, "eval_every": 20, "save_every": 20}
    return config
