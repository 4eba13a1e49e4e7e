"""The command that says what a step needs of each device."""

import re

import jax
import pytest

from dlx import sharding
from dlx.models import MODELS, llama
from experiments.__main__ import main
from experiments.commands import memory

DEVICES = jax.devices()  # the eight of all tests, before the command asks for as many as it needs
CONFIG = "--config=configs/language_modeling/shakespeare_small.py:smoke"


def table(text):
    """The rows of a table, in bytes."""
    rows = re.findall(r"^  +(\S.*?)  +([\d.]+) (KiB|MiB|GiB)", text, re.M)
    return {name: float(number) * memory.UNITS[unit] for name, number, unit in rows}


def test_a_config_is_measured_on_a_mesh(capsys):
    found = {}
    for mesh in (["--mesh=data=1"], ["--mesh=data=4,model=2", "--fsdp"]):
        assert main(["memory", CONFIG, *mesh, "--config.model.width=128", "--device_memory=1MiB"]) == 0
        text = capsys.readouterr().out
        found[mesh[-1]] = table(text)
        total = found[mesh[-1]]["in all"]
        assert ("does not fit" in text) == (total > 2**20)
        parts = ("parameters", "optimizer", "other state", "batch", "in between")
        assert sum(found[mesh[-1]][part] for part in parts) == pytest.approx(total, rel=1e-3)
    one, divided = found.values()
    assert one["optimizer"] == pytest.approx(2 * one["parameters"], rel=0.01)  # two moments of Adam
    assert "nothing" not in text and "all-gather" in text
    assert one["parameters"] > 6 * divided["parameters"] and one["in all"] > 3 * divided["in all"]


def test_a_deep_decoder_is_reckoned_from_a_few_layers(monkeypatch):
    sizes = {"vocabulary": 256, "width": 16, "heads": 2, "hidden": 32}

    def small(depth=6, **settings):
        return llama.llama(depth=depth, **sizes | settings)

    monkeypatch.setitem(MODELS, "small_llama", small)
    mesh = sharding.mesh({"data": 2, "model": 2}, DEVICES[:4])
    found, facts = memory.of_decoder("small_llama", 4, 64, mesh, 2**10)
    assert "2 and 4 layers, from which 6" in facts["compiled"]
    monkeypatch.setattr(memory, "DEPTHS", (6, 6))
    whole, _ = memory.of_decoder("small_llama", 4, 64, mesh, 2**10)
    assert found[:4] == whole[:4]  # the state and the batch are exact
    assert found.temporaries == pytest.approx(whole.temporaries, rel=0.1)
    assert found.messages == whole.messages


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--mesh=data=-1"], "say how many devices each axis has"),
        (["--mesh=rows=2"], "unknown mesh axes"),
        (["--mesh=data=64"], "64 devices cannot be simulated"),
        (["--device_memory=80"], "'80' is no size"),
        (["--decoder=lama"], "llama"),
    ],
)
def test_what_cannot_be_measured_is_said(arguments, message, capsys):
    assert main(["memory", CONFIG, *arguments]) == 2
    assert message in capsys.readouterr().err
