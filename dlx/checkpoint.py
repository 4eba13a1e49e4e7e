"""The Orbax seam: a workdir's checkpoints, each leaf under a checksum.

Orbax writes atomically and asynchronously but without checksums: a flipped bit would load silently. Here
every step carries a manifest of CRC-32 sums, verified on restore; a damaged step is passed over for the
newest good one, with a warning that names it.
"""

import contextlib
import json
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dlx.core import TrainState

MARKER = "dlx.json"  # says that a directory of checkpoints is ours
TEMPORARY = ".orbax-checkpoint-tmp"


class CheckpointError(RuntimeError):
    """Says which checkpoint could not be used or written, why, and what is left."""


class Damaged(CheckpointError):
    """One step cannot be trusted; an older one may."""


class Store(NamedTuple):
    """The checkpoints of one workdir.

    `restore(layout)` returns the newest intact state, placed as `layout` (a tree of ShapeDtypeStruct with
    shardings) says, or None when nothing was ever saved. `save(step, state)` starts an asynchronous save.
    """

    restore: Callable[[TrainState], TrainState | None]
    save: Callable[[int, TrainState], None]


@contextlib.contextmanager
def store(workdir: str | Path | None, keep: int = 2) -> Iterator[Store]:
    """Opens `workdir/checkpoints`, of which the newest `keep` steps are kept; None saves nothing.

    Nothing is written before the first save. Leaving the context waits for the last save. Raises
    CheckpointError when the directory holds files that are not dlx's, which stay untouched.
    """
    if workdir is None:
        yield Store(lambda layout: None, lambda step, state: None)
        return
    root = Path(workdir).resolve() / "checkpoints"
    refuse_foreign(root)
    damaged: list[Path] = []
    manager: list = []  # opened by the first save

    def restore(layout):
        for path in sorted(steps(root), key=lambda path: -int(path.name)):
            try:
                return load(path, layout)
            except Damaged as error:
                damaged.append(path)
                warnings.warn(f"{error}; it is passed over", RuntimeWarning, stacklevel=2)
        if damaged:
            raise CheckpointError(
                f"every checkpoint under {root} is damaged: {', '.join(path.name for path in damaged)}; "
                "start again in another workdir, or move that directory away"
            )
        return None

    def save(step, state):
        with explained(root, step):
            if not manager:
                manager.append(open_manager(root, keep, damaged))
            write(manager[0], step, state)

    try:
        yield Store(restore, save)
    finally:
        if manager:
            with explained(root, None):
                manager[0].wait_until_finished()
                manager[0].close()


def shapes(workdir: str | Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of the leaves that the newest checkpoint of a workdir holds, by path.

    Nothing when there is no checkpoint whose manifest can be read. The paths are those of `leaves`.
    """
    for path in sorted(steps(Path(workdir) / "checkpoints"), key=lambda path: -int(path.name)):
        with contextlib.suppress(OSError, ValueError):
            held = json.loads((path / "manifest" / "metadata").read_text())
            return {
                name: jax.ShapeDtypeStruct(tuple(entry["shape"]), jax.numpy.dtype(entry["dtype"]))
                for name, entry in held.items()
            }
    return {}


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
    """Returns the directories of finished checkpoints; stray and half-written ones are not among them."""
    if not root.is_dir():
        return []
    return [p for p in root.iterdir() if p.name.isdecimal() and (p / "_CHECKPOINT_METADATA").is_file()]


def leaves(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a state by path, such as "variables/params/Dense_0/kernel"."""
    found, _ = jax.tree.flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in found}


def checksum(leaf: Any) -> int:
    """Returns the CRC-32 of an array's bytes."""
    return zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)


def write(manager, step: int, state: TrainState) -> None:
    """Starts the asynchronous save of `state`, with its manifest, as `step`."""
    import orbax.checkpoint as ocp

    manifest = {
        path: {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "crc32": checksum(leaf)}
        for path, leaf in leaves(state).items()
    }
    items = ocp.args.Composite(state=ocp.args.StandardSave(state), manifest=ocp.args.JsonSave(manifest))
    manager.save(step, args=items, force=True)


def open_manager(root: Path, keep: int, damaged: list[Path]):
    """Makes `root` ready for saving: ours, without left-overs of interrupted saves, damaged steps aside."""
    import orbax.checkpoint as ocp

    root.mkdir(parents=True, exist_ok=True)
    if not (root / MARKER).is_file():
        (root / MARKER).write_text(json.dumps({"format": 1}) + "\n")
    for path in root.iterdir():
        if path.is_dir() and TEMPORARY in path.name:
            shutil.rmtree(path)  # an interrupted save: never finished, so nothing is lost
        elif path in damaged or (path.name.isdecimal() and path not in steps(root)):
            path.rename(path.with_name(f"{path.name}.damaged"))
    return ocp.CheckpointManager(root, options=ocp.CheckpointManagerOptions(max_to_keep=keep))


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

    Raises Damaged when it cannot be read or a checksum is wrong, CheckpointError when it is of another model.
    """
    import orbax.checkpoint as ocp

    try:
        expected = json.loads((path / "manifest" / "metadata").read_text())
    except (OSError, ValueError) as error:
        raise Damaged(f"checkpoint {path} has no readable manifest: {error}") from error
    compare(path, expected, layout)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            state = checkpointer.restore(path / "state", layout)
    except Exception as error:  # Orbax and TensorStore raise many kinds; each means the same here
        raise Damaged(f"checkpoint {path} cannot be read: {error}") from error
    wrong = [name for name, leaf in leaves(state).items() if checksum(leaf) != expected[name]["crc32"]]
    if wrong:
        raise Damaged(f"checkpoint {path} fails its checksum in {', '.join(wrong)}")
    return state


@contextlib.contextmanager
def explained(root: Path, step: int | None) -> Iterator[None]:
    """Turns a failed save into one message that says what is left."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        when = "at the end" if step is None else f"at step {step}"
        left = max((int(path.name) for path in steps(root)), default=None)
        raise CheckpointError(
            f"a checkpoint could not be written under {root} (noticed {when}): {error}; "
            + ("none is there yet" if left is None else f"the checkpoint of step {left} is intact")
        ) from error
