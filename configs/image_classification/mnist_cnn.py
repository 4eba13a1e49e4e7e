"""LeNet with today's widths on MNIST.

python -m experiments train --config=configs/image_classification/mnist_cnn.py --workdir=runs/mnist_cnn
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant learns synthetic images."""
    config = ConfigDict()
    config.experiment = "image_classification"
    config.seed, config.batch = 0, 128
    config.source = {"name": "mnist", "validation": 0.1}
    config.augment = {"flip": False, "shift": 1.5, "rotate": 10.0, "scale": 0.1, "shear": 0.1}
    config.model = {"name": "lenet", "features": [32, 64, 256], "dropout": 0.4}
    config.label_smoothing = 0.0
    config.optimizer = {"name": "adamw", "weight_decay": 0.02, "average": 0.995}
    config.schedule = {"name": "cosine", "peak": 2e-3, "warmup": 200}
    config.plan = {"steps": 2500, "log_every": 100, "eval_every": 500, "save_every": 500}
    config.best = {"metric": "accuracy", "higher_is_better": True}
    config.published = {
        "metric": "accuracy",
        "value": 0.9917,
        "higher_is_better": True,
        "source": "Flax examples/mnist README: two convolutions, 10 epochs",
    }
    if scale == "smoke":
        config.source = {"name": "synthetic_images", "num_classes": 4, "size": 12, "channels": 1}
        config.batch, config.model.features = 32, [4, 8, 32]
        config.schedule.warmup = 5
        config.plan = {"steps": 40, "log_every": 10, "eval_every": 20, "save_every": 20}
    return config
