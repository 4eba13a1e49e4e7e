r"""BERT-tiny on sentence polarity from scratch, to compare with the pretrained one of bert.py.

All but the first weights is as there, the vocabulary too; so the run that pretrains comes first:

    python -m experiments train --config=configs/masked_language_modeling/bert_tiny.py \
        --workdir=runs/bert_tiny

then, with the seed as the fold and its validation sentences as in text_cnn.py,

    python -m experiments train --config=configs/sentiment/bert_scratch.py --workdir=runs/sentiment_scratch

The variant "small", bert_scratch.py:small, is BERT-small with the words of runs/bert_small.
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; "small" is of BERT-small, "smoke" learns synthetic reviews with its own words."""
    config = ConfigDict()
    config.experiment = "sentiment"
    config.seed, config.batch, config.length = 0, 32, 64
    config.source = {"name": "sentence_polarity", "fold": -1, "validation": 0.1}
    config.tokenizer = {"name": "file", "path": "runs/bert_tiny/tokenizer.json"}
    config.model = {"name": "bert", "width": 128, "depth": 2, "heads": 2, "init_std": 0.05, "dropout": 0.1}
    config.optimizer = {"name": "adamw", "weight_decay": 0.01, "clip": 1.0}
    config.schedule = {"name": "linear", "peak": 3e-4, "warmup": 100}
    config.plan = {"steps": 1000, "log_every": 50, "eval_every": 100, "save_every": 500}
    config.best = {"metric": "accuracy", "higher_is_better": True}
    config.published = {
        "metric": "accuracy",
        "value": 0.761,
        "higher_is_better": True,
        "source": "Kim 2014, table 2, CNN-rand (as other pages quote it)",
    }
    if scale == "small":
        config.tokenizer.path = "runs/bert_small/tokenizer.json"
        config.model.width, config.model.depth, config.model.heads, config.model.init_std = 512, 4, 8, 0.025
        config.schedule.peak, config.plan.steps = 1e-4, 600
    if scale == "smoke":
        config.source = {"name": "synthetic_sentences"}
        config.tokenizer = {"name": "wordpiece", "size": 200}
        config.length, config.model.width, config.model.dropout = 16, 64, 0.0
        config.schedule.peak, config.schedule.warmup = 2e-3, 5
        config.plan = {"steps": 100, "log_every": 10, "eval_every": 50, "save_every": 50}
    return config
