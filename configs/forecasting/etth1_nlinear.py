"""NLinear on ETTh1: seven channels, 336 hours seen, the next 96 forecast (Zeng et al. 2023).

python -m experiments train --config=configs/forecasting/etth1_nlinear.py --workdir=runs/etth1_nlinear

The other published horizons are variants: --config=configs/forecasting/etth1_nlinear.py:720, or 192, or 336.
"""

from ml_collections import ConfigDict

PUBLISHED = {96: 0.374, 192: 0.408, 336: 0.429, 720: 0.440}


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; "192", "336" and "720" are other horizons, "smoke" learns synthetic series."""
    config = ConfigDict()
    config.experiment = "forecasting"
    config.seed, config.batch = 0, 32
    config.source = {"name": "etth1"}
    config.targets = ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]
    config.covariates, config.calendar, config.log_returns = [], [], False
    config.history, config.horizon, config.season = 336, 96, 24
    config.borders = {"validation": "2017-06-26", "test": "2017-10-24", "end": "2018-02-21"}
    config.quantiles = []
    config.model = {"name": "nlinear"}
    config.optimizer = {"name": "adam", "average": 0.99}
    config.schedule = {"name": "cosine", "peak": 2e-3, "warmup": 0}
    config.plan = {"steps": 2500, "log_every": 100, "eval_every": 500, "save_every": 0}
    config.best = {"metric": "mse", "higher_is_better": False}
    if scale.isdigit():
        config.horizon = int(scale)
    config.published = {
        "metric": "mse",
        "value": PUBLISHED[config.horizon],
        "higher_is_better": False,
        "source": f"Zeng et al. 2023, ETTh1, NLinear, horizon {config.horizon}",
    }
    if scale == "smoke":
        config.source = {"name": "synthetic_series", "channels": 2}
        config.targets = ["x0", "x1"]
        config.history, config.horizon = 48, 12
        config.borders = {"validation": "2020-01-16", "test": "2020-01-20", "end": ""}
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 30, "save_every": 30}
    return config
