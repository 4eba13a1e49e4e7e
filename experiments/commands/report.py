"""Write the table of measured results into README.md."""

import json
from pathlib import Path

from experiments.commands.reproduce import RESULTS, value

README = Path("README.md")
BEGIN, END = "<!-- results: python -m experiments report -->", "<!-- end of results -->"


def add_arguments(parser) -> None:
    """Adds --check."""
    parser.add_argument(
        "--check", action="store_true", help="fail when the table is not up to date, write nothing"
    )


def run(arguments) -> int:
    """Writes the table between its two markers in README.md, from experiments/results alone."""
    text = README.read_text()
    new = insert(text, table())
    if arguments.check:
        print("the table in README.md is up to date" if new == text else "run python -m experiments report")
        return int(new != text)
    README.write_text(new)
    print(f"{README} holds {len(list(RESULTS.glob('*/*.json')))} results")
    return 0


def table() -> str:
    """Returns every result as a row of a Markdown table."""
    rows = [
        "| application | config | metric | measured | seeds | published | verdict | hardware |",
        "|" + " --- |" * 8,
    ]
    for file in sorted(RESULTS.glob("*/*.json")):
        result = json.loads(file.read_text())
        published = result["published"]
        cells = [
            file.parent.name,
            f"[{file.stem}](configs/{file.parent.name}/{file.stem}.py)",
            result["metric"],
            value(result),
            str(len(result["seeds"])),
            f"{published['value']:g} ({published['source']})" if published else "",
            result["verdict"],
            result["hardware"],
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def insert(text: str, table: str) -> str:
    """Returns `text` with `table` between the markers; raises ValueError when they are missing."""
    if BEGIN not in text or END not in text:
        raise ValueError(f"{README} lacks the lines {BEGIN!r} and {END!r} between which the table goes")
    head, rest = text.split(BEGIN, 1)
    return f"{head}{BEGIN}\n{table}\n{END}{rest.split(END, 1)[1]}"
