"""Default of credit card clients: the area under the ROC curve, KS and calibration on a fifth held out.

python -m experiments train --config=configs/credit_risk/credit_default.py --workdir=runs/credit_default
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant is smaller and learns a synthetic table."""
    config = ConfigDict()
    config.experiment = "credit_risk"
    config.seed, config.batch, config.class_weight = 0, 256, 0.0
    config.source = {"name": "uci_credit_default", "validation": 0.1}
    config.columns = {"transform": "quantile"}
    config.model = {
        "name": "tabular_resnet",
        "embedding": 4,
        "width": 128,
        "depth": 2,
        "hidden": 256,
        "dropout": 0.3,
    }
    config.optimizer = {"name": "adamw", "weight_decay": 0.1, "average": 0.995}
    config.schedule = {"name": "cosine", "peak": 5e-4, "warmup": 100}
    config.plan = {"steps": 1500, "log_every": 100, "eval_every": 500, "save_every": 500}
    config.best = {"metric": "roc_auc", "higher_is_better": True}
    if scale == "smoke":
        config.source = {"name": "synthetic_table", "classes": True}
        config.columns = {"transform": "none"}
        config.model.width, config.model.depth, config.model.hidden = 16, 2, 32
        config.batch, config.optimizer.average = 64, 0.9
        config.schedule.warmup, config.schedule.peak = 5, 1e-2
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 30, "save_every": 30}
    return config
