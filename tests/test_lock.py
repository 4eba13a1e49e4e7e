"""One process at a time: the other one here is a bare Python that takes the same lock of the system."""

import os
import signal
import subprocess
import sys

import pytest

from dlx import lock

HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("process 7 on elsewhere since noon", file=file, flush=True)
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `tmp_path`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / lock.FILE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_while_another_process_trains_there_it_is_named(holder, tmp_path):
    named = f"process 7 on elsewhere since noon trains in {tmp_path}"
    with pytest.raises(lock.Locked, match=named), lock.held(tmp_path):
        pass
    assert (tmp_path / lock.FILE).exists()


def test_what_a_killed_process_leaves_is_in_nobodys_way(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / lock.FILE).exists()
    with lock.held(tmp_path):
        assert f"process {os.getpid()} on " in (tmp_path / lock.FILE).read_text()
    assert not (tmp_path / lock.FILE).exists()


def test_the_lock_keeps_others_out_until_it_is_left(tmp_path):
    command = [sys.executable, "-c", HOLD.replace("LOCK_EX", "LOCK_SH | fcntl.LOCK_NB").replace('"w"', '"r"')]
    with lock.held(tmp_path):
        other = subprocess.run([*command, tmp_path / lock.FILE], capture_output=True)
    assert other.returncode == 1 and b"BlockingIOError" in other.stderr


def test_folders_that_it_made_go_when_nothing_was_written(tmp_path):
    with lock.held(tmp_path / "runs" / "first"):
        assert (tmp_path / "runs" / "first" / lock.FILE).exists()
    assert list(tmp_path.iterdir()) == []
    with lock.held(tmp_path / "runs" / "second"):
        (tmp_path / "runs" / "second" / "config.json").write_text("{}")
    assert [p.name for p in tmp_path.rglob("*.json")] == ["config.json"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    named = "the workdir .*file/run cannot be written: Not a directory"
    with pytest.raises(lock.Locked, match=named), lock.held(tmp_path / "file" / "run"):
        pass


def test_a_file_system_without_locks_gives_a_warning(tmp_path, monkeypatch):
    def unsupported(*arguments):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "lockf", unsupported)
    with (
        pytest.warns(RuntimeWarning, match=r"without locks \(Operation not supported\)"),
        lock.held(tmp_path),
    ):
        pass


def test_no_workdir_needs_no_lock():
    with lock.held(None):
        pass
