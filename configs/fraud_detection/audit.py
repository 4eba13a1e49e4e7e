"""Risky firms among those audited, by what was seen there; the seed is the fold, `--seeds 10` all ten.

Columns are left out from which the rule that made the label can be computed: with them, nothing is learned.

python -m experiments train --config=configs/fraud_detection/audit.py --workdir=runs/audit
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant is smaller and learns a synthetic table."""
    config = ConfigDict()
    config.experiment = "fraud_detection"
    config.seed, config.batch, config.class_weight = 0, 64, 0.0
    config.source = {"name": "uci_audit", "fold": -1, "validation": 0.1}
    config.columns = {
        "transform": "quantile",
        "drop": [
            *("Audit_Risk", "Inherent_Risk", "CONTROL_RISK", "Detection_Risk", "Score", "PROB", "Prob"),
            *("Risk_A", "Risk_B", "Risk_C", "Risk_D", "Risk_E", "Risk_F"),
            *("Score_A", "Score_B", "Score_B_2", "Score_MV"),
        ],
    }
    config.model = {"name": "tabular_mlp", "embedding": 4, "hidden": [128, 128], "dropout": 0.2}
    config.optimizer = {"name": "adamw", "weight_decay": 0.05, "average": 0.98}
    config.schedule = {"name": "cosine", "peak": 1e-3, "warmup": 20}
    config.plan = {"steps": 500, "log_every": 25, "eval_every": 125, "save_every": 125}
    config.best = {"metric": "average_precision", "higher_is_better": True}
    if scale == "smoke":
        config.source = {"name": "synthetic_table", "classes": True}
        config.columns = {"transform": "none"}
        config.model.hidden = [32, 32]
        config.batch, config.optimizer.average = 64, 0.9
        config.schedule.warmup, config.schedule.peak = 5, 1e-2
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 30, "save_every": 30}
    return config
