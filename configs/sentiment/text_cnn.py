"""CNN-rand of Kim (2014) on sentence polarity: filters over 3, 4 and 5 words, vectors learned from scratch.

The seed is the fold: `reproduce text_cnn --seeds 10` is the ten-fold cross validation. As in the paper the
validation sentences of a fold say when to stop: what is best on them is tested. Unlike there, words seen once
are spelled in pieces, and Adam with averaged weights stands for Adadelta and the bound on the head's norm.

python -m experiments train --config=configs/sentiment/text_cnn.py --workdir=runs/sentiment_cnn
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant is narrower and learns synthetic reviews."""
    config = ConfigDict()
    config.experiment = "sentiment"
    config.seed, config.batch, config.length = 0, 50, 48
    config.source = {"name": "sentence_polarity", "fold": -1, "validation": 0.1}
    config.tokenizer = {"name": "wordpiece", "size": 20_000}
    config.model = {"name": "text_cnn", "embedding": 300, "filters": 100, "dropout": 0.5}
    config.optimizer = {"name": "adamw", "weight_decay": 0.01, "average": 0.99}
    config.schedule = {"name": "cosine", "peak": 1e-3, "warmup": 20}
    config.plan = {"steps": 900, "log_every": 50, "eval_every": 150, "save_every": 450}
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
        config.model.embedding, config.model.filters, config.model.dropout = 16, 8, 0.1
        config.optimizer.average, config.schedule.warmup, config.schedule.peak = 0.9, 5, 1e-2
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 30, "save_every": 30}
    return config
