import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import close, needed

from dlx.layers import recurrent
from dlx.layers.recurrent import Recurrent

LENGTHS = (4, 7, 1)
MASK = jnp.arange(7) < jnp.array(LENGTHS)[:, None]
CELLS = pytest.mark.parametrize("cell", ["lstm", "gru"])


def drawn(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def started(cell, bidirectional=False, depth=2, width=4, **settings):
    """Returns a stack, its variables, perturbed, inputs [3, 7, 5] and a state that is not zero."""
    stack = Recurrent(cell, width, depth, bidirectional, **settings)
    x = drawn(3, 7, 5)
    variables = jax.jit(stack.init)(jax.random.key(1), x)
    variables = jax.tree.map(lambda leaf: leaf + 0.3 * drawn(*leaf.shape, seed=leaf.size), variables)
    layers = depth * (1 + bidirectional)
    state = recurrent.zeros(cell, 3, width, layers)
    return stack, variables, x, jax.tree.map(lambda leaf: leaf + 0.5 * drawn(*leaf.shape, seed=9), state)


def from_torch(state_dict, cell):
    """Returns the parameters of a stack from those of torch.nn.LSTM or torch.nn.GRU."""
    params = {}
    for name, value in state_dict.items():
        kind, place, layer = name.split("_", 2)
        into = params.setdefault(f"layer_{layer[1:]}", {})
        into[f"{'input' if place == 'ih' else 'recurrent'}_{'bias' if kind == 'bias' else 'kernel'}"] = (
            value.T
        )
    for layer in params.values() if cell == "lstm" else ():
        layer["recurrent_bias"] = layer["recurrent_bias"] + layer.pop("input_bias")
    return {"params": params}


@CELLS
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "packed"])
def test_outputs_states_and_gradients_are_those_of_torch(cell, bidirectional, masked):
    torch = needed("torch")
    torch.manual_seed(0)
    reference = getattr(torch.nn, cell.upper())(5, 4, 2, batch_first=True, bidirectional=bidirectional)
    stack, _, x, state = started(cell, bidirectional)
    parts = [jnp.stack(arrays) for arrays in zip(*state, strict=True)]  # of each array, [layers, b, d]
    theirs = [torch.tensor(np.array(part), requires_grad=True) for part in parts]
    there = torch.tensor(np.array(x), requires_grad=True)
    hidden = tuple(theirs) if cell == "lstm" else theirs[0]
    if masked:
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            there, list(LENGTHS), batch_first=True, enforce_sorted=False
        )
        y, last = reference(packed, hidden)
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=True)
    else:
        y, last = reference(there, hidden)
    last = last if cell == "lstm" else (last,)
    weights = drawn(*y.shape, seed=5), [drawn(*part.shape, seed=6) for part in last]
    total = (y * torch.tensor(np.array(weights[0]))).sum()
    total = total + sum((a * torch.tensor(np.array(b))).sum() for a, b in zip(last, weights[1], strict=True))
    total.backward()

    def loss(variables, x, state):
        y, last = stack.apply(variables, x, MASK if masked else None, state)
        last = [jnp.stack(arrays) for arrays in zip(*last, strict=True)]
        pairs = zip([y, *last], [weights[0], *weights[1]], strict=True)
        return sum(jnp.vdot(a, b) for a, b in pairs), (y, last)

    variables = from_torch({name: p.detach().numpy() for name, p in reference.named_parameters()}, cell)
    gradients, ours = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(variables, x, state)
    close(ours[0], y.detach().numpy(), 1e-5, "outputs")
    for one, other in zip(ours[1], last, strict=True):
        close(one, other.detach().numpy(), 1e-5, "last state")
    grads = from_torch({name: p.grad.numpy() for name, p in reference.named_parameters()}, cell)
    if cell == "lstm":  # the two biases of a gate have one gradient, which the sum counted twice
        for layer in grads["params"].values():
            layer["recurrent_bias"] = layer["recurrent_bias"] / 2
    jax.tree.map(lambda a, b: close(a, b, 1e-4, "gradient of a weight"), gradients[0], grads)
    close(gradients[1], there.grad.numpy(), 1e-4, "gradient of the inputs")
    for part, other in zip(zip(*gradients[2], strict=True), theirs, strict=True):
        close(jnp.stack(part), other.grad.numpy(), 1e-4, "gradient of the first state")


@CELLS
@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_are_those_of_a_plain_scan(cell, reverse):
    step = recurrent.CELLS[cell].step
    size = 4 * recurrent.CELLS[cell].gates
    carry = recurrent.zeros(cell, 3, 4)[0]
    arrays = (drawn(7, 3, size), drawn(4, size, seed=1), drawn(size, seed=2), carry)

    def plain(inputs, kernel, bias, carry):
        def advance(carry, now):
            after = step(now[0], carry[0] @ kernel + bias, carry)
            after = jax.tree.map(lambda a, b: jnp.where(now[1][:, None], a, b), after, carry)
            return after, after[0]

        return jax.lax.scan(advance, carry, (inputs, MASK.T), reverse=reverse)[::-1]

    def ours(*arrays):
        return recurrent.recur(step, reverse, *arrays, MASK.T)

    def loss(form, arrays):
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(form(*arrays)))

    for what in (lambda form: form(*arrays), lambda form: jax.grad(loss, argnums=1)(form, arrays)):
        for one, other in zip(jax.tree.leaves(what(ours)), jax.tree.leaves(what(plain)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@CELLS
def test_the_products_of_all_steps_are_outside_the_loops(cell):
    stack, variables, x, state = started(cell, depth=1)
    text = str(jax.make_jaxpr(jax.grad(lambda v: stack.apply(v, x, None, state)[0].sum()))(variables))
    # the inputs', in each of two loops that of a step, and those of the gradients of two kernels
    assert text.count("scan[") == 2 and text.count("dot_general") == 5


@CELLS
def test_padding_changes_nothing_on_either_side(cell):
    stack, variables, x, state = started(cell, bidirectional=True)
    apply = jax.jit(stack.apply)
    y, last = apply(variables, x, MASK, state)
    noisy, still = apply(variables, jnp.where(MASK[..., None], x, 1e3), MASK, state)
    for one, other in zip(jax.tree.leaves((y, last)), jax.tree.leaves((noisy, still)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not y[~MASK].any() and bool(y[MASK].all())
    for row, length in enumerate(LENGTHS):
        alone = jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], state)
        short, end = stack.apply(variables, x[row : row + 1, :length], None, alone)
        np.testing.assert_allclose(short[0], y[row, :length], atol=1e-6)
        jax.tree.map(lambda a, b, row=row: np.testing.assert_allclose(a[0], b[row], atol=1e-6), end, last)
        left, end = stack.apply(
            variables,
            jnp.roll(x, 7 - length, axis=1)[row : row + 1],
            jnp.roll(MASK, 7 - length, axis=1)[row : row + 1],
            alone,
        )
        np.testing.assert_allclose(left[0, 7 - length :], y[row, :length], atol=1e-6)
        jax.tree.map(lambda a, b, row=row: np.testing.assert_allclose(a[0], b[row], atol=1e-6), end, last)


@CELLS
def test_an_example_of_padding_alone_keeps_its_state_and_has_zero_gradient(cell):
    stack, variables, x, state = started(cell, bidirectional=True)
    mask = MASK.at[0].set(False)

    def loss(x):
        y, last = stack.apply(variables, x, mask, state)
        return jnp.sum(jnp.sin(y)), (y, last)

    gradient, (y, last) = jax.grad(loss, has_aux=True)(x)
    assert not y[0].any() and not gradient[0].any() and bool(jnp.isfinite(gradient).all())
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b[0]), last, state)


@CELLS
def test_a_sequence_in_pieces_is_the_sequence(cell):
    stack, variables, x, state = started(cell)
    y, last = stack.apply(variables, x, None, state)
    first, between = stack.apply(variables, x[:, :3], None, state)
    second, end = stack.apply(variables, x[:, 3:], None, between)
    np.testing.assert_allclose(jnp.concatenate([first, second], axis=1), y, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), end, last)


@CELLS
def test_no_output_depends_on_later_steps_nor_on_other_examples(cell):
    stack, variables, x, _ = started(cell)
    apply = jax.jit(stack.apply)
    before, _ = apply(variables, x)
    after, _ = apply(variables, x.at[:, 4:].set(0).at[1].set(7.0))
    np.testing.assert_array_equal(before[::2, :4], after[::2, :4])
    assert not (before[::2, 4:] == after[::2, 4:]).any() and not (before[1] == after[1]).any()


def test_dropout_is_between_layers_and_in_training_alone(key):
    stack, variables, x, _ = started("gru", depth=2, dropout=0.5)
    one, _, _, _ = started("gru", depth=1, dropout=0.5)
    rngs = {"dropout": key}
    first = {"params": {"layer_0": variables["params"]["layer_0"]}}
    calm = one.apply(first, x)[0]
    np.testing.assert_array_equal(one.apply(first, x, train=True, rngs=rngs)[0], calm)
    np.testing.assert_array_equal(stack.apply(variables, x, rngs=rngs)[0], stack.apply(variables, x)[0])
    noisy, last = stack.apply(variables, x, train=True, rngs=rngs)
    assert not jnp.allclose(noisy, stack.apply(variables, x)[0])
    np.testing.assert_array_equal(last[0][0], calm[:, -1])


@CELLS
def test_half_precision_products_carry_float32(cell):
    stack, variables, x, state = started(cell)
    half = Recurrent(cell, 4, 2, dtype="bfloat16")
    y, last = half.apply(variables, x, None, state)
    assert y.dtype == jnp.bfloat16 and all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(last))
    np.testing.assert_allclose(y.astype(jnp.float32), stack.apply(variables, x, None, state)[0], atol=0.05)
    gradient = jax.grad(lambda v: half.apply(v, x)[0].astype(jnp.float32).sum())(variables)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradient))


def test_an_lstm_starts_with_an_open_forget_gate(key):
    params = Recurrent("lstm", 3).init(key, drawn(1, 2, 5))["params"]["layer_0"]
    np.testing.assert_array_equal(params["recurrent_bias"], [0, 0, 0, 1, 1, 1] + [0] * 6)
    assert 0.5 * 3**-0.5 < float(jnp.abs(params["input_kernel"]).max()) <= 3**-0.5


def test_wrong_inputs_are_named(key):
    with pytest.raises(ValueError, match="'rnn'.*|one of .*'gru', 'lstm'.* not 'rnn'"):
        Recurrent("rnn", 3).init(key, drawn(1, 2, 5))
    with pytest.raises(ValueError, match="time axis is empty"):
        Recurrent("gru", 3).init(key, drawn(1, 0, 5))
    with pytest.raises(ValueError, match="4 layers and directions .* state of 2"):
        Recurrent("gru", 3, 2, True).init(key, drawn(1, 2, 5), None, recurrent.zeros("gru", 1, 3, 2))
