"""A deep belief network of 784-500-500-2000 units on MNIST (Hinton, Osindero and Teh 2006), fine-tuned.

    python -m experiments train --config=configs/deep_belief/mnist.py --workdir=runs/deep_belief_mnist

Three machines learn one after the other by contrastive divergence, then all layers by backpropagation. The
variant `mnist.py:autoencoder` is the deep autoencoder of 784-1000-500-250-30 units (Hinton and Salakhutdinov
2006), here with a logistic code and one set of weights for both ways.
"""

from ml_collections import ConfigDict

EPOCH = 550  # steps


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant learns synthetic images."""
    config = ConfigDict()
    config.experiment = "deep_belief"
    config.seed, config.batch = 0, 100
    config.source = {"name": "mnist", "validation": 5000 / 60_000}
    config.model = {"name": "dbn", "hidden": [500, 500, 2000], "units": "binary", "chains": 0}
    config.learn = "classifier"
    config.divergence = {"steps": 1, "sparsity_cost": 0.03, "sparsity_target": 0.1}
    config.temperatures = 1000  # of the estimate of log Z; 0 for none
    config.init = {"from": "", "new_head": False}
    config.optimizer = {"name": "adamw", "weight_decay": 0.1, "average": 0.999}
    config.schedule = {"name": "cosine", "peak": 2e-3, "warmup": 100}
    config.plan = {"steps": 15 * EPOCH, "log_every": 110, "eval_every": EPOCH, "save_every": 5 * EPOCH}
    config.best = {"metric": "error", "higher_is_better": False}
    config.published = {
        "metric": "error",
        "value": 0.0115,
        "higher_is_better": False,
        "source": "Hinton, msr10 slides, slide 190: backpropagation after pretraining 500-500-2000",
    }
    pretraining = 10 * EPOCH
    if scale == "autoencoder":
        config.model.hidden, config.learn = [1000, 500, 250, 30], "autoencoder"
        config.best.metric = "squared_error"
        config.optimizer.weight_decay, config.schedule.peak = 0.0, 1e-3
        del config.published
    if scale == "smoke":
        config.source = {"name": "synthetic_images", "num_classes": 4, "size": 8, "channels": 1}
        config.batch, config.model.hidden, config.temperatures = 32, [16, 16, 16], 20
        config.schedule = {"name": "cosine", "peak": 1e-2, "warmup": 5}
        config.plan = {"steps": 60, "log_every": 10, "eval_every": 30, "save_every": 30}
        pretraining = 20
    config.stages = [
        {
            "name": f"layer_{layer}",
            "learn": f"layer_{layer}",
            "optimizer": {"name": "momentum", "l2": 2e-4, "freeze": [f"^(?!layer_{layer}/)"]},
            "schedule": {"name": "linear", "peak": 0.1, "warmup": pretraining // 10},
            "plan.steps": pretraining,
            "best": {},
        }
        for layer in range(len(config.model.hidden))
    ] + [{"name": config.learn}]
    return config
