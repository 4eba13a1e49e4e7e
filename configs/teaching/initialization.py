"""Ten layers of tanh on digits, with weights that are too small, too large, Xavier's and He's.

Weights of deviation 0.01 let activations, and so all gradients, fade from layer to layer; those of deviation
1 push units to the flat ends of tanh. Only weights that keep the variance train (Glorot and Bengio 2010,
"Understanding the difficulty of training deep feedforward neural networks"; He et al. 2015).

    python -m experiments sweep initialization --seeds=3

draws activations and gradients layer by layer, and the training. One of the runs is

    python -m experiments train --config=configs/teaching/initialization.py --workdir=runs/initialization
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
    config.schedule = {"name": "constant", "peak": 0.1}
    config.plan = {"steps": 400, "log_every": 50, "eval_every": 50, "save_every": 0, "steps_per_call": 50}
    config.sweep = {
        "by": {
            "key": "model.initialization",
            "values": ["small", "large", "xavier", "he"],
            "label": "first weights",
        },
        "metric": "accuracy",
        "set": "validation",
    }
    if scale == "smoke":
        config.plan.steps, config.plan.log_every, config.plan.eval_every = 60, 10, 30
        config.plan.steps_per_call = 10
    return config
