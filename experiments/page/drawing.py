"""Drawings as inline SVG: marks on a ratio axis that fills any width, and small learning curves."""

import itertools
import math
import statistics
from collections.abc import Sequence
from html import escape

from experiments.page.compare import Ratio, place, ticks

SHAPES = {  # a verdict is told by its shape as well as by its colour
    "better": "M0,-7 L7,5.5 L-7,5.5 Z",
    "matched": "M-6,0 a6,6 0 1,0 12,0 a6,6 0 1,0 -12,0 Z",
    "missed": "M0,7 L7,-5.5 L-7,-5.5 Z",
    "baseline": "M0,-7 L7,0 L0,7 L-7,0 Z",
}
MARGIN = 4.0  # percent of a track that stays free at either side
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 320, 190, 46, 10, 14, 24  # of a learning curve


def sign(verdict: str) -> str:
    """Returns the mark of a verdict for a line of text."""
    path = f'<path class="mark" d="{SHAPES[verdict]}"/>'
    return f'<svg class="{verdict}" viewBox="-8 -8 16 16" aria-hidden="true">{path}</svg>'


def percent(value: float, ends: tuple[float, float]) -> str:
    """Returns where a ratio lies on a track between `ends`."""
    return f"{MARGIN + (100 - 2 * MARGIN) * place(value, *ends):.2f}%"


def track(found: Ratio | None, verdict: str, ends: tuple[float, float], title: str) -> str:
    """Returns the mark of a ratio with a bar from its low to its high end; without one, the empty track."""
    lines = []
    for tick in ticks(*ends):
        x, kind = percent(tick, ends), "even" if tick == 1 else "grid"
        lines.append(f'<line class="{kind}" x1="{x}" x2="{x}" y1="0" y2="100%"/>')
    if found:
        low, high = percent(found.low, ends), percent(found.high, ends)
        if low != high:
            lines.append(f'<line class="bar" x1="{low}" x2="{high}" y1="50%" y2="50%"/>')
        middle = percent(found.middle, ends)
        lines.append(
            f'<svg x="{middle}" y="50%" overflow="visible"><path class="mark" d="{SHAPES[verdict]}"/></svg>'
        )
    label = escape(title, quote=True)
    inside = "".join(lines)
    return (
        f'<svg class="track {verdict}" role="img" aria-label="{label}"><title>{label}</title>{inside}</svg>'
    )


def axis(ends: tuple[float, float]) -> str:
    """Returns the numbers of a track's axis."""
    texts = [
        f'<text x="{percent(tick, ends)}" y="14" text-anchor="middle">{tick:.3g}x</text>'
        for tick in ticks(*ends)
    ]
    return f'<svg class="track" aria-hidden="true">{"".join(texts)}</svg>'


def steps(low: float, high: float, most: int = 5) -> list[float]:
    """Returns round numbers between two others, in even steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    size = 10.0 ** math.floor(math.log10((high - low) / most))
    size *= next(factor for factor in (1, 2, 5, 10, 20) if (high - low) / (size * factor) <= most)
    return [index * size for index in range(math.ceil(low / size - 1e-9), math.floor(high / size + 1e-9) + 1)]


def band(seeds: Sequence[Sequence]) -> list[tuple[float, float, float]]:
    """Returns (step, mean, deviation) for each step that all seeds have; of one seed the deviation is 0."""
    tables = [dict(map(tuple, points)) for points in seeds]
    common = [step for step in tables[0] if all(step in table for table in tables)]
    found = []
    for step in common:
        values = [table[step] for table in tables]
        found.append((step, statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0))
    return found


def curve(seeds: Sequence[Sequence], title: str) -> str:
    """Returns the mean of learning curves with a band of one standard deviation."""
    points = band(seeds)
    ends = [end for _, mean, spread in points for end in (mean - spread, mean + spread)]
    low, high = min(ends), max(ends)
    room = 0.06 * (high - low) or max(abs(high), 1) * 0.05
    low, high, last = low - room, high + room, max(points[-1][0], 1)

    def x(step: float) -> str:
        return f"{LEFT + (WIDTH - LEFT - RIGHT) * step / last:.1f}"

    def y(value: float) -> str:
        return f"{TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low):.1f}"

    parts = []
    for value in steps(low, high):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value)}" y2="{y(value)}"/>')
        parts.append(
            f'<text x="{LEFT - 5}" y="{float(y(value)) + 4:.1f}" text-anchor="end">{value:.5g}</text>'
        )
    for step in steps(0, last, 4):
        anchor = "end" if step > 0.95 * last else "middle"
        parts.append(f'<text x="{x(step)}" y="{HEIGHT - 8}" text-anchor="{anchor}">{short(step)}</text>')
    if len(seeds) > 1:
        above = [f"{x(step)},{y(mean + spread)}" for step, mean, spread in points]
        below = [f"{x(step)},{y(mean - spread)}" for step, mean, spread in reversed(points)]
        parts.append(f'<polygon class="band" points="{" ".join(above + below)}"/>')
    parts.append(
        f'<polyline class="line" points="{" ".join(f"{x(step)},{y(mean)}" for step, mean, _ in points)}"/>'
    )
    if len(points) <= 12:
        parts += [f'<circle class="dot" cx="{x(step)}" cy="{y(mean)}" r="2.5"/>' for step, mean, _ in points]
    label = escape(title, quote=True)
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}"'
    return f'<svg {box} role="img" aria-label="{label}"><title>{label}</title>{"".join(parts)}</svg>'


def short(step: float) -> str:
    """Returns a number of steps in few letters, such as 2.5k."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if step >= size:
            return f"{step / size:g}{letter}"
    return f"{step:g}"


def spans(values: Sequence[float]) -> tuple[float, float]:
    """Returns the ends of an axis for some ratios, around 1, with some room; infinite ones do not count."""
    finite = [value for value in itertools.chain(values, (0.5, 2.0)) if 0 < value < math.inf]
    return min(finite) / 1.1, max(finite) * 1.1
