"""Being asked to stop: SIGTERM, and a cluster's notice that it takes the machine back."""

import contextlib
import itertools
import signal
import threading
from collections.abc import Callable, Iterator


class Stopped(Exception):
    """Training has ended early, because it was asked to; `step`, the last one, is saved."""

    def __init__(self, step: int):
        """Says at which step."""
        super().__init__(f"stopped at step {step}, which is saved")
        self.step = step


@contextlib.contextmanager
def noticed() -> Iterator[Callable[[], bool]]:
    """Yields `stop()`, which tells whether the run has been asked to end by SIGTERM.

    In a process of its own a handler of the signal takes note; on leaving the earlier one is back, and gets
    the signal if `stop` was not asked any more. Only the main thread can set handlers: in another `stop`
    is never true. In a run of `jax.distributed` its own handler hears the signal, in whichever process, and
    `stop` becomes true on all of them after the same number of questions, a fraction of a second later: so
    every process has to ask after each of its calls.
    """
    import jax

    if jax.distributed.is_initialized():
        from jax.experimental import multihost_utils

        questions = itertools.count(1)
        yield lambda: multihost_utils.reached_preemption_sync_point(next(questions))
        return
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.set())
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
    if asked.is_set():
        signal.raise_signal(signal.SIGTERM)
