"""Batch size and learning rate: five epochs of digits in batches of 16, 64 and 256.

Steps are fewer where batches are larger, and a rate larger by the same factor makes up for it, until it is
too large (Goyal et al. 2017, "Accurate, large minibatch SGD"): the curves are one, shifted along the rates.

    python -m experiments sweep batch_size --seeds=3

One of the runs is

    python -m experiments train --config=configs/teaching/batch_size.py --workdir=runs/batch_size
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant is smaller."""
    config = ConfigDict()
    config.experiment = "teaching"
    config.seed, config.batch = 0, 64
    config.source = {"name": "digits", "validation": 0.2, "per_class": 0}
    config.inputs = "standardised"
    config.model = {
        "depth": 2,
        "width": 100,
        "activation": "tanh",
        "initialization": "xavier",
        "norm": "none",
        "dropout_rate": 0.0,
    }
    config.optimizer = {"name": "sgd"}
    config.schedule = {"name": "constant", "peak": 0.1}
    config.plan = {"steps": 90, "log_every": 50, "eval_every": 0, "save_every": 0, "steps_per_call": 50}
    config.sweep = {
        "x": {"key": "schedule.peak", "values": [0.025, 0.1, 0.4, 1.6], "label": "learning rate"},
        "by": {
            "key": ["batch", "plan.steps"],
            "values": [[16, 360], [64, 90], [256, 22]],
            "names": [16, 64, 256],
            "label": "batch",
        },
        "metric": "loss",
    }
    if scale == "smoke":
        config.plan.steps, config.plan.log_every, config.plan.eval_every = 60, 10, 30
        config.plan.steps_per_call = 10
    return config
