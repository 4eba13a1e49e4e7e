"""Anomalies in a stream: scores that know no future, and what alarms are worth by windows, as NAB counts.

A label is 1 in a window in which an anomaly should be seen; a window is a run of ones.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer, Num

WRONG = 0.11  # what a false alarm costs in NAB's standard profile; a window found or missed counts 1
LEAST = 1e-6  # of the deviation of values around their mean, as a share of their size


class Alarms(NamedTuple):
    """What the alarms at one threshold are worth: see `alarms`."""

    nab_score: float
    window_recall: float
    window_precision: float
    threshold: float


def moving_z(values: Num[np.ndarray, "n"], long: int, short: int = 1) -> Float[np.ndarray, "n"]:
    """Returns how far the mean of the last `short` values is from those before, in their deviations.

    Those before are up to `long`, the value now not among them; the first is 0 deviations away. A number
    depends on nothing that comes after it.
    """
    if long < 2 or not 1 <= short <= long:
        raise ValueError(f"long={long} must be at least 2, and short={short} from 1 to long")
    values = np.asarray(values, np.float64)
    centred = values - (values[0] if len(values) else 0)  # sums of squares lose less so
    sums = [np.concatenate([[0.0], np.cumsum(centred**power)]) for power in (1, 2)]
    now = np.arange(len(values))
    begin = np.maximum(now - long, 0)
    count = np.maximum(now - begin, 1)
    mean, square = ((total[now] - total[begin]) / count for total in sums)
    least = LEAST * np.maximum(1e-12, np.maximum.accumulate(np.abs(values)))
    deviation = np.maximum(np.sqrt(np.maximum(square - mean**2, 0)), least)
    recent = np.maximum(now + 1 - short, 0)
    latest = (sums[0][now + 1] - sums[0][recent]) / (now + 1 - recent)
    return np.where(now > 0, (latest - mean) / deviation, 0.0)


def records(scores: Float[np.ndarray, "n"], hold: int) -> Float[np.ndarray, "n"]:
    """Returns scores that are above all of the last `hold` before them, and minus infinity for the others.

    So one event raises one alarm, or a few that grow, and not one in each row.
    """
    if hold < 1:
        raise ValueError(f"hold={hold} must be at least 1")
    padded = np.concatenate([np.full(hold, -np.inf), scores])
    before = np.lib.stride_tricks.sliding_window_view(padded, hold)[: len(scores)].max(axis=1)
    return np.where(scores > before, scores, -np.inf)


def worth(labels: Integer[np.ndarray, "n"]) -> tuple[Float[np.ndarray, "n"], Integer[np.ndarray, "n"]]:
    """Returns what an alarm in each row counts in NAB's standard profile, and the window it is in, or -1.

    In a window that is 1 at its beginning, falling to 0 at its end along a sigmoid, of which the first alarm
    counts; outside it falls from 0, at the end of the last window, to -0.11.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[0], labels == 1, [0]])))
    value, inside = np.full(len(labels), -WRONG), np.full(len(labels), -1)
    for window, (begin, end) in enumerate(edges.reshape(-1, 2)):
        width = end - begin
        value[begin:end] = sigmoid((np.arange(width) - width) / width) / sigmoid(-1.0)
        inside[begin:end] = window
        past = np.arange(1, len(labels) - end + 1) / max(width - 1, 1)
        value[end:] = WRONG * np.where(past >= 3, -1.0, sigmoid(past))
    return value, inside


def sigmoid(position):
    """Returns NAB's sigmoid of a position relative to the end of a window: 0.987 at -1, 0 at 0, -1 far on."""
    return 2 / (1 + np.exp(5 * np.minimum(position, 3))) - 1


def alarms(
    scores: Sequence[Float[np.ndarray, "_"]],
    labels: Sequence[Integer[np.ndarray, "_"]],
    threshold: float | None = None,
) -> Alarms:
    """Returns what alarms in some series are worth, where the score is at least a threshold, one for all.

    Without a `threshold` it is the one with the best score, which NAB too finds with the labels. The NAB
    score is 100 when each window is found at its beginning without a false alarm, and 0 without any alarm.
    Window recall is the share of windows in which there is an alarm; of windows found and runs of false
    alarms together, window precision is the share of the former. Raises a ValueError if there is no window.
    """
    parts, windows = [], 0
    for score, label in zip(scores, labels, strict=True):
        value, inside = worth(label)
        parts.append((score, value, np.where(inside < 0, -1, inside + windows)))
        windows += int(inside.max(initial=-1)) + 1
    if not windows:
        raise ValueError("no row is labelled as an anomaly, so there is nothing to be found")
    score, value, inside = (np.concatenate(column) for column in zip(*parts, strict=True))
    if threshold is None:
        threshold = _best(score, value, inside, windows)
    found = [value[(inside == window) & (score >= threshold)].max(initial=-1.0) for window in range(windows)]
    total = sum(found) + value[(inside < 0) & (score >= threshold)].sum()
    right = sum(bool(((inside == window) & (score >= threshold)).any()) for window in range(windows))
    wrong = 0
    for own, _, place in parts:
        false = (own >= threshold) & (place < 0)
        wrong += int((np.diff(np.concatenate([[0], false.astype(int)])) == 1).sum())
    precision = right / (right + wrong) if right + wrong else 0.0
    return Alarms(50 * float(total + windows) / windows, right / windows, precision, float(threshold))


def _best(score, value, inside, windows: int) -> float:
    """Returns the threshold of the best sum; infinity if no alarm at all is best."""
    order = np.argsort(-score, kind="stable")
    found = np.full(windows, -1.0)
    best, chosen, total = -float(windows), np.inf, -float(windows)
    for position, row in enumerate(order):
        if inside[row] < 0:
            total += value[row]
        elif value[row] > found[inside[row]]:
            total += value[row] - found[inside[row]]
            found[inside[row]] = value[row]
        last = position + 1 == len(order) or score[order[position + 1]] < score[row]
        if last and total > best and np.isfinite(score[row]):
            best, chosen = total, score[row]
    return float(chosen)
