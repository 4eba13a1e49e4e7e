"""A small convolutional network on scikit-learn's embedded digits: the default, no network needed.

python -m experiments train --workdir=runs/digits
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant is shorter and narrower."""
    config = ConfigDict()
    config.experiment = "image_classification"
    config.seed, config.batch = 0, 128
    config.source = {"name": "digits", "validation": 0.1}
    config.augment = {"flip": False, "shift": 0.5, "rotate": 10.0, "scale": 0.1, "shear": 0.1}
    config.model = {"name": "convnet", "widths": [32, 64], "depth": 1, "dropout": 0.3}
    config.label_smoothing = 0.0
    config.optimizer = {"name": "adamw", "weight_decay": 0.02, "average": 0.99}
    config.schedule = {"name": "cosine", "peak": 4e-3, "warmup": 50}
    config.plan = {"steps": 600, "log_every": 50, "eval_every": 100, "save_every": 300}
    config.best = {"metric": "accuracy", "higher_is_better": True}
    config.peer = {"name": "support_vectors"}
    if scale == "smoke":
        config.batch, config.model.widths = 64, [16, 32]
        config.optimizer.average, config.schedule.warmup = 0.95, 10
        config.plan = {"steps": 150, "log_every": 10, "eval_every": 50, "save_every": 50}
    return config
