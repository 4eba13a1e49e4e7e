"""One file per application: `make_task(config)`, `describe(config)` and `demo(config, variables, folder)`."""

from experiments import image_classification

EXPERIMENTS = {
    "image_classification": image_classification,
}
