"""Pictures of a run, from its numbers: learning curves, a confusion matrix, a sheet of predictions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, Shaped


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


def learning_curves(records: Sequence[Mapping], names: Sequence[str], file: Path) -> Path:
    """Draws each metric of `names` against the step, a line per set; one point becomes a dashed level."""
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
        if name == "loss":
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
    axis.set(xlabel="predicted", ylabel="true", title=title)
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
        picture = picture[..., 0] if picture.shape[-1] == 1 else picture
        axis.imshow(picture, cmap="gray_r" if picture.ndim == 2 else None)
        axis.set_title(caption, fontsize=8, color="tab:red" if bad else "black")
    figure.suptitle(title)
    return save(figure, file)
