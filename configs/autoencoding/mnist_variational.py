"""MNIST in binary pixels, generated from 20 numbers (Kingma and Welling 2014).

python -m experiments train --config=configs/autoencoding/mnist_variational.py --workdir=runs/mnist_vae
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant learns synthetic images."""
    config = ConfigDict()
    config.experiment = "autoencoding"
    config.seed, config.batch = 0, 128
    config.source = {"name": "mnist", "validation": 5000 / 60_000}
    config.model = {"name": "variational_autoencoder", "hidden": [512], "code": 20}
    config.likelihood = "bernoulli"
    config.optimizer = {"name": "adamw", "weight_decay": 1e-4, "average": 0.999}
    config.schedule = {"name": "cosine", "peak": 1e-3, "warmup": 200}
    config.plan = {
        "steps": 8000,
        "log_every": 200,
        "eval_every": 2000,
        "save_every": 2000,
        "steps_per_call": 5,
    }
    config.best = {"metric": "elbo", "higher_is_better": True}
    if scale == "smoke":
        config.source = {"name": "synthetic_images", "num_classes": 4, "size": 8, "channels": 1}
        config.batch, config.model.hidden = 32, [32]
        config.schedule = {"name": "cosine", "peak": 1e-2, "warmup": 5}
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 30, "save_every": 30, "steps_per_call": 1}
    return config
