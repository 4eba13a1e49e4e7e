"""Evaluators: functions from variables to named numbers, exact whatever the padding or the devices."""

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping

import jax
import numpy as np

from dlx import feed, metrics
from dlx.core import Batch, Mean, Metrics, Variables

Passes = Callable[[], Iterable[Batch]]


def outputs(passes: Passes, function: Callable, ahead: int = 2) -> Callable[[Variables], Iterator]:
    """Returns `variables ->` the host values of `function(variables, batch)`, one per batch of a pass.

    `function` is jitted once; its outputs are replicated, so that every process sees the whole.
    """
    compiled = functools.cache(lambda sharding: jax.jit(function, out_shardings=sharding))

    def run(variables: Variables) -> Iterator:
        step = compiled(feed.placement())
        pending: deque = deque()
        for batch in passes():
            pending.append(step(variables, feed.place(batch)))
            if len(pending) > ahead:  # the devices work on the next batches while this one is read
                yield jax.device_get(pending.popleft())
        yield from map(jax.device_get, pending)

    return run


def mean_over(
    passes: Passes, score: Callable[[Variables, Batch], Metrics], report=metrics.summarize
) -> Callable[[Variables], Mapping[str, float]]:
    """Returns an evaluator that sums `score` over a pass and gives the sums to `report`.

    `passes()` iterates over batches of one shape whose "mask" is 0 on padding; `score` returns means
    under that mask. Sums over batches are float64 on the host: the order of merging does not show.
    Raises ValueError when a pass has no batch.
    """
    run = outputs(passes, score)

    def evaluate(variables: Variables) -> Mapping[str, float]:
        total: dict[str, Mean] | None = None
        for part in run(variables):
            part = {name: Mean(*(np.asarray(x, np.float64) for x in mean)) for name, mean in part.items()}
            total = part if total is None else {name: total[name] + part[name] for name in total}
        if total is None:
            raise ValueError("nothing to evaluate: the pass over the data has no batch")
        return report(total)

    return evaluate


def collected(
    passes: Passes, predict: Callable[[Variables, Batch], Mapping], report: Callable
) -> Callable[[Variables], Mapping]:
    """Returns an evaluator that gives `report` every prediction of a pass, padding removed.

    `predict` returns named arrays [b, ...]; `report` gets the same names with numpy arrays [n, ...] in
    the order of the data. For what is not a sum: ROC curves, pictures, BLEU.
    """
    run = outputs(passes, lambda variables, batch: (predict(variables, batch), batch["mask"]))

    def evaluate(variables: Variables) -> Mapping:
        parts = [{name: values[mask > 0] for name, values in part.items()} for part, mask in run(variables)]
        if not parts:
            raise ValueError("nothing to evaluate: the pass over the data has no batch")
        return report({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})

    return evaluate
