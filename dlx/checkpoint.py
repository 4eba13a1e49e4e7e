"""The Orbax seam: a workdir's checkpoints, each leaf under a checksum.

Orbax writes atomically and asynchronously but without checksums: a flipped bit would load silently. Here
every step carries a manifest of `checksums.sums`, which the devices compute while training goes on and
again, on restore, from what was read; a damaged step is passed over for the newest good one, with a warning
that names it. Of several processes each reads its own part, and all agree on which step it is.
"""

import contextlib
import json
import math
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from dlx import checksums
from dlx.agreement import agreed, told
from dlx.core import TrainState

MARKER = "dlx.json"  # says that a directory of checkpoints is ours
TEMPORARY = ".orbax-checkpoint-tmp"


class CheckpointError(RuntimeError):
    """Says which checkpoint could not be used or written, why, and what is left."""


class Damaged(CheckpointError):
    """One step cannot be trusted; an older one may."""


KINDS = (Damaged, CheckpointError)  # what processes agree on, the gravest last


class Store(NamedTuple):
    """The checkpoints of one workdir.

    `restore(layout, best=False)` returns the newest intact state, or the best one, placed as `layout` (a tree
    of ShapeDtypeStruct with shardings) says, or None when nothing was ever saved. `save(step, state,
    score=None)` starts an asynchronous save; a score says that no step before it was as good.
    `best(step)` returns the score of the best one up to a step, minus infinity where there is none.
    """

    restore: Callable[..., TrainState | None]
    save: Callable[..., None]
    best: Callable[[int], float]


@contextlib.contextmanager
def store(workdir: str | Path | None, keep: int = 2) -> Iterator[Store]:
    """Opens `workdir/checkpoints`, which keeps the newest `keep` steps and the best; None saves nothing.

    Nothing is written before the first save. Leaving the context waits for the last save. Raises
    CheckpointError when the directory holds files that are not dlx's, which stay untouched.
    """
    if workdir is None:
        yield Store(
            lambda layout, best=False: None, lambda step, state, score=None: None, lambda step: -math.inf
        )
        return
    root = Path(workdir).resolve() / "checkpoints"
    agreed(lambda: refuse_foreign(root), *KINDS)
    damaged: list[Path] = []
    good: list[int] = []  # the step that was restored
    marked: list[int] = []  # the best step, once the store knows of one
    manager: list = []  # opened by the first save

    def best(step):
        found = told(lambda: scored(root, step), *KINDS)
        marked[:] = [number for number, _ in found[:1]]
        return found[0][1] if found else -math.inf

    def names(best):
        return [str(step) for step, _ in scored(root)[:1]] if best else [path.name for path in steps(root)]

    def restore(layout, best=False):
        for name in told(lambda: names(best), *KINDS):
            path = root / name
            try:
                state = load(path, layout)
                good.append(int(name))
                return state
            except Damaged as error:
                damaged.append(path)
                warnings.warn(f"{error}; it is passed over", RuntimeWarning, stacklevel=2)
        if damaged:
            raise CheckpointError(
                f"{'the best' if best else 'every'} checkpoint under {root} is damaged: "
                f"{', '.join(path.name for path in damaged)}; "
                "start again in another workdir, or move that directory away"
            )
        return None

    def save(step, state, score=None):
        with explained(root, step):
            if not manager:
                first = jax.process_index() == 0
                agreed(lambda: prepare(root, damaged, max(good, default=0)) if first else None, *KINDS)
                manager.append(open_manager(root, keep, marked))
            if score is not None:
                marked[:] = [step]
            write(manager[0], step, state, score)

    try:
        yield Store(restore, save, best)
    finally:
        if manager:
            with explained(root, None):
                manager[0].wait_until_finished()
                manager[0].close()


def shapes(workdir: str | Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of the leaves that the newest checkpoint of a workdir holds, by path.

    Nothing when there is no checkpoint whose manifest can be read. The paths are those of `leaves`.
    """
    for path in steps(Path(workdir) / "checkpoints"):
        with contextlib.suppress(Damaged):
            return {
                name: jax.ShapeDtypeStruct(tuple(entry["shape"]), jax.numpy.dtype(entry["dtype"]))
                for name, entry in manifest(path).leaves.items()
            }
    return {}


def scored(root: Path, last: int | None = None) -> list[tuple[int, float]]:
    """Returns the steps, up to `last`, that were the best when they were saved, with their scores.

    The best comes first, which is the newest, for each was better than those before it. Raises Damaged where
    a manifest cannot be read, for its step might be the best.
    """
    held = [path for path in steps(root) if complete(path) and (last is None or int(path.name) <= last)]
    found = [(int(path.name), manifest(path).score) for path in held]
    return [(step, score) for step, score in found if score is not None]


def refuse_foreign(root: Path) -> None:
    """Raises CheckpointError when `root` holds something and was not made by dlx."""
    if root.exists() and not root.is_dir():
        raise CheckpointError(f"{root} is a file, not a directory of checkpoints; use another workdir")
    if root.exists() and any(root.iterdir()) and not (root / MARKER).is_file():
        raise CheckpointError(
            f"{root} holds files but no {MARKER}, so dlx did not make it; it stays untouched: use another "
            "workdir, or move that directory away"
        )


def steps(root: Path) -> list[Path]:
    """Returns the folders of checkpoints, newest first, without empty ones and interrupted saves."""
    if not root.is_dir():
        return []
    found = [
        path for path in root.iterdir() if path.name.isdecimal() and path.is_dir() and any(path.iterdir())
    ]
    return sorted(found, key=lambda path: -int(path.name))


def complete(path: Path) -> bool:
    """Tells whether the folder of a step has all that Orbax writes into one, going by the names."""
    parts = ("_CHECKPOINT_METADATA", "manifest/metadata", "state/_METADATA")
    return all((path / part).is_file() for part in parts)


def leaves(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a state by path, such as "variables/params/Dense_0/kernel"."""
    found, _ = jax.tree.flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in found}


class Manifest(dict):
    """What a checkpoint holds; the sums are waited for as Orbax writes it, when `save` has long returned."""

    def items(self):
        """Returns the leaves, {path: {"shape", "dtype", "sum"}}, the score, and the check of their text."""
        held = {path: entry | {"sum": checksums.text(entry["sum"])} for path, entry in self["leaves"].items()}
        return [("leaves", held), ("score", self["score"]), ("crc32", check(held, self["score"]))]


class Contents(NamedTuple):
    """What a manifest says: the leaves, {path: {"shape", "dtype", "sum"}}, and the score or None."""

    leaves: dict[str, dict]
    score: float | None


def check(held: dict, score: float | None) -> int:
    """Returns the CRC-32 of the leaves and the score of a manifest, as JSON."""
    return zlib.crc32(json.dumps(held if score is None else [held, score], sort_keys=True).encode())


def manifest(path: Path) -> Contents:
    """Returns what a step holds; raises Damaged."""
    try:
        found = json.loads((path / "manifest" / "metadata").read_text())
        held, score = found["leaves"], found.get("score")
        sound = found["crc32"] == check(held, score) and (score is None or math.isfinite(score))
        for entry in held.values():
            jax.ShapeDtypeStruct(tuple(map(int, entry["shape"])), jax.numpy.dtype(entry["dtype"]))
            str(entry["sum"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise Damaged(f"checkpoint {path} has no readable manifest: {error!r}") from error
    if not sound:
        raise Damaged(f"checkpoint {path} has a manifest that fails its own checksum")
    return Contents(held, score)


def write(manager, step: int, state: TrainState, score: float | None) -> None:
    """Starts the asynchronous save of `state`, with its manifest, as `step`."""
    import orbax.checkpoint as ocp

    found = leaves(state)
    sums = checksums.sums(found)
    held = {
        path: {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "sum": sums[path]}
        for path, leaf in found.items()
    }
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(state), manifest=ocp.args.JsonSave(Manifest(leaves=held, score=score))
    )
    manager.save(step, args=items, force=True)


def prepare(root: Path, damaged: list[Path], newest: int) -> None:
    """Makes `root` ready for saving: ours, without left-overs of what was interrupted, damaged steps aside.

    `newest` is the step that was restored: an incomplete one before it is what a deletion left.
    """
    root.mkdir(parents=True, exist_ok=True)
    if not (root / MARKER).is_file():
        (root / MARKER).write_text(json.dumps({"format": 2}) + "\n")
    for path in list(root.iterdir()):
        if path.is_dir() and TEMPORARY in path.name:
            shutil.rmtree(path)  # an interrupted save: never finished, so nothing is lost
        elif path.name.isdecimal() and int(path.name) < newest and not complete(path):
            shutil.rmtree(path)
        elif path in damaged or (path.name.isdecimal() and int(path.name) != newest and not complete(path)):
            names = (f"{path.name}.damaged{number}" for number in ("", *range(2, 1000)))
            path.rename(next(root / name for name in names if not (root / name).exists()))


class Kept(NamedTuple):
    """Tells Orbax which checkpoints stay: the newest, so many, and those of the steps that are `marked`."""

    newest: int
    marked: list[int]

    def should_preserve(self, checkpoints, *, context):
        """Returns for each checkpoint, in the order of their steps, whether it stays."""
        first = len(checkpoints) - self.newest
        return [index >= first or found.step in self.marked for index, found in enumerate(checkpoints)]


def open_manager(root: Path, keep: int, marked: list[int]):
    """Returns Orbax's manager of `root`, which keeps the newest `keep` steps and those that are `marked`."""
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(preservation_policy=Kept(keep, marked))
    return ocp.CheckpointManager(root, options=options)


def compare(path: Path, expected: dict, layout: TrainState) -> None:
    """Raises CheckpointError, listing every difference, when a step holds another kind of state."""
    wanted = {name: (list(leaf.shape), str(leaf.dtype)) for name, leaf in leaves(layout).items()}
    held = {name: (entry["shape"], entry["dtype"]) for name, entry in expected.items()}
    lines = [f"  missing: {name}" for name in sorted(wanted.keys() - held.keys())]
    lines += [f"  unexpected: {name}" for name in sorted(held.keys() - wanted.keys())]
    lines += [
        f"  {name}: saved {held[name]}, wanted {wanted[name]}"
        for name in sorted(held.keys() & wanted.keys())
        if held[name] != wanted[name]
    ]
    if lines:
        raise CheckpointError(f"checkpoint {path} is of another model or optimizer:\n" + "\n".join(lines))


def load(path: Path, layout: TrainState) -> TrainState:
    """Reads one step and verifies it.

    Raises Damaged when it cannot be read or a checksum is wrong, CheckpointError when it is of another model;
    of several processes all raise when one has to.
    """
    state, expected = agreed(lambda: read(path, layout), *KINDS)
    sums = checksums.sums(leaves(state))
    agreed(lambda: verify(path, expected, sums), *KINDS)
    return state


def read(path: Path, layout: TrainState) -> tuple[TrainState, dict[str, dict]]:
    """Returns this process's part of a step, and the manifest, waiting for no other process."""
    import orbax.checkpoint as ocp

    expected, process = manifest(path).leaves, jax.process_index()
    compare(path, expected, layout)
    alone = ocp.options.MultiprocessingOptions(primary_host=process, active_processes={process})
    try:
        with ocp.StandardCheckpointer(multiprocessing_options=alone) as checkpointer:
            return checkpointer.restore(path / "state", layout), expected
    except Exception as error:  # Orbax and TensorStore raise many kinds; each means the same here
        raise Damaged(f"checkpoint {path} cannot be read: {error}") from error


def verify(path: Path, expected: dict[str, dict], sums: dict) -> None:
    """Raises Damaged, naming the leaves, unless the sums of what was read are those of the manifest."""
    wrong = [name for name, pair in sums.items() if checksums.text(pair) != expected[name]["sum"]]
    if wrong:
        raise Damaged(f"checkpoint {path} fails its checksum in {', '.join(wrong)}")


@contextlib.contextmanager
def explained(root: Path, step: int | None) -> Iterator[None]:
    """Turns a failed save into one message that says what is left."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        when = "at the end" if step is None else f"at step {step}"
        left = max((int(path.name) for path in steps(root) if complete(path)), default=None)
        raise CheckpointError(
            f"a checkpoint could not be written under {root} (noticed {when}): {error}; "
            + ("none is there yet" if left is None else f"the checkpoint of step {left} is intact")
        ) from error
