"""Hurt a training run in every way that machines do, and count what is lost.

A small run (a convolutional network with batch statistics, dropout, augmentation and averaged weights, on the
embedded digits) is trained once undisturbed. Then it is disturbed: killed at random moments, while it
restores, steps and saves; told to stop; left without disk, or with one that is read-only; each file of its
newest checkpoint in turn gets a flipped bit, is cut in half, or goes missing; a stray folder looks like a
newer checkpoint; a second process starts on the same workdir. After each the same command is run again.
Something is lost when the run does not end with the state and the numbers of the undisturbed one, bit for
bit; when a checkpoint that was whole is not where it goes on; or when what keeps it from that is not said.
"""

import functools
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

HOME = Path(__file__).resolve().parents[2]
STEPS, EVERY = 120, 10
TRAIN = [
    *("-m", "experiments", "train", "--config=configs/image_classification/digits.py:smoke"),
    *(f"--config.plan.steps={STEPS}", f"--config.plan.save_every={EVERY}", "--config.plan.log_every=5"),
]
MOMENTS = ("restore", "step", "save")
EXEC = "; import os, sys; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
MORTAL = "import ctypes; ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)"  # root no more writes where it may not


class Outcome(NamedTuple):
    """One fault: its kind, whether a message named it, and what was lost, if anything."""

    fault: str
    said: bool
    lost: str


class Lab(NamedTuple):
    """Where runs are hurt: a folder, the places of a state's leaves, and how the undisturbed run ended."""

    root: Path
    layout: Any
    state: dict[str, bytes]
    numbers: list[dict]


def add_arguments(parser) -> None:
    """Adds --kills, --jobs, --seed and --workdir."""
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="kill -9 (default %(default)s)")
    parser.add_argument(
        "--jobs", type=int, default=2, metavar="N", help="runs hurt at a time (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments and the bits")
    parser.add_argument(
        "--workdir", type=Path, metavar="DIR", help="keep all runs here (default: a temporary folder)"
    )


def run(arguments) -> int:
    """Prints a line for every fault, then the tally; returns 1 when anything was lost."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # what Orbax logs as errors, it raises as well
    clock = time.monotonic()
    root = arguments.workdir or Path(tempfile.mkdtemp(prefix="faults-"))
    lab = opened(root)
    found = []
    for outcome in hurt(lab, arguments.kills, arguments.jobs, arguments.seed):
        found.append(outcome)
        if outcome.lost:
            print(f"LOST: {outcome.fault}: {outcome.lost}", file=sys.stderr, flush=True)
        elif len(found) % 10 == 0:
            print(f"{len(found)} faults, {time.monotonic() - clock:.0f} s", file=sys.stderr, flush=True)
    print(tally(found))
    lost = sum(bool(outcome.lost) for outcome in found)
    print(f"{len(found)} faults in {time.monotonic() - clock:.0f} s, {lost} with a loss")
    if lost:
        print(f"the runs are in {root}")
    elif not arguments.workdir:
        shutil.rmtree(root)
    return 1 if lost else 0


def tally(found: list[Outcome]) -> str:
    """Returns the table: how often each fault was done, named by a message, without effect, and a loss.

    Without effect are a damaged file of which nothing was needed, and what leaves nothing to be said.
    """
    rows = [("fault", "times", "named", "without effect", "lost")]
    for fault in dict.fromkeys(outcome.fault for outcome in found):
        each = [outcome for outcome in found if outcome.fault == fault]
        lost = sum(bool(outcome.lost) for outcome in each)
        said = sum(outcome.said and not outcome.lost for outcome in each)
        rows.append((fault, *map(str, (len(each), said, len(each) - said - lost, lost))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        f"{row[0]:<{widths[0]}}  "
        + "  ".join(f"{text:>{width}}" for text, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    )


def opened(root: Path) -> Lab:
    """Trains the undisturbed run, in `root`, and returns where to hurt others."""
    import jax

    from dlx import sharding, train
    from dlx.configuration import read
    from experiments import runs

    root.mkdir(parents=True, exist_ok=True)
    workdir = fresh(root, "undisturbed")
    status, log = finish(workdir)
    if status != 0:
        raise RuntimeError(f"the undisturbed run ended with status {status}:\n{log}")
    built = runs.build(read(workdir / runs.CONFIG))
    shapes = jax.eval_shape(train.make_init(built.task, built.optimizer), jax.random.key(0))
    layout = sharding.layout(shapes, sharding.mesh(devices=jax.devices()[:1]))
    return Lab(root, layout, *ending(workdir, layout))


def hurt(lab: Lab, kills: int, jobs: int, seed: int) -> Iterator[Outcome]:
    """Does every fault, `jobs` runs at a time; yields the outcomes as they come."""
    rng = random.Random(seed)
    shares = [kills // jobs + (lane < kills % jobs) for lane in range(jobs)]
    work: list[Callable[[], list[Outcome]]] = [
        functools.partial(killed, lab, share, random.Random(f"{seed}/{lane}"))
        for lane, share in enumerate(shares)
        if share
    ]
    work += [functools.partial(told_to_stop, lab, rng.uniform(0, 1.2)) for _ in range(6)]
    half = halfway(lab)
    work += [functools.partial(fault, lab, half) for fault in (full_disk, read_only, stray_folder)]
    work.append(functools.partial(second_process, lab))
    for kind, change in DAMAGE.items():
        work += [
            functools.partial(damaged, lab, half, kind, change, file, random.Random(f"{seed}/{kind}/{file}"))
            for file in newest_files(half)
        ]
    with ThreadPoolExecutor(jobs) as pool:
        for done in as_completed([pool.submit(part) for part in work]):
            yield from done.result()


def fresh(root: Path, name: str) -> Path:
    """Returns a workdir in `root` that no other run has."""
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=root)) / "run"


def log_of(workdir: Path) -> Path:
    """Returns the file with what the last process on a workdir has printed on stderr."""
    return workdir.parent / "stderr"


def start(workdir: Path, before: str = "") -> subprocess.Popen:
    """Starts the training command; `before` is Python to be executed in the process first."""
    environment = {"JAX_COMPILATION_CACHE_DIR": str(workdir.parents[1] / "programs")} | os.environ
    command = [*(["-c", before + EXEC] if before else []), *TRAIN, f"--workdir={workdir}"]
    with log_of(workdir).open("wb") as log:
        return subprocess.Popen(
            [sys.executable, *command], cwd=HOME, env=environment, stdout=subprocess.DEVNULL, stderr=log
        )


def finish(workdir: Path, before: str = "") -> tuple[int, str]:
    """Runs the training command to its end; returns its status and what it printed on stderr."""
    process = start(workdir, before)
    return process.wait(timeout=600), log_of(workdir).read_text(errors="replace")


def ending(workdir: Path, layout) -> tuple[dict[str, bytes], list[dict]]:
    """Returns the bytes of the state that a run ended with, by path, and all it wrote but its speed."""
    import numpy as np

    from dlx import checkpoint, report

    with checkpoint.store(workdir) as store:
        state = store.restore(layout)
    held = {path: np.asarray(leaf).tobytes() for path, leaf in checkpoint.leaves(state).items()}
    return held, [record for record in report.read(workdir) if record["set"] != "speed"]


def difference(lab: Lab, workdir: Path) -> str:
    """Runs to the end; says in what that differs from the undisturbed run's end, or nothing."""
    status, log = finish(workdir)
    if status != 0:
        return f"{workdir} ends with status {status}: {log[-500:]}"
    try:
        state, numbers = ending(workdir, lab.layout)
    except RuntimeError as error:
        return str(error)
    if wrong := [path for path in lab.state if state[path] != lab.state[path]]:
        return f"{workdir} ends with another {', '.join(wrong)}"
    return "" if numbers == lab.numbers else f"{workdir} has written other numbers"


def newest(workdir: Path) -> int | None:
    """Returns the newest step whose checkpoint is on disk."""
    from dlx import checkpoint

    whole = [path for path in checkpoint.steps(workdir / "checkpoints") if checkpoint.complete(path)]
    return int(whole[0].name) if whole else None


def begun(workdir: Path) -> bool:
    """Tells whether the process has restored and compiled, and has said so."""
    return b"parameter" in log_of(workdir).read_bytes()


def saving(workdir: Path) -> bool:
    """Tells whether a checkpoint is half written."""
    try:
        return any("-tmp" in entry.name for entry in os.scandir(workdir / "checkpoints"))
    except FileNotFoundError:
        return False


def wait(process: subprocess.Popen, condition: Callable[[], bool]) -> None:
    """Waits until `condition()`, or until the process has ended."""
    while process.poll() is None and not condition():
        time.sleep(0.002)


def killed(lab: Lab, times: int, rng: random.Random) -> list[Outcome]:
    """Kills runs, each again and again until it has come to its end, `times` in all."""
    outcomes: list[Outcome] = []
    while len(outcomes) < times:
        workdir, moments, lost = fresh(lab.root, "killed"), [], ""
        while len(outcomes) + len(moments) < times:
            before = newest(workdir)
            process = start(workdir)
            reach(process, workdir, rng.choice(MOMENTS), rng)
            ended = process.poll() is not None
            process.kill()
            process.wait()
            lost = lost or stepped_back(workdir, before)
            if ended:
                break
            where = "restoring" if not begun(workdir) else "saving" if saving(workdir) else "stepping"
            moments.append(f"kill -9 while {where}")
        lost = lost or difference(lab, workdir) or left_over(workdir)
        outcomes += [Outcome(moment, False, lost) for moment in moments]
    return outcomes


def reach(process: subprocess.Popen, workdir: Path, moment: str, rng: random.Random) -> None:
    """Waits until the process is about one of `MOMENTS`, and a random while longer."""

    def locked():
        try:
            return f"process {process.pid} " in (workdir / "lock").read_text()
        except FileNotFoundError:
            return False

    if moment == "restore":
        wait(process, locked)
        time.sleep(rng.uniform(0, 1))
        return
    wait(process, lambda: begun(workdir))
    time.sleep(rng.uniform(0, 1))
    if moment == "save":
        wait(process, lambda: saving(workdir))
        time.sleep(rng.uniform(0, 0.1))


def stepped_back(workdir: Path, before: int | None) -> str:
    """Says so when a process that has begun to train did not go on from the newest checkpoint, `before`."""
    log = log_of(workdir).read_text(errors="replace")
    if "passed over" in log or (begun(workdir) and before and f"at step {before}\n" not in log):
        return f"{workdir} had a checkpoint of step {before} and did not go on from it"
    return ""


def left_over(workdir: Path) -> str:
    """Names what a finished run should not have left in its workdir."""
    wrong = [
        p.name for p in workdir.rglob("*") if "-tmp" in p.name or ".damaged" in p.name or p.name == "lock"
    ]
    return f"{workdir} still holds {', '.join(wrong)}" if wrong else ""


def told_to_stop(lab: Lab, after: float) -> list[Outcome]:
    """Sends SIGTERM so many seconds after training has begun: the step it was at must be saved."""
    workdir = fresh(lab.root, "stopped")
    process = start(workdir)
    wait(process, lambda: begun(workdir))
    time.sleep(after)
    process.terminate()
    status, log = process.wait(), log_of(workdir).read_text()
    said = status == 143 and f"stopped at step {newest(workdir)}, which is saved" in log
    beyond = newest(workdir) == STEPS  # it had ended training, and measured the test data or was done
    wrong = "" if said or beyond else f"{workdir} ended with status {status}: {log[-300:]}"
    return [Outcome("SIGTERM", said or beyond, wrong or difference(lab, workdir) or left_over(workdir))]


def halfway(lab: Lab) -> Path:
    """Returns the workdir of a run that was stopped with two checkpoints."""
    workdir = fresh(lab.root, "halfway")
    process = start(workdir)
    wait(process, lambda: (newest(workdir) or 0) >= 4 * EVERY)
    process.terminate()
    process.wait()
    return workdir


def copied(lab: Lab, workdir: Path, name: str) -> Path:
    """Returns a copy of a workdir."""
    copy = fresh(lab.root, name)
    shutil.copytree(workdir, copy)
    return copy


def newest_files(workdir: Path) -> list[Path]:
    """Returns the files of the newest checkpoint, relative to the workdir."""
    folder = workdir / "checkpoints" / str(newest(workdir))
    return sorted(path.relative_to(workdir) for path in folder.rglob("*") if path.is_file())


def flip(file: Path, rng: random.Random) -> None:
    """Flips one bit of a file; one without bits gets a byte."""
    data = bytearray(file.read_bytes() or b"\0")
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


DAMAGE: dict[str, Callable[[Path, random.Random], Any]] = {
    "a bit flipped": flip,
    "a file cut in half": lambda file, rng: os.truncate(file, file.stat().st_size // 2),
    "a file missing": lambda file, rng: file.unlink(),
}


def damaged(
    lab: Lab, half: Path, kind: str, change: Callable, file: Path, rng: random.Random
) -> list[Outcome]:
    """Damages one file of the newest checkpoint, which is then named and passed over, or read unharmed."""
    workdir = copied(lab, half, "damaged")
    change(workdir / file, rng)
    step = newest(half)
    lost = difference(lab, workdir)
    log = log_of(workdir).read_text(errors="replace")
    said = "passed over" in log and f"checkpoint {workdir / 'checkpoints' / str(step)} " in log
    read = f"at step {step}\n" in log
    if not lost and said == read:
        lost = f"{workdir}: {file}: the damage was neither told of nor without effect: {log[-500:]}"
    shutil.rmtree(workdir.parent, ignore_errors=bool(lost))
    return [Outcome(kind, said, lost)]


def stray_folder(lab: Lab, half: Path) -> list[Outcome]:
    """Puts an empty folder beside the checkpoints, which looks like a newer one."""
    workdir = copied(lab, half, "stray")
    before = newest(workdir)
    (workdir / "checkpoints" / str(10 * STEPS)).mkdir()
    return [Outcome("a stray folder", False, difference(lab, workdir) or stepped_back(workdir, before))]


def second_process(lab: Lab) -> list[Outcome]:
    """Starts the command on the workdir of a run that is at work (held still, so that it does not end)."""
    workdir = fresh(lab.root, "shared")
    first = start(workdir)
    wait(first, lambda: begun(workdir))
    first.send_signal(signal.SIGSTOP)
    try:
        status, log = finish(workdir)
    finally:
        first.send_signal(signal.SIGCONT)
    said = status == 2 and f"process {first.pid} on {socket.gethostname()}" in log
    first.wait()
    lost = "" if said else f"{workdir}: the second process ended with status {status}: {log[-300:]}"
    return [Outcome("two processes", said, lost or difference(lab, workdir) or left_over(workdir))]


def read_only(lab: Lab, half: Path) -> list[Outcome]:
    """Takes the right to write in the workdir away."""
    workdir = copied(lab, half, "readonly")
    everything = [workdir, *workdir.rglob("*")]
    for path in everything:
        path.chmod(path.stat().st_mode & ~0o222)
    status, log = finish(workdir, MORTAL)
    for path in everything:
        path.chmod(path.stat().st_mode | 0o200)
    said = status == 2 and f"the workdir {workdir} cannot be written" in log
    lost = "" if said else f"{workdir} ended with status {status}: {log[-300:]}"
    return [Outcome("a read-only workdir", said, lost or difference(lab, workdir))]


def full_disk(lab: Lab, half: Path) -> list[Outcome]:
    """Fills the disk, then gives room: a small tmpfs, or a limit on files without the right to mount."""
    workdir = fresh(lab.root, "full")
    mounted = mount(workdir, "500k")
    try:
        if mounted:
            status, log = finish(workdir)
            subprocess.run(["mount", "-o", "remount,size=100m", workdir], check=True)
        else:
            shutil.copytree(half, workdir, dirs_exist_ok=True)
            most = max((half / file).stat().st_size for file in newest_files(half)) // 2
            status, log = finish(
                workdir, f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({most},) * 2)"
            )
        last = log.splitlines()[-1]  # before it TensorStore may have printed what it met too
        said = status == 2 and last.startswith("error: ") and "written" in last
        lost = "" if said else f"a full disk: status {status}: {log[-600:]}"
        return [Outcome("a full disk", said, lost or difference(lab, workdir) or left_over(workdir))]
    finally:
        if mounted:
            subprocess.run(["umount", workdir], check=True)


def mount(folder: Path, size: str) -> bool:
    """Makes a folder and mounts a tmpfs of that size on it; tells whether it could."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False
