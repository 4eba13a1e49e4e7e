"""Single products and convolutions of ResNet-50 and ViT-B/16, against PyTorch's.

A network that is little else can be no faster beside its peer than these are. Each is measured in turns,
forward and in both its gradients: in the form that dlx's layers have it, and as PyTorch has it in
channels_last, each with weights in the order that it keeps them in. Both sides run on the CPU, beside
whatever else there is.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import torch
from torch.nn.functional import conv2d

from dlx.layers.convolution import convolve
from dlx.layers.dense import by_rows
from experiments.speed.models import milliseconds
from experiments.speed.sides import Side
from experiments.speed.table import Found, Row

REPEATS = 15
PARTS = ("forward", "gradient of the input", "gradient of the weights")


class Operation(NamedTuple):
    """Both sides of an operation of an input and its weights, and the shapes of these as dlx has them."""

    what: str
    ours: Callable
    theirs: Callable
    input: tuple[int, ...]
    weights: tuple[int, ...]


def product(rows: int, columns: int, features: int) -> Operation:
    """Returns a dense layer: `rows` vectors of `columns` numbers, times the weights of `features`."""
    what = f"product of {rows:,} x {columns:,} with {columns:,} x {features:,}"
    return Operation(what, by_rows, torch.mm, (rows, columns), (columns, features))


def convolution(side: int, channels: int, features: int, size: int, stride: int = 1) -> Operation:
    """Returns a convolution of eight images, with zeros around them as ResNet has it."""
    what = f"convolution of 8 x {side} x {side} x {channels} with {size} x {size} x {features}"
    return Operation(
        what + (f", stride {stride}" if stride > 1 else ""),
        lambda x, w: convolve(x, w, stride, size // 2),
        lambda x, w: conv2d(x, w, None, stride, size // 2),
        (8, side, side, channels),
        (size, size, channels, features),
    )


OPERATIONS = (
    product(788, 768, 3072),  # ViT-B/16, four images
    convolution(56, 64, 256, 1),
    convolution(56, 64, 64, 3),
    convolution(14, 256, 256, 3),
    convolution(56, 128, 128, 3, stride=2),
)
SMOKE = (product(6, 4, 5), convolution(6, 2, 3, 3), convolution(6, 2, 3, 3, stride=2))


def measure(repeats: int | None = None, *, smoke: bool = False) -> Found:
    """Measures every operation of `OPERATIONS`."""
    rows = [row for operation in (SMOKE if smoke else OPERATIONS) for row in compared(operation, repeats)]
    return Found(rows, machine={"threads": str(torch.get_num_threads())})


def compared(operation: Operation, repeats: int | None = None) -> list[Row]:
    """Returns the rows of an operation, one for each of `PARTS`."""
    sides = {
        name: Side({part: repeated(run) for part, run in runs.items()}, parameters=0)
        for name, runs in zip(("dlx", "torch"), both(operation), strict=True)
    }
    times = milliseconds(sides, repeats or REPEATS, seconds=0)
    return [
        Row(f"{operation.what}, {part}", "torch", "ms", found["dlx"], found["torch"])
        for part, found in times.items()
    ]


def repeated(run: Callable) -> Callable[[int], float]:
    """Returns a function that does `run` `count` times, and gives back a number that it computed."""

    def runs(count: int) -> float:
        for _ in range(count):
            result = run()
        return float(result.ravel()[0])

    return runs


def both(operation: Operation) -> tuple[dict[str, Callable], dict[str, Callable]]:
    """Returns the functions that do each of `PARTS` on either side, on the same numbers."""
    rng = np.random.default_rng(0)
    x, w = (rng.normal(size=shape).astype(np.float32) for shape in (operation.input, operation.weights))
    gradient = rng.normal(size=jax.eval_shape(operation.ours, x, w).shape).astype(np.float32)
    return ours(operation.ours, x, w, gradient), theirs(operation.theirs, x, w, gradient)


def ours(act: Callable, *arrays: np.ndarray) -> dict[str, Callable]:
    """Returns dlx's side, compiled."""
    x, w, gradient = jax.device_put(arrays, jax.local_devices(backend="cpu")[0])
    of_input = jax.jit(lambda x, w, gradient: jax.vjp(lambda x: act(x, w), x)[1](gradient)[0])
    of_weights = jax.jit(lambda x, w, gradient: jax.vjp(lambda w: act(x, w), w)[1](gradient)[0])
    forward = jax.jit(act)
    runs = (
        lambda: forward(x, w).block_until_ready(),
        lambda: of_input(x, w, gradient).block_until_ready(),
        lambda: of_weights(x, w, gradient).block_until_ready(),
    )
    return dict(zip(PARTS, runs, strict=True))


def theirs(act: Callable, *arrays: np.ndarray) -> dict[str, Callable]:
    """Returns PyTorch's side; the gradients are those of its autograd, without the pass forward."""
    x, w, gradient = map(torch.from_numpy, arrays)
    if x.ndim == 4:
        x, gradient = (images.permute(0, 3, 1, 2) for images in (x, gradient))
        w = w.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    outputs = act(x.requires_grad_(), w.requires_grad_())

    def forward():
        with torch.inference_mode():
            return act(x, w)

    def of(leaf):
        return lambda: torch.autograd.grad(outputs, leaf, gradient, retain_graph=True)[0]

    return dict(zip(PARTS, (forward, of(x), of(w)), strict=True))
