"""BERT-tiny, 2 layers of width 128 (Turc et al. 2019), on everyday sentences, for a few minutes of CPU.

The text is the training splits of the English side of Tatoeba, of the self-dialogues (about films, mostly)
and of the questions of CLINC150: five and a half million tokens, less than two thousandths of what BERT was
trained on. Sentence polarity is not part of it, so that all of its ten folds may be test data of a model that
starts from this one (configs/sentiment/bert.py).

python -m experiments train --config=configs/masked_language_modeling/bert_tiny.py --workdir=runs/bert_tiny
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant is narrower and learns sentences of a small grammar."""
    config = ConfigDict()
    config.experiment = "masked_language_modeling"
    config.seed, config.batch, config.length = 0, 8, 64
    config.sources = ["tatoeba_deu_eng", "self_dialogue", "clinc_oos"]
    config.tokenizer = {"name": "wordpiece", "size": 8000}
    config.model = {"name": "bert", "width": 128, "depth": 2, "heads": 2, "init_std": 0.05, "dropout": 0.0}
    config.model.attention_dropout = 0.0  # hardly a sentence is seen twice
    config.optimizer = {"name": "adamw", "weight_decay": 0.01, "clip": 1.0, "b2": 0.98}
    config.schedule = {"name": "linear", "peak": 1e-3, "warmup": 200}
    config.plan = {"steps": 16_000, "log_every": 200, "eval_every": 4000, "save_every": 2000}
    if scale == "smoke":
        config.batch, config.length = 16, 32
        config.sources, config.tokenizer.size = ["synthetic_sentences"], 200
        config.model.width = 32
        config.schedule.peak, config.schedule.warmup = 1e-2, 5
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 30, "save_every": 30}
    return config
