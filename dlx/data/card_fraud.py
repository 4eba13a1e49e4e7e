"""A simulator of card payments and their frauds, and the features by which frauds are told.

After the description in Le Borgne, Siblini, Lebichot and Bontempi (2022), "Reproducible machine learning for
credit card fraud detection: practical handbook", chapters 3 and 5. Times are seconds from the first midnight.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, Num

DAY = 86_400  # seconds
LARGE = 220.0  # an amount above which every payment is a fraud
TERMINAL_DAYS, CARD_DAYS = 28, 14  # for which a terminal or a card stays in the hands of frauds
WINDOWS = (1, 7, 30)  # days that the features look back
DELAY = 7  # days after which it is known whether a payment was a fraud


class Payments(NamedTuple):
    """Payments in the order of their times: scenario 0 is genuine, 1 to 3 are frauds."""

    time: Int64[np.ndarray, "n"]
    card: Int64[np.ndarray, "n"]
    terminal: Int64[np.ndarray, "n"]
    amount: Float64[np.ndarray, "n"]
    scenario: Int64[np.ndarray, "n"]


def simulate(
    rng: np.random.Generator,
    days: int,
    *,
    cards: int = 5000,
    terminals: int = 10_000,
    radius: float = 5.0,
    sources: int = 2,
    leaks: int = 3,
) -> Payments:
    """Draws the payments of so many days; `cards` pay at the `terminals` within `radius` of them.

    Both live anywhere on a square of side 100. A card pays 0 to 4 times a day on average, about noon, a mean
    amount of 5 to 100 with half of it as standard deviation. Frauds: (1) every amount above 220; (2) each day
    `sources` terminals are taken over, where all payments of 28 days are frauds; (3) each day `leaks` cards
    leak, and a third of their payments of 14 days are frauds of five times the amount.
    """
    places, shops = rng.uniform(0, 100, (cards, 2)), rng.uniform(0, 100, (terminals, 2))
    mean, daily = rng.uniform(5, 100, cards), rng.uniform(0, 4, cards)
    near, ends = _neighbours(places, shops, radius)
    counts = rng.poisson(np.repeat(daily, days)).reshape(cards, days)
    counts[np.diff(ends, prepend=0) == 0] = 0  # no terminal is near enough
    card, day = (np.repeat(axis.ravel(), counts.ravel()) for axis in np.indices((cards, days)))
    second = rng.normal(DAY / 2, 20_000, len(card)).astype(np.int64)
    kept = (second > 0) & (second < DAY)  # what would fall on another day does not happen
    card, day, second = card[kept], day[kept], second[kept]

    amount = rng.normal(mean[card], mean[card] / 2)
    amount = np.where(amount < 0, rng.uniform(0, 2 * mean[card]), amount).round(2)
    first = np.concatenate([[0], ends[:-1]])
    terminal = near[rng.integers(first[card], ends[card])] if len(card) else card

    order = np.argsort(day * DAY + second, kind="stable")
    card, terminal, amount, day = card[order], terminal[order], amount[order], day[order]
    scenario = np.where(amount > LARGE, 1, 0)
    taken = np.zeros((terminals, days), bool)
    for start in range(days):
        taken[_some(rng, terminals, sources), start : start + TERMINAL_DAYS] = True
    scenario[taken[terminal, day]] = 2
    by_card = np.argsort(card, kind="stable")
    bounds = np.searchsorted(card[by_card], np.arange(cards + 1))
    for start in range(days):
        for leaked in _some(rng, cards, leaks):
            own = by_card[bounds[leaked] : bounds[leaked + 1]]
            own = own[(day[own] >= start) & (day[own] < start + CARD_DAYS)]
            stolen = rng.choice(own, len(own) // 3, replace=False)
            amount[stolen] *= 5
            scenario[stolen] = 3
    return Payments((day * DAY + second[order]), card, terminal, amount, scenario)


def features(payments: Payments, rows: Int64[np.ndarray, "r"]) -> dict[str, Num[np.ndarray, "r"]]:
    """Returns what is known of some payments when they are made, a column each.

    The amount; whether it is a weekend (day 0 is a Monday) or night, before seven; how often and how much on
    average the card paid in the last 1, 7 and 30 days, this payment included; how often the terminal was paid
    at in windows of the same lengths that end seven days ago, when frauds are known, and what share of that
    was fraud.
    """
    time = payments.time[rows]
    columns: dict[str, np.ndarray] = {
        "amount": payments.amount[rows],
        "weekend": (time // DAY % 7 >= 5).astype(np.float64),
        "night": (time % DAY < 7 * 3600).astype(np.float64),
    }
    cents = np.rint(100 * payments.amount).astype(np.int64)
    spent = _windows(payments.card, payments.time, cents)
    frauds = _windows(payments.terminal, payments.time, (payments.scenario > 0).astype(np.int64))
    known = time - DELAY * DAY
    for days in WINDOWS:
        count, total = spent(payments.card[rows], time - days * DAY, time)
        columns[f"card payments in {days} days"] = count
        columns[f"card mean amount in {days} days"] = total / (100 * np.maximum(count, 1))
        count, total = frauds(payments.terminal[rows], known - days * DAY, known)
        columns[f"terminal payments in {days} days"] = count
        columns[f"terminal fraud share in {days} days"] = total / np.maximum(count, 1)
    return columns


def week(payments: Payments, start: int, days: int, delay: int | None = None) -> Bool[np.ndarray, "n"]:
    """Marks the payments of `days` days from day `start` on.

    With a `delay`, that between training and these days, payments of cards are left out of which a fraud is
    known: one since the first of the training days, the `days` before the delay, but no less than `delay` + 1
    days ago.
    """
    day = payments.time // DAY
    chosen = (day >= start) & (day < start + days)
    if delay is None:
        return chosen
    since = start - delay - days
    fraud = (payments.scenario > 0) & (day >= since)
    first = np.full(payments.card.max(initial=0) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, payments.card[fraud], day[fraud])
    return chosen & (first[payments.card] >= day - delay)


def _some(rng: np.random.Generator, population: int, count: int) -> Int64[np.ndarray, "k"]:
    return rng.choice(population, min(count, population), replace=False)


def _neighbours(
    places: Float64[np.ndarray, "c 2"], shops: Float64[np.ndarray, "s 2"], radius: float
) -> tuple[Int64[np.ndarray, "p"], Int64[np.ndarray, "c"]]:
    """Returns the shops near each place, on end, and where those of each place end."""
    near, counts = [], []
    for start in range(0, len(places), 500):  # the distances of all at once would take too much memory
        squares = ((places[start : start + 500, None] - shops) ** 2).sum(-1)
        close = squares < radius**2
        near.append(np.nonzero(close)[1])
        counts.append(close.sum(1))
    return np.concatenate(near), np.cumsum(np.concatenate(counts))


def _windows(group: Int64[np.ndarray, "n"], time: Int64[np.ndarray, "n"], value: Int64[np.ndarray, "n"]):
    """Returns `(group, after, until) ->` the number and the sum of the values with after < time <= until."""
    span = int(time.max(initial=0)) + (max(WINDOWS) + DELAY + 1) * DAY
    before = (max(WINDOWS) + DELAY) * DAY  # so that no window reaches into the group before
    key = group * (span + before) + before + time
    order = np.argsort(key, kind="stable")
    key, sums = key[order], np.concatenate([[0], np.cumsum(value[order])])

    def ask(group, after, until):
        base = group * (span + before) + before
        low, high = (np.searchsorted(key, base + bound, side="right") for bound in (after, until))
        return (high - low).astype(np.float64), sums[high] - sums[low]

    return ask
