"""Gradient descent and its variants on a surface of two variables, by the loop that trains everything else.

The surface is the loss and the place on it the parameter; a batch holds nothing but zeros.
"""

import math
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dlx import feed, figures, metrics, optimizers, train
from dlx.configuration import build
from dlx.core import Plan, Task, Variables

Surface = tuple[Callable, tuple[float, float]]  # the height at a place, and where it is smallest


def quadratic(condition: float | int = 100.0, angle: float | int = 0.0) -> Surface:
    """Returns f(x, y) = (u^2 + condition * v^2) / 2 and its minimum, u and v the axes turned by `angle`.

    `angle` is in degrees. Plain descent at the rate 2 / (1 + condition), the best there is, loses a share
    of 2 / (1 + condition) of the distance in a step.
    """
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))

    def value(place):
        x, y = place
        return ((cos * x + sin * y) ** 2 + condition * (cos * y - sin * x) ** 2) / 2

    return value, (0.0, 0.0)


def rosenbrock(steepness: float | int = 100.0) -> Surface:
    """Returns f(x, y) = (1 - x)^2 + steepness * (y - x^2)^2 and its minimum (Rosenbrock 1960)."""

    def value(place):
        x, y = place
        return (1 - x) ** 2 + steepness * (y - x**2) ** 2

    return value, (1.0, 1.0)


TINY = 1e-16  # heights below it are told as if they were it
SURFACES = {"quadratic": quadratic, "rosenbrock": rosenbrock}


def make_task(config) -> Task:
    """The height of the surface; evaluation tells its logarithm and how far the minimum is, too."""
    height, minimum = build(SURFACES, config.model)

    def init(key):
        return Variables({"place": jnp.array(config.start, jnp.float32)}, {})

    def batch(step):
        return {"nothing": np.zeros(config.batch, np.float32)[feed.rows(config.batch)]}

    def loss(variables, batch, key):
        value = height(variables.params["place"])
        return value, (variables.state, {"loss": metrics.mean(value)})

    def evaluate(variables):
        place = variables.params["place"]
        value = float(height(place))
        return {
            "loss": value,
            "log10_loss": math.log10(max(value, TINY)),
            "distance": float(jnp.linalg.norm(place - jnp.array(minimum))),
            "x": float(place[0]),
            "y": float(place[1]),
        }

    return Task(init, loss, batch, {"validation": evaluate, "test": evaluate})


def path(config) -> np.ndarray:
    """Returns the places [steps + 1, 2] that the run of a config comes to, the start among them."""
    task = make_task(config)
    places = [np.array(config.start, np.float32)]
    look = {"places": lambda variables: places.append(np.asarray(variables.params["place"])) or {}}
    optimizer = optimizers.make(config.optimizer, config.schedule, config.plan.steps)
    train.fit(
        task._replace(evaluators=look), optimizer, Plan(config.plan.steps, eval_every=1), seed=config.seed
    )
    return np.stack(places)


def describe(config) -> dict[str, str]:
    """Returns what a run's summary says of its data."""
    return {"data": f"none: the surface is {config.model.name}"}


def demo(config, variables, folder: Path) -> list[Path]:
    """Draws the way of the run on the surface."""
    return [draw(config, {config.optimizer.name: path(config)}, folder / "path.png")]


def compare(config, result, file: Path) -> list[Path]:
    """Draws the ways of all settings of a sweep on the surface, each as it is with the seed of the config."""
    paths = {}
    for row in result["rows"]:
        one = config.copy_and_resolve_references()
        with one.unlocked():
            one.update_from_flattened_dict(row["settings"])
        paths[", ".join(str(name) for name in (row["by"], row["x"]) if name is not None)] = path(one)
    return [draw(config, paths, file.with_name(f"{file.stem}_paths.png"))]


def draw(config, paths: dict[str, np.ndarray], file: Path) -> Path:
    """Draws paths on the contours of the surface, and how high they are at each step."""
    height, minimum = build(SURFACES, config.model)
    points = np.concatenate([*paths.values(), [minimum, config.start]])
    points = points[np.isfinite(points).all(axis=1)]
    low, high = np.quantile(points, [0.005, 0.995], axis=0)
    low, high = (
        np.minimum(low, [minimum, config.start]).min(0),
        np.maximum(high, [minimum, config.start]).max(0),
    )
    room = 0.08 * (high - low).max()
    x, y = (np.linspace(low[i] - room, high[i] + room, 300) for i in (0, 1))
    surface = np.asarray(jax.vmap(jax.vmap(height))(jnp.stack(np.meshgrid(x, y), -1)))
    heights, lowest = jax.vmap(height), 1.0
    figure, (left, right) = figures.canvas(1, 2, figsize=(14, 5.5))
    left.contour(x, y, np.log10(np.maximum(surface, 1e-6)), levels=24, colors="lightgrey", linewidths=0.7)
    for number, (name, places) in enumerate(paths.items()):
        left.plot(*places.T, color=f"C{number}", linewidth=1.2, marker=".", markersize=3, label=name)
        right.plot(np.asarray(heights(jnp.asarray(places))), color=f"C{number}", label=name)
        lowest = min(lowest, float(heights(jnp.asarray(places)).min()) / 2)
    left.plot(*minimum, "k*", markersize=12, label="minimum")
    left.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]), xlabel="x", ylabel="y")
    left.set_title(f"{config.model.name}: {config.plan.steps} steps from {tuple(config.start)}", fontsize=10)
    bottom = max(lowest, 1e-10)
    right.set(xlabel="step", ylabel="height", yscale="log", ylim=(bottom, None))
    right.grid(alpha=0.3)
    right.legend(frameon=False)
    return figures.save(figure, file)
