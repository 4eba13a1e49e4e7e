"""Training step and forward pass of each family of models, against PyTorch on the same machine.

Every row is measured in a process of its own, both sides of it in turns: the step that `dlx.train.fit` runs,
and a PyTorch module in its variants (eager, channels_last, torch.compile), with equal batch, precision,
optimizer, parameters and threads. Inputs lie on the device already. Each time is of enough runs in a row to
last `SEGMENT`, from the first call until all is done. Neither side finds compiled programs of an earlier run.

`--profile=DIR` also writes, for each row, a trace of one of dlx's training steps into DIR/ROW, by
`jax.profiler.trace`: TensorBoard's profile plugin and xprof show it.

A row more is an entry of `ROWS`: a module `torch_FAMILY` of this folder, and the settings of its `contest`.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from dlx import host
from dlx.configuration import lookup
from experiments.speed.table import HOME, Found, Row, in_turns

SECONDS = 20.0  # of measuring, for a row; compilation comes on top
SEGMENT = 0.2  # seconds that one measured time is of, at least
REPEATS = (3, 21)  # how often each side is measured, at least and at most
PEAKS = {  # bfloat16 without sparsity, FLOP/s, from NVIDIA's data sheets of each
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12,
}
GPT2 = {  # of 124 million parameters; a vocabulary of a multiple of 64 is faster, on both sides
    "batch": 32,
    "time": 1024,
    "vocabulary": 50_304,
    "depth": 12,
    "heads": 12,
    "width": 768,
    "dtype": "bfloat16",
}
RESNET50 = 4.09e9  # multiply-adds of an image, as torchvision's table of models has them


class Entry(NamedTuple):
    """Where a row comes from: `torch_FAMILY.contest(**settings)`, on the kind of device it is meant for."""

    family: str
    settings: Mapping[str, Any]
    device: str = "cpu"


ROWS = {
    "resnet18_32": Entry("vision", {"name": "resnet18_small", "size": 32, "batch": 64, "classes": 10}),
    "resnet50_64": Entry("vision", {"name": "resnet50", "size": 64, "batch": 32}),
    "resnet50_224": Entry("vision", {"name": "resnet50", "size": 224, "batch": 8}),
    "efficientnet_b0_224": Entry("vision", {"name": "efficientnet_b0", "size": 224, "batch": 8}),
    "vgg16_224": Entry("vision", {"name": "vgg16", "size": 224, "batch": 4}),
    "inception_v3_299": Entry("vision", {"name": "inception_v3", "size": 299, "batch": 4}),
    "vit_b16_224": Entry("vision", {"name": "vit_b16", "size": 224, "batch": 4}),
    "gpt_6x384": Entry("sequences", {"name": "gpt", "batch": 12, "time": 256}),
    "bert_base": Entry("sequences", {"name": "bert", "batch": 8, "time": 128}),
    "lstm_2x650": Entry("sequences", {"name": "lstm", "batch": 20, "time": 35}),
    "gru_2x650": Entry("sequences", {"name": "gru", "batch": 20, "time": 35}),
    "transformer_3x256": Entry("sequences", {"name": "transformer", "batch": 64, "time": 24}),
    "gpt_6x384_decoding_1": Entry("decoding", {"batch": 1}),
    "gpt_6x384_decoding_8": Entry("decoding", {"batch": 8}),
    "gpt2_bf16": Entry("sequences", {"name": "gpt", **GPT2}, "gpu"),
} | {
    f"resnet50_224_bf16_{batch}": Entry(
        "vision",
        {"name": "resnet50", "size": 224, "batch": batch, "dtype": "bfloat16", "macs": RESNET50},
        "gpu",
    )
    for batch in (128, 256)
}
ROWS |= {  # an epoch of each, with its data
    "tabular_mlp": Entry(
        "small",
        {"name": "tabular_mlp", "batch": 64, "call": 32, "rows": 16_384, "columns": 12, "hidden": (64, 64)},
    ),
    "dlinear": Entry(
        "small",
        {
            "name": "dlinear",
            "batch": 32,
            "call": 4,
            "rows": 2_048,
            "channels": 7,
            "history": 336,
            "horizon": 96,
        },
    ),
}
TINY = Entry("vision", {"name": "resnet18_small", "size": 32, "batch": 2, "classes": 10}, "any")  # of --smoke


def measure(
    repeats: int | None = None,
    *,
    only: Sequence[str] = (),
    variants: Sequence[str] = (),
    seconds: float = SECONDS,
    dtype: str | None = None,
    profile: Path | None = None,
    threads: int | None = None,
    smoke: bool = False,
) -> Found:
    """Measures the rows named by `only`, else all that are meant for this device; tells of those that fail.

    `variants` are those of the peer to run (default: all); `dtype` is that of every row,
    instead of its own; `threads` are those of both sides (default: one for each core).
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two libraries share a GPU
    device = jax.default_backend()
    entries = {"tiny": TINY} if smoke else {name: lookup(ROWS, name) for name in only}
    entries = entries or {name: entry for name, entry in ROWS.items() if entry.device == device}
    rows, details, remarks, failures = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for name, entry in entries.items():
            print(f"{name} ...", file=sys.stderr, flush=True)
            settings = dict(entry.settings) | ({"dtype": dtype} if dtype else {})
            order = {"name": name, "family": entry.family, "settings": settings, "repeats": repeats}
            order |= {"seconds": seconds, "variants": list(variants), "threads": threads or cores()}
            order |= {"profile": profile and str(profile.absolute() / name)}
            try:
                found = in_a_process(order, Path(folder))
            except RuntimeError as error:
                failures.append(f"{name} failed: {error}")
                continue
            rows += compared(found)
            remarks.append(remark(found))
            details.append({key: value for key, value in found.items() if key != "milliseconds"})
    if not rows:
        raise RuntimeError("\n".join(failures))
    facts = {"device": jax.devices()[0].device_kind, "threads": str(threads or cores())}
    return Found(rows, [*remarks, *failures], facts, details)


def in_a_process(order: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Measures a row in a process of its own, whose compilers find nothing in their caches.

    Raises RuntimeError with the end of what the process printed when it fails.
    """
    answer = folder / f"{order['name']}.json"
    caches = {"JAX_ENABLE_COMPILATION_CACHE": "false", "TORCHINDUCTOR_CACHE_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-m", "experiments.speed.models", json.dumps(order), str(answer)],
        cwd=HOME,
        env=os.environ | caches,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"status {done.returncode}\n{done.stdout[-2000:]}")
    return json.loads(answer.read_text())


def main(order: dict[str, Any], answer: Path) -> None:
    """Measures one row, in this process."""
    if hasattr(os, "sched_setaffinity"):  # before either library counts the cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: order["threads"]])
    host.keep_freed_memory()  # for both sides, which share the process
    import importlib

    import torch

    torch.set_num_threads(order["threads"])
    family = importlib.import_module(f"experiments.speed.torch_{order['family']}")
    contest = family.contest(**order["settings"])
    sides, failed = {}, {}
    for variant, build in contest.peers.items():
        if order["variants"] and variant not in order["variants"]:
            continue
        try:
            sides[variant] = build()
        except Exception as error:  # a compiler that is missing or gives up, which is to be told
            failed[variant] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    if not sides:
        raise RuntimeError(f"no variant of the peer ran: {failed or sorted(contest.peers)}")
    sides = {"dlx": contest.ours()} | sides
    if len({side.parameters for side in sides.values()}) > 1:
        raise RuntimeError(f"different models: { ({name: s.parameters for name, s in sides.items()}) }")
    times = milliseconds(sides, order["repeats"], order["seconds"])
    if order["profile"]:
        with jax.profiler.trace(order["profile"]):
            next(iter(sides["dlx"].runs.values()))(1)
    first = next(iter(times.values()))
    rates = {name: 1e3 * contest.examples / statistics.median(first[name]) for name in sides}
    found = {
        "name": order["name"],
        "what": contest.what,
        "library": contest.library,
        "parameters": sides["dlx"].parameters,
        "compile_s": {name: side.compile_s for name, side in sides.items() if side.compile_s is not None},
        "memory": {name: dict(side.memory) for name, side in sides.items()},
        "unit": contest.unit,
        "examples_per_s": rates,
        "failed": failed,
        "milliseconds": times,
    }
    top = PEAKS.get(jax.devices()[0].device_kind)
    if contest.macs and top:
        # a training step is three forward passes, a multiply-add two operations
        found["share_of_peak"] = {name: 6 * contest.macs * rate / top for name, rate in rates.items()}
    answer.write_text(json.dumps(found))


def milliseconds(sides: Mapping, repeats: int | None, seconds: float) -> dict[str, dict[str, list[float]]]:
    """Returns, for each measure and side, the times of one run; everyone is measured in turns.

    Without `repeats` there are as many as fit into `seconds`, within `REPEATS`.
    """

    def timed(run: Callable[[int], float], count: int) -> float:
        time.sleep(0.02)  # threads of the last one may still be waiting for work in a loop
        clock = time.perf_counter()
        value = run(count)
        taken = time.perf_counter() - clock
        if not math.isfinite(value):
            raise RuntimeError(f"a side computes {value}: no time of that means anything")
        return taken

    def segment(run: Callable[[int], float]) -> tuple[float, Callable[[], float]]:
        """Returns about how many seconds a segment takes, and a function that times one."""
        run(1)
        once = timed(run, 1)
        count = max(1, round(SEGMENT / once))
        return once * count, lambda: 1e3 * timed(run, count) / count

    turns = {
        (measure, name): segment(run) for name, side in sides.items() for measure, run in side.runs.items()
    }
    fitting = seconds / sum(taken for taken, _ in turns.values())
    least, most = REPEATS
    count = repeats or min(max(least, int(fitting)), most)
    found = in_turns(count, {key: turn for key, (_, turn) in turns.items()})
    times: dict[str, dict[str, list[float]]] = {}
    for (measure, name), values in found.items():
        times.setdefault(measure, {})[name] = values
    return times


def compared(found: Mapping[str, Any]) -> list[Row]:
    """Returns the comparisons of a row: a line for each measure and variant."""
    return [
        Row(f"{found['what']}, {measure}", f"{found['library']}, {name}", "ms", times["dlx"], values)
        for measure, times in found["milliseconds"].items()
        for name, values in times.items()
        if name != "dlx"
    ]


def remark(found: Mapping[str, Any]) -> str:
    """Returns what is told of a row below the table: compilation, memory, and what failed."""
    parts = [f"{name} compiles in {seconds:.1f} s" for name, seconds in found["compile_s"].items()]
    for name, sizes in found["memory"].items():
        if sizes:
            told = ", ".join(f"{size / 2**20:,.0f} MiB {how}" for how, size in sizes.items())
            parts.append(f"{name} needs {told}")
    for name, rate in found.get("examples_per_s", {}).items():
        share = found.get("share_of_peak", {}).get(name)
        parts.append(f"{name} {rate:,.0f} {found['unit']}/s")
        parts[-1] += "" if share is None else f", {share:.0%} of the GPU's peak"
    parts += [f"{name} did not run ({reason})" for name, reason in found["failed"].items()]
    return f"{found['what']}: {'; '.join(parts)}"


def cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
