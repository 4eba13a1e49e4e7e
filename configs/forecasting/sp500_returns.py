"""Monthly log returns of the S&P 500 over the next three months, from the 24 before, walk-forward.

python -m experiments train --config=configs/forecasting/sp500_returns.py --workdir=runs/sp500_returns

The price of a month is the mean of its days (Shiller), so that a month's return is correlated with the next
by about a quarter even where prices are a random walk (Working 1960): what a model wins over the naive
forecast in its first step is that, and no profit.

Walk-forward: the model is trained anew on all that comes before each of the test periods,

    python -m experiments sweep sp500_returns

and one of the runs, the last period, is the command above. What is to be beaten is a price that stays.
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; "smoke" learns a synthetic series."""
    config = ConfigDict()
    config.experiment = "forecasting"
    config.seed, config.batch = 0, 64
    config.source = {"name": "pddl_series", "series": "sp500"}
    config.targets = ["price"]
    config.covariates, config.calendar, config.log_returns = [], [], True
    config.history, config.horizon, config.season = 24, 3, 0
    config.borders = {"validation": "2000-01-01", "test": "2010-01-01", "end": "2020-01-01"}
    config.quantiles = []
    config.model = {"name": "lstm_forecaster", "width": 16, "depth": 1, "dropout": 0.0, "reversible": False}
    config.optimizer = {"name": "adamw", "weight_decay": 0.1}
    config.schedule = {"name": "cosine", "peak": 1e-3, "warmup": 20}
    config.plan = {"steps": 300, "log_every": 50, "eval_every": 100, "save_every": 0}
    config.sweep = {
        "x": {
            "key": ["borders.validation", "borders.test", "borders.end"],
            "values": [
                ["1960-01-01", "1970-01-01", "1980-01-01"],
                ["1970-01-01", "1980-01-01", "1990-01-01"],
                ["1980-01-01", "1990-01-01", "2000-01-01"],
                ["1990-01-01", "2000-01-01", "2010-01-01"],
                ["2000-01-01", "2010-01-01", "2020-01-01"],
            ],
            "names": ["1970s", "1980s", "1990s", "2000s", "2010s"],
            "label": "test decade",
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
