"""Progression of diabetes in 442 patients; the seed is the fold, `--seeds 10` all ten.

python -m experiments train --config=configs/regression/diabetes.py --workdir=runs/diabetes
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant is smaller and learns a synthetic table."""
    config = ConfigDict()
    config.experiment = "regression"
    config.seed, config.batch = 0, 64
    config.source = {"name": "diabetes", "fold": -1, "validation": 0.1}
    config.columns = {"transform": "none"}
    config.model = {"name": "tabular_mlp", "embedding": 2, "hidden": [64, 64], "dropout": 0.3}
    config.optimizer = {"name": "adamw", "weight_decay": 0.1, "average": 0.98}
    config.schedule = {"name": "cosine", "peak": 1e-3, "warmup": 20}
    config.plan = {"steps": 300, "log_every": 20, "eval_every": 100, "save_every": 100}
    config.best = {"metric": "rmse", "higher_is_better": False}
    if scale == "smoke":
        config.source, config.columns = {"name": "synthetic_table"}, {"transform": "none"}
        config.model.hidden = [32, 32]
        config.batch, config.optimizer.average = 64, 0.9
        config.schedule.warmup, config.schedule.peak = 5, 1e-2
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 30, "save_every": 30}
    return config
