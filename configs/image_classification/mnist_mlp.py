"""A multilayer perceptron on MNIST, with small random affine maps (Simard, Steinkraus and Platt 2003).

python -m experiments train --config=configs/image_classification/mnist_mlp.py --workdir=runs/mnist_mlp
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant learns synthetic images."""
    config = ConfigDict()
    config.experiment = "image_classification"
    config.seed, config.batch = 0, 128
    config.source = {"name": "mnist", "validation": 0.1}
    config.augment = {"flip": False, "shift": 1.5, "rotate": 10.0, "scale": 0.1, "shear": 0.1}
    config.model = {"name": "mlp", "hidden": [1024, 1024], "dropout": 0.2}
    config.label_smoothing = 0.0
    config.optimizer = {"name": "adamw", "weight_decay": 0.02, "average": 0.999}
    config.schedule = {"name": "cosine", "peak": 1e-3, "warmup": 200}
    config.plan = {"steps": 8000, "log_every": 200, "eval_every": 1000, "save_every": 2000}
    config.best = {"metric": "accuracy", "higher_is_better": True}
    config.published = {
        "metric": "accuracy",
        "value": 0.97,
        "higher_is_better": True,
        "source": "AlgoPerf v0.6, MNIST workload: the target for its perceptron",
    }
    if scale == "smoke":
        config.source = {"name": "synthetic_images", "num_classes": 4, "size": 12, "channels": 1}
        config.batch, config.model.hidden = 32, [32]
        config.schedule.warmup = 5
        config.plan = {"steps": 40, "log_every": 10, "eval_every": 20, "save_every": 20}
    return config
