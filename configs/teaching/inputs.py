"""What centring and scaling the inputs is worth: pixels of digits between 0 and 1, centred, and standardised.

Inputs that are all positive share a direction in which the loss is much steeper than in the others, and allow
only small learning rates (LeCun et al. 1998, "Efficient backprop"): centred ones learn with rates at which
those hardly do, and standardised ones faster at every rate.

    python -m experiments sweep inputs --seeds=3

One of the runs is

    python -m experiments train --config=configs/teaching/inputs.py --workdir=runs/inputs
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
    config.plan = {"steps": 60, "log_every": 50, "eval_every": 0, "save_every": 0, "steps_per_call": 50}
    config.sweep = {
        "x": {"key": "schedule.peak", "values": [0.02, 0.1, 0.5], "label": "learning rate"},
        "by": {
            "key": "inputs",
            "values": ["scaled", "centred", "standardised"],
            "names": ["0 to 1", "centred", "standardised"],
            "label": "pixels",
        },
        "metric": "loss",
    }
    if scale == "smoke":
        config.plan.steps, config.plan.log_every, config.plan.eval_every = 60, 10, 30
        config.plan.steps_per_call = 10
    return config
