"""Pictures of a run, from its numbers: learning curves, a confusion matrix, sheets of predictions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped


def canvas(*args, **kwargs):
    """Returns `matplotlib.pyplot.subplots(...)` on a backend that needs no screen."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    return plt.subplots(*args, layout="constrained", **kwargs)


def save(figure, file: Path) -> Path:
    """Writes a figure as a PNG file and closes it."""
    import matplotlib.pyplot as plt

    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
    plt.close(figure)
    return file


def dated(axis) -> None:
    """Marks an axis of dates with short labels."""
    from matplotlib import dates

    locator = dates.AutoDateLocator(minticks=3)
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
    axis.tick_params(labelsize=7)


def learning_curves(records: Sequence[Mapping], names: Sequence[str], file: Path) -> Path:
    """Draws each metric of `names` against the step, a line per set; one point becomes a dashed level.

    A loss that falls to a tenth or further is drawn on a logarithmic scale.
    """
    figure, axes = canvas(1, len(names), figsize=(5 * len(names), 3.6), squeeze=False)
    colours = {"train": "tab:grey", "validation": "tab:blue", "test": "tab:red"}
    for axis, name in zip(axes[0], names, strict=True):
        for split, colour in colours.items():
            points = [(r["step"], r[name]) for r in records if r["set"] == split and name in r]
            if len(points) > 1:
                axis.plot(*zip(*points, strict=True), color=colour, label=split, linewidth=1.5)
            elif points:
                label = f"{split} at the end: {points[0][1]:.4g}"
                axis.axhline(points[0][1], color=colour, linestyle="--", label=label, linewidth=1)
        values = [r[name] for r in records if r["set"] in colours and name in r]
        if name == "loss" and values and 0 < 10 * min(values) <= max(values):
            axis.set_yscale("log")
        axis.set(xlabel="step", ylabel=name)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    return save(figure, file)


def confusion_matrix(counts: Int[np.ndarray, "k k"], classes: Sequence[str], title: str, file: Path) -> Path:
    """Draws counts of (true, predicted) classes, shaded by the share of the true class."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(4.5, 0.5 * len(classes) + 2)
    figure, axis = canvas(figsize=(side, side))
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= 25:
        for (row, column), number in np.ndenumerate(counts):
            colour = "white" if share[row, column] > 0.5 else "black" if number else "lightgrey"
            axis.text(column, row, number, ha="center", va="center", fontsize=8, color=colour)
    turned = max(map(len, classes)) > 3
    axis.set_xticks(
        range(len(classes)), classes, rotation=45 if turned else 0, ha="right" if turned else "center"
    )
    axis.set_yticks(range(len(classes)), classes)
    axis.set(xlabel="predicted", ylabel="true")
    axis.set_title(title, wrap=True)
    return save(figure, file)


def sheet(
    images: Shaped[np.ndarray, "n h w c"],
    captions: Sequence[str],
    wrong: Bool[np.ndarray, "n"],
    title: str,
    file: Path,
) -> Path:
    """Draws images in a grid of eight columns, their captions red where `wrong`."""
    columns, rows = 8, -(-len(images) // 8)
    figure, axes = canvas(rows, columns, figsize=(1.35 * columns, 1.6 * rows + 0.4), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, picture, caption, bad in zip(axes.flat, images, captions, wrong, strict=False):
        axis.imshow(picture, cmap=greys(images))
        axis.set_title(caption, fontsize=8, color="tab:red" if bad else "black")
    figure.suptitle(title)
    return save(figure, file)


def mosaic(images: Float[np.ndarray, "r n h w c"], labels: Sequence[str], title: str, file: Path) -> Path:
    """Draws rows of images of values in 0 ... 1, close to each other, with a label before each row."""
    rows, columns, height, width, channels = images.shape
    framed = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)), constant_values=np.nan)
    sheet = framed.transpose(0, 2, 1, 3, 4).reshape(rows * (height + 1), columns * (width + 1), channels)
    size = 0.55 if any(labels) else 0.35  # inches an image
    figure, axis = canvas(figsize=(size * columns + 1, size * rows * height / width + 0.6))
    axis.imshow(sheet.squeeze(), cmap=greys(images.reshape(-1, height, width, channels)), vmin=0, vmax=1)
    axis.set_yticks((height + 1) * np.arange(rows) + height / 2, labels, fontsize=9)
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_title(title, fontsize=10)
    return save(figure, file)


def heat(
    images: Shaped[np.ndarray, "n h w c"],
    weights: Float[np.ndarray, "n h w"],
    captions: Sequence[str],
    wrong: Bool[np.ndarray, "n"],
    title: str,
    file: Path,
) -> Path:
    """Draws images in rows of eight, and under each where its weights, at least 0, are large: glowing.

    Weights are spread over their neighbours first, a fourteenth of the side or so, and drawn between the
    median and the top hundredth of their image: regions show, and not the single pixels that waver.
    """
    columns, rows = 8, 2 * -(-len(images) // 8)
    figure, axes = canvas(rows, columns, figsize=(1.35 * columns, 1.5 * rows + 0.4), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for index, (picture, weight) in enumerate(zip(images, weights, strict=True)):
        row, column = 2 * (index // columns), index % columns
        axes[row, column].imshow(picture, cmap=greys(images))
        axes[row, column].set_title(captions[index], fontsize=8, color="tab:red" if wrong[index] else "black")
        weight = spread(weight, (len(weight) // 14) ** 2)
        low, high = np.quantile(weight, [0.5, 0.99])
        share = np.clip((weight - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1)
        axes[row + 1, column].imshow(picture.mean(axis=-1), cmap="gray")
        axes[row + 1, column].imshow(
            share, cmap="inferno", alpha=0.8 * share, vmin=0, vmax=1, interpolation="bilinear"
        )
    figure.suptitle(title)
    return save(figure, file)


def spread(weight: Float[np.ndarray, "h w"], times: int) -> Float[np.ndarray, "h w"]:
    """Averages each number with its neighbours, of weights 1, 2, 1 both ways, so many times."""
    for _ in range(times):
        wide = np.pad(weight, 1, mode="edge")
        rows = wide[:-2] + 2 * wide[1:-1] + wide[2:]
        weight = (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 16
    return weight


def greys(images: Shaped[np.ndarray, "n h w c"]) -> str:
    """Returns the colours for images of one channel: mostly dark ones, such as digits, as ink on paper."""
    return "gray_r" if images.mean() < images.max() / 2 else "gray"
