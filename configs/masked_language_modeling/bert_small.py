"""BERT-small, 4 layers of width 512 (Turc et al. 2019), on the everyday sentences of bert_tiny.py, seen once.

Its words are the same; the spread of its first weights is that of bert_tiny times the root of the widths'
ratio, so that its first activations are as large.

python -m experiments train --config=configs/masked_language_modeling/bert_small.py --workdir=runs/bert_small
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant is narrower and learns sentences of a small grammar."""
    config = ConfigDict()
    config.experiment = "masked_language_modeling"
    config.seed, config.batch, config.length = 0, 16, 64
    config.sources = ["tatoeba_deu_eng", "self_dialogue", "clinc_oos"]
    config.tokenizer = {"name": "wordpiece", "size": 8000}
    config.model = {"name": "bert", "width": 512, "depth": 4, "heads": 8, "init_std": 0.025, "dropout": 0.0}
    config.model.attention_dropout = 0.0  # hardly a sentence is seen twice
    config.optimizer = {"name": "adamw", "weight_decay": 0.01, "clip": 1.0, "b2": 0.98}
    config.schedule = {"name": "linear", "peak": 5e-4, "warmup": 300}
    config.plan = {"steps": 5000, "log_every": 100, "eval_every": 1000, "save_every": 1000}
    if scale == "smoke":
        config.length = 32
        config.sources, config.tokenizer.size = ["synthetic_sentences"], 200
        config.model.width, config.model.init_std = 32, 0.05
        config.schedule.peak, config.schedule.warmup = 1e-2, 5
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 30, "save_every": 30}
    return config
