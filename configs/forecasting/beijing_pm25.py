"""PM2.5 in Beijing over the next 24 hours, from two days of it and of the weather, by an LSTM.

python -m experiments train --config=configs/forecasting/beijing_pm25.py --workdir=runs/beijing_pm25

Hours without a measurement count neither in the loss nor in the metrics. The weather of the hours to come is
not known to the model.
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; "smoke" learns a synthetic series."""
    config = ConfigDict()
    config.experiment = "forecasting"
    config.seed, config.batch = 0, 64
    config.source = {"name": "beijing_pm25"}
    config.targets = ["pm2.5"]
    config.covariates = ["dew_point", "temperature", "pressure", "wind_speed", "snow_hours", "rain_hours"]
    config.covariates += ["wind_NW", "wind_NE", "wind_SE", "wind_cv"]
    config.calendar, config.log_returns = ["day", "year"], False
    config.history, config.horizon, config.season = 48, 24, 24
    config.borders = {"validation": "2013-01-01", "test": "2014-01-01", "end": ""}
    config.quantiles = [0.1, 0.5, 0.9]
    config.model = {"name": "lstm_forecaster", "width": 64, "depth": 1, "dropout": 0.0, "reversible": False}
    config.optimizer = {"name": "adamw", "weight_decay": 0.01}
    config.schedule = {"name": "cosine", "peak": 2e-3, "warmup": 100}
    config.plan = {"steps": 1000, "log_every": 100, "eval_every": 250, "save_every": 500}
    config.best = {"metric": "skill", "higher_is_better": True}
    if scale == "smoke":
        config.source = {"name": "synthetic_series", "channels": 2, "missing": 0.05}
        config.targets, config.covariates = ["x0"], ["x1"]
        config.history, config.horizon = 48, 12
        config.borders = {"validation": "2020-01-16", "test": "2020-01-20", "end": ""}
        config.batch, config.model.width, config.schedule.warmup, config.schedule.peak = 32, 16, 5, 1e-2
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 30, "save_every": 30}
    return config
