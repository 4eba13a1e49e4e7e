"""The anomaly of the global temperature (GCAG) over the next year by month, from ten years, by an LSTM.

python -m experiments train --config=configs/forecasting/global_temperature.py --workdir=runs/temperature
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; "smoke" learns a synthetic series."""
    config = ConfigDict()
    config.experiment = "forecasting"
    config.seed, config.batch = 0, 32
    config.source = {"name": "pddl_series", "series": "global_temperature_gcag"}
    config.targets = ["anomaly"]
    config.covariates, config.calendar, config.log_returns = [], [], False
    config.history, config.horizon, config.season = 120, 12, 12
    config.borders = {"validation": "1970-01-01", "test": "1990-01-01", "end": ""}
    config.quantiles = [0.1, 0.5, 0.9]
    config.model = {"name": "lstm_forecaster", "width": 32, "depth": 1, "dropout": 0.0, "reversible": True}
    config.optimizer = {"name": "adamw", "weight_decay": 0.01}
    config.schedule = {"name": "cosine", "peak": 1e-3, "warmup": 50}
    config.plan = {"steps": 500, "log_every": 100, "eval_every": 250, "save_every": 500}
    config.best = {"metric": "skill", "higher_is_better": True}
    if scale == "smoke":
        config.source = {"name": "synthetic_series", "channels": 1}
        config.targets = ["x0"]
        config.history, config.horizon = 48, 12
        config.borders = {"validation": "2020-01-16", "test": "2020-01-20", "end": ""}
        config.schedule.warmup, config.schedule.peak, config.season = 5, 1e-2, 24
        config.model.width = 8
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 30, "save_every": 30}
    return config
