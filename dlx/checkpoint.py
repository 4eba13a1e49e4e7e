"""The Orbax seam: a workdir's checkpoints, each leaf under a checksum.

Orbax writes atomically and asynchronously but without checksums: a flipped bit would load silently. Here
every step carries a manifest of `checksums.sums`, which the devices compute while training goes on and
again, on restore, from what was read; a damaged step is passed over for the newest good one, with a warning
that names it. Of several processes each reads its own part, and all agree on which step it is.
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
    agreed(lambda: refuse_foreign(root), *KINDS)
    damaged: list[Path] = []
    good: list[int] = []  # the step that was restored
    manager: list = []  # opened by the first save

    def restore(layout):
        for name in told(lambda: [path.name for path in steps(root)], *KINDS):
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
                f"every checkpoint under {root} is damaged: {', '.join(path.name for path in damaged)}; "
                "start again in another workdir, or move that directory away"
            )
        return None

    def save(step, state):
        with explained(root, step):
            if not manager:
                first = jax.process_index() == 0
                agreed(lambda: prepare(root, damaged, max(good, default=0)) if first else None, *KINDS)
                manager.append(open_manager(root, keep))
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
    for path in steps(Path(workdir) / "checkpoints"):
        with contextlib.suppress(Damaged):
            return {
                name: jax.ShapeDtypeStruct(tuple(entry["shape"]), jax.numpy.dtype(entry["dtype"]))
                for name, entry in manifest(path).items()
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
        """Returns the leaves, {path: {"shape", "dtype", "sum"}}, and the check of their text."""
        held = {path: entry | {"sum": checksums.text(entry["sum"])} for path, entry in self["leaves"].items()}
        return [("leaves", held), ("crc32", check(held))]


def check(held: dict) -> int:
    """Returns the CRC-32 of the leaves of a manifest, as JSON."""
    return zlib.crc32(json.dumps(held, sort_keys=True).encode())


def manifest(path: Path) -> dict[str, dict]:
    """Returns what a step holds, {path: {"shape", "dtype", "sum"}}; raises Damaged."""
    try:
        found = json.loads((path / "manifest" / "metadata").read_text())
        held, sound = found["leaves"], found["crc32"] == check(found["leaves"])
        for entry in held.values():
            jax.ShapeDtypeStruct(tuple(map(int, entry["shape"])), jax.numpy.dtype(entry["dtype"]))
            str(entry["sum"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise Damaged(f"checkpoint {path} has no readable manifest: {error!r}") from error
    if not sound:
        raise Damaged(f"checkpoint {path} has a manifest that fails its own checksum")
    return held


def write(manager, step: int, state: TrainState) -> None:
    """Starts the asynchronous save of `state`, with its manifest, as `step`."""
    import orbax.checkpoint as ocp

    found = leaves(state)
    sums = checksums.sums(found)
    held = {
        path: {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "sum": sums[path]}
        for path, leaf in found.items()
    }
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(state), manifest=ocp.args.JsonSave(Manifest(leaves=held))
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


def open_manager(root: Path, keep: int):
    """Returns Orbax's manager of `root`, which keeps the newest `keep` steps."""
    import orbax.checkpoint as ocp

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

    expected, process = manifest(path), jax.process_index()
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
