"""Daily log returns of the VIX over the next five days, from the 60 before, by an LSTM, walk-forward.

python -m experiments train --config=configs/forecasting/vix_returns.py --workdir=runs/vix_returns

Walk-forward: the model is trained anew on all that comes before each of the test periods,

    python -m experiments sweep vix_returns

and one of the runs, the last period, is the command above. What is to be beaten is a price that stays.
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; "smoke" learns a synthetic series."""
    config = ConfigDict()
    config.experiment = "forecasting"
    config.seed, config.batch = 0, 64
    config.source = {"name": "pddl_series", "series": "vix"}
    config.targets = ["close"]
    config.covariates, config.calendar, config.log_returns = [], [], True
    config.history, config.horizon, config.season = 60, 5, 0
    config.borders = {"validation": "2017-01-01", "test": "2020-01-01", "end": "2025-01-01"}
    config.quantiles = []
    config.model = {"name": "lstm_forecaster", "width": 16, "depth": 1, "dropout": 0.0, "reversible": False}
    config.optimizer = {"name": "adamw", "weight_decay": 0.1}
    config.schedule = {"name": "cosine", "peak": 1e-3, "warmup": 20}
    config.plan = {"steps": 300, "log_every": 50, "eval_every": 100, "save_every": 0}
    config.sweep = {
        "x": {
            "key": ["borders.validation", "borders.test", "borders.end"],
            "values": [
                ["2002-01-01", "2005-01-01", "2010-01-01"],
                ["2007-01-01", "2010-01-01", "2015-01-01"],
                ["2012-01-01", "2015-01-01", "2020-01-01"],
                ["2017-01-01", "2020-01-01", "2025-01-01"],
            ],
            "names": ["2005-2009", "2010-2014", "2015-2019", "2020-2024"],
            "label": "test years",
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
