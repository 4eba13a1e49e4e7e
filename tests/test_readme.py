"""What README shows is run, and what it names is there."""

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest

from dlx import configuration
from experiments.__main__ import COMMANDS
from experiments.commands import report

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
SHELL = "".join(re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)).splitlines()
LINES = [shlex.split(line, comments=True) for line in SHELL if line.startswith("python -m experiments")]
EXAMPLES = (
    "Two commands",
    "Results",
    "Import a component in a notebook",
    "Write a model",
    "Write a task",
    "Load PyTorch weights",
    "Run on a cluster",
)


@pytest.mark.parametrize("code", SNIPPETS, ids=range(len(SNIPPETS)))
def test_a_snippet_runs(code):
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("words", LINES, ids=" ".join)
def test_a_command_is_understood(words, monkeypatch):
    """Its options are there, and where it trains its config takes the values."""
    monkeypatch.chdir(ROOT)
    _, _, _, command, *rest = words
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    importlib.import_module(f"experiments.commands.{command}").add_arguments(parser)
    arguments, overrides = parser.parse_known_args(rest)
    assert all(text.startswith("--config.") for text in overrides)
    if "config" in arguments:
        configuration.load(arguments.config, overrides)


def test_every_file_heading_target_and_command_that_is_named_exists():
    prose = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)h#][^)]*)\)", prose):
        assert (ROOT / link).exists(), link
    headings = re.findall(r"^## (.*)$", prose, re.MULTILINE)
    assert set(EXAMPLES) <= set(headings)
    anchors = {re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-")) for heading in headings}
    assert set(re.findall(r"\]\(#([^)]*)\)", prose)) == anchors - {"license"}
    for file in re.findall(r"--config=([\w/]+\.py)", TEXT):
        assert (ROOT / file).is_file(), file
    used = set(re.findall(r"python -m experiments (\w+)", TEXT))
    assert used and used <= set(COMMANDS)
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", "\n".join(SHELL), re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_the_tables_are_those_of_the_results(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert report.insert(TEXT) == TEXT, "run python -m experiments report"
