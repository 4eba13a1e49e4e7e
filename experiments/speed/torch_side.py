"""The peer of `benchmark models`: a PyTorch module in the training loop that PyTorch's users write.

On a GPU it has what its tuning guide asks for: TF32 where dlx has it, cuDNN's search for the best algorithm,
and autocast for bfloat16. Its optimizer is the fused one.
"""

import contextlib
import copy
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch

from experiments.speed.sides import FORWARD, STEP, Side, growth

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def trained(
    build: Callable[[], torch.nn.Module],
    loss: Callable,
    forward: Callable,
    batch: Mapping[str, np.ndarray],
    *,
    optimizer: Callable,
    layout: torch.memory_format = torch.contiguous_format,
    compiled: bool = False,
    dtype: str = "float32",
) -> Side:
    """Returns the side of the module that `build` gives.

    `loss(module, batch)` is a scalar, `forward(module, batch)` what the module gives in inference, and
    `optimizer(parameters)` a torch optimizer. `layout` is the memory format of weights and tensors of four
    axes; `compiled` is for `torch.compile`.
    """
    torch.set_float32_matmul_precision("high")  # as XLA has it on a GPU; without effect on float32 of a CPU
    torch.backends.cudnn.benchmark = True
    last: dict = {}
    tensors = {name: placed(torch.from_numpy(values), layout) for name, values in batch.items()}

    def begin() -> None:
        torch.manual_seed(0)
        last["module"] = build().train().to(DEVICE, memory_format=layout)
        last["optimizer"] = optimizer(last["module"].parameters())
        last["network"] = torch.compile(last["module"]) if compiled else last["module"]
        last["seconds"] = [clocked(steps), clocked(steps)]

    def steps(count: int) -> float:
        for _ in range(count):
            last["optimizer"].zero_grad(set_to_none=True)
            with cast(dtype):
                value = loss(last["network"], tensors)
            value.backward()
            last["optimizer"].step()
        wait()
        return value.item()

    if not compiled and DEVICE == "cpu":
        begin()  # what the library itself takes, once, is not the program's
        last.clear()
    memory = peak(begin, compiled)
    frozen = copy.deepcopy(last["module"]).eval()
    inferring = torch.compile(frozen) if compiled else frozen

    def forwards(count: int) -> float:
        with torch.inference_mode(), cast(dtype):
            for _ in range(count):
                outputs = forward(inferring, tensors)
        wait()
        return outputs.flatten()[0].item()

    forwards(2)
    parameters = sum(weight.numel() for weight in last["module"].parameters() if weight.requires_grad)
    first, second = last["seconds"]
    return Side({STEP: steps, FORWARD: forwards}, parameters, first - second if compiled else None, memory)


def placed(tensor: torch.Tensor, layout: torch.memory_format) -> torch.Tensor:
    """Returns a tensor on the device, in the memory format where it has four axes."""
    return tensor.to(DEVICE, memory_format=layout) if tensor.ndim == 4 else tensor.to(DEVICE)


def cast(dtype: str):
    """Returns the context of mixed precision, or one that does nothing for float32."""
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(DEVICE, getattr(torch, dtype))


def wait() -> None:
    """Waits until the device has done all it was asked to; on a CPU, it has."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def clocked(run: Callable[[int], float]) -> float:
    """Returns the seconds that `run(1)` takes."""
    clock = time.perf_counter()
    run(1)
    return time.perf_counter() - clock


def peak(begin: Callable[[], None], compiled: bool) -> dict[str, int]:
    """Returns the memory that `begin` takes at most; on a CPU not where a compiler's own would be counted."""
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        begin()
        return {"allocated": torch.cuda.max_memory_allocated() - before}
    found = growth(begin)
    return {"resident": found} if found and not compiled else {}
