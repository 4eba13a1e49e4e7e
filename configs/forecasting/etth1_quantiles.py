"""Quantiles of the next 96 hours of ETTh1 by DLinear, from 336 seen: forecasts with bands.

python -m experiments train --config=configs/forecasting/etth1_quantiles.py --workdir=runs/etth1_quantiles
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; "smoke" learns synthetic series."""
    config = ConfigDict()
    config.experiment = "forecasting"
    config.seed, config.batch = 0, 32
    config.source = {"name": "etth1"}
    config.targets = ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]
    config.covariates, config.calendar, config.log_returns = [], [], False
    config.history, config.horizon, config.season = 336, 96, 24
    config.borders = {"validation": "2017-06-26", "test": "2017-10-24", "end": "2018-02-21"}
    config.quantiles = [0.1, 0.5, 0.9]
    config.model = {"name": "dlinear", "kernel": 25}
    config.optimizer = {"name": "adam", "average": 0.99}
    config.schedule = {"name": "cosine", "peak": 2e-3, "warmup": 0}
    config.plan = {"steps": 2500, "log_every": 100, "eval_every": 500, "save_every": 0}
    config.best = {"metric": "skill", "higher_is_better": True}
    if scale == "smoke":
        config.source = {"name": "synthetic_series", "channels": 2}
        config.targets = ["x0", "x1"]
        config.history, config.horizon = 48, 12
        config.borders = {"validation": "2020-01-16", "test": "2020-01-20", "end": ""}
        config.model.kernel = 5
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 30, "save_every": 30}
    return config
