"""The peers of the small models do the same work as dlx's side. Nothing here asserts a time."""

import importlib
import math

import jax.numpy as jnp
import numpy as np
import parity
import pytest

from dlx.core import Variables

TABLE = {"name": "tabular_mlp", "batch": 8, "call": 3, "rows": 35, "columns": 4, "hidden": (6, 5)}
WINDOWS = {"name": "dlinear", "batch": 4, "call": 2, "rows": 13, "channels": 2, "history": 30, "horizon": 6}


def sizes(row):
    return {name: value for name, value in row.items() if name not in ("name", "batch", "call")}


@pytest.fixture
def torch():
    """PyTorch on one thread: its threads wait for each other in loops, which is not for tests."""
    library = parity.needed("torch")
    before = library.get_num_threads()
    library.set_num_threads(1)
    yield library
    library.set_num_threads(before)


@pytest.fixture
def small(torch):
    return importlib.import_module("experiments.speed.torch_small")


@pytest.mark.parametrize("row", [TABLE, WINDOWS], ids=lambda row: row["name"])
def test_every_side_trains_an_epoch_of_the_same_size(row, small):
    contest = small.contest(**row)
    assert contest.examples == row["rows"] // row["batch"] * row["batch"]
    peers = {name: build for name, build in contest.peers.items() if "compile" not in name}
    found = [contest.ours(), *(build() for build in peers.values())]
    assert len({side.parameters for side in found}) == 1
    assert all(math.isfinite(side.runs[small.EPOCH](2)) for side in found)


def test_both_dlinears_are_one(torch, small):
    work = small.windows(**sizes(WINDOWS))
    module = work.module()
    params = {
        name: {"kernel": layer.weight.detach().numpy().T, "bias": layer.bias.detach().numpy()}
        for name, layer in (("seasonal", module.seasonal), ("trend", module.trend))
    }
    x = np.ascontiguousarray(work.x[:3])
    outputs, _ = work.model.apply(Variables(params, {}), jnp.asarray(x))
    np.testing.assert_allclose(outputs[..., 0], module(torch.from_numpy(x)).detach(), atol=1e-5)


def test_both_sides_are_given_the_same_examples_once_in_an_epoch(torch, small):
    work = small.windows(**sizes(WINDOWS) | {"rows": 12})
    ours = list(map(work.batches(4), range(3)))
    tensors = torch.from_numpy(work.x), torch.from_numpy(work.y)
    for load in (small.permuted, small.loader):
        theirs = list(load(*tensors, 4)())
        for index, name in enumerate("xy"):
            mine = np.concatenate([batch[name] for batch in ours])
            other = np.concatenate([pair[index] for pair in theirs])
            assert sorted(part.tobytes() for part in mine) == sorted(part.tobytes() for part in other)
