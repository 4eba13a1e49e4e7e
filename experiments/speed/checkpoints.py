"""What saving and restoring cost: how long a save holds training up, and how long a verified restore takes.

The peer is torch.save and torch.load of equal tensors, blocking and without checksums. Neither side waits for
the disk itself: what is written lies in the page cache of the system. The state is of arrays of random
numbers, as compression finds them in weights.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlx import checkpoint, checksums, sharding
from dlx.core import TrainState, Variables
from experiments.speed.table import Found, Row, in_turns

REPEATS = 7
LEAF = 4_000_000  # bytes of an array, at most
SETTLED = 0.3  # seconds after which a save of nothing is over


class Saved(NamedTuple):
    """Seconds until a save returns, until it is written, and until its state is read again."""

    stall: float
    written: float
    restored: float


def measure(repeats: int | None = None, *, megabytes: tuple[int, ...] = (10, 100, 400)) -> Found:
    """Measures states of so many megabytes."""
    rows, remarks = [], []
    for size in megabytes:
        rng = np.random.default_rng(0)
        count = max(2, round(size * 1e6 / LEAF))
        arrays = [rng.standard_normal(round(size * 1e6 / 4 / count), np.float32) for _ in range(count)]
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs = dlx_side(arrays, Path(folder)), torch_side(arrays, Path(folder) / "state.pt")
            sides = {"dlx": ours, "torch": theirs}
            for side in sides.values():
                side()  # its programs compiled, its modules imported
            found = in_turns(repeats or REPEATS, sides)
        for field, what, peer in (
            ("stall", "until training goes on", "torch.save"),
            ("written", "until written", "torch.save"),
            ("restored", "restored and verified", "torch.load"),
        ):
            numbers = [[1e3 * getattr(saved, field) for saved in found[name]] for name in sides]
            rows.append(Row(f"checkpoint of {size} MB, {what}", peer, "ms", *numbers))
        alone = statistics.median(summed(arrays) for _ in range(repeats or REPEATS))
        whole = statistics.median(saved.written for saved in found["dlx"])
        remarks.append(f"{size} MB: checksums take {1e3 * alone:.1f} ms, {alone / whole:.1%} of the save")
    return Found(rows, remarks, {"device": jax.devices()[0].device_kind})


def dlx_side(arrays: list[np.ndarray], folder: Path) -> Callable[[], Saved]:
    """Returns what saves and restores a state through `dlx.checkpoint`, as training does."""
    mesh = sharding.mesh(devices=jax.devices()[:1])
    params = {f"array_{i}": array for i, array in enumerate(arrays)}
    state = TrainState(jnp.int32(1), Variables(params, {}), {})
    layout = sharding.layout(jax.eval_shape(lambda: state), mesh)
    state = jax.tree.map(lambda array, leaf: jax.device_put(array, leaf.sharding), state, layout)
    state = jax.block_until_ready(jax.tree.map(jnp.copy, state))

    def side() -> Saved:
        with tempfile.TemporaryDirectory(dir=folder) as workdir, jax.set_mesh(mesh):
            with checkpoint.store(workdir, keep=1) as store:
                store.save(0, state._replace(variables=Variables({}, {})))  # opens the manager
                time.sleep(SETTLED)
                begin = time.perf_counter()
                store.save(1, state)
                stall = time.perf_counter() - begin
            written = time.perf_counter() - begin
            begin = time.perf_counter()
            with checkpoint.store(workdir) as store:
                jax.block_until_ready(store.restore(layout))
            return Saved(stall, written, time.perf_counter() - begin)

    return side


def torch_side(arrays: list[np.ndarray], file: Path) -> Callable[[], Saved]:
    """Returns what saves and loads equal tensors through torch."""
    import torch

    tensors = {f"array_{i}": torch.from_numpy(array.copy()) for i, array in enumerate(arrays)}

    def side() -> Saved:
        begin = time.perf_counter()
        torch.save(tensors, file)
        written = time.perf_counter() - begin
        begin = time.perf_counter()
        torch.load(file, weights_only=True)
        restored = time.perf_counter() - begin
        file.unlink()
        return Saved(written, written, restored)

    return side


def summed(arrays: list[np.ndarray]) -> float:
    """Returns the seconds that the checksums of arrays take on their device."""
    placed = jax.block_until_ready({str(i): jnp.asarray(array) for i, array in enumerate(arrays)})
    jax.block_until_ready(checksums.sums(placed))
    begin = time.perf_counter()
    jax.block_until_ready(checksums.sums(placed))
    return time.perf_counter() - begin
