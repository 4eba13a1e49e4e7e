"""Small models of `benchmark models`: an epoch of training, its data included, against PyTorch's loops.

A step of these is well under a millisecond of arithmetic, so what is measured is mostly what a loop costs.
Ours is that of `dlx.train.fit`: batches gathered by `dlx.data`, several steps in one call of the devices. The
peer has the same batch and optimizer, fed by a DataLoader, as its tutorials have it, or by a permutation of
whole tensors, as is written by hand; the latter with its module behind torch.compile, too.
"""

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from dlx import feed, losses, metrics, optimizers, train
from dlx.configuration import lookup
from dlx.core import Batch, Model, Task
from dlx.data import pipeline, series
from dlx.models import MODELS
from experiments.speed.sides import Contest, Side
from experiments.speed.torch_side import clocked

EPOCH = "epoch of training"
RATE = 1e-3


class DLinear(torch.nn.Module):
    """DLinear as its authors' code has it: a moving average, and a linear layer for each part."""

    def __init__(self, history: int, horizon: int, kernel: int = 25):
        super().__init__()
        self.half = (kernel - 1) // 2
        self.average = torch.nn.AvgPool1d(kernel, stride=1)
        self.seasonal, self.trend = (torch.nn.Linear(history, horizon) for _ in range(2))

    def forward(self, x):
        """Returns forecasts [b, horizon, c] of windows [b, history, c]."""
        x = x.transpose(1, 2)
        wide = torch.nn.functional.pad(x, (self.half, self.half), mode="replicate")
        trend = self.average(wide)
        return (self.seasonal(x - trend) + self.trend(trend)).transpose(1, 2)


class Work(NamedTuple):
    """A model of both sides, what it is given, and our `batches(size)`, a function of the step."""

    model: Model
    module: Callable[[], torch.nn.Module]
    x: np.ndarray
    y: np.ndarray
    batches: Callable[[int], Callable]
    inputs: Callable[[Batch], tuple]


def table(rows: int, columns: int, hidden: Sequence[int]) -> Work:
    """Returns the multilayer perceptron for tables, and a table of random numbers."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, columns)).astype(np.float32)
    y = rng.normal(size=(rows, 1)).astype(np.float32)
    split = {"x": x, "codes": np.zeros((rows, 0), np.int32), "y": y}

    def module() -> torch.nn.Module:
        sizes = [columns, *hidden]
        pairs = [(torch.nn.Linear(*pair), torch.nn.ReLU()) for pair in itertools.pairwise(sizes)]
        return torch.nn.Sequential(*itertools.chain(*pairs), torch.nn.Linear(sizes[-1], 1))

    model = MODELS["tabular_mlp"](1, hidden=hidden, dropout=0.0)
    batches = functools.partial(pipeline.batches, split, seed=0)
    return Work(model, module, x, y, batches, lambda batch: (batch["x"], batch["codes"]))


def windows(rows: int, channels: int, history: int, horizon: int) -> Work:
    """Returns DLinear, and all windows of random series."""
    span = history + horizon
    walk = np.random.default_rng(0).normal(size=(rows + span - 1, channels)).astype(np.float32)
    views = np.lib.stride_tricks.sliding_window_view(walk, span, axis=0, writeable=True)
    views = views.transpose(0, 2, 1)  # torch wants arrays that may be written to
    one = series.Scaling(np.zeros(channels), np.ones(channels))
    held = series.Table(walk, walk, np.ones(walk.shape, bool), one)

    def batches(size: int) -> Callable:
        gathered = series.batches(held, np.arange(rows), history, horizon, size, 0)
        return lambda step: {"x": (found := gathered(step))["history"], "y": found["horizon"]}

    model = MODELS["dlinear"](channels, horizon, kernel=25)
    module = functools.partial(DLinear, history, horizon)
    return Work(model, module, views[:, :history], views[:, history:], batches, lambda batch: (batch["x"],))


WORK = {"tabular_mlp": table, "dlinear": windows}


def contest(name: str, batch: int, call: int, **sizes) -> Contest:
    """Returns the row of a model of `WORK` on data of those `sizes`, with `call` steps in a call."""
    work = lookup(WORK, name)(**sizes)
    told = ", ".join(f"{key} {value}" for key, value in sizes.items())
    loops = {
        "eager, DataLoader": {"load": loader},
        "eager, whole tensors": {"load": permuted},
        "torch.compile, whole tensors": {"load": permuted, "compiled": True},
    }
    return Contest(
        f"{name}, {told}, batch {batch}",
        "PyTorch",
        len(work.x) // batch * batch,
        functools.partial(ours, work, batch, call),
        {variant: functools.partial(theirs, work, batch, **loop) for variant, loop in loops.items()},
    )


def ours(work: Work, batch: int, call: int) -> Side:
    """Returns dlx's side: the calls that `train.fit` makes, and the batches that it feeds them."""
    batches, steps = work.batches(batch), len(work.x) // batch

    def init(key):
        return work.model.init(key, *map(jnp.asarray, work.inputs(batches(0))))

    def loss(variables, batch, key):
        outputs, state = work.model.apply(variables, *work.inputs(batch), key=key)
        each = losses.mean_squared_error(outputs.reshape(batch["y"].shape), batch["y"])
        return each.mean(), (state, {"loss": metrics.mean(each)})

    task = Task(init, loss, batches)
    adam = optimizers.make({"name": "adam"}, {"name": "constant", "peak": RATE}, steps=1)
    key = jax.random.key(0)
    start = train.make_init(task, adam)
    several = jax.jit(train.make_steps(train.make_step(loss, adam)), donate_argnums=0)
    clock = time.perf_counter()
    example = feed.stack([batches(0)], call)
    compiled = several.lower(jax.eval_shape(start, key), example, key, 1).compile()
    compile_s = time.perf_counter() - clock
    last = {"state": jax.jit(start)(key), "done": 0}

    def epochs(count: int) -> float:
        state, report = last["state"], None
        for _ in range(count):
            for first in range(0, steps, call):
                size, done = min(call, steps - first), last["done"]
                stacked = feed.stack([batches(step) for step in range(done, done + size)], call)
                state, report = compiled(state, feed.place(stacked), key, size)
                last["done"] += size
        last["state"] = jax.block_until_ready(state)
        return float(report["loss"].total)

    epochs(1)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(last["state"].variables.params))
    return Side({EPOCH: epochs}, parameters, compile_s)


def theirs(work: Work, batch: int, load: Callable, compiled: bool = False) -> Side:
    """Returns the peer's side, whose loop takes batches from `load(tensors, batch)`."""
    torch.manual_seed(0)
    module = work.module().train()
    network = torch.compile(module) if compiled else module
    adam = torch.optim.Adam(module.parameters(), lr=RATE, fused=True)
    epoch = load(torch.from_numpy(work.x), torch.from_numpy(work.y), batch)

    def epochs(count: int) -> float:
        for _ in range(count):
            for x, y in epoch():
                adam.zero_grad(set_to_none=True)
                value = mse_loss(network(x), y)
                value.backward()
                adam.step()
        return value.item()

    seconds = [clocked(epochs), clocked(epochs)]
    parameters = sum(weight.numel() for weight in module.parameters())
    return Side({EPOCH: epochs}, parameters, seconds[0] - seconds[1] if compiled else None)


def loader(x: torch.Tensor, y: torch.Tensor, batch: int) -> Callable[[], Iterator]:
    """Returns epochs of a DataLoader in this process, which gathers examples one by one."""
    examples = DataLoader(TensorDataset(x, y), batch, shuffle=True, drop_last=True)
    return lambda: iter(examples)


def permuted(x: torch.Tensor, y: torch.Tensor, batch: int) -> Callable[[], Iterator]:
    """Returns epochs that gather a batch at a time from whole tensors, by a permutation."""

    def epoch():
        order = torch.randperm(len(x))
        for first in range(0, len(x) - batch + 1, batch):
            rows = order[first : first + batch]
            yield x[rows], y[rows]

    return epoch
