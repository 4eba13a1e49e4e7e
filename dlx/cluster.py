"""Several processes as one run: how they find each other, and how none waits for ever for one that is lost.

JAX connects them (`jax.distributed`). Here it is decided whether that is asked for at all, and each process
is watched: one that hangs, reading its data, say, would be waited for without end, and where one falls silent
JAX ends the others by SIGABRT, without a word of what to do.
"""

import contextlib
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jax._src import distributed  # for the key-value store of the coordinator, which has no public name

PATIENCE = 300  # seconds
SILENCE = 50  # seconds without a sign of life at most
LOST = 75  # the exit status of a process that stops because another is lost (EX_TEMPFAIL: try again)
LINGER = 2.0  # seconds that the coordinator stays, so that the others hear why it goes
TOGETHER = {0, 143}  # with these all processes end at the same step, and take leave of each other
BEATS, LEFT, STOP = "dlx/beats", "dlx/left", "dlx/stop"
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


class ClusterError(ValueError):
    """The processes of a run cannot be connected as asked; the message says what to change."""


class Found(NamedTuple):
    """What started this process as one of several; a number is None where only JAX can ask for it."""

    name: str
    num_processes: int | None
    process_id: int | None


def detected(environment: Mapping[str, str]) -> Found | None:
    """Returns what the variables of the environment tell of a cluster; None for a process of its own.

    Open MPI and Slurm count when they started several tasks, Kubernetes when the Job is indexed, Cloud TPU
    always, since there JAX alone knows how many hosts a slice has.
    """
    if (tasks := int(environment.get("OMPI_COMM_WORLD_SIZE", 1))) > 1:
        return Found("Open MPI", tasks, int(environment["OMPI_COMM_WORLD_RANK"]))
    if all(name in environment for name in SLURM) and (tasks := int(environment["SLURM_NTASKS"])) > 1:
        return Found("Slurm", tasks, int(environment["SLURM_PROCID"]))
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES") or ""
    several = "," in hosts or int(environment.get("MEGASCALE_NUM_SLICES", 1)) > 1
    if several or "TPU_ML_PLATFORM" in environment:  # JAX sets the latter when it finds TPU chips
        return Found("Cloud TPU", None, None)
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        return Found("Kubernetes", None, int(environment["JOB_COMPLETION_INDEX"]))
    return None


def plan(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    environment: Mapping[str, str],
) -> dict[str, Any] | None:
    """Returns what `jax.distributed.initialize` is to be called with; None for a process of its own.

    What is None is left to JAX where a cluster is found. Raises ClusterError when the three are incomplete,
    or contradict each other or the cluster.
    """
    given = (coordinator, num_processes, process_id) != (None, None, None)
    found = detected(environment)
    if num_processes is not None and num_processes < 1:
        raise ClusterError(f"--num_processes={num_processes}; a run has at least 1")
    if process_id is not None and not 0 <= process_id < (num_processes or process_id + 1):
        most = "" if num_processes is None else f" to {num_processes - 1}, for there are {num_processes}"
        raise ClusterError(f"--process_id={process_id}; processes are numbered from 0{most}")
    if num_processes == 1 or not (given or found):
        return None
    address = coordinator or environment.get("JAX_COORDINATOR_ADDRESS")
    if address is not None and not (address.rpartition(":")[0] and address.rpartition(":")[2].isdecimal()):
        raise ClusterError(f"--coordinator={address}; it is HOST:PORT, a place on the machine of process 0")
    values = {"coordinator_address": address, "num_processes": num_processes, "process_id": process_id}
    if found is None:
        flags = zip(("--coordinator=HOST:PORT", "--num_processes=N", "--process_id=I"), values, strict=True)
        if missing := [flag for flag, name in flags if values[name] is None]:
            raise ClusterError(
                f"{' and '.join(missing)} must be given too: nothing here (Slurm, Open MPI, Kubernetes, "
                "Cloud TPU) tells how the processes of this run find each other"
            )
        return values | {"cluster_detection_method": "deactivate"}
    for name, told in (("num_processes", found.num_processes), ("process_id", found.process_id)):
        if told is not None and values[name] not in (None, told):
            raise ClusterError(
                f"--{name}={values[name]}, but {found.name} says {told}: leave the flag out, or give "
                "--num_processes=1 for a process of its own"
            )
    if found.name == "Open MPI":
        values |= {"num_processes": found.num_processes, "process_id": found.process_id}
        if address is None and "OMPI_MCA_orte_hnp_uri" not in environment:
            raise ClusterError(
                f"mpirun started {found.num_processes} processes, but this version of Open MPI does not tell "
                "them where they meet: give all of them --coordinator=HOST:PORT, a place on rank 0's machine"
            )
    return values


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    patience: float | int = PATIENCE,
) -> None:
    """Makes this process one of a run of several, if the arguments or the cluster say so; see `plan`.

    To be called before JAX computes anything. From then on only process 0 has a standard output. A process
    that dies is noticed at once, one that falls silent within `patience` seconds or 50, whichever is less,
    and a few, and one that hangs, while others wait for its next batch, within `patience` and a few: all
    others then stop with a message. Where process 0 itself falls silent, JAX aborts the others, within three
    times as long. Raises ClusterError when the processes do not come together.
    """
    if patience <= 0:
        raise ClusterError(f"--patience={patience}; it is a time, in seconds")
    values = plan(coordinator, num_processes, process_id, os.environ)
    if values is None or jax.distributed.is_initialized():
        return
    abort = round(3 * (min(patience, SILENCE) + LINGER))  # JAX may take half of that: `watch` comes first
    try:
        jax.distributed.initialize(
            **values, heartbeat_timeout_seconds=abort, shutdown_timeout_seconds=round(2 * patience) + 1
        )
    except (RuntimeError, ValueError) as error:
        wanted = ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)
        raise ClusterError(f"the processes of the run did not come together ({wanted}): {error}") from error
    hush()
    threading.Thread(target=watch, args=(patience,), name="watch", daemon=True).start()


def hush() -> None:
    """Keeps standard output for what process 0 prints: what libraries write there goes to standard error.

    On the other processes nothing is printed, nor any warning; errors are.
    """
    sys.stdout.flush()
    first = jax.process_index() == 0
    sys.stdout = os.fdopen(os.dup(1) if first else os.open(os.devnull, os.O_WRONLY), "w", buffering=1)
    os.dup2(2 if first else sys.stdout.fileno(), 1)
    if not first:
        warnings.simplefilter("ignore")


_handed = 0
_leaving = threading.Event()


def beat() -> None:
    """Notes that this process has handed in another batch: what shows that it does not hang."""
    global _handed
    _handed += 1


def behind(beats: Mapping[int, int]) -> dict[int, int]:
    """Returns {process: batches} of those that have handed in fewer batches than another.

    While nobody is ahead nobody is behind, however long a step, a compilation or an evaluation takes.
    """
    most = max(beats.values(), default=0)
    return {process: count for process, count in beats.items() if count < most}


def since(values: Mapping[int, Any], before: Mapping[int, tuple[Any, float]], now: float) -> dict:
    """Returns {process: (value, since when it is that)}; `before` is what this returned last."""
    same = {process for process, value in values.items() if before.get(process, (None,))[0] == value}
    return {p: before[p] if p in same else (value, now) for p, value in values.items()}


def watch(patience: float | int) -> None:
    """Ends this process when another is lost, or hangs: process 0 keeps count for all, and tells them."""
    own, looks = jax.process_index(), 0
    heard: dict[int, tuple[Any, float]] = {}
    late: dict[int, tuple[Any, float]] = {}
    while not _leaving.wait(interval(patience)):
        looks += 1  # what a process says changes while it lives, also when it hands in nothing
        try:
            notes().key_value_set(f"{BEATS}/{own}", f"{_handed} {looks}", allow_overwrite=True)
            if own == 0:
                now, left = time.monotonic(), told(LEFT)  # those are silent from now on
                said = {process: text for process, text in told(BEATS).items() if process not in left}
                heard = since(said, heard, now)
                late = since(behind({p: int(text.split()[0]) for p, text in said.items()}), late, now)
                quiet = min(patience, SILENCE)
                if who := longer(quiet, heard, now):
                    post(f"{who} has not been heard of for {quiet:g} seconds: it is stopped, or lost")
                elif who := longer(patience, late, now):
                    post(
                        f"{who} has handed in no batch for {patience:g} seconds (--patience) while the "
                        "others wait for it: it hangs"
                    )
        except RuntimeError:
            continue  # the coordinator does not answer: JAX itself sees to that
        if (message := posted()) and not _leaving.is_set():
            frame = sys._current_frames().get(threading.main_thread().ident or 0)
            where = "".join(traceback.format_stack(frame)[-3:])
            print(f"error: {message}; process {own} stops, at\n{where}", file=sys.stderr, flush=True)
            leave(LOST)


def told(what: str) -> dict[int, str]:
    """Returns what each process has noted under `what`."""
    return {int(key.rpartition("/")[2]): text for key, text in notes().key_value_dir_get(what)}


def longer(limit: float, waits: Mapping[int, tuple[Any, float]], now: float) -> str:
    """Names those who have had their value in `since` for more than `limit` seconds; "" for none."""
    named = sorted(process for process, (_, when) in waits.items() if now - when > limit)
    return f"process {', '.join(map(str, named))} of {jax.process_count()}" if named else ""


def interval(patience: float | int) -> float:
    """Returns every how many seconds a process tells of itself, and asks for others."""
    return min(patience / 20, 1.0)


def notes() -> Any:
    """Returns the store of keys and values that the coordinator keeps for all processes."""
    return distributed.global_state.client


def post(message: str) -> None:
    """Leaves a message, for all processes, of what ends the run; the first one stays."""
    try:
        notes().key_value_set(STOP, message)
    except RuntimeError:
        return  # there is one, or nobody to tell


def posted() -> str:
    """Returns the message of what ends the run, "" while it goes on."""
    try:
        return notes().key_value_try_get(STOP)
    except RuntimeError:
        return ""


def lost(error: BaseException) -> str:
    """Says of an error of the connection which other process is lost; "" of any other error."""
    if not jax.distributed.is_initialized():
        return ""
    if _leaving.is_set():
        time.sleep(2 * LINGER)  # the watch has said why, and ends this process
    text = str(error)
    if not any(word in text for word in ("Gloo", "NCCL", "coordination service")):
        return ""
    post(f"a process of the run is gone: {text.splitlines()[0]}")
    return posted()


def leave(status: int) -> None:
    """Takes leave of the other processes, if there are any; to be called last, with the exit status.

    Where all end at the same step they wait for each other, as JAX does on exit. Otherwise this process ends
    here and now: its connections break, and the others, who would wait for it, stop as well.
    """
    if not jax.distributed.is_initialized():
        return
    _leaving.set()
    own = jax.process_index()
    if status in TOGETHER:
        with contextlib.suppress(RuntimeError):  # where there is no coordinator nobody watches
            notes().key_value_set(f"{LEFT}/{own}", "")
        return
    post(f"process {own} ended with status {status}; its own output says why")
    if own == 0:
        time.sleep(LINGER)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)
