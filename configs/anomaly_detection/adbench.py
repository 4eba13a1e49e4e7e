"""ADBench's 23 classical sets, learned from normal rows: ensembles of autoencoders and an isolation forest.

    python -m experiments train --config=configs/anomaly_detection/adbench.py --workdir=runs/adbench

Half of the normal rows are learned from; the others and all anomalies are tested, as in Zong et al. (2018)
and Livernoche et al. (2024). The variant `adbench.py:contaminated` learns from seven tenths of all rows,
anomalies among them, as ADBench's unsupervised setting does. One recipe is for all sets; it was chosen on
those of `config.development`, and the metrics "_unseen" are of the others.
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; "contaminated" is the other protocol, "smoke" learns a synthetic ring and line."""
    config = ConfigDict()
    config.experiment = "anomaly_detection"
    config.seed, config.batch, config.members = 0, 128, 4
    config.source = {"name": "adbench_classical", "train": "normal", "split": -1}
    config.development = ["cardio", "ionosphere", "letter", "optdigits", "pima", "thyroid"]
    config.sets = [
        *("annthyroid", "breastw", "cardio", "cardiotocography", "fault", "ionosphere", "landsat", "letter"),
        *("mammography", "musk", "optdigits", "pendigits", "pima", "satellite", "satimage_2", "shuttle"),
        *("thyroid", "vertebral", "vowels", "wbc", "wdbc", "wilt", "wine"),
    ]
    config.columns = {"transform": "none"}
    config.model = {"name": "denoising_autoencoder", "hidden": [128], "code": 64, "noise": 0.3}
    config.optimizer = {"name": "adamw", "weight_decay": 1e-4}
    config.schedule = {"name": "cosine", "peak": 2e-3, "warmup": 20}
    config.plan = {"steps": 600, "log_every": 50, "eval_every": 200, "save_every": 300, "steps_per_call": 10}
    config.best = {"metric": "loss", "higher_is_better": False}
    if scale == "contaminated":
        config.source.train = "all"
        config.model = {"name": "autoencoder", "hidden": [64], "code": 4}
    if scale == "smoke":
        config.source.name, config.sets, config.development = (
            "synthetic_anomalies",
            ["ring", "line"],
            ["line"],
        )
        config.batch, config.members, config.model.hidden = 32, 2, [32]
        config.schedule = {"name": "cosine", "peak": 1e-2, "warmup": 5}
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 30, "save_every": 30, "steps_per_call": 1}
    return config
