"""Every test runs with shapes and types executed, raw keys forbidden and eight simulated devices at hand."""

import os
from pathlib import Path

CACHE = Path("~/.cache/dlx/xla-tests").expanduser()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

from jaxtyping import install_import_hook

install_import_hook("dlx", "beartype.beartype")

import jax
import jax.numpy as jnp
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_legacy_prng_key", "error")

from dlx import sharding
from dlx.core import Task, Variables
from dlx.metrics import mean


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def single():
    """A mesh of one device."""
    return sharding.mesh(devices=jax.devices()[:1])


@pytest.fixture
def line():
    """The smallest task: a line through noise, 16 examples a batch, with its count of traces."""
    traces = []

    def batch(step):
        rng = np.random.default_rng((7, step))
        x = rng.normal(size=(16, 3)).astype(np.float32)
        return {"x": x, "y": x @ np.float32([1, -2, 3]) + 0.5}

    def init(key):
        return Variables({"w": jax.random.normal(key, 3), "b": jnp.zeros(())}, {})

    def loss(variables, batch, key):
        traces.append(1)
        w, b = variables.params["w"], variables.params["b"]
        errors = (batch["x"] @ w + b - batch["y"] + 0.01 * jax.random.normal(key, 16)) ** 2
        return errors.mean(), (variables.state, {"loss": mean(errors)})

    def distance(variables):
        return {"distance": float(jnp.abs(variables.params["w"] - jnp.array([1, -2, 3])).max())}

    task = Task(init, loss, batch, {"validation": distance})
    return task, traces


def same(first, second) -> bool:
    """Tells whether two trees have the same structure and, bit for bit, the same leaves."""
    if jax.tree.structure(first) != jax.tree.structure(second):
        return False
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)
