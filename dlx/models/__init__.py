"""Models by the field's names; each is a function from sizes to a `Model`."""

from dlx.models import convnet, lenet, mlp

MODELS = {
    "convnet": convnet.convnet,
    "lenet": lenet.lenet,
    "mlp": mlp.mlp,
}
