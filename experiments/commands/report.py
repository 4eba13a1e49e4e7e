"""Write the table of measured results into README.md."""

import json
from pathlib import Path

from experiments.commands.reproduce import RESULTS, value

README = Path("README.md")
SPEED = RESULTS / "speed"  # what `benchmark --json` wrote, one file per question


def add_arguments(parser) -> None:
    """Adds --check."""
    parser.add_argument(
        "--check", action="store_true", help="fail when the tables are not up to date, write nothing"
    )


def run(arguments) -> int:
    """Writes the tables between their markers in README.md, from experiments/results alone."""
    text = README.read_text()
    new = insert(text)
    if arguments.check:
        print("the tables in README.md are up to date" if new == text else "run python -m experiments report")
        return int(new != text)
    README.write_text(new)
    print(f"{README} holds {len(results())} results and {len(list(SPEED.glob('*.json')))} benchmarks")
    return 0


def insert(text: str) -> str:
    """Returns the text of README.md with both tables; raises ValueError when a marker is missing."""
    for name, table in {"results": accuracies(), "speed": speeds()}.items():
        begin, end = f"<!-- {name}: python -m experiments report -->", f"<!-- end of {name} -->"
        if begin not in text or end not in text:
            raise ValueError(f"{README} lacks the lines {begin!r} and {end!r} between which a table goes")
        head, rest = text.split(begin, 1)
        text = f"{head}{begin}\n{table}\n{end}{rest.split(end, 1)[1]}"
    return text


def results() -> list[Path]:
    """Returns the files that `reproduce` wrote."""
    return sorted(file for file in RESULTS.glob("*/*.json") if file.parent != SPEED)


def accuracies() -> str:
    """Returns every result of `reproduce` as a row of a Markdown table."""
    rows = []
    for file in results():
        result = json.loads(file.read_text())
        published, machine = result["published"], result["machine"]
        rows.append(
            [
                file.parent.name,
                f"[{file.stem}](configs/{file.parent.name}/{file.stem}.py)",
                result["metric"],
                value(result),
                str(len(result["seeds"])),
                f"{published['value']:g} ({published['source']})" if published else "",
                result["verdict"],
                machine["device"] if "cpu" not in machine["device"] else f"{machine['cores']} CPU cores",
            ]
        )
    heading = ["application", "config", "metric", "measured", "seeds", "published", "verdict", "hardware"]
    return markdown(heading, rows)


def speeds() -> str:
    """Returns every row of the benchmarks as a row of a Markdown table."""
    rows = []
    for file in sorted(SPEED.glob("*.json")):
        found = json.loads(file.read_text())
        machine = found["machine"]
        for row in found["rows"]:
            low, high = row["quartiles"]
            if "overhead" in row:
                ratio = f"{row['overhead']:+.1%} ({low:+.1%} to {high:+.1%})"
            else:
                ratio = f"{row['times_as_fast']:.2f}x as fast ({low:.2f} to {high:.2f})"
            hardware = f"{machine['cores']} cores of {machine['processor']}"
            rows.append([found["benchmark"], row["what"], row["peer"], ratio, hardware])
    return markdown(["benchmark", "what", "peer", "dlx, median (quartiles)", "hardware"], rows)


def markdown(heading: list[str], rows: list[list[str]]) -> str:
    """Returns a Markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [heading, ["---"] * len(heading), *rows])
