"""An LSTM on the characters of Tiny Shakespeare, of as many parameters as the small GPT, in twice the steps.

It reads the text in order and carries its state along; backpropagation is cut after 64 characters.

python -m experiments train --config=configs/language_modeling/shakespeare_lstm.py --workdir=runs/lstm
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant learns sentences of a small grammar."""
    config = ConfigDict()
    config.experiment = "language_modeling"
    config.seed, config.batch, config.context = 0, 12, 64
    config.source = {"name": "tiny_shakespeare"}
    config.tokenizer = {"name": "characters"}
    config.model = {"name": "lstm", "depth": 2, "width": 220, "dropout": 0.0}
    config.optimizer = {"name": "adamw", "b2": 0.99, "weight_decay": 0.0, "clip": 1.0}
    config.schedule = {"name": "cosine", "peak": 2e-3, "warmup": 100, "final": 0.1}
    config.plan = {"steps": 4000, "log_every": 50, "eval_every": 500, "save_every": 500}
    config.best = {"metric": "loss", "higher_is_better": False}
    config.peer = {"name": "n_gram", "order": 5}
    config.sampling = {"temperature": 0.8, "top_k": 40, "length": 500}
    if scale == "smoke":
        config.source = {"name": "synthetic_text", "count": 200}
        config.batch, config.context, config.sampling.length = 8, 32, 60
        config.model.depth, config.model.width = 2, 32
        config.schedule = {"name": "cosine", "peak": 2e-2, "warmup": 5, "final": 0.1}
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 30, "save_every": 30}
    return config
