"""Fine-tuning with little data: hands that show digits, by a network trained on articles of clothing or not.

The network of fine_tuning.py learns Fashion-MNIST first:

    python -m experiments train --config=configs/image_classification/fine_tuning.py:pretrain \
        --workdir=runs/fine_tuning/fashion_mnist

Then 10, 25 and 100 photographs of each class of the sign language digits, grey and of 28 pixels, train it on
with a new classifier, and the same network from its initialisation, for the same number of steps:

    python -m experiments sweep fine_tuning_signs

The learning rates are the best on the validation images at 25 of each class, found by

    python -m experiments sweep --config=configs/image_classification/fine_tuning_signs.py:tune --seeds=2

One of these runs by itself is

    python -m experiments train --config=configs/image_classification/fine_tuning_signs.py --workdir=runs/s
"""

from ml_collections import ConfigDict

PRETRAINED = "runs/fine_tuning/fashion_mnist"


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; "tune" compares learning rates, and the smoke variant learns synthetic images."""
    config = ConfigDict()
    config.experiment = "image_classification"
    config.seed, config.batch = 0, 32
    config.source = {"name": "sign_language_digits", "size": 28, "gray": True, "per_class": 25}
    config.augment = {"flip": True, "shift": 2.0, "rotate": 10.0, "scale": 0.1, "shear": 0.0}
    config.model = {"name": "convnet", "widths": [16, 32, 64], "depth": 1, "dropout": 0.0}
    config.label_smoothing = 0.0
    config.init = {
        "from": PRETRAINED,
        "config": "configs/image_classification/fine_tuning.py:pretrain",
        "new_head": True,
    }
    config.optimizer = {"name": "adamw", "weight_decay": 0.05, "average": 0.98}
    config.schedule = {"name": "cosine", "peak": 3e-2, "warmup": 20}
    config.plan = {"steps": 300, "log_every": 50, "eval_every": 300, "save_every": 0}
    starts = ["from scratch", "pretrained on Fashion-MNIST"]
    config.sweep = {
        "x": {
            "key": "source.per_class",
            "values": [10, 25, 100],
            "label": "training images of each class",
        },
        "by": {
            "key": ["init.from", "schedule.peak"],
            "values": [["", 3e-2], [PRETRAINED, 3e-2]],
            "names": starts,
            "label": "start",
        },
        "metric": "accuracy",
    }
    if scale == "tune":
        config.sweep = {
            "x": {"key": "schedule.peak", "values": [3e-3, 1e-2, 3e-2, 1e-1], "label": "learning rate"},
            "by": {"key": "init.from", "values": ["", PRETRAINED], "names": starts, "label": "start"},
            "metric": "accuracy",
            "set": "validation",
        }
    if scale == "smoke":
        config.source = {
            "name": "synthetic_images",
            "num_classes": 4,
            "size": 12,
            "channels": 1,
            "per_class": 25,
        }
        config.init["from"], config.model.widths = "", [4, 8]
        config.schedule.warmup = 5
        config.plan = {"steps": 40, "log_every": 10, "eval_every": 20, "save_every": 20}
        config.sweep.by["values"] = [["", 1e-3], ["", 1e-2]]
    return config
