"""Naive forecasts, which a learned one must beat: functions of the history alone, with nothing learned.

Each takes the history [n, t, c] of the targets, missing values filled, the number of steps to forecast and
the season in steps, and returns [n, steps, c]. See Hyndman and Athanasopoulos 2021, "Forecasting:
principles and practice", section 5.2.
"""

import numpy as np
from jaxtyping import Float


def last(history: Float[np.ndarray, "n t c"], steps: int, season: int) -> Float[np.ndarray, "n h c"]:
    """Repeats the last value."""
    return np.repeat(history[:, -1:], steps, axis=1)


def mean(history: Float[np.ndarray, "n t c"], steps: int, season: int) -> Float[np.ndarray, "n h c"]:
    """Repeats the mean of the history."""
    return np.repeat(history.mean(axis=1, keepdims=True), steps, axis=1)


def drift(history: Float[np.ndarray, "n t c"], steps: int, season: int) -> Float[np.ndarray, "n h c"]:
    """Goes on along the line from the first to the last value."""
    slope = (history[:, -1:] - history[:, :1]) / max(history.shape[1] - 1, 1)
    return history[:, -1:] + slope * np.arange(1, steps + 1)[:, None]


def trend(history: Float[np.ndarray, "n t c"], steps: int, season: int) -> Float[np.ndarray, "n h c"]:
    """Goes on along the line through the history that has the least squares."""
    length = history.shape[1]
    design = np.stack([np.ones(length), np.arange(length)], axis=1)
    ahead = np.stack([np.ones(steps), np.arange(length, length + steps)], axis=1)
    return np.einsum("ht,ntc->nhc", ahead @ np.linalg.pinv(design), history)


def seasonal(history: Float[np.ndarray, "n t c"], steps: int, season: int) -> Float[np.ndarray, "n h c"]:
    """Repeats the last season."""
    _whole(history, season)
    return history[:, -season:][:, np.arange(steps) % season]


def seasonal_drift(
    history: Float[np.ndarray, "n t c"], steps: int, season: int
) -> Float[np.ndarray, "n h c"]:
    """Repeats the last season, and adds the drift of the history between equal phases of its seasons."""
    _whole(history, season)
    between = (history.shape[1] - 1) // season * season  # whole seasons between the two values compared
    slope = (history[:, -1:] - history[:, -1 - between : history.shape[1] - between]) / max(between, 1)
    later = season * (np.arange(steps) // season + 1)
    return seasonal(history, steps, season) + slope * later[:, None]


NAIVE = {
    "last": last,
    "mean": mean,
    "drift": drift,
    "trend": trend,
    "seasonal": seasonal,
    "seasonal_drift": seasonal_drift,
}


def _whole(history: np.ndarray, season: int) -> None:
    """Refuses a season that the history does not hold."""
    if not 1 <= season <= history.shape[1]:
        raise ValueError(
            f"a seasonal forecast repeats the last {season} of {history.shape[1]} steps; give a season "
            "of at least 1 and a history that holds it"
        )
