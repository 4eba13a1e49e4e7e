"""A deep belief network on scikit-learn's embedded digits: two machines, then backpropagation from labels.

    python -m experiments train --config=configs/deep_belief/digits.py --workdir=runs/deep_belief

The workdir holds a run for each stage; `demo` draws the filters, reconstructions and samples of the machines.
The variant `digits.py:autoencoder` ends in a deep autoencoder in the place of the classifier, the variant
`digits.py:gaussian` has Gaussian visible units.
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant is shorter and narrower, without samples of log Z."""
    config = ConfigDict()
    config.experiment = "deep_belief"
    config.seed, config.batch = 0, 64
    config.source = {"name": "digits", "validation": 0.1}
    config.model = {"name": "dbn", "hidden": [256, 256], "units": "binary", "chains": 0}
    config.learn = "classifier"
    config.divergence = {"steps": 1, "sparsity_cost": 0.03, "sparsity_target": 0.1}
    config.temperatures = 1000  # of the estimate of log Z; 0 for none
    config.init = {"from": "", "new_head": False}
    config.optimizer = {"name": "adamw", "weight_decay": 0.0, "average": 0.98}
    config.schedule = {"name": "cosine", "peak": 2e-3, "warmup": 50}
    config.plan = {"steps": 1000, "log_every": 50, "eval_every": 100, "save_every": 500}
    config.best = {"metric": "error", "higher_is_better": False}
    config.peer = {"name": "support_vectors"}
    rates, warmup, pretraining = [0.1, 0.1], 200, 2000
    if scale == "autoencoder":
        config.model.hidden, config.learn = [256, 16], "autoencoder"
        config.best.metric = "squared_error"
    if scale == "gaussian":
        config.model.units, rates = "gaussian", [0.002, 0.1]
    if scale == "smoke":
        config.model.hidden, config.temperatures = [32, 16], 20
        config.schedule = {"name": "cosine", "peak": 1e-2, "warmup": 5}
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 30, "save_every": 30}
        warmup, pretraining = 6, 60
    config.stages = [
        {
            "name": f"layer_{layer}",
            "learn": f"layer_{layer}",
            "optimizer": {"name": "momentum", "l2": 2e-4, "freeze": [f"^(?!layer_{layer}/)"]},
            "schedule": {"name": "linear", "peak": rate, "warmup": warmup},
            "plan.steps": pretraining,
            "best": {},
        }
        for layer, rate in enumerate(rates)
    ] + [{"name": config.learn}]
    return config
