"""Fine-tuning with little data: chest X-rays, by a network trained on articles of clothing or from scratch.

A small network learns Fashion-MNIST first:

    python -m experiments train --config=configs/image_classification/fine_tuning.py:pretrain \
        --workdir=runs/fine_tuning/fashion_mnist

Then 10, 25 and 100 X-rays of each class of PneumoniaMNIST train it on with a new classifier, and the same
network from its initialisation, for the same number of steps:

    python -m experiments sweep fine_tuning

The learning rates are the best on the validation images at 25 of each class, found by

    python -m experiments sweep --config=configs/image_classification/fine_tuning.py:tune --seeds=3

One of these runs by itself is

    python -m experiments train --config=configs/image_classification/fine_tuning.py --workdir=runs/fine_tuned
"""

from ml_collections import ConfigDict

PRETRAINED = "runs/fine_tuning/fashion_mnist"


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; "pretrain" comes first, "tune" compares rates, "smoke" learns synthetic images."""
    config = ConfigDict()
    config.experiment = "image_classification"
    config.seed, config.batch = 0, 32
    config.source = {"name": "pneumonia_mnist", "per_class": 25}
    config.augment = {"flip": False, "shift": 2.0, "rotate": 10.0, "scale": 0.1, "shear": 0.0}
    config.model = {"name": "convnet", "widths": [16, 32, 64], "depth": 1, "dropout": 0.0}
    config.label_smoothing = 0.0
    config.init = {
        "from": PRETRAINED,
        "config": "configs/image_classification/fine_tuning.py:pretrain",
        "new_head": True,
    }
    config.optimizer = {"name": "adamw", "weight_decay": 0.05, "average": 0.98}
    config.schedule = {"name": "cosine", "peak": 1e-3, "warmup": 20}
    config.plan = {"steps": 200, "log_every": 50, "eval_every": 200, "save_every": 0}
    config.sweep = {
        "x": {
            "key": "source.per_class",
            "values": [10, 25, 100],
            "label": "training images of each class",
        },
        "by": {
            "key": ["init.from", "schedule.peak"],
            "values": [["", 1e-3], [PRETRAINED, 1e-3]],
            "names": ["from scratch", "pretrained on Fashion-MNIST"],
            "label": "start",
        },
        "metric": "accuracy",
    }
    if scale == "pretrain":
        config.source = {"name": "fashion_mnist", "validation": 0.05}
        config.augment.flip, config.batch = True, 128
        config.init["from"] = ""
        config.optimizer.average = 0.998
        config.schedule = {"name": "cosine", "peak": 4e-3, "warmup": 100}
        config.plan = {"steps": 2500, "log_every": 100, "eval_every": 500, "save_every": 500}
        del config.sweep
    if scale == "tune":
        config.sweep.x = {
            "key": "schedule.peak",
            "values": [3e-4, 1e-3, 3e-3, 1e-2],
            "label": "learning rate",
        }
        config.sweep.by = {"key": "init.from", "values": ["", PRETRAINED], "names": config.sweep.by.names}
        config.sweep.set = "validation"
    if scale == "smoke":
        config.source = {
            "name": "synthetic_images",
            "num_classes": 4,
            "size": 12,
            "channels": 1,
            "per_class": 25,
        }
        config.init["from"], config.model.widths = "", [4, 8]
        config.schedule.peak, config.schedule.warmup = 1e-2, 5
        config.plan = {"steps": 40, "log_every": 10, "eval_every": 20, "save_every": 20}
        config.sweep.by["values"] = [["", 1e-3], ["", 4e-3]]
    return config
