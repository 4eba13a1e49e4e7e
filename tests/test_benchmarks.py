"""The benchmarks run, on tiny settings, and their peers are no straw men. Nothing here asserts a time."""

import importlib.util
import json
import math
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
    first, finished = rows
    assert all(first["median"][side] < finished["median"][side] for side in ("dlx", "peer"))


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


def test_without_torch_the_error_says_what_to_install(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    for what in ("input", "startup"):
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
