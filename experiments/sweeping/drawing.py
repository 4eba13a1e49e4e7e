"""The table and the picture of a sweep."""

from pathlib import Path

from experiments.commands import reproduce


def table(result: dict) -> list[str]:
    """Returns the means and deviations as aligned lines: a line for each x, a column for each of "by".

    Of a search, a line for each trial, the best first.
    """
    if "search" in result:
        return trials(result)
    xs = list(dict.fromkeys(row["x"] for row in result["rows"]))
    columns = list(dict.fromkeys(row["by"] for row in result["rows"]))
    found = {(row["x"], row["by"]): row for row in result["rows"]}
    head = [result["labels"].get("x", ""), *("" if name is None else str(name) for name in columns)]
    cells = [head, *(["" if x is None else str(x), *(value(found[x, c]) for c in columns)] for x in xs)]
    return [measure(result), *aligned(cells)]


def trials(result: dict) -> list[str]:
    """Returns the trials of a search as aligned lines, the best first, and what the best is worth on test."""
    keys = list(result["rows"][0]["settings"])
    sign = -1 if result["search"]["higher_is_better"] else 1

    def rank(row: dict) -> tuple:
        return row["mean"] is None, sign * (row["mean"] or 0), row["x"]

    cells = [["trial", *keys, result["metric"]]]
    for row in sorted(result["rows"], key=rank):
        cells.append([str(row["x"]), *(short(row["settings"][key]) for key in keys), value(row)])
    lines = [measure(result), *aligned(cells)]
    if "test" in result:
        lines.append(f"the best, trial {result['best']}, on the test set: {value(result['test'])}")
    return lines


def measure(result: dict) -> str:
    """Says what a table's numbers are."""
    return f"{result['metric']} of the {result['set']} set, {len(result['seeds'])} seeds"


def short(setting) -> str:
    """Returns a setting as it is shown."""
    return f"{setting:.4g}" if isinstance(setting, float) else str(setting)


def aligned(cells: list[list[str]]) -> list[str]:
    """Returns rows of text in columns."""
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return ["  ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]


def extent(result: dict) -> str:
    """Returns the range of a sweep's means, for where there is room for no more."""
    means = [row["mean"] for row in result["rows"] if row["mean"] is not None]
    low, high = (min(means), max(means)) if means else (float("nan"), float("nan"))
    return f"{low:.4f} to {high:.4f}, {len(result['rows'])} settings"


def value(row: dict) -> str:
    """Returns a row's mean and standard deviation, or that a run of it diverged or failed."""
    if row["mean"] is None:
        return "failed" if "error" in row else "not finite"
    return reproduce.value(row)


def draw(result: dict, file: Path) -> Path:
    """Draws the metric along x with error bars of one standard deviation, or along the steps without x.

    Of a search, every trial and the best so far, and the trials along each setting.
    """
    from dlx import figures

    if "search" in result:
        return draw_search(result, file)
    figure, canvas = figures.canvas(figsize=(6.4, 4.2))
    names = list(dict.fromkeys(row["by"] for row in result["rows"]))
    along_steps = all(row["x"] is None and len(row["curve"]) > 1 for row in result["rows"])
    for number, name in enumerate(names):
        rows = [row for row in result["rows"] if row["by"] == name]
        style = {"color": f"C{number}", "label": None if name is None else str(name)}
        if along_steps:
            style["label"] = f"{style['label'] or 'at the end'}: {value(rows[0])}"
            canvas.plot(*zip(*rows[0]["curve"], strict=True), **style)
        else:
            measured = [row for row in rows if row["mean"] is not None]
            places = positions(canvas, result, number - (len(names) - 1) / 2, measured)
            error = [row["std"] or 0 for row in measured]
            canvas.errorbar(places, [row["mean"] for row in measured], error, marker="o", capsize=4, **style)
    seeds = len(result["seeds"])
    bars = f"mean and standard deviation of {seeds} seeds" if seeds > 1 else "one seed"
    canvas.set_title(f"{file.stem.replace('_', ' ')}, {bars}", fontsize=10)
    canvas.set_xlabel("step" if along_steps else result["labels"].get("x", ""))
    canvas.set_ylabel(f"{result['metric'].replace('_', ' ')} ({result['set']})")
    canvas.grid(alpha=0.3)
    if names != [None] or along_steps:
        canvas.legend(title=result["labels"].get("by"), frameon=False)
    return figures.save(figure, file)


def positions(canvas, result: dict, side: float, rows: list[dict]) -> list[float]:
    """Returns where rows lie along x, a little to one side so that error bars stay apart, and marks the axis.

    Numbers lie to scale, a logarithmic one where they reach over a factor of 5; all else in even steps.
    """
    xs = list(dict.fromkeys(row["x"] for row in result["rows"]))
    numeric = all(isinstance(x, int | float) and not isinstance(x, bool) for x in xs)
    logarithmic = numeric and min(xs) > 0 and max(xs) >= 5 * min(xs)
    if logarithmic:
        canvas.set_xscale("log")
    canvas.set_xticks(xs if numeric else range(len(xs)), ["" if x is None else str(x) for x in xs])
    canvas.minorticks_off()
    if logarithmic:
        return [row["x"] * (max(xs) / min(xs)) ** (0.008 * side) for row in rows]
    if numeric:
        return [row["x"] + 0.008 * (max(xs) - min(xs)) * side for row in rows]
    return [xs.index(row["x"]) + 0.06 * side for row in rows]


def draw_search(result: dict, file: Path) -> Path:
    """Draws the trials in their order with the best so far, and beside it the metric along each setting."""
    from dlx import figures

    rows = [row for row in result["rows"] if row["mean"] is not None]
    keys = list(result["rows"][0]["settings"])
    logarithmic = {
        key
        for one in result["search"]["dimensions"]
        for key in one["keys"]
        if not one["rows"] and one["scale"] == "log"
    }
    figure, axes = figures.canvas(
        1, 1 + len(keys), figsize=(4.2 + 3 * len(keys), 3.8), sharey=True, squeeze=False
    )
    best, means = max if result["search"]["higher_is_better"] else min, [row["mean"] for row in rows]
    order, *others = axes[0]
    numbers = [row["x"] for row in rows]
    so_far = [best(means[: place + 1]) for place in range(len(means))]
    error = [row["std"] or 0 for row in rows]
    order.errorbar(numbers, means, error, fmt="o", color="C0", alpha=0.6, capsize=3, label="trial")
    order.step(numbers, so_far, where="post", color="C3", label="best so far")
    order.set_xlabel("trial")
    order.set_ylabel(f"{result['metric'].replace('_', ' ')} ({result['set']})")
    order.legend(frameon=False)
    for canvas, key in zip(others, keys, strict=True):
        settings = [row["settings"][key] for row in rows]
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in settings):
            settings = [short(value) for value in settings]
        points = canvas.scatter(settings, means, c=numbers, cmap="viridis")
        if key in logarithmic:
            canvas.set_xscale("log")
        canvas.set_xlabel(key)
        canvas.grid(alpha=0.3)
    figure.colorbar(points, ax=axes[0, -1], label="trial")
    figure.suptitle(f"{file.stem.replace('_', ' ')}, {len(result['rows'])} trials", fontsize=10)
    return figures.save(figure, file)
