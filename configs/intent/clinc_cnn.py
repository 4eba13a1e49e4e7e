"""A convolutional network on the intents of CLINC150, with vectors learned from scratch (Kim 2014).

The published one has pretrained vectors (Larson et al. 2019); its recall out of scope is 18.9 %.

python -m experiments train --config=configs/intent/clinc_cnn.py --workdir=runs/clinc_cnn
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant is narrower and learns synthetic reviews, all in scope."""
    config = ConfigDict()
    config.experiment = "intent"
    config.seed, config.batch, config.length = 0, 64, 24
    config.source = {"name": "clinc_oos"}
    config.tokenizer = {"name": "wordpiece", "size": 8000}
    config.model = {"name": "text_cnn", "embedding": 128, "filters": 128, "dropout": 0.5}
    config.model.windows = [1, 2, 3]
    config.label_smoothing = 0.0
    config.optimizer = {"name": "adamw", "weight_decay": 0.01, "average": 0.995}
    config.schedule = {"name": "cosine", "peak": 2e-3, "warmup": 50}
    config.plan = {"steps": 2000, "log_every": 100, "eval_every": 500, "save_every": 500}
    config.best = {"metric": "in_scope_accuracy", "higher_is_better": True}
    config.published = {
        "metric": "in_scope_accuracy",
        "value": 0.912,
        "higher_is_better": True,
        "source": "Larson et al. 2019, table 1, full, oos-train, CNN",
    }
    if scale == "smoke":
        config.source, config.tokenizer.size = {"name": "synthetic_sentences"}, 200
        config.batch, config.length = 32, 16
        config.model.embedding, config.model.filters, config.model.dropout = 16, 8, 0.1
        config.optimizer.average, config.schedule.warmup, config.schedule.peak = 0.9, 5, 1e-2
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 30, "save_every": 30}
    return config
