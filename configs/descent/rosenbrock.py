"""Gradient descent and its variants in Rosenbrock's valley: steep sides, and a flat floor that bends.

Each runs at the best rate of a grid.

    python -m experiments sweep rosenbrock --seeds=1

draws all the ways on the surface. One of them is

    python -m experiments train --config=configs/descent/rosenbrock.py --workdir=runs/rosenbrock
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant takes fewer steps."""
    config = ConfigDict()
    config.experiment = "descent"
    config.seed, config.batch = 0, 8
    config.model = {"name": "rosenbrock", "steepness": 100.0}
    config.start = [-1.2, 1.0]
    config.optimizer = {"name": "sgd"}
    config.schedule = {"name": "constant", "peak": 0.002}
    config.plan = {"steps": 1000, "log_every": 50, "eval_every": 50, "save_every": 0, "steps_per_call": 50}
    config.sweep = {
        "by": {
            "key": ["optimizer.name", "schedule.peak"],
            "values": [
                ["sgd", 0.002],
                ["momentum", 0.003],
                ["nesterov", 0.001],
                ["adagrad", 1.0],
                ["rmsprop", 0.01],
                ["adam", 0.3],
            ],
            "names": ["descent", "momentum", "Nesterov", "AdaGrad", "RMSprop", "Adam"],
            "label": "method",
        },
        "metric": "log10_loss",
        "set": "validation",
    }
    if scale == "smoke":
        config.plan = {"steps": 100, "log_every": 10, "eval_every": 50, "save_every": 0, "steps_per_call": 10}
    return config
