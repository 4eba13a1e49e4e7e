"""Dropout and weight decay on little data: thirty images of each digit, which the network knows by heart.

Dropout makes fewer mistakes on images not seen (Srivastava et al. 2014). Weight decay keeps the weights, and
so the logits, small: it makes the network less sure of itself.

    python -m experiments sweep regularization --seeds=5

One of the runs is

    python -m experiments train --config=configs/teaching/regularization.py --workdir=runs/regularization
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant is smaller."""
    config = ConfigDict()
    config.experiment = "teaching"
    config.seed, config.batch = 0, 32
    config.source = {"name": "digits", "validation": 0.2, "per_class": 30}
    config.inputs = "standardised"
    config.model = {
        "depth": 2,
        "width": 512,
        "activation": "relu",
        "initialization": "he",
        "norm": "none",
        "dropout_rate": 0.0,
    }
    config.optimizer = {"name": "sgd", "weight_decay": 0.0}
    config.schedule = {"name": "constant", "peak": 0.1}
    config.plan = {"steps": 1000, "log_every": 50, "eval_every": 0, "save_every": 0, "steps_per_call": 50}
    config.sweep = {
        "x": {"key": "model.dropout_rate", "values": [0.0, 0.25, 0.5], "label": "dropout"},
        "by": {"key": "optimizer.weight_decay", "values": [0.0, 0.003, 0.01], "label": "weight decay"},
        "metric": "accuracy",
    }
    if scale == "smoke":
        config.plan.steps, config.plan.log_every, config.plan.eval_every = 60, 10, 30
        config.plan.steps_per_call = 10
    return config
