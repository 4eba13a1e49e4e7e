"""Activation functions compared: ten layers on digits, each with the first weights that suit it.

A sigmoid passes at most a quarter of the gradient on, and ten of them next to nothing; without any function
the network stays a linear classifier, however deep, which on digits is a good one.

    python -m experiments sweep activations --seeds=3

draws activations and gradients layer by layer, and the training. One of the runs is

    python -m experiments train --config=configs/teaching/activations.py --workdir=runs/activations
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
        "width": 100,
        "activation": "tanh",
        "initialization": "xavier",
        "norm": "none",
        "dropout_rate": 0.0,
    }
    config.optimizer = {"name": "sgd"}
    config.schedule = {"name": "constant", "peak": 0.03}
    config.plan = {"steps": 600, "log_every": 50, "eval_every": 50, "save_every": 0, "steps_per_call": 50}
    config.sweep = {
        "by": {
            "key": ["model.activation", "model.initialization"],
            "values": [
                ["identity", "xavier"],
                ["sigmoid", "xavier"],
                ["tanh", "xavier"],
                ["relu", "he"],
                ["leaky_relu", "he"],
                ["elu", "he"],
                ["gelu", "he"],
                ["silu", "he"],
            ],
            "names": ["none", "sigmoid", "tanh", "ReLU", "leaky ReLU", "ELU", "GELU", "SiLU"],
            "label": "activation",
        },
        "metric": "accuracy",
        "set": "validation",
    }
    if scale == "smoke":
        config.plan.steps, config.plan.log_every, config.plan.eval_every = 60, 10, 30
        config.plan.steps_per_call = 10
    return config
