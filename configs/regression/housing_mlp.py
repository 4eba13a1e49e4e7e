"""California housing from the raw file, a multilayer perceptron: RMSE in dollars of 1990 on a fifth held out.

Missing bedrooms become their median with an indicator, `ocean_proximity` is learned as vectors. Waves of the
numbers (Gorishniy et al. 2022) let prices jump from place to place.

python -m experiments train --config=configs/regression/housing_mlp.py --workdir=runs/housing_mlp
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant is smaller and learns a synthetic table."""
    config = ConfigDict()
    config.experiment = "regression"
    config.seed, config.batch = 0, 256
    config.source = {"name": "california_housing", "validation": 0.1}
    config.columns = {"transform": "quantile"}
    config.model = {"name": "tabular_mlp", "embedding": 32, "hidden": [512, 512, 512], "dropout": 0.1}
    config.model.waves, config.model.deviation = 48, 0.15
    config.optimizer = {"name": "adamw", "weight_decay": 0.3, "average": 0.995}
    config.schedule = {"name": "cosine", "peak": 1e-3, "warmup": 100}
    config.plan = {"steps": 3000, "log_every": 200, "eval_every": 250, "save_every": 1000}
    config.best = {"metric": "rmse", "higher_is_better": False}
    config.published = {
        "metric": "rmse",
        "value": 47730,
        "higher_is_better": False,
        "source": "Geron, handson-ml2 notebook 02, tuned random forest",
    }
    if scale == "smoke":
        config.source, config.columns = {"name": "synthetic_table"}, {"transform": "none"}
        config.model.hidden, config.model.waves = [32, 32], 4
        config.batch, config.optimizer.average = 64, 0.9
        config.schedule.warmup, config.schedule.peak = 5, 1e-2
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 30, "save_every": 30}
    return config
