import io
import json

import pytest
from tensorboardX.proto import event_pb2

from dlx import report


def events(workdir):
    """Reads back TensorBoard's scalars: (step, tag) -> value."""
    import struct

    found = {}
    for file in sorted(workdir.glob("events.*")):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            found |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
            data = data[16 + length :]
    return found


def written(workdir, *entries, start=None):
    out = io.StringIO()
    with report.opened(workdir, 100, out) as opened:
        if start is not None:
            opened.resume(start)
        for entry in entries:
            opened.write(*entry)
    return out.getvalue()


def test_lines_and_tensorboard_carry_the_same_numbers(tmp_path):
    written(
        tmp_path, (10, "train", {"loss": 0.5, "accuracy": 0.25}), (10, "validation", {"loss": 0.75}), start=0
    )
    records = report.read(tmp_path)
    assert records[0] == {"step": 10, "set": "train", "loss": 0.5, "accuracy": 0.25}
    flat = {
        (r["step"], f"{r['set']}/{k}"): v for r in records for k, v in r.items() if k not in ("step", "set")
    }
    assert events(tmp_path) == pytest.approx(flat)


def test_a_pipe_gets_plain_lines_and_a_terminal_a_bar(tmp_path):
    text = written(tmp_path, (10, "train", {"loss": 0.5}), start=0)
    assert "step  10/100  train       loss 0.5" in text and "\r" not in text

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    out = Terminal()
    with report.opened(tmp_path, 100, out) as opened:
        opened.write(50, "train", {"loss": 0.5})
        opened.write(50, "validation", {"loss": 0.25})
    assert "50/100" in out.getvalue() and "validation  loss 0.25" in out.getvalue()


def test_a_resumed_run_drops_what_was_written_after_its_checkpoint(tmp_path):
    written(tmp_path, *((n, "train", {"loss": 1.0 / n}) for n in (10, 20, 30)), start=0)
    with (tmp_path / report.FILE).open("a") as file:
        file.write('{"step": 40, "set": "tr')  # killed while writing
    written(tmp_path, (30, "train", {"loss": 3.0}), start=20)
    kept = [(r["step"], r["loss"]) for r in report.read(tmp_path) if r["set"] == "train"]
    assert kept == [(10, 0.1), (20, 0.05), (30, 3.0)]


@pytest.mark.parametrize("name", ["test", "train"])  # of training, a step that the optimizer left out
def test_an_undefined_number_is_null_so_that_lines_stay_json(name, tmp_path):
    written(tmp_path, (0, name, {"auc": float("nan")}), start=0)
    (line,) = (tmp_path / report.FILE).read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail) == {"step": 0, "set": name, "auc": None}
