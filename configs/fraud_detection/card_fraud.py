"""Simulated card payments: a week to learn from, and a week to test on, a week later.

The simulator, the features and the split are those of Le Borgne et al. (2022). The seed of a run
draws its world, so that the mean is over worlds; the published value is of one, another sample of these.

python -m experiments train --config=configs/fraud_detection/card_fraud.py --workdir=runs/card_fraud
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant is smaller and learns a synthetic table."""
    config = ConfigDict()
    config.experiment = "fraud_detection"
    config.seed, config.batch, config.class_weight = 0, 256, 0.0
    config.source = {"name": "simulated_card_fraud", "validation": 0.1, "seed": -1}
    config.columns = {"transform": "none"}
    config.model = {"name": "tabular_mlp", "embedding": 8, "hidden": [256, 256], "dropout": 0.2}
    config.optimizer = {"name": "adamw", "weight_decay": 0.01, "average": 0.995}
    config.schedule = {"name": "cosine", "peak": 1e-3, "warmup": 100}
    config.plan = {"steps": 2500, "log_every": 100, "eval_every": 500, "save_every": 500}
    config.best = {"metric": "average_precision", "higher_is_better": True}
    config.published = {
        "metric": "average_precision",
        "value": 0.653,
        "higher_is_better": True,
        "source": "Fraud Detection Handbook, chapter 7, feed-forward network",
    }
    if scale == "smoke":
        config.source = {"name": "synthetic_table", "classes": True}
        config.columns = {"transform": "none"}
        config.model.hidden = [32, 32]
        config.batch, config.optimizer.average = 64, 0.9
        config.schedule.warmup, config.schedule.peak = 5, 1e-2
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 30, "save_every": 30}
    return config
