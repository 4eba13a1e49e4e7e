"""Digits of 8 x 8 pixels, generated from two numbers (Kingma and Welling 2014).

python -m experiments train --config=configs/autoencoding/digits_variational.py --workdir=runs/digits_vae
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant learns synthetic images."""
    config = ConfigDict()
    config.experiment = "autoencoding"
    config.seed, config.batch = 0, 64
    config.source = {"name": "digits", "validation": 0.1}
    config.model = {"name": "variational_autoencoder", "hidden": [256, 128], "code": 2}
    config.likelihood = "bernoulli"
    config.optimizer = {"name": "adamw", "weight_decay": 1e-4}
    config.schedule = {"name": "cosine", "peak": 2e-3, "warmup": 50}
    config.plan = {
        "steps": 2000,
        "log_every": 100,
        "eval_every": 500,
        "save_every": 500,
        "steps_per_call": 10,
    }
    config.best = {"metric": "elbo", "higher_is_better": True}
    if scale == "smoke":
        config.source = {"name": "synthetic_images", "num_classes": 4, "size": 8, "channels": 1}
        config.batch, config.model.hidden = 32, [32]
        config.schedule = {"name": "cosine", "peak": 1e-2, "warmup": 5}
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 30, "save_every": 30, "steps_per_call": 1}
    return config
