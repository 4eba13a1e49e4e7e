"""Dropout and weight decay on little data: ten images of each digit, which the network soon knows by heart.

Either makes fewer mistakes on images not seen (Krogh and Hertz 1991; Srivastava et al. 2014). Half of what is
not test data is held out, for a difference of a percent is to be seen.

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
    config.source = {"name": "digits", "validation": 0.5, "per_class": 10}
    config.inputs = "standardised"
    config.model = {
        "depth": 2,
        "width": 256,
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
