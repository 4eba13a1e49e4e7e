import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import same

from dlx import sharding
from dlx.layers.convolution import (
    Conv,
    adaptive_avg_pool,
    avg_pool,
    convolve,
    max_pool,
    narrow,
    side_by_side,
    windowed,
)

CASES = [  # image, kernel, stride, padding
    ((2, 5, 7, 3), (1, 1, 4), 1, 0),  # one pixel
    ((2, 5, 7, 3), (1, 1, 4), 2, 0),
    ((2, 6, 6, 3), (1, 1, 4), 2, "SAME"),
    ((2, 5, 4, 3), (1, 1, 4), 3, 1),
    ((3, 2, 2, 3), (3, 3, 4), 1, 1),  # a kernel that covers the image
    ((2, 1, 1, 3), (3, 3, 4), 1, "SAME"),
    ((2, 2, 1, 3), (2, 2, 4), 1, 1),  # whose output is the larger
    ((2, 4, 5, 3), (3, 3, 4), 2, 1),  # or the output
    ((2, 5, 5, 3), (5, 5, 4), 1, "VALID"),
    ((2, 5, 4, 3), (3, 3, 4), 2, "SAME"),
    ((2, 3, 6, 3), (1, 7, 4), 3, "SAME"),
    ((2, 2, 9, 3), (7, 1, 4), 1, "SAME"),
    ((2, 7, 7, 3), (7, 7, 4), 2, 3),
    ((2, 9, 8, 3), (3, 3, 4), 1, 1),  # neither
    ((2, 9, 8, 3), (3, 3, 4), 2, "SAME"),
    ((2, 16, 15, 3), (7, 7, 4), 2, 3),
    ((2, 9, 8, 64), (3, 3, 4), 1, "VALID"),  # of many channels
    ((2, 8, 9, 64), (3, 3, 4), 2, "SAME"),
    ((2, 9, 8, 64), (1, 7, 4), 1, "SAME"),
    ((2, 9, 8, 32), (3, 3, 32), 1, "VALID"),  # in tiles, whose outermost are dropped
    ((32, 3, 20, 16), (5, 5, 64), 1, 2),  # so narrow that images are laid side by side
    ((32, 5, 21, 16), (5, 5, 64), 2, "SAME"),
    ((64, 3, 9, 64), (3, 5, 64), 1, 1),
]


def plain(x, kernel, stride, padding):
    """The convolution as XLA has it."""
    layout = ("NHWC", "HWIO", "NHWC")
    padding = padding if isinstance(padding, str) else [(padding, padding)] * 2
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=layout)


def draw(shape, kernel, dtype=jnp.float32):
    """An image and a kernel of that shape, as many channels deep as the image."""
    x = jax.random.normal(jax.random.key(0), shape).astype(dtype)
    return x, jax.random.normal(jax.random.key(1), (*kernel[:2], shape[-1], kernel[2])).astype(dtype)


def differentiated(convolution, *settings):
    """Returns outputs and the gradients of image and kernel, every output weighed its own way, in one jit."""

    def program(x, kernel):
        y, back = jax.vjp(lambda *inputs: convolution(*inputs, *settings), x, kernel)
        return y, *back(jnp.cos(jnp.arange(y.size)).reshape(y.shape).astype(y.dtype))

    return jax.jit(program)


@pytest.mark.parametrize("shape, kernel, stride, padding", CASES)
def test_a_convolution_and_its_gradients_are_those_of_xla(shape, kernel, stride, padding):
    ours, theirs = (differentiated(c, stride, padding)(*draw(shape, kernel)) for c in (convolve, plain))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="it is XLA's on other devices")
@pytest.mark.parametrize("shape, kernel, stride, padding", CASES)
def test_no_gradient_of_a_kernel_is_a_convolution_which_is_slow_on_a_cpu(shape, kernel, stride, padding):
    x, kernel = draw(shape, kernel)

    def weighed(kernel):
        y = convolve(x, kernel, stride, padding)
        return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum()

    assert " convolution(" not in jax.jit(jax.grad(weighed)).lower(kernel).compile().as_text()


SIDES = [((1, 1), (1, 1)), ((0, 0), (0, 0)), ((0, 1), (0, 1)), ((2, 0), (2, 0)), ((0, 0), (4, 5))]


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("window", [3, 5])
def test_images_side_by_side_do_not_see_each_other(window, stride, sides):
    for width in range(7, 11):
        x, kernel = draw((3, 6, width, 2), (4, window, 3))
        apart, together = (form(x, kernel, stride, sides) for form in (windowed, side_by_side))
        np.testing.assert_allclose(together, apart, rtol=1e-5, atol=1e-5)
        unknown = side_by_side(x.at[1].set(jnp.nan), kernel, stride, sides)
        assert jnp.isfinite(unknown[::2]).all() and jnp.isnan(unknown[1]).any()


@pytest.mark.parametrize(
    "images, width, kernel, stride, around, expected",
    [
        (8, 56, (3, 3, 64, 64), 1, 1, True),  # one core's share of columns, and of channels
        (1, 56, (3, 3, 64, 64), 1, 1, False),  # nothing to lay beside it
        (8, 28, (3, 3, 128, 128), 1, 1, False),  # channels for two cores
        (4, 224, (3, 3, 64, 64), 1, 1, False),  # columns for four
        (4, 73, (3, 3, 80, 192), 1, 0, True),  # columns for one and a few more, whatever the channels
        (32, 28, (3, 3, 16, 16), 1, 1, False),  # copies would take longer than they save
        (8, 224, (7, 7, 3, 64), 2, 3, True),
    ],
)
def test_images_go_side_by_side_where_one_core_would_work_alone(
    images, width, kernel, stride, around, expected
):
    x = jnp.zeros((images, 8, width, kernel[2]))
    assert narrow(x, jnp.zeros(kernel), stride, ((around, around), (around, around))) == expected


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="looks at the program for a CPU")
@pytest.mark.parametrize("dtype, wide", [("float32", True), ("bfloat16", False)])
def test_a_program_for_narrow_images_has_one_wide_image(dtype, wide):
    inputs = draw((8, 6, 56, 64), (3, 3, 64), dtype)
    text = jax.jit(lambda *inputs: convolve(*inputs, 1, 1)).lower(*inputs).compile().as_text()
    assert ("[1,6,456,64]" in text) == wide


@pytest.mark.parametrize("shape, kernel, stride, padding", CASES[1::4])
def test_half_precision_is_as_close_to_float32_as_its_last_digits_allow(shape, kernel, stride, padding):
    x, weights = draw(shape, kernel, jnp.bfloat16)
    ours = differentiated(convolve, stride, padding)(x, weights)
    exact = differentiated(plain, stride, padding)(x.astype(jnp.float32), weights.astype(jnp.float32))
    for one, other in zip(ours, exact, strict=True):
        assert one.dtype == jnp.bfloat16
        error = jnp.abs(one.astype(jnp.float32) - other).max()
        assert error <= 2**-6 * jnp.abs(other).max()


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="looks at the program for a CPU")
@pytest.mark.parametrize("shape, kernel, stride, padding", [CASES[i] for i in (4, 6, 10, 12)])
def test_a_kernel_larger_than_the_image_is_exchanged_with_it_by_xla_but_not_here(
    shape, kernel, stride, padding
):
    inputs = draw(shape, kernel)
    ours, theirs = (
        differentiated(c, stride, padding).lower(*inputs).compile().as_text() for c in (convolve, plain)
    )
    assert "rhs_reversal" in theirs and " convolution(" not in ours


@pytest.mark.parametrize("settings", [{}, {"strides": 2, "padding": "VALID"}, {"use_bias": False}])
def test_the_layer_starts_with_the_parameters_of_flax_and_computes_the_same(key, settings):
    x = jax.random.normal(key, (2, 6, 5, 3))
    theirs, variables = nn.Conv(4, (3, 3), **settings).init_with_output(key, x)
    ours, same_variables = Conv(4, (3, 3), **settings).init_with_output(key, x)
    assert same(same_variables, variables)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    if settings.get("use_bias", True):
        variables["params"]["bias"] = jnp.arange(4.0)
        ours, theirs = (c(4, (3, 3), **settings).apply(variables, x) for c in (Conv, nn.Conv))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_weights_may_be_numpys(key):
    x = jax.random.normal(key, (2, 4, 4, 3))
    y, variables = Conv(4, (3, 3)).init_with_output(key, x)
    assert same(Conv(4, (3, 3)).apply(jax.tree.map(np.asarray, variables), x), y)


def test_the_layer_keeps_float32_weights_and_computes_in_its_dtype(key):
    y, variables = Conv(4, (1, 1), dtype="bfloat16").init_with_output(key, jnp.ones((1, 3, 3, 2)))
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_on_many_devices_a_product_of_windows_is_the_same(key):
    x, kernel = jax.random.normal(key, (8, 2, 2, 4)), jax.random.normal(key, (3, 3, 4, 6))
    gradient = jax.jit(jax.grad(lambda *a: jnp.sum(jnp.sin(convolve(*a, 1, 1))), (0, 1)))
    placed = jax.device_put(x, sharding.batch(sharding.mesh(devices=jax.devices()[:4])))
    for one, many in zip(gradient(x, kernel), gradient(placed, kernel), strict=True):
        np.testing.assert_allclose(many, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape, size", [((2, 8, 6, 3), 2), ((2, 7, 9, 1), 2), ((1, 9, 9, 2), 3)])
def test_pooling_equals_the_window_reduction_and_so_does_its_gradient(shape, size):
    x = jax.random.normal(jax.random.key(0), shape)
    window = {"window_shape": (size, size), "strides": (size, size)}
    np.testing.assert_array_equal(max_pool(x, size), nn.max_pool(x, **window))
    ours = jax.grad(lambda x: (max_pool(x, size) ** 2).sum())(x)
    theirs = jax.grad(lambda x: (nn.max_pool(x, **window) ** 2).sum())(x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize(
    "shape, size, stride, padding",
    [((2, 8, 6, 3), 3, 2, 1), ((2, 7, 9, 1), 3, 2, 0), ((1, 3, 1, 2), 3, 1, 1), ((2, 4, 5, 1), 2, 1, 1)],
)
def test_overlapping_and_padded_pooling_equals_the_window_reduction(shape, size, stride, padding):
    x = jax.random.normal(jax.random.key(0), shape) - 5  # a padding of zeros would win
    window = {"window_shape": (size, size), "strides": (stride, stride), "padding": ((padding, padding),) * 2}
    np.testing.assert_array_equal(max_pool(x, size, stride, padding), nn.max_pool(x, **window))
    ours = jax.grad(lambda x: (max_pool(x, size, stride, padding) ** 2).sum())(x)
    theirs = jax.grad(lambda x: (nn.max_pool(x, **window) ** 2).sum())(x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("height, width, size", [(14, 21, 7), (10, 3, 4), (1, 2, 7), (7, 7, 7), (5, 8, 1)])
def test_adaptive_pooling_averages_the_windows_that_pytorch_takes(height, width, size):
    x = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)
    expected = np.zeros((2, size, size, 3), np.float32)
    for i in range(size):
        for j in range(size):
            rows = slice(i * height // size, -(-(i + 1) * height // size))
            columns = slice(j * width // size, -(-(j + 1) * width // size))
            expected[:, i, j] = x[:, rows, columns].mean(axis=(1, 2))
    np.testing.assert_allclose(adaptive_avg_pool(jnp.asarray(x), size), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "side, size, stride, padding", [(8, 2, 2, 0), (9, 3, 1, 1), (17, 5, 3, 0), (7, 3, 2, 1)]
)
def test_averaging_equals_the_window_reduction(side, size, stride, padding):
    x = jax.random.normal(jax.random.key(0), (2, side, side + 1, 3))
    sides = ((padding, padding), (padding, padding))
    theirs = nn.avg_pool(x, (size, size), (stride, stride), sides)
    np.testing.assert_allclose(avg_pool(x, size, stride, padding), theirs, rtol=1e-5, atol=1e-6)
