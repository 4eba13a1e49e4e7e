"""A bidirectional LSTM with the maximum over time on the intents of CLINC150, from scratch.

The published value is that of the best of Larson et al. (2019) but BERT, a perceptron on the sentence vectors
of a pretrained encoder; its recall out of scope is 47.4 %.

python -m experiments train --config=configs/intent/clinc_bilstm.py --workdir=runs/clinc_bilstm
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant is narrower and learns synthetic reviews, all in scope."""
    config = ConfigDict()
    config.experiment = "intent"
    config.seed, config.batch, config.length = 0, 64, 24
    config.source = {"name": "clinc_oos"}
    config.tokenizer = {"name": "wordpiece", "size": 8000}
    config.model = {"name": "lstm_classifier", "embedding": 256, "width": 192, "dropout": 0.5}
    config.label_smoothing = 0.1
    config.optimizer = {"name": "adamw", "weight_decay": 0.01, "clip": 1.0, "average": 0.995}
    config.schedule = {"name": "cosine", "peak": 2e-3, "warmup": 100}
    config.plan = {"steps": 2000, "log_every": 100, "eval_every": 250, "save_every": 500}
    config.best = {"metric": "in_scope_accuracy", "higher_is_better": True}
    config.published = {
        "metric": "in_scope_accuracy",
        "value": 0.935,
        "higher_is_better": True,
        "source": "Larson et al. 2019, table 1, full, oos-train, MLP",
    }
    if scale == "smoke":
        config.source, config.tokenizer.size = {"name": "synthetic_sentences"}, 200
        config.batch, config.length = 32, 16
        config.model.embedding, config.model.width, config.model.dropout = 16, 16, 0.1
        config.optimizer.average, config.schedule.warmup, config.schedule.peak = 0.9, 5, 1e-2
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 30, "save_every": 30}
    return config
