"""A small GPT on the characters of Tiny Shakespeare, in the setting of nanoGPT for a laptop.

Model, context, batch and steps are those of nanoGPT; the learning rate peaks at three times its 1e-3 and
falls to 0. The loss is the mean over the whole validation text, read in rows of the context; nanoGPT's is
that of some windows drawn from it.

python -m experiments train --config=configs/language_modeling/shakespeare_small.py --workdir=runs/shakespeare
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant learns sentences of a small grammar."""
    config = ConfigDict()
    config.experiment = "language_modeling"
    config.seed, config.batch, config.context = 0, 12, 64
    config.source = {"name": "tiny_shakespeare"}
    config.tokenizer = {"name": "characters"}
    config.model = {"name": "gpt", "depth": 4, "heads": 4, "width": 128, "dropout": 0.0}
    config.optimizer = {"name": "adamw", "b2": 0.99, "weight_decay": 0.1, "clip": 1.0}
    config.schedule = {"name": "cosine", "peak": 3e-3, "warmup": 100, "final": 0.0}
    config.plan = {"steps": 2000, "log_every": 50, "eval_every": 500, "save_every": 500}
    config.sampling = {"temperature": 0.8, "top_k": 40, "length": 500}
    config.published = {
        "metric": "loss",
        "value": 1.88,
        "higher_is_better": False,
        "source": "nanoGPT README, 'I only have a macbook': validation loss after 2,000 steps",
    }
    if scale == "smoke":
        config.source = {"name": "synthetic_text", "count": 200}
        config.batch, config.context, config.sampling.length = 8, 32, 60
        config.model.depth, config.model.width = 2, 32
        config.schedule = {"name": "cosine", "peak": 1e-2, "warmup": 5, "final": 0.1}
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 30, "save_every": 30}
    return config
