"""Carbon dioxide on Mauna Loa over the next two years by month, from the five before, by DLinear.

python -m experiments train --config=configs/forecasting/co2.py --workdir=runs/co2
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; "smoke" learns a synthetic series."""
    config = ConfigDict()
    config.experiment = "forecasting"
    config.seed, config.batch = 0, 32
    config.source = {"name": "pddl_series", "series": "co2"}
    config.targets = ["co2"]
    config.covariates, config.calendar, config.log_returns = [], [], False
    config.history, config.horizon, config.season = 60, 24, 12
    config.borders = {"validation": "1996-01-01", "test": "2006-01-01", "end": ""}
    config.quantiles = []
    config.model = {"name": "dlinear", "kernel": 13}
    config.optimizer = {"name": "adamw", "weight_decay": 0.0}
    config.schedule = {"name": "cosine", "peak": 1e-2, "warmup": 50}
    config.plan = {"steps": 2000, "log_every": 100, "eval_every": 500, "save_every": 1000}
    config.best = {"metric": "skill", "higher_is_better": True}
    if scale == "smoke":
        config.source = {"name": "synthetic_series", "channels": 1}
        config.targets = ["x0"]
        config.history, config.horizon = 48, 12
        config.borders = {"validation": "2020-01-16", "test": "2020-01-20", "end": ""}
        config.schedule.warmup, config.season, config.model.kernel = 5, 24, 5
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 30, "save_every": 30}
    return config
