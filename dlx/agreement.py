"""What the processes of a run agree on: where one fails, all of them do, and none waits for it for ever."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

Result = TypeVar("Result")
MESSAGE = 2000  # bytes of an error's text that the others hear


def agreed(action: Callable[[], Result], *kinds: type[Exception]) -> Result:
    """Returns `action()`, or raises on every process when it raises on any.

    Every process has to call this, and `action` must not wait for the other processes. `kinds` are the errors
    that are expected, the gravest last: all raise the gravest kind that any of them met (RuntimeError for
    what is no kind), those on which it went well with the message of the first process that met it.
    """
    if jax.process_count() == 1:
        return action()
    error: Exception | None = None
    try:
        result = action()
    except Exception as caught:
        error = caught
    kinds = (*kinds, RuntimeError)
    grave = (
        0 if error is None else 1 + next((i for i, k in enumerate(kinds) if type(error) is k), len(kinds) - 1)
    )
    told = str(error).encode()[:MESSAGE].ljust(MESSAGE)
    everyone = _gathered(np.frombuffer(bytes([grave]) + told, np.uint8))
    worst = int(everyone[:, 0].max())
    if worst == 0:
        return result
    if error is not None and grave == worst:
        raise error
    process = int(everyone[:, 0].argmax())
    message = everyone[process, 1:].tobytes().decode(errors="replace").rstrip()
    raise kinds[worst - 1](f"process {process}: {message}") from error


def told(action: Callable[[], Any], *kinds: type[Exception]) -> Any:
    """Returns on every process what `action()` returns on the first, in values that JSON has.

    An error of the first is one of all, as for `agreed`; the action of the others is not called.
    """
    if jax.process_count() == 1:
        return action()
    text = agreed(lambda: json.dumps(action()) if jax.process_index() == 0 else "", *kinds).encode()
    length = int(_gathered(np.array([len(text)], np.int32))[0, 0])
    return json.loads(_gathered(np.frombuffer(text.ljust(length), np.uint8))[0].tobytes())


def _gathered(row: np.ndarray) -> np.ndarray:
    """Returns the rows of all processes, in order."""
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(row))
