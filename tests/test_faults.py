"""The short form of `python -m experiments faults`: real processes, hurt, and none of them loses anything."""

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from experiments.commands import faults


# TensorStore answers reads that fail after Orbax has closed the event loop that asked.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_machines_do_to_a_run_loses_nothing(tmp_path):
    lab = faults.opened(tmp_path)
    half = faults.halfway(lab)
    (file,) = [file for file in faults.newest_files(half) if file.match("manifest/metadata")]
    with ThreadPoolExecutor(2) as pool:
        work = [
            pool.submit(faults.killed, lab, 2, random.Random(0)),
            pool.submit(faults.second_process, lab),
            pool.submit(faults.told_to_stop, lab, 0.2),
            pool.submit(faults.full_disk, lab, half),
            pool.submit(faults.read_only, lab, half),
            pool.submit(faults.damaged, lab, half, "a bit flipped", faults.flip, file, random.Random(0)),
        ]
        found = [outcome for part in work for outcome in part.result()]
    assert [outcome.lost for outcome in found if outcome.lost] == []
    assert len(found) == 7
    assert all(outcome.said for outcome in found if "kill" not in outcome.fault), faults.tally(found)


def test_a_loss_is_found_and_told(tmp_path, monkeypatch):
    """What the harness would see if a run came to another end."""
    lab = faults.Lab(tmp_path, None, {"w": b"12"}, [{"step": 1}])
    monkeypatch.setattr(faults, "finish", lambda workdir: (0, ""))
    for end, words in (
        (({"w": b"12"}, [{"step": 1}]), ""),
        (({"w": b"13"}, [{"step": 1}]), "ends with another w"),
        (({"w": b"12"}, [{"step": 2}]), "other numbers"),
    ):
        monkeypatch.setattr(faults, "ending", lambda workdir, layout, end=end: end)
        found = faults.difference(lab, Path("run"))
        assert words in found and bool(words) == bool(found)
    monkeypatch.setattr(faults, "finish", lambda workdir: (2, "error: no"))
    assert "ends with status 2: error: no" in faults.difference(lab, Path("run"))


@pytest.mark.parametrize("lost", ["", "everything"])
def test_the_command_fails_when_anything_was_lost(lost, tmp_path, monkeypatch, capsys):
    from experiments.__main__ import main

    found = [faults.Outcome("a bit flipped", True, ""), faults.Outcome("a bit flipped", False, lost)]
    monkeypatch.setattr(faults, "opened", lambda root: None)
    monkeypatch.setattr(faults, "hurt", lambda *arguments: iter(found))
    assert main(["faults", f"--workdir={tmp_path}"]) == bool(lost)
    counts = capsys.readouterr().out.splitlines()[1].split()[-4:]
    assert counts == (["2", "1", "0", "1"] if lost else ["2", "1", "1", "0"])
