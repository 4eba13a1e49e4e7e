"""A GPT of 10.7 million parameters on the characters of Tiny Shakespeare, as nanoGPT trains it on a GPU.

The published loss is the best of those measured on the way, on windows drawn from the validation text; here
it is that of the last step, on the whole validation text.

python -m experiments train --config=configs/language_modeling/shakespeare_gpt.py --workdir=runs/gpt
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant learns sentences of a small grammar."""
    config = ConfigDict()
    config.experiment = "language_modeling"
    config.seed, config.batch, config.context = 0, 64, 256
    config.source = {"name": "tiny_shakespeare"}
    config.tokenizer = {"name": "characters"}
    config.model = {"name": "gpt", "depth": 6, "heads": 6, "width": 384, "dropout": 0.2, "dtype": "bfloat16"}
    config.optimizer = {"name": "adamw", "b2": 0.99, "weight_decay": 0.1, "clip": 1.0}
    config.schedule = {"name": "cosine", "peak": 1e-3, "warmup": 100, "final": 0.1}
    config.plan = {"steps": 5000, "log_every": 50, "eval_every": 250, "save_every": 500}
    config.sampling = {"temperature": 0.8, "top_k": 40, "length": 500}
    config.published = {
        "metric": "loss",
        "value": 1.4697,
        "higher_is_better": False,
        "source": "nanoGPT README, character level: best validation loss",
    }
    if scale == "smoke":
        config.source = {"name": "synthetic_text", "count": 200}
        config.batch, config.context, config.sampling.length = 8, 32, 60
        config.model.depth, config.model.heads, config.model.width = 2, 2, 32
        config.model.dtype = "float32"
        config.schedule = {"name": "cosine", "peak": 1e-2, "warmup": 5, "final": 0.1}
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 30, "save_every": 30}
    return config
