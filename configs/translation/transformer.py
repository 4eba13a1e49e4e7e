"""A small Transformer (Vaswani et al. 2017) that translates German to English: Tatoeba's sentences.

python -m experiments train --config=configs/translation/transformer.py --workdir=runs/transformer
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant learns a made-up language of 26 words."""
    config = ConfigDict()
    config.experiment = "translation"
    config.seed, config.batch = 0, 64
    config.source = {"name": "tatoeba_deu_eng"}
    config.tokenizer = {"name": "bpe", "size": 4000}
    config.lengths, config.longest = [9, 13, 24], 64
    config.model = {
        "name": "transformer",
        "width": 256,
        "depth": 3,
        "heads": 4,
        "hidden": 512,
        "dropout": 0.1,
        "norm": "pre",
    }
    config.label_smoothing = 0.1
    config.optimizer = {"name": "adamw", "b2": 0.98, "weight_decay": 0.01, "clip": 1.0, "average": 0.995}
    config.schedule = {"name": "cosine", "peak": 1e-3, "warmup": 500}
    config.plan = {"steps": 5000, "log_every": 100, "eval_every": 1000, "save_every": 500}
    config.beams, config.length_penalty = 4, 0.6
    if scale == "smoke":
        config.source = {"name": "synthetic_pairs"}
        config.tokenizer.size = 400
        config.batch, config.lengths, config.longest = 32, [10, 16], 24
        config.model.width, config.model.depth, config.model.hidden = 32, 1, 64
        config.optimizer.average, config.schedule = 0.9, {"name": "cosine", "peak": 5e-3, "warmup": 5}
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 30, "save_every": 30}
    return config
