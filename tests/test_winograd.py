import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlx import sharding
from dlx.layers import winograd
from dlx.layers.convolution import AROUND, convolve, in_tiles, windowed

BASES = {"two": winograd.TWO, "four": winograd.FOUR}


def draw(shape, features, scale=1.0):
    """An image, a kernel and a gradient of the outputs."""
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = shape, (3, 3, shape[-1], features), (*shape[:3], features)
    return [scale * jax.random.normal(key, each) for key, each in zip(keys, shapes, strict=True)]


def plain(x, kernel, gradient):
    """Outputs and gradients as XLA has them."""
    y, back = jax.vjp(lambda *inputs: windowed(*inputs, 1, AROUND), x, kernel)
    return y, *back(gradient)


def error(found, wanted) -> float:
    return float(np.abs(np.asarray(found) - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("name", BASES)
def test_the_bases_are_exact(name):
    pixels, weights, outputs = (np.array(matrix, np.float64) for matrix in BASES[name])
    x, w = np.random.default_rng(0).standard_normal((2, len(pixels)))
    sums = np.correlate(x, w[:3], "valid")
    np.testing.assert_allclose(outputs @ ((weights @ w[:3]) * (pixels @ x)), sums, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (1, 9, 6, 2), (3, 1, 5, 4), (2, 3, 17, 1)])
@pytest.mark.parametrize("tiles", [1, 256])  # that a strip has at least: many strips, and one
def test_outputs_and_the_kernels_gradient_are_those_of_the_plain_convolution(monkeypatch, name, shape, tiles):
    monkeypatch.setattr(winograd, "TILES", tiles)
    x, kernel, gradient = draw(shape, 5)
    y, _, of_kernel = plain(x, kernel, gradient)
    outputs = jax.jit(lambda *inputs: winograd.convolve(*inputs, BASES[name]))
    of_kernel_in_tiles = jax.jit(lambda *inputs: winograd.kernel_gradient(*inputs, BASES[name]))
    assert error(outputs(x, kernel), y) < 1e-5
    assert error(of_kernel_in_tiles(x, gradient), of_kernel) < 1e-5


@pytest.mark.parametrize("shape, features", [((2, 12, 12, 256), 128), ((32, 3, 9, 64), 64)])
def test_the_outputs_lose_no_digits_and_the_gradients_one(shape, features):
    inputs = draw(shape, features)
    with jax.enable_x64(True):
        doubles = [jnp.asarray(np.asarray(array), jnp.float64) for array in inputs]
        exact = [np.asarray(array) for array in plain(*doubles)]
    y, back = jax.vjp(in_tiles, *inputs[:2])
    usual = [error(one, other) for one, other in zip(plain(*inputs), exact, strict=True)]
    found = [error(one, other) for one, other in zip((y, *back(inputs[2])), exact, strict=True)]
    assert found[0] < 2 * usual[0] and max(found[1:]) < 20 * max(usual[1:])


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="looks at the program for a CPU")
@pytest.mark.parametrize("dtype, convolutions", [("float32", 0), ("bfloat16", 3)])
def test_it_is_for_float32(dtype, convolutions):
    x, kernel, _ = (array.astype(dtype) for array in draw((2, 8, 8, 256), 128))
    program = jax.jit(jax.grad(lambda *inputs: jnp.sum(convolve(*inputs, 1, 1) ** 2), (0, 1)))
    assert program.lower(x, kernel).compile().as_text().count(" convolution(") == convolutions


def test_on_many_devices_it_is_the_same():
    x, kernel, _ = draw((8, 8, 8, 256), 128, 0.1)
    gradient = jax.jit(jax.value_and_grad(lambda *a: jnp.sum(jnp.sin(convolve(*a, 1, 1))), (0, 1)))
    placed = jax.device_put(x, sharding.batch(sharding.mesh(devices=jax.devices()[:4])))
    found = zip(jax.tree.leaves(gradient(x, kernel)), jax.tree.leaves(gradient(placed, kernel)), strict=True)
    for one, many in found:
        assert error(many, one) < 2e-5
