"""The benchmarks run, on tiny settings, and their peers are no straw men. Nothing here asserts a time."""

import importlib.util
import json
import math
import subprocess
from pathlib import Path

import pytest

from dlx import configuration
from experiments.__main__ import main
from experiments.speed import table
from experiments.speed.table import Found, Row

ROOT = Path(__file__).parent.parent
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="the peer is PyTorch, which is not installed"
)

needs_torchvision = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None or importlib.util.find_spec("torchvision") is None,
    reason="the peer is torchvision, which is not installed",
)


@pytest.fixture(autouse=True)
def home(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv(
        "OMP_NUM_THREADS", "1"
    )  # torch's threads wait for each other in loops: not among tests


def measured(what, tmp_path, capsys, repeats):
    """Runs a benchmark on its smoke settings; returns what it printed and the rows it wrote."""
    file = tmp_path / "found.json"
    assert main(["benchmark", what, "--smoke", f"--repeats={repeats}", f"--json={file}"]) == 0
    found = json.loads(file.read_text())
    assert found["benchmark"] == what and {"processor", "cores", "jax", "torch"} <= set(found["machine"])
    for row in found["rows"]:
        for side in ("dlx", "peer"):
            numbers = [row["median"][side], *row["repeats"][side]]
            assert len(numbers) == repeats + 1
            assert all(math.isfinite(number) and number > 0 for number in numbers), row
    printed = capsys.readouterr().out
    assert all(row["what"] in printed and row["peer"] in printed for row in found["rows"])
    return printed, found["rows"]


def test_loop_compares_fit_with_the_bare_step(tmp_path, capsys):
    printed, rows = measured("loop", tmp_path, capsys, repeats=2)
    assert [row["what"].split(", ")[1:] for row in rows] == [
        ["steps of 5 ms", "constant batch"],
        ["steps of 5 ms", "shuffled batches", "reports written"],
    ]
    assert all("overhead" in row for row in rows) and "%" in printed


def test_devices_compares_a_divided_step_with_that_of_one_device(tmp_path, capsys):
    _, (row,) = measured("devices", tmp_path, capsys, repeats=2)
    assert row["what"].startswith("image_classification/digits") and "2 devices" in row["what"]
    assert row["peer"] == "1 device" and row["unit"] == "ms"


@needs_torch
def test_checkpoints_compare_saves_and_restores_with_torch(tmp_path, capsys):
    printed, rows = measured("checkpoints", tmp_path, capsys, repeats=2)
    assert [row["what"].split(", ")[1] for row in rows] == [
        "until training goes on",
        "until written",
        "restored and verified",
    ]
    stall, written, _ = (row["median"]["dlx"] for row in rows)
    assert stall <= written and "of the save" in printed


@needs_torch
def test_input_compares_arrays_and_jpegs_with_every_loader(tmp_path, capsys):
    printed, rows = measured("input", tmp_path, capsys, repeats=1)
    loaders = ["DataLoader, 0 workers", "DataLoader, 2 workers"]
    by_hand = ["DataLoader of whole batches", "randperm and index_select"]
    assert [row["peer"] for row in rows] == [*loaders, *by_hand, *loaders]
    assert printed.count("times as fast as the faster default loader") == 2


@needs_torch
def test_both_sides_of_input_read_the_same_examples():
    import numpy as np
    import torch

    from dlx.data import pipeline
    from experiments.speed import input as loaders

    files = loaders.jpeg_files(8)
    read = pipeline.batches(files, 8, seed=0)(0)
    peer = loaders.Jpegs([files.data[a:b].tobytes() for a, b in files.spans], files.labels)
    theirs = sorted(image.numpy().tobytes() for image, _ in map(peer.__getitem__, range(8)))
    assert sorted(image.tobytes() for image in read["image"]) == theirs

    tensors = (torch.arange(40), torch.arange(40) * 2)
    assert len(loaders.by_hand(tensors, 8)) == 2
    rows, doubled = loaders.Gathered(tensors)[[3, 5]]
    np.testing.assert_array_equal(doubled, 2 * rows)


@needs_torch
def test_startup_compares_two_commands(tmp_path, capsys):
    printed, rows = measured("startup", tmp_path, capsys, repeats=1)
    assert [row["what"].split(",")[0] for row in rows] == ["first step", "finished run"]
    assert "median test accuracy: dlx 0." in printed and "PyTorch 0." in printed


def test_a_command_is_timed_until_its_first_step_or_its_end(tmp_path):
    """Told by what it printed till then: with single times of a busy machine the first step may come last."""
    from experiments.speed import startup

    steps = "print('step   1/9  train', flush=True); print('step   9/9  train')"
    waits = "import time; print('step   1/9  train', flush=True); time.sleep(1000)"
    assert startup.clocked(["-c", waits], tmp_path, first=True)[1] == "step   1/9  train\n"
    assert startup.clocked(["-c", steps], tmp_path, first=False)[1].endswith("step   9/9  train\n")
    with pytest.raises(RuntimeError, match="ended with status 3"):
        startup.clocked(["-c", "raise SystemExit(3)"], tmp_path, first=False)
    with pytest.raises(RuntimeError, match=r"ended with status 0:\nnothing"):
        startup.clocked(["-c", "print('nothing')"], tmp_path, first=True)


@needs_torch
def test_the_digits_script_learns_and_saves(tmp_path, capsys):
    from experiments.speed import torch_digits

    config = configuration.load("configs/image_classification/digits.py", ["--config.plan.steps=300"])
    file = tmp_path / "config.json"
    configuration.save(config, file)
    assert torch_digits.main(json.loads(file.read_text()), tmp_path) > 0.9
    assert "step 100/300  validation" in capsys.readouterr().out and (tmp_path / "300.pt").is_file()


@needs_torch
def test_the_digits_script_is_the_model_and_the_split_of_dlx():
    import jax
    import numpy as np
    import torch

    from dlx.data import sources
    from dlx.models import MODELS
    from experiments.speed import torch_digits

    ours, theirs = sources.digits(validation=0.1).splits, torch_digits.load(0.1)
    for name in ours:
        assert abs(len(ours[name]["label"]) - len(theirs[name][1])) <= 8, name  # rounded class by class
    assert sum(len(labels) for _, labels in theirs.values()) == 1797

    variables = jax.eval_shape(
        MODELS["convnet"](10, widths=[32, 64], depth=2).init, jax.random.key(0), np.zeros((1, 8, 8, 1))
    )
    network = torch_digits.network(theirs["train"][0], widths=[32, 64], depth=2, dropout=0.3)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables.params))
    assert sum(weight.numel() for weight in network.parameters()) == count

    images = theirs["train"][0][:4]
    still = {"flip": False, "shift": 0.0, "rotate": 0.0, "scale": 0.0, "shear": 0.0}
    assert torch.equal(torch_digits.augment(images, **still), images)
    barely = torch_digits.augment(images, **still | {"rotate": 1e-4})
    assert torch.allclose(barely, images, atol=1e-2)


@needs_torch
def test_operations_compares_products_and_convolutions(tmp_path, capsys):
    _, rows = measured("operations", tmp_path, capsys, repeats=2)
    assert [row["what"].rpartition(", ")[2] for row in rows[:3]] == [
        "forward",
        "gradient of the input",
        "gradient of the weights",
    ]
    assert len({row["what"] for row in rows}) == len(rows) == 9


@needs_torch
def test_both_sides_of_an_operation_compute_the_same():
    import numpy as np
    import parity

    from experiments.speed import operations

    for operation in operations.SMOKE:
        ours, theirs = operations.both(operation)
        for part in operations.PARTS:
            found, expected = np.asarray(ours[part]()), theirs[part]().numpy()
            if expected.ndim == 4:
                axes = (2, 3, 1, 0) if part == "gradient of the weights" else (0, 2, 3, 1)
                expected = expected.transpose(axes)
            parity.close(found, expected, 1e-5, f"{operation.what}, {part}")


@needs_torchvision
def test_models_compares_a_network_with_torchvisions(tmp_path, capsys):
    printed, rows = measured("models", tmp_path, capsys, repeats=2)
    assert [row["what"].rpartition(", ")[2] for row in rows] == ["training step", "forward pass"]
    assert {row["peer"] for row in rows} == {"torchvision, eager"}
    (detail,) = json.loads((tmp_path / "found.json").read_text())["details"]
    assert detail["parameters"] == 11_173_962 and detail["failed"] == {} and detail["compile_s"]["dlx"] > 0
    # weights, gradients or updates, and momentum
    assert all(size > 3 * 4 * 11_173_962 for side in detail["memory"].values() for size in side.values())
    assert "planned" in detail["memory"]["dlx"] and detail["what"] in printed


def test_a_row_that_fails_is_told_and_the_others_are_kept(monkeypatch):
    from experiments.speed import models

    def found(order, folder):
        if order["name"] == "vgg16_224":
            raise RuntimeError("out of memory")
        times = {"training step": {"dlx": [1.0, 2.0], "eager": [2.0, 4.0], "torch.compile": [1.0, 1.0]}}
        facts = {"compile_s": {"dlx": 3.0}, "memory": {"dlx": {}}, "failed": {"channels_last": "why"}}
        return {"what": order["name"], "library": "torchvision", "milliseconds": times} | facts

    monkeypatch.setattr(models, "in_a_process", found)
    table_of = models.measure(only=["resnet50_64", "vgg16_224"])
    assert [(row.what, row.peer) for row in table_of.rows] == [
        ("resnet50_64, training step", "torchvision, eager"),
        ("resnet50_64, training step", "torchvision, torch.compile"),
    ]
    assert table.quartiles(table_of.rows[0].ratios())[1] == 2
    assert "channels_last did not run (why)" in table_of.remarks[0]
    assert table_of.remarks[1] == "vgg16_224 failed: out of memory" and len(table_of.details) == 1
    with pytest.raises(RuntimeError, match="out of memory"):
        models.measure(only=["vgg16_224"])
    with pytest.raises(ValueError, match="resnet50_64"):
        models.measure(only=["resnet5_64"])


def test_short_runs_are_repeated_in_a_segment_and_a_side_of_nan_is_refused(monkeypatch):
    from experiments.speed import models
    from experiments.speed.sides import Side

    counts = {"fast": [], "slow": []}

    def side(name, seconds, value=1.0):
        def run(count):
            counts[name].append(count)
            now[0] += seconds * count
            return value

        return Side({"step": run}, 1)

    now = [0.0]
    monkeypatch.setattr(models.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(models.time, "sleep", lambda seconds: None)
    times = models.milliseconds({"fast": side("fast", 0.01), "slow": side("slow", 3.0)}, None, 10.0)
    assert times["step"] == {"fast": pytest.approx([10.0] * 3), "slow": pytest.approx([3000.0] * 3)}
    assert counts == {"fast": [1, 1, 20, 20, 20], "slow": [1] * 5}
    with pytest.raises(RuntimeError, match="computes nan"):
        models.milliseconds({"fast": side("fast", 0.01, math.nan)}, 1, 10.0)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="resident memory is told by Linux")
def test_growth_is_of_the_peak_and_counts_anew_each_time():
    import numpy as np

    from experiments.speed import sides

    last = []

    def take():  # 64 MiB in small pieces, of which the last stays and holds the heap open
        last.append([np.ones(1 << 13) for _ in range(1 << 10)][-1])

    np.ones(24 << 20)  # a higher peak, earlier
    for _ in range(2):  # the second time, what was freed by the first must not hide it
        assert 55 < sides.growth(take) / 2**20 < 100
    assert sides.growth(lambda: None) / 2**20 < 20


def test_donated_memory_is_counted_once():
    import jax
    import jax.numpy as jnp

    from experiments.speed import sides

    size, needed = 1 << 20, {}
    for donated in ((), (0,)):
        step = jax.jit(lambda state: state + 1, donate_argnums=donated)
        needed[donated] = sides.planned(step.lower(jnp.zeros(size)).compile())["planned"]
    assert size * 4 <= needed[(0,)] < 1.1 * size * 4 and 2 * size * 4 <= needed[()]


def test_the_side_of_dlx_trains(line):
    import optax

    from experiments.speed import sides

    task, _ = line
    side = sides.trained(task, optax.sgd(0.05), lambda v, batch: batch["x"] @ v.params["w"])
    first = side.runs[sides.STEP](1)
    later = [side.runs[sides.STEP](1) for _ in range(40)]  # each goes on from the state of the last
    assert later[-1] < first / 2, "the gradient does not fall"
    before = side.runs[sides.FORWARD](1)
    assert side.runs[sides.FORWARD](3) == before and math.isfinite(before)
    assert side.parameters == 4 and side.compile_s > 0 and side.memory["planned"] > 0


@needs_torch
def test_the_side_of_torch_trains_in_float32_and_bfloat16():
    import numpy as np
    import torch

    from experiments.speed import sides, torch_side

    def loss(module, batch):
        seen.append(module(batch["x"]).dtype)
        return torch.nn.functional.mse_loss(module(batch["x"]).float(), batch["y"])

    def forward(module, batch):
        outputs = module(batch["x"])
        seen.append(outputs.dtype)
        return outputs

    x = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    batch = {"x": x, "y": x @ np.float32([[1], [-2], [3]])}
    for dtype in ("float32", "bfloat16"):
        seen = []
        side = torch_side.trained(
            lambda: torch.nn.Linear(3, 1),
            loss,
            forward,
            batch,
            optimizer=lambda weights: torch.optim.SGD(weights, lr=0.05),
            dtype=dtype,
        )
        first = side.runs[sides.STEP](1)
        assert side.runs[sides.STEP](40) < first / 10 and side.parameters == 4 and side.compile_s is None
        assert set(seen) == {getattr(torch, dtype)} and math.isfinite(side.runs[sides.FORWARD](2))


def test_the_table_of_models_is_of_the_fastest_variant(tmp_path, monkeypatch):
    from experiments.commands import report

    assert report.models()  # whatever is measured, or that nothing is
    monkeypatch.setattr(report, "SPEED", tmp_path)
    assert report.models() == "Not measured yet." and report.best() == []
    variants = {"eager": [4.0, 4.0], "channels_last": [3.0, 3.0], "torch.compile": [9.0, 9.0]}
    rows = [
        Row(f"net, batch 8, {measure}", f"torchvision, {name}", "ms", [2.0, 2.0], times)
        for measure in ("training step", "forward pass")
        for name, times in variants.items()
    ]
    memory = {"dlx": {"planned": 1 << 20, "resident": 2 << 20}, "eager": {"resident": 4 << 20}}
    memory |= {"channels_last": {"resident": 3 << 20}, "torch.compile": {}}
    compile_s = {"dlx": 7.0, "torch.compile": 31.0}
    details = [{"what": "net, batch 8", "compile_s": compile_s, "memory": memory}]
    record = table.record("models", Found(rows, machine={"device": "cpu"}, details=details))
    (tmp_path / "models.json").write_text(json.dumps(record))
    lines = report.models().splitlines()
    assert (
        "| 2 | 3 (torchvision, channels_last) | 1.50x as fast (1.50 to 1.50) | 7 / 31 | 2 / 3 |" in lines[2]
    )
    assert lines[3].startswith("| net, batch 8, forward pass | 2 | 3") and "|  |  |" in lines[3]
    assert "net" not in report.speeds()

    from experiments.speed import picture

    assert picture.ratios(report.best(), tmp_path / "models.png").stat().st_size > 5000


def test_a_model_on_two_machines_has_its_rows_together_and_told_apart(tmp_path, monkeypatch):
    from experiments.commands import report

    monkeypatch.setattr(report, "SPEED", tmp_path)
    rows = [Row(f"{model}, step", "torch", "ms", [2.0], [3.0]) for model in ("net, 8 px", "other")]
    for number, processor in enumerate(("A", "B")):
        details = [{"what": row.what.removesuffix(", step")} for row in rows]
        record = table.record("models", Found(rows, details=details))
        record["machine"] |= {"processor": processor, "vectors": "AVX2", "cores": "2", "device": "cpu"}
        (tmp_path / f"models_{number}.json").write_text(json.dumps(record))
    found = report.best()
    assert [row["machine"]["processor"] for row in found] == ["A", "B", "A", "B"]
    assert [row["what"] for row in report.apart(found)[:2]] == [
        "net, 8 px (2 cores of A, AVX2), step",
        "net, 8 px (2 cores of B, AVX2), step",
    ]
    assert report.apart(found[::2]) == found[::2]  # one machine needs no name


def test_a_commit_is_dirty_for_changes_of_code_and_not_of_results(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "HOME", tmp_path)
    result, code = tmp_path / "experiments/results/digits.json", tmp_path / "code.py"
    result.parent.mkdir(parents=True)
    result.touch(), code.touch()
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for words in (("init", "-q"), ("add", "."), (*who, "commit", "-q", "-m", "first")):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    result.write_text("measured anew")
    assert "dirty" not in (clean := table.machine()["commit"]) and clean != "unknown"
    code.write_text("changed")
    assert table.machine()["commit"] == f"{clean}-dirty"


def test_options_of_models_are_refused_elsewhere(capsys):
    assert main(["benchmark", "loop", "--only", "resnet50_64"]) == 2
    assert "--only is for benchmark models, not for loop" in capsys.readouterr().err


def test_without_torch_the_error_says_what_to_install(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    for what in ("input", "startup", "models"):
        assert main(["benchmark", what]) == 2
        error = capsys.readouterr().err
        assert "pip install torch" in error and "Traceback" not in error
    assert table.machine()["torch"] == "missing"


def test_repeats_below_one_are_refused(capsys):
    assert main(["benchmark", "loop", "--repeats=0"]) == 2
    assert "--repeats=0" in capsys.readouterr().err


def test_a_ratio_above_one_means_that_dlx_is_faster():
    faster = [
        Row("time", "peer", "s", [1.0, 1.0, 1.0], [2.0, 4.0, 2.0]),
        Row("rate", "peer", "examples/s", [4000.0, 2000.0, 2000.0], [1000.0, 1000.0, 1000.0]),
    ]
    assert [table.quartiles(row.ratios())[1] for row in faster] == [2, 2]
    overhead = Row("loop", "bare", "ms", [1.01, 1.02, 1.03], [1.0, 1.0, 1.0], overhead=True)
    assert table.quartiles(overhead.ratios())[1] == pytest.approx(0.02)
    lines = table.lines(Found([*faster, overhead], ["a remark"]))
    assert lines[1].count("2.00x as fast") == 1 and "+2.00%" in lines[3] and lines[4] == "a remark"
    assert "2,000 examples/s" in lines[2] and len({line.index("peer") for line in lines[1:3]}) == 1


def test_sides_are_measured_in_turns():
    calls = []
    sides = {name: lambda name=name: calls.append(name) or float(len(calls)) for name in "ab"}
    assert table.in_turns(2, sides) == {"a": [1, 3], "b": [2, 4]} and calls == list("abab")
