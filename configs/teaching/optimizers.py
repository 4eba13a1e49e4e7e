"""Gradient descent and its variants on digits, over learning rates that reach from too small to too large.

Momentum of 0.9 is a rate ten times as large; the adaptive methods (AdaGrad, RMSprop, Adam) learn with rates
that are hundreds of times smaller, and do not bear large ones. Each at its best, they end close together.
"quadratic" and "rosenbrock" of configs/descent draw their ways on surfaces.

    python -m experiments sweep optimizers --seeds=3

One of the runs is

    python -m experiments train --config=configs/teaching/optimizers.py --workdir=runs/optimizers
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
        "depth": 3,
        "width": 100,
        "activation": "tanh",
        "initialization": "xavier",
        "norm": "none",
        "dropout_rate": 0.0,
    }
    config.optimizer = {"name": "sgd"}
    config.schedule = {"name": "constant", "peak": 0.1}
    config.plan = {"steps": 100, "log_every": 50, "eval_every": 0, "save_every": 0, "steps_per_call": 50}
    config.sweep = {
        "x": {"key": "schedule.peak", "values": [0.001, 0.01, 0.1, 0.3], "label": "learning rate"},
        "by": {
            "key": "optimizer.name",
            "values": ["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam"],
            "label": "method",
        },
        "metric": "loss",
    }
    if scale == "smoke":
        config.plan.steps, config.plan.log_every, config.plan.eval_every = 60, 10, 30
        config.plan.steps_per_call = 10
    return config
