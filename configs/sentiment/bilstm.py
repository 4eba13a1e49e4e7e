"""A bidirectional LSTM with the maximum over time on sentence polarity, from scratch.

The seed is the fold, and its validation sentences say when to stop, as in text_cnn.py; the published value
beside it is that of the CNN.

python -m experiments train --config=configs/sentiment/bilstm.py --workdir=runs/sentiment_bilstm
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant is narrower and learns synthetic reviews."""
    config = ConfigDict()
    config.experiment = "sentiment"
    config.seed, config.batch, config.length = 0, 50, 48
    config.source = {"name": "sentence_polarity", "fold": -1, "validation": 0.1}
    config.tokenizer = {"name": "wordpiece", "size": 20_000}
    config.model = {"name": "lstm_classifier", "embedding": 128, "width": 128, "dropout": 0.5}
    config.optimizer = {"name": "adamw", "weight_decay": 0.01, "clip": 1.0, "average": 0.99}
    config.schedule = {"name": "cosine", "peak": 1e-3, "warmup": 50}
    config.plan = {"steps": 750, "log_every": 50, "eval_every": 150, "save_every": 375}
    config.best = {"metric": "accuracy", "higher_is_better": True}
    config.published = {
        "metric": "accuracy",
        "value": 0.761,
        "higher_is_better": True,
        "source": "Kim 2014, table 2, CNN-rand (as other pages quote it)",
    }
    if scale == "smoke":
        config.source, config.tokenizer.size = {"name": "synthetic_sentences"}, 200
        config.batch, config.length = 32, 16
        config.model.embedding, config.model.width, config.model.dropout = 16, 16, 0.1
        config.optimizer.average, config.schedule.warmup, config.schedule.peak = 0.9, 5, 1e-2
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 30, "save_every": 30}
    return config
