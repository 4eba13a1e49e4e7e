"""MNIST with few labels: a perceptron that began as a deep belief network, or from its initialisation.

The machines learn first, from all training images and no label:

    python -m experiments train --config=configs/deep_belief/few_labels.py:pretrain \
        --workdir=runs/few_labels/pretrained

Then 10, 30, 100 and 500 labelled images of each class train the whole network, and the same network without
pretraining, for the same number of steps; the picture shows the error of both:

    python -m experiments sweep few_labels

The learning rates are the best of each on the validation images at 30 of each class, found by

    python -m experiments sweep --config=configs/deep_belief/few_labels.py:tune --seeds=3

One of these runs by itself is

    python -m experiments train --config=configs/deep_belief/few_labels.py --workdir=runs/few_labels/one
"""

from ml_collections import ConfigDict

PRETRAINED = "runs/few_labels/pretrained"


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; "pretrain" comes first, "tune" compares rates, "smoke" learns synthetic images."""
    config = ConfigDict()
    config.experiment = "deep_belief"
    config.seed, config.batch = 0, 100
    config.source = {"name": "mnist", "validation": 5000 / 60_000, "per_class": 30}
    config.model = {"name": "dbn", "hidden": [500, 500, 500], "units": "binary", "chains": 0}
    config.learn = "classifier"
    config.divergence = {"steps": 1, "sparsity_cost": 0.03, "sparsity_target": 0.1}
    config.temperatures = 0
    config.init = {
        "from": PRETRAINED,
        "config": "configs/deep_belief/few_labels.py:pretrain",
        "new_head": True,
    }
    config.optimizer = {"name": "adamw", "weight_decay": 1e-3, "average": 0.99}
    config.schedule = {"name": "cosine", "peak": 3e-3, "warmup": 20}
    config.plan = {"steps": 600, "log_every": 100, "eval_every": 600, "save_every": 0}
    if scale == "pretrain":
        config.source.per_class, config.init["from"] = 0, ""
        config.plan = {"steps": 5500, "log_every": 110, "eval_every": 1100, "save_every": 1100}
        config.stages = [
            {
                "name": f"layer_{layer}",
                "learn": f"layer_{layer}",
                "optimizer": {"name": "momentum", "l2": 2e-4, "freeze": [f"^(?!layer_{layer}/)"]},
                "schedule": {"name": "linear", "peak": 0.1, "warmup": 550},
                "init.new_head": False,
            }
            for layer in range(3)
        ]
        return config
    config.sweep = {
        "x": {
            "key": "source.per_class",
            "values": [10, 30, 100, 500],
            "label": "labelled images of each class",
        },
        "by": {
            "key": ["init.from", "schedule.peak"],
            "values": [["", 3e-3], [PRETRAINED, 3e-3]],
            "names": ["from scratch", "pretrained without labels"],
            "label": "start",
        },
        "metric": "error",
    }
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
            "size": 8,
            "channels": 1,
            "per_class": 25,
        }
        config.init["from"], config.model.hidden = "", [16, 16, 16]
        config.batch = 32
        config.schedule = {"name": "cosine", "peak": 1e-2, "warmup": 5}
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 30, "save_every": 30}
        config.sweep.by["values"] = [["", 1e-3], ["", 4e-3]]
    return config
