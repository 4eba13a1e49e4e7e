"""The picture of `benchmark models`: how many times as fast as PyTorch dlx is."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from dlx import figures

WIDTH = 45  # letters in a line of a model's name


def ratios(rows: Sequence[Mapping], file: Path) -> Path:
    """Draws a point with its quartiles for each row, on a logarithmic axis; right of 1 dlx is faster.

    A row has "what", whose last part, after a comma, is the measure, "times_as_fast" and "quartiles". The
    measures of one model stand on one line.
    """
    names = [row["what"].rpartition(", ")[::2] for row in rows]
    models = list(dict.fromkeys(model for model, _ in names))
    measures = list(dict.fromkeys(measure for _, measure in names))
    figure, axis = figures.canvas(figsize=(8, 1.4 + 0.42 * len(models)))

    def place(model: str, measure: str) -> float:
        kinds = [kind for kind in measures if (model, kind) in names]
        return models.index(model) + 0.13 * (2 * kinds.index(measure) - len(kinds) + 1)

    for number, measure in enumerate(measures):
        chosen = [(row, m) for row, (m, kind) in zip(rows, names, strict=True) if kind == measure]
        middles = [row["times_as_fast"] for row, _ in chosen]
        spread = [[abs(row["quartiles"][end] - row["times_as_fast"]) for row, _ in chosen] for end in (0, 1)]
        places = [place(model, measure) for _, model in chosen]
        axis.errorbar(middles, places, xerr=spread, fmt="os^Dv"[number % 5], label=measure, capsize=2)
    axis.axvline(1, color="black", linewidth=1)
    ends = [end for row in rows for end in row["quartiles"]]
    axis.set_xscale("log", base=2)
    axis.set_xlim(min(0.5, *ends) / 1.2, max(2, *ends) * 1.2)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_yticks(range(len(models)), [textwrap.fill(model, WIDTH) for model in models], fontsize=9)
    axis.invert_yaxis()
    axis.set(xlabel="times as fast as PyTorch's fastest variant")
    axis.grid(axis="x", alpha=0.3)
    axis.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return figures.save(figure, file)
