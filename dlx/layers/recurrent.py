"""Recurrent layers over [b, t, d]: LSTM (Hochreiter & Schmidhuber 1997) and GRU (Cho et al. 2014).

What does not depend on the state before it is not in the loop over time: the products of the inputs are one
large product before it, and the gradients of the weights one large product after it.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dlx.layers.dense import by_rows
from dlx.layers.regularization import dropout

Carry = tuple[Array, ...]  # arrays [b, d] of one layer in one direction; the first is its output
State = tuple[Carry, ...]  # one carry for each layer and, innermost, direction: forwards, then backwards


class Cell(NamedTuple):
    """One step of a recurrent layer, without its matrix products.

    `step(inputs [b, gates * d], products [b, gates * d], carry) -> carry`: inputs are the step's input times
    a matrix, products the output before it times another. A carry holds `carried` arrays [b, d]. Where a step
    does more than add the two, each has a bias.
    """

    gates: int
    carried: int
    biases: int
    step: Callable[[Array, Array, Carry], Carry]


def lstm_step(inputs: Float[Array, "b g"], products: Float[Array, "b g"], carry: Carry) -> Carry:
    """Returns (output, cell) after input, forget, candidate and output gate, in this order."""
    _, cell = carry
    enter, forget, candidate, leave = jnp.split(inputs + products, 4, axis=-1)
    cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(enter) * jnp.tanh(candidate)
    return jax.nn.sigmoid(leave) * jnp.tanh(cell), cell


def gru_step(inputs: Float[Array, "b g"], products: Float[Array, "b g"], carry: Carry) -> Carry:
    """Returns (output,) after reset gate, update gate and candidate, in this order.

    The reset gate acts after the product, as in cuDNN; its two biases therefore differ in the candidate.
    """
    (before,) = carry
    width = before.shape[-1]
    gates = jax.nn.sigmoid(inputs[:, : 2 * width] + products[:, : 2 * width])
    reset, keep = jnp.split(gates, 2, axis=-1)
    candidate = jnp.tanh(inputs[:, 2 * width :] + reset * products[:, 2 * width :])
    return ((1 - keep) * candidate + keep * before,)


CELLS = {"lstm": Cell(4, 2, 1, lstm_step), "gru": Cell(3, 1, 2, gru_step)}


def following(step, mask: Bool[Array, "b"] | None, inputs, products, carry: Carry) -> Carry:
    """Returns the next carry, or the same where `mask` is False."""
    after = step(inputs, products, carry)
    if mask is None:
        return after
    return jax.tree.map(partial(jnp.where, mask[:, None]), after, carry)


def multiply(x: Float[Array, "... d"], kernel: Float[Array, "... d g"]) -> Float[Array, "... g"]:
    """Returns the product, of numbers in the dtype of `kernel`, in float32."""
    product = by_rows if kernel.ndim == 2 else jnp.matmul
    return product(x.astype(kernel.dtype), kernel, preferred_element_type=jnp.float32)


def outer(x: Float[Array, "*t d"], y: Float[Array, "*t g"]) -> Float[Array, "d g"]:
    """Returns the gradient of a kernel, given all that it multiplied and the gradients of the products."""
    return jnp.matmul(x.reshape(-1, x.shape[-1]).T, y.reshape(-1, y.shape[-1]))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def recur(
    step: Callable[[Array, Array, Carry], Carry],
    reverse: bool,
    inputs: Float[Array, "t b g"],
    kernel: Float[Array, "d g"],
    bias: Float[Array, "g"],
    carry: Carry,
    mask: Bool[Array, "t b"] | None = None,
) -> tuple[Float[Array, "t b d"], Carry]:
    """Applies `step` along time, from the end if `reverse`; returns all outputs and the last carry.

    The products of a step are its previous output times `kernel` plus `bias`, in the dtype of `kernel`;
    all else is float32. Where `mask` is False the carry stays as it was.
    """
    return forward(step, reverse, inputs, kernel, bias, carry, mask)[0]


def forward(step, reverse: bool, inputs, kernel, bias, carry: Carry, mask):
    """Returns the outputs and what their gradients need."""

    def advance(carry, now):
        inputs, mask = now
        products = multiply(carry[0], kernel) + bias
        return following(step, mask, inputs, products, carry), (products, carry)

    last, (products, before) = jax.lax.scan(advance, carry, (inputs, mask), reverse=reverse)
    ends = (before[0][1:], last[0][None])
    outputs = jnp.concatenate([ends[1], before[0][:-1]] if reverse else ends)
    return (outputs, last), (inputs, kernel, mask, products, before)


def backward(step, reverse: bool, saved, gradients):
    """Returns the gradients of the arrays, those of `kernel` and `bias` summed over all steps at once."""
    inputs, kernel, mask, products, before = saved
    transposed = kernel.T

    def retreat(gradient, now):
        inputs, products, before, mask, of_output = now
        gradient = (gradient[0] + of_output, *gradient[1:])
        pull = jax.vjp(partial(following, step, mask), inputs, products, before)[1]
        of_inputs, of_products, gradient = pull(gradient)
        through = multiply(of_products, transposed)
        return (gradient[0] + through, *gradient[1:]), (of_inputs, of_products)

    steps = (inputs, products, before, mask, gradients[0])
    of_carry, (of_inputs, of_products) = jax.lax.scan(retreat, gradients[1], steps, reverse=not reverse)
    of_kernel = outer(before[0].astype(kernel.dtype), of_products.astype(kernel.dtype))
    return of_inputs, of_kernel, of_products.sum((0, 1)), of_carry, None


recur.defvjp(forward, backward)


Times = Callable[[str, Array], Array]  # the name of a kernel, and what is multiplied with it


def scan(
    step: Callable[[Times, Any, Any, Any], tuple[Any, Any]],
    kernels: Mapping[str, Array],
    constants,
    carry,
    xs,
):
    """Is `jax.lax.scan` of `step(times, constants, carry, x) -> (carry, y)`, fast to differentiate.

    In a step `times(name, u)` is `u` [b, d] times the kernel of that name, [d, g] or [b, d, g], in the
    kernel's dtype and then float32. The gradients of the kernels are one product each after the loop, where
    those of the `constants` are added up within it. Each kernel is used once in a step.
    """
    return _scan(step, dict(kernels), constants, carry, xs)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(step, kernels, constants, carry, xs):
    def advance(carry, x):
        return step(lambda name, u: _rows_times(u, kernels[name]), constants, carry, x)

    return jax.lax.scan(advance, carry, xs)


def _scan_forward(step, kernels, constants, carry, xs):
    transposed = {name: kernel.swapaxes(-1, -2) for name, kernel in kernels.items()}

    def run(constants, carry, xs, slots):
        def advance(carry, now):
            x, slots = now
            factors = {}

            def times(name, u):
                factors[name] = u.astype(kernels[name].dtype)
                return _slotted(u, kernels[name], transposed[name], slots[name])

            carry, y = step(times, constants, carry, x)
            return carry, (y, factors)

        carry, (ys, factors) = jax.lax.scan(advance, carry, (xs, slots))
        return (carry, ys), factors

    length, batch = len(jax.tree.leaves(xs)[0]), len(jax.tree.leaves(carry)[0])
    slots = {name: jnp.zeros((length, batch, kernel.shape[-1])) for name, kernel in kernels.items()}
    outputs, pull, factors = jax.vjp(run, constants, carry, xs, slots, has_aux=True)
    return outputs, (pull, factors, {name: jnp.zeros(kernel.shape[:-2]) for name, kernel in kernels.items()})


def _scan_backward(step, saved, gradients):
    pull, factors, ranks = saved
    of_constants, of_carry, of_xs, of_products = pull(gradients)
    of_kernels = {}
    for name, u in factors.items():
        product = jax.vmap(outer, 1) if ranks[name].ndim else outer  # of each example, or of all
        of_kernels[name] = product(u, of_products[name].astype(u.dtype))
    return of_kernels, of_constants, of_carry, of_xs


_scan.defvjp(_scan_forward, _scan_backward)


def _rows_times(u: Float[Array, "b d"], kernel: Float[Array, "*b d g"]) -> Float[Array, "b g"]:
    return multiply(u, kernel) if kernel.ndim == 2 else multiply(u[:, None], kernel)[:, 0]


@jax.custom_vjp
def _slotted(u, kernel, transposed, slot):
    """Is the product; its gradient goes to `slot`, and none to the kernel."""
    return _rows_times(u, kernel)


_slotted.defvjp(
    lambda u, kernel, transposed, slot: (_rows_times(u, kernel), (jnp.zeros(0, u.dtype), transposed)),
    lambda saved, gradient: (_rows_times(gradient, saved[1]).astype(saved[0].dtype), None, None, gradient),
)


class Gates(nn.Module):
    """The weights of one layer in one direction.

    All start uniformly within 1 / sqrt(width) of 0, and biases at 0, but 1 for the forget gate of an LSTM
    (Jozefowicz et al. 2015).
    """

    cell: str
    width: int
    dtype: str

    @nn.compact
    def __call__(self, inputs: int) -> tuple[Array, Array | float, Array, Array]:
        """Returns kernel and bias for inputs of that width, then those for the layer's own output."""
        cell, zero, near = CELLS[self.cell], nn.initializers.zeros, uniform(self.width**-0.5)
        size = cell.gates * self.width
        entry = self.param("input_kernel", near, (inputs, size)).astype(self.dtype)
        entry_bias = self.param("input_bias", zero, (size,)) if cell.biases == 2 else 0.0
        kernel = self.param("recurrent_kernel", near, (self.width, size)).astype(self.dtype)
        bias = self.param("recurrent_bias", remember if self.cell == "lstm" else zero, (size,))
        return entry, entry_bias, kernel, bias


def uniform(bound: float) -> Callable[..., Array]:
    """Returns the initializer that draws evenly between -bound and bound."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def remember(key: Array, shape: tuple[int], dtype=jnp.float32) -> Float[Array, "g"]:
    """Returns the bias of an LSTM that forgets little at first: 1 for the forget gate, else 0."""
    return jnp.repeat(jnp.array([0, 1, 0, 0], dtype), shape[0] // 4)


class Recurrent(nn.Module):
    """A stack of `depth` layers of "lstm" or "gru" cells, each over the outputs of the one below.

    With `bidirectional`, each layer is two that run against each other, and their outputs stand side by side.
    `dropout` is between layers. Where `mask` is False the state stays as it was and the output is 0, so that
    padding on either side changes nothing: a layer that runs backwards starts at each example's own end.
    """

    cell: str
    width: int
    depth: int = 1
    bidirectional: bool = False
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t c"],
        mask: Bool[Array, "b t"] | None = None,
        state: State | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "b t d"], State]:
        """Returns the outputs of the last layer, and the state after the last step.

        That state, given for the next piece of a sequence, continues it. None starts from zeros.
        """
        if x.shape[1] == 0:
            raise ValueError("a recurrent layer needs at least one step: the time axis is empty")
        directions = (False, True) if self.bidirectional else (False,)
        if state is None:
            state = zeros(self.cell, len(x), self.width, self.depth * len(directions))
        if len(state) != self.depth * len(directions):
            raise ValueError(
                f"{self.depth * len(directions)} layers and directions cannot go on from a state of "
                f"{len(state)}: give the state that the same layers returned"
            )
        x, mask = x.swapaxes(0, 1), None if mask is None else mask.T
        carries: list[Carry] = []
        for layer in range(self.depth):
            if layer:
                x = dropout(x, self.dropout, self.make_rng("dropout") if train and self.dropout else None)
            outputs = []
            for reverse in directions:
                name = f"layer_{layer}" + "_reverse" * reverse
                entry, entry_bias, kernel, bias = Gates(self.cell, self.width, self.dtype, name=name)(
                    x.shape[-1]
                )
                inputs = multiply(x, entry) + entry_bias
                carry = state[len(carries)]
                output, carry = recur(CELLS[self.cell].step, reverse, inputs, kernel, bias, carry, mask)
                outputs.append(output.astype(self.dtype))
                carries.append(carry)
            x = jnp.concatenate(outputs, axis=-1)
            if mask is not None:
                x = jnp.where(mask[..., None], x, 0)
        return x.swapaxes(0, 1), tuple(carries)


def zeros(cell: str, batch: int, width: int, depth: int = 1) -> State:
    """Returns the state before the first step of `depth` layers (those of both directions counted)."""
    if cell not in CELLS:
        raise ValueError(f"the cell is one of {sorted(CELLS)}, not {cell!r}")
    return ((jnp.zeros((batch, width)),) * CELLS[cell].carried,) * depth
