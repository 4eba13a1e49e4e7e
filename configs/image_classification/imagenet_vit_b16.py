"""ViT-B/16 on ImageNet from scratch, 300 epochs.

The recipe is torchvision's, after Touvron et al. 2020: AdamW in batches of 4096 (four steps each), mixed and
smoothed labels, RandAugment, averaged weights; without repeated augmentation. The crops are cut out of the
middle square of an image, not out of all of it.

python -m experiments train --config=configs/image_classification/imagenet_vit_b16.py --workdir=runs/vit_b16
"""

from ml_collections import ConfigDict


def get_config(scale: str = "full") -> ConfigDict:
    """Returns the config; the smoke variant has synthetic images and a small network."""
    config = ConfigDict()
    epoch = 1241  # steps, of 1,271,174 images
    config.experiment = "image_classification"
    config.seed, config.batch = 0, 1024
    config.source = {"name": "imagenet", "size": 256, "skip_corrupt": False}
    config.augment = {
        "resized_crop": 224,
        "flip": True,
        "rand_augment": [2, 9.0],
        "mixup": 0.2,
        "cutmix": 1.0,
    }
    config.model = {"name": "vit_b16", "dtype": "bfloat16"}
    config.label_smoothing = 0.11
    config.optimizer = {
        "name": "adamw",
        "weight_decay": 0.3,
        "clip": 1.0,
        "accumulate": 4,
        "average": 0.9997,
    }
    config.schedule = {"name": "cosine", "peak": 3e-3, "warmup": 30 * epoch}
    config.plan = {"steps": 300 * epoch, "log_every": 100, "eval_every": 4 * epoch, "save_every": epoch}
    config.published = {
        "metric": "accuracy",
        "value": 0.81072,
        "higher_is_better": True,
        "source": "torchvision 0.29, ViT_B_16_Weights.IMAGENET1K_V1",
    }
    if scale == "smoke":
        config.source = {"name": "synthetic_images", "num_classes": 4, "size": 20, "noise": 8.0}
        config.batch, config.augment.resized_crop = 16, 16
        config.model = {"name": "mlp", "dtype": "float32"}
        config.schedule = {"name": "cosine", "peak": 0.01, "warmup": 5}
        config.plan = {"steps": 100, "log_every": 10, "eval_every": 20, "save_every": 20}
        config.optimizer.average = 0.9
    return config
