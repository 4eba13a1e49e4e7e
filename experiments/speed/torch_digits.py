"""The digits run as a plain PyTorch script: the peer of `benchmark startup`.

python experiments/speed/torch_digits.py runs/digits/config.json FOLDER

It reads its numbers from the config.json that a dlx run leaves in its workdir, and does what that run does:
the same split sizes, network, augmentation, AdamW with decay on matrices alone, warm-up and cosine, dropout,
averaged weights, validation, checkpoints into FOLDER and the test at the end. It leaves out what few scripts
have: the summary, TensorBoard, checksums, the gradient's norm and all of the test's metrics but two.
"""

import gzip
import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def main(config: dict, folder: Path) -> float:
    """Trains, prints a line for each report, and returns the test accuracy."""
    torch.manual_seed(config["seed"])
    plan, size = config["plan"], config["batch"]
    splits = load(config["source"]["validation"])
    images, labels = splits["train"]
    model = network(images, **{name: config["model"][name] for name in ("widths", "depth", "dropout")})
    model = model.to(DEVICE)
    weights = list(model.parameters())
    averages = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.AdamW(
        [
            {"params": [w for w in weights if w.ndim > 1]},
            {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
        ],
        weight_decay=config["optimizer"]["weight_decay"],
        fused=True,
    )
    order = torch.empty(0, dtype=torch.long)
    for step in range(1, plan["steps"] + 1):
        while len(order) < size:
            order = torch.cat([order, torch.randperm(len(images))])
        rows, order = order[:size].to(DEVICE), order[size:]
        for group in optimizer.param_groups:
            group["lr"] = rate(step - 1, plan["steps"], **config["schedule"])
        logits = model(augment(images[rows], **config["augment"]))
        loss = cross_entropy(logits, labels[rows], label_smoothing=config["label_smoothing"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay = config["optimizer"]["average"]
        share = (1 - decay) / (1 - decay**step)
        with torch.no_grad():
            for average, weight in zip(averages, weights, strict=True):
                average.lerp_(weight, share)
        if due(plan, "log", step):
            accuracy = (logits.argmax(-1) == labels[rows]).float().mean()
            show(step, plan, "train", loss.item(), accuracy.item())
        if due(plan, "eval", step):
            show(step, plan, "validation", *measure(model, averages, splits["validation"], size))
        if due(plan, "save", step):
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "averages": averages}
            torch.save(state | {"step": step}, folder / f"{step}.pt")
    loss, accuracy = measure(model, averages, splits["test"], size)
    show(step, plan, "test", loss, accuracy)
    return accuracy


def load(validation: float) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Returns images [n, 1, 8, 8] and labels of each split; a fifth of each class is the test."""
    spec = importlib.util.find_spec("sklearn")  # found, not imported: that alone would take a second
    file = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    with gzip.open(file) as stream:
        table = np.loadtxt(stream, delimiter=",").astype(np.float32)
    images, labels = table[:, :64].reshape(-1, 1, 8, 8), table[:, 64].astype(np.int64)
    rng = np.random.default_rng(0)
    parts: dict[str, list] = {"train": [], "validation": [], "test": []}
    for label in range(10):
        rows = rng.permutation(np.flatnonzero(labels == label))
        tests = round(0.2 * len(rows))
        held = tests + round(validation * (len(rows) - tests))
        parts["test"].append(rows[:tests])
        parts["validation"].append(rows[tests:held])
        parts["train"].append(rows[held:])
    splits = {}
    for name, chosen in parts.items():
        rows = np.concatenate(chosen)
        splits[name] = tuple(torch.from_numpy(array[rows]).to(DEVICE) for array in (images, labels))
    return splits


class Standardize(nn.Module):
    """Zero-centring and division by the standard deviation of the training images."""

    def __init__(self, images: torch.Tensor):
        """Learns both numbers."""
        super().__init__()
        self.register_buffer("mean", images.mean())
        self.register_buffer("std", images.std())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the images, standardized."""
        return (x - self.mean) / self.std


def network(images: torch.Tensor, widths: list[int], depth: int, dropout: float) -> nn.Sequential:
    """Returns dlx's `convnet` for these images."""
    layers: list[nn.Module] = [Standardize(images)]
    channels = images.shape[1]
    for stage, width in enumerate(widths):
        if stage:
            layers.append(nn.MaxPool2d(2))
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels, 10)]
    return nn.Sequential(*layers)


def augment(
    images: torch.Tensor, *, flip: bool, shift: float, rotate: float, scale: float, shear: float
) -> torch.Tensor:
    """Moves, turns, scales and shears each square image by its own uniform draw; may mirror it."""
    if flip:
        chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
        images = torch.where(chosen, images.flip(-1), images)
    if not any((shift, rotate, scale, shear)):
        return images
    angle, zoom, lean, down, right = 2 * torch.rand(5, len(images), device=images.device) - 1
    angle, zoom, lean = angle * math.radians(rotate), 1 + zoom * scale, lean * shear
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    unit = 2 * shift / (images.shape[-1] - 1)  # pixels, in halves of the image
    theta = torch.stack([cos, sin, right * unit, lean - sin, cos, down * unit], -1).view(-1, 2, 3)
    grid = affine_grid(theta, list(images.shape), align_corners=True)
    return grid_sample(images, grid, padding_mode="border", align_corners=True)


def rate(done: int, steps: int, *, name: str, peak: float, warmup: int) -> float:
    """Returns the learning rate after `done` steps: a linear warm-up, then half a cosine to 0."""
    if name != "cosine":
        raise ValueError(f"the schedule is {name!r}; this script knows only 'cosine'")
    if done < warmup:
        return peak * done / warmup
    return peak * (1 + math.cos(math.pi * (done - warmup) / max(steps - warmup, 1))) / 2


def measure(model: nn.Module, averages: list, split: tuple, size: int) -> tuple[float, float]:
    """Returns loss and accuracy of the averaged weights on a split."""
    names = [name for name, _ in model.named_parameters()]
    averaged = dict(zip(names, averages, strict=True))
    images, labels = split
    model.eval()
    with torch.inference_mode():
        logits = torch.cat([torch.func.functional_call(model, averaged, part) for part in images.split(size)])
    model.train()
    return cross_entropy(logits, labels).item(), (logits.argmax(-1) == labels).float().mean().item()


def due(plan: dict, event: str, step: int) -> bool:
    """Tells whether an event happens after a step; at the last step, all do."""
    every = plan[f"{event}_every"]
    return step == plan["steps"] or (every > 0 and step % every == 0)


def show(step: int, plan: dict, name: str, loss: float, accuracy: float) -> None:
    """Prints a line of numbers."""
    print(f"step {step}/{plan['steps']}  {name}  loss {loss:.4g}  accuracy {accuracy:.4f}", flush=True)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
