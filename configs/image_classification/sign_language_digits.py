"""A small convolutional network on colour photographs of hands that show the digits.

python -m experiments train --config=configs/image_classification/sign_language_digits.py --workdir=runs/signs
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant learns synthetic images."""
    config = ConfigDict()
    config.experiment = "image_classification"
    config.seed, config.batch = 0, 64
    config.source = {"name": "sign_language_digits", "size": 64, "validation": 0.1}
    config.augment = {"flip": True, "shift": 5.0, "rotate": 15.0, "scale": 0.15, "shear": 0.1}
    config.model = {"name": "convnet", "widths": [16, 32, 64, 128], "depth": 1, "dropout": 0.3}
    config.label_smoothing = 0.05
    config.optimizer = {"name": "adamw", "weight_decay": 0.02, "average": 0.99}
    config.schedule = {"name": "cosine", "peak": 3e-3, "warmup": 50}
    config.plan = {"steps": 1200, "log_every": 50, "eval_every": 100, "save_every": 400}
    config.best = {"metric": "accuracy", "higher_is_better": True}
    config.published = {
        "metric": "accuracy",
        "value": 0.98,
        "higher_is_better": True,
        "source": "Mavi 2020, arXiv 2011.08927, abstract, another split",
    }
    if scale == "smoke":
        config.source = {"name": "synthetic_images", "num_classes": 4, "size": 16, "channels": 3}
        config.batch, config.model.widths = 32, [4, 8]
        config.schedule.warmup = 5
        config.plan = {"steps": 40, "log_every": 10, "eval_every": 20, "save_every": 20}
    return config
