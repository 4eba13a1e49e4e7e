"""Parity with PyTorch: the same weights give the same outputs, statistics and gradients.

A parity test of a model reads

    reference = parity.torchvision("resnet18")                     # or parity.timm("vit_base_patch16_224")
    variables = from_torchvision("resnet18", parity.arrays(reference))
    model = resnet.resnet18()                                      # with every dropout rate 0
    images = parity.images(2, 64)                                  # [b, h, w, c]
    parity.check_inference(reference, model, variables, images)
    parity.check_training(reference, model, variables, images, back)    # outputs and batch statistics
    parity.check_gradients(reference, model, variables, images, back)   # of every parameter

where `back(variables)` is the way to the library's names, such as `partial(to_torchvision, "resnet18")`:
statistics and gradients are compared entry by entry under the names of the reference.

The reference has random weights, and nothing in it is left at a value that hides a mistake: constant
parameters (zero biases, unit scales, empty heads) and batch statistics are perturbed. It has no dropout and
no stochastic depth. Errors are relative to the largest value of the array compared. `torchvision` and `timm`
skip the test where the library is absent. Outputs may be a tuple, as those of a training inception_v3 are.
"""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlx.core import Variables


@functools.cache
def libraries():
    """Imports torch, torchvision and timm; those absent are None."""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("torch", "torchvision", "timm"):
            try:
                if name == "torchvision":  # its compiled part may be absent: name the operators it looks for
                    declare_operators(found["torch"])
                found[name] = __import__(name)
            except ImportError:
                found[name] = None
    return found


def declare_operators(torch):
    """Declares the two operators that torchvision expects of its compiled part, which no model here uses."""
    if torch is None:
        raise ImportError("torchvision needs torch")
    if not hasattr(torch.ops.torchvision, "nms"):
        libraries.operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            libraries.operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def needed(name: str):
    """Returns a library, or skips the test where it is absent."""
    if libraries()[name] is None:
        pytest.skip(f"parity needs {name}: pip install torch torchvision timm")
    return libraries()[name]


def torchvision(name: str, **settings):
    """Returns torchvision's model of that name, perturbed; dropout and stochastic depth off."""
    return perturbed(lambda: needed("torchvision").models.get_model(name, weights=None, **settings))


def timm(name: str, **settings):
    """Returns timm's model of that name, perturbed; dropout and stochastic depth off."""
    return perturbed(lambda: needed("timm").create_model(name, pretrained=False, **settings))


def perturbed(build, seed: int = 0):
    """Returns `build()`, a torch module, with random weights and no constant left in it."""
    torch = needed("torch")
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = build()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.min() == parameter.max():
                parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    for part in module.modules():
        if isinstance(part, torch.nn.modules.dropout._DropoutNd):
            part.p = 0.0
        if type(part).__name__ == "StochasticDepth":  # torchvision's
            part.p = 0.0
        if type(part).__name__ == "DropPath":  # timm's
            part.drop_prob = 0.0
    return module


def arrays(module) -> dict[str, np.ndarray]:
    """Returns a module's state dict as numpy arrays, copied."""
    return {name: tensor.detach().numpy().copy() for name, tensor in module.state_dict().items()}


def images(batch: int, size: int, channels: int = 3, seed: int = 0):
    """Returns random images [b, h, w, c]."""
    return jax.random.normal(jax.random.key(seed), (batch, size, size, channels))


def tensor(images):
    """Returns images [b, h, w, c] as torch's [b, c, h, w]."""
    return needed("torch").from_numpy(np.array(images).transpose(0, 3, 1, 2).copy())


def close(ours, theirs, tolerance: float, what: str):
    """Asserts that two arrays differ by at most `tolerance` of the largest value of `theirs`."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, f"{what}: {ours.shape} is not {theirs.shape}"
    error = np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30)
    assert error <= tolerance, f"{what}: relative error {error:.1e} is above {tolerance:.0e}"


def outputs_close(ours, theirs, tolerance: float):
    """Compares outputs, single or tuples."""
    ours = ours if isinstance(ours, tuple) else (ours,)
    theirs = theirs if isinstance(theirs, tuple) else (theirs,)
    assert len(ours) == len(theirs)
    for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        close(a, b.detach().numpy(), tolerance, f"output {number}")


def check_inference(reference, model, variables, images, tolerance: float = 1e-4):
    """Asserts equal outputs in inference, and that the state comes back as it went in."""
    torch = needed("torch")
    with torch.no_grad():
        theirs = reference.eval()(tensor(images))
    ours, state = jax.jit(model.apply)(variables, images)
    outputs_close(ours, theirs, tolerance)
    for before, after in zip(jax.tree.leaves(variables.state), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(before, after)


def check_training(reference, model, variables, images, back, tolerance: float = 1e-4):
    """Asserts equal outputs and statistics in training mode; the reference keeps its own."""
    torch = needed("torch")
    saved = {name: value.clone() for name, value in reference.named_buffers()}
    with torch.no_grad():
        theirs = reference.train()(tensor(images))
    updated = {name: value.numpy().copy() for name, value in reference.named_buffers()}
    with torch.no_grad():
        for name, value in reference.named_buffers():
            value.copy_(saved[name])

    apply = jax.jit(lambda variables, images: model.apply(variables, images, key=jax.random.key(0)))
    ours, state = apply(variables, images)
    outputs_close(ours, theirs, tolerance)
    state_dict = back(Variables(variables.params, state))
    for name in updated:
        if name.endswith(("running_mean", "running_var")):
            close(state_dict[name], updated[name], tolerance, name)


def check_gradients(
    reference, model, variables, images, back, *, train: bool = False, tolerance: float = 1e-3
):
    """Asserts equal gradients of every parameter for a random linear loss of the outputs.

    In inference mode unless `train`: through batch normalisation of a few examples rounding errors grow, so
    training mode needs a batch of some size.
    """
    torch = needed("torch")
    key = jax.random.key(0) if train else None
    saved = {name: value.clone() for name, value in reference.named_buffers()}
    theirs = reference.train(train)(tensor(images))
    theirs = theirs if isinstance(theirs, tuple) else (theirs,)
    weights = [np.random.default_rng(i).normal(size=t.shape).astype(np.float32) for i, t in enumerate(theirs)]
    reference.zero_grad()
    sum((t * torch.from_numpy(w)).sum() for t, w in zip(theirs, weights, strict=True)).backward()
    with torch.no_grad():
        for name, value in reference.named_buffers():
            value.copy_(saved[name])

    @jax.jit
    @jax.grad
    def gradient(params):
        outputs, _ = model.apply(Variables(params, variables.state), images, key=key)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return sum(jnp.sum(y * w) for y, w in zip(outputs, weights, strict=True))

    ours = back(Variables(gradient(variables.params), variables.state))
    for name, parameter in reference.named_parameters():
        if parameter.grad is None:  # such as the auxiliary head in inference
            np.testing.assert_array_equal(ours[name], 0, err_msg=name)
        else:
            close(ours[name], parameter.grad.numpy(), tolerance, f"gradient of {name}")
