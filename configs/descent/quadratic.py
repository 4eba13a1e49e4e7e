"""Gradient descent and its variants in a valley, a quadratic a hundred times steeper across than along.

The rate of plain descent is bounded by the steep direction, and is small for the flat one. Momentum adds up
what all steps agree on, and Nesterov's looks ahead and overshoots less. The adaptive methods scale the axes,
which the valley does not follow. Each runs at the best rate of a grid.

    python -m experiments sweep quadratic --seeds=1

draws all the ways on the surface. One of them is

    python -m experiments train --config=configs/descent/quadratic.py --workdir=runs/quadratic
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant takes fewer steps."""
    config = ConfigDict()
    config.experiment = "descent"
    config.seed, config.batch = 0, 8
    config.model = {"name": "quadratic", "condition": 100.0, "angle": 30.0}
    config.start = [-2.0, 1.5]
    config.optimizer = {"name": "sgd"}
    config.schedule = {"name": "constant", "peak": 0.018}
    config.plan = {"steps": 100, "log_every": 5, "eval_every": 5, "save_every": 0, "steps_per_call": 5}
    config.sweep = {
        "by": {
            "key": ["optimizer.name", "schedule.peak"],
            "values": [
                ["sgd", 0.018],
                ["momentum", 0.01],
                ["nesterov", 0.01],
                ["adagrad", 3.0],
                ["rmsprop", 0.03],
                ["adam", 1.0],
            ],
            "names": ["descent", "momentum", "Nesterov", "AdaGrad", "RMSprop", "Adam"],
            "label": "method",
        },
        "metric": "log10_loss",
        "set": "validation",
    }
    if scale == "smoke":
        config.plan = {"steps": 40, "log_every": 5, "eval_every": 20, "save_every": 0, "steps_per_call": 5}
    return config
