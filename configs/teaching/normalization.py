"""Batch and layer normalisation: ten layers of tanh learn from weights with which they otherwise do not.

Normalised layers pass the same signals on, whatever the scale of their weights. The scale is left as an
inverse learning rate: large weights train, but slowly (Ioffe and Szegedy 2015; Ba, Kiros and Hinton 2016).

    python -m experiments sweep normalization --seeds=3

One of the runs is

    python -m experiments train --config=configs/teaching/normalization.py --workdir=runs/normalization
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
        "depth": 10,
        "width": 50,
        "activation": "tanh",
        "initialization": "xavier",
        "norm": "none",
        "dropout_rate": 0.0,
    }
    config.optimizer = {"name": "sgd"}
    config.schedule = {"name": "constant", "peak": 0.01}
    config.plan = {"steps": 400, "log_every": 50, "eval_every": 0, "save_every": 0, "steps_per_call": 50}
    config.sweep = {
        "x": {
            "key": "model.initialization",
            "values": ["small", "xavier", "large"],
            "label": "first weights",
        },
        "by": {"key": "model.norm", "values": ["none", "layer", "batch"], "label": "normalisation"},
        "metric": "accuracy",
    }
    if scale == "smoke":
        config.plan.steps, config.plan.log_every, config.plan.eval_every = 60, 10, 30
        config.plan.steps_per_call = 10
    return config
