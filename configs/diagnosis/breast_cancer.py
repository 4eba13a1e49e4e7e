"""Malignant or benign, by 30 numbers of a tumour; the seed is the fold, `--seeds 10` all ten.

python -m experiments train --config=configs/diagnosis/breast_cancer.py --workdir=runs/breast_cancer
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant is smaller and learns a synthetic table."""
    config = ConfigDict()
    config.experiment = "diagnosis"
    config.seed, config.batch, config.class_weight = 0, 64, 0.0
    config.source = {"name": "breast_cancer", "fold": -1, "validation": 0.1}
    config.columns = {"transform": "none"}
    config.model = {"name": "tabular_mlp", "embedding": 2, "hidden": [128, 128], "dropout": 0.3}
    config.optimizer = {"name": "adamw", "weight_decay": 0.1, "average": 0.98}
    config.schedule = {"name": "cosine", "peak": 1e-3, "warmup": 20}
    config.plan = {"steps": 400, "log_every": 20, "eval_every": 100, "save_every": 100}
    config.best = {"metric": "accuracy", "higher_is_better": True}
    if scale == "smoke":
        config.source = {"name": "synthetic_table", "classes": True}
        config.columns = {"transform": "none"}
        config.model.hidden = [32, 32]
        config.batch, config.optimizer.average = 64, 0.9
        config.schedule.warmup, config.schedule.peak = 5, 1e-2
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 30, "save_every": 30}
    return config
