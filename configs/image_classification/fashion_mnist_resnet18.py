"""ResNet-18, with the stem for small images, on Fashion-MNIST for 60 epochs: meant for a GPU.

The variant `short` is two epochs, for a patient CPU.

python -m experiments train --config=configs/image_classification/fashion_mnist_resnet18.py --workdir=runs/r18
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant learns synthetic images, the variant "short" for two epochs."""
    config = ConfigDict()
    config.experiment = "image_classification"
    config.seed, config.batch = 0, 128
    config.source = {"name": "fashion_mnist", "validation": 0.05}
    config.augment = {"flip": True, "crop": 2, "erasing": 0.25}
    config.model = {"name": "resnet18", "stem": "small", "dtype": "float32"}
    config.label_smoothing = 0.1
    config.optimizer = {"name": "nesterov", "l2": 5e-4}
    config.schedule = {"name": "one_cycle", "peak": 0.1, "rise": 0.25}
    config.plan = {"steps": 26_700, "log_every": 100, "eval_every": 890, "save_every": 890}
    config.published = {
        "metric": "accuracy",
        "value": 0.949,
        "higher_is_better": True,
        "source": "zalandoresearch/fashion-mnist README: ResNet18",
    }
    if scale == "short":
        config.augment.erasing = 0.0
        config.plan.steps, config.plan.eval_every, config.plan.save_every = 890, 445, 89
    if scale == "smoke":
        config.source = {"name": "synthetic_images", "num_classes": 4, "size": 8, "channels": 1, "noise": 8.0}
        config.augment.crop, config.schedule.peak = 1, 1e-4
        config.plan = {"steps": 16, "log_every": 10, "eval_every": 16, "save_every": 16}
    return config
