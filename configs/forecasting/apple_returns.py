"""Daily log returns of Apple over the next five days, from the 20 before, walk-forward.

python -m experiments train --config=configs/forecasting/apple_returns.py --workdir=runs/apple_returns

Walk-forward: the model is trained anew on all that comes before each of the test periods,

    python -m experiments sweep apple_returns

and one of the runs, the last period, is the command above. What is to be beaten is a price that stays.
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; "smoke" learns a synthetic series."""
    config = ConfigDict()
    config.experiment = "forecasting"
    config.seed, config.batch = 0, 32
    config.source = {"name": "plotly_stocks"}
    config.targets = ["adjusted"]
    config.covariates, config.calendar, config.log_returns = [], [], True
    config.history, config.horizon, config.season = 20, 5, 0
    config.borders = {"validation": "2016-08-01", "test": "2016-11-01", "end": "2017-02-17"}
    config.quantiles = []
    config.model = {"name": "lstm_forecaster", "width": 8, "depth": 1, "dropout": 0.0, "reversible": False}
    config.optimizer = {"name": "adamw", "weight_decay": 0.1}
    config.schedule = {"name": "cosine", "peak": 1e-3, "warmup": 20}
    config.plan = {"steps": 100, "log_every": 20, "eval_every": 50, "save_every": 0}
    config.sweep = {
        "x": {
            "key": ["borders.validation", "borders.test", "borders.end"],
            "values": [
                ["2015-11-01", "2016-02-01", "2016-05-01"],
                ["2016-02-01", "2016-05-01", "2016-08-01"],
                ["2016-05-01", "2016-08-01", "2016-11-01"],
                ["2016-08-01", "2016-11-01", "2017-02-17"],
            ],
            "names": ["2016-02-01", "2016-05-01", "2016-08-01", "2016-11-01"],
            "label": "test quarter from",
        },
        "metric": "skill",
    }
    if scale == "smoke":
        config.source = {"name": "synthetic_series", "channels": 1}
        config.targets = ["x0"]
        config.history, config.horizon = 48, 12
        config.borders = {"validation": "2020-01-16", "test": "2020-01-20", "end": ""}
        config.log_returns = False
        config.batch, config.schedule.warmup, config.schedule.peak = 32, 5, 2e-2
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 30, "save_every": 30}
    return config
