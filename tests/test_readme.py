"""What README shows is run."""

import re
from pathlib import Path

import pytest

from experiments.__main__ import COMMANDS
from experiments.commands import report

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("code", SNIPPETS, ids=range(len(SNIPPETS)))
def test_a_snippet_runs(code):
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_every_file_and_command_that_is_named_exists():
    prose = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)h][^)]*)\)", prose):
        assert (ROOT / link).exists(), link
    for file in re.findall(r"--config=([\w/]+\.py)", TEXT):
        assert (ROOT / file).is_file(), file
    used = set(re.findall(r"python -m experiments (\w+)", TEXT))
    assert used and used <= set(COMMANDS)


def test_the_tables_are_those_of_the_results(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert report.insert(TEXT) == TEXT, "run python -m experiments report"
