"""Write what was measured: the tables of README.md, and one HTML page.

The page is made whenever it is asked for and is no part of the repository: its pictures are those of the runs
on this machine.
"""

import json
from pathlib import Path

from experiments.commands.reproduce import RESULTS, value
from experiments.page import compare
from experiments.sweeping import drawing

README = Path("README.md")
SPEED = RESULTS / "speed"  # what `benchmark --json` wrote, one file per question
MODELS = "models*.json"  # of these, those of `benchmark models`, one for each sitting
PICTURE = SPEED / "models.png"


def add_arguments(parser) -> None:
    """Adds --check, --html and --runs."""
    parser.add_argument(
        "--check", action="store_true", help="fail when the tables are not up to date, write nothing"
    )
    parser.add_argument(
        "--html",
        type=Path,
        default=Path("runs/report.html"),
        metavar="FILE",
        help="where the page goes, which holds all that it needs (default %(default)s)",
    )
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="where to look for the figures of demos, at any depth (default %(default)s)",
    )


def run(arguments) -> int:
    """Writes the tables between their markers in README.md, from experiments/results alone, and the page."""
    text = README.read_text()
    new = insert(text)
    if arguments.check:
        print("the tables in README.md are up to date" if new == text else "run python -m experiments report")
        return int(new != text)
    README.write_text(new)
    if against := best():
        from experiments.speed import picture

        picture.ratios(apart(against), PICTURE)
    print(f"{README} holds {len(results())} results and {len(list(SPEED.glob('*.json')))} benchmarks")

    from experiments.page import document

    arguments.html.parent.mkdir(parents=True, exist_ok=True)
    size = arguments.html.write_text(document.document(arguments.runs), encoding="utf-8")
    print(f"{arguments.html}, {size / 1e6:.2f} MB: open it in a browser")
    return 0


def insert(text: str) -> str:
    """Returns the text of README.md with all tables; raises ValueError when a marker is missing."""
    for name, table in {"results": accuracies(), "speed": speeds(), "models": models()}.items():
        begin, end = f"<!-- {name}: python -m experiments report -->", f"<!-- end of {name} -->"
        if begin not in text or end not in text:
            raise ValueError(f"{README} lacks the lines {begin!r} and {end!r} between which a table goes")
        head, rest = text.split(begin, 1)
        text = f"{head}{begin}\n{table}\n{end}{rest.split(end, 1)[1]}"
    return text


def results() -> list[Path]:
    """Returns the files that `reproduce` and `sweep` wrote, each config before its variants."""
    found = [file for file in RESULTS.glob("*/*.json") if file.parent != SPEED]

    def order(file: Path) -> tuple:
        name, _, variant = file.stem.partition("-")
        return file.parent.name, name, variant.zfill(9) if variant.isdigit() else variant

    return sorted(found, key=order)


def accuracies() -> str:
    """Returns every result of `reproduce` and of `sweep` as a row of a Markdown table."""
    rows = []
    for file in results():
        result = json.loads(file.read_text())
        machine, swept = result["machine"], "rows" in result
        beside = None if swept else compare.reference(result)
        rows.append(
            [
                file.parent.name,
                f"[{file.stem}](configs/{file.parent.name}/{file.stem.partition('-')[0]}.py)",
                result["metric"],
                drawing.extent(result) if swept else value(result),
                str(len(result["seeds"])),
                f"{beside.value:.5g} ({beside.source})" if beside else "",
                f"[curves]({file.with_suffix('.png')})" if swept else compare.standing(result),
                machine["device"] if "cpu" not in machine["device"] else f"{machine['cores']} CPU cores",
            ]
        )
    heading = ["application", "config", "metric", "measured", "seeds", "beside", "verdict", "hardware"]
    return markdown(heading, rows)


def speeds() -> str:
    """Returns every row of the benchmarks as a row of a Markdown table."""
    rows = []
    for file in sorted(set(SPEED.glob("*.json")) - set(SPEED.glob(MODELS))):
        found = json.loads(file.read_text())
        machine = found["machine"]
        for row in found["rows"]:
            low, high = row["quartiles"]
            if "overhead" in row:
                ratio = f"{row['overhead']:+.1%} ({low:+.1%} to {high:+.1%})"
            else:
                ratio = f"{row['times_as_fast']:.2f}x as fast ({low:.2f} to {high:.2f})"
            rows.append([found["benchmark"], row["what"], row["peer"], ratio, hardware(machine)])
    return markdown(["benchmark", "what", "peer", "dlx, median (quartiles)", "hardware"], rows)


def models() -> str:
    """Returns the rows of `benchmark models` as a Markdown table, each against PyTorch's fastest variant."""
    rows = []
    for row in best():
        low, high = row["quartiles"]
        ours, theirs = row["median"]["dlx"], row["median"]["peer"]
        ratio = f"{row['times_as_fast']:.2f}x as fast ({low:.2f} to {high:.2f})"
        cells = [row["what"], digits(ours), f"{digits(theirs)} ({row['peer']})", ratio, "", ""]
        if detail := row["detail"]:
            seconds = [detail["compile_s"].get(side) for side in ("dlx", "torch.compile")]
            cells[4] = " / ".join("-" if value is None else f"{value:.0f}" for value in seconds)
            cells[5] = " / ".join(
                "-" if value is None else f"{value / 2**20:,.0f}" for value in needs(detail)
            )
            if "share_of_peak" in detail:
                rate, share = (detail[name]["dlx"] for name in ("examples_per_s", "share_of_peak"))
                cells[1] += f" ({rate:,.0f} {detail.get('unit', 'examples')}/s, {share:.0%} of the peak)"
        rows.append([*cells, hardware(row["machine"])])
    if not rows:
        return "Not measured yet."
    heading = ["what", "dlx, ms", "PyTorch's fastest, ms", "dlx, median (quartiles)"]
    heading += ["compilation, s: dlx / torch.compile", "memory, MiB: dlx / PyTorch", "hardware"]
    return f"{markdown(heading, rows)}\n\n![dlx against PyTorch's fastest variant]({PICTURE})"


def best() -> list[dict]:
    """Returns, for all that `benchmark models` measured, the row of the fastest variant of the peer.

    Each has its "machine", and "detail", the numbers of its model, in the first row of that model alone. A
    model that was measured on several machines has its rows together.
    """
    chosen = []
    for file in sorted(SPEED.glob(MODELS)):
        found = json.loads(file.read_text())
        details = {detail["what"]: detail for detail in found["details"]}
        fastest: dict[str, dict] = {}
        for row in found["rows"]:
            other = fastest.get(row["what"])
            if other is None or row["median"]["peer"] < other["median"]["peer"]:
                fastest[row["what"]] = row
        for what, row in fastest.items():
            detail = details.pop(what.rpartition(", ")[0], None)
            chosen.append(row | {"machine": found["machine"], "detail": detail})
    models = list(dict.fromkeys(row["what"].rpartition(", ")[0] for row in chosen))
    return sorted(chosen, key=lambda row: models.index(row["what"].rpartition(", ")[0]))


def apart(rows: list[dict]) -> list[dict]:
    """Returns such rows, each model's name followed by its hardware where they are of several machines."""
    if len({hardware(row["machine"]) for row in rows}) < 2:
        return rows
    names = [row["what"].rpartition(", ") for row in rows]
    return [
        row | {"what": f"{model} ({hardware(row['machine'])}), {measure}"}
        for row, (model, _, measure) in zip(rows, names, strict=True)
    ]


def needs(detail: dict) -> list[int | None]:
    """Returns the bytes of training, dlx's and those of PyTorch's thriftiest variant."""
    memory = detail["memory"]
    ours = memory["dlx"].get("resident", memory["dlx"].get("planned"))
    theirs = [size for name, sizes in memory.items() if name != "dlx" for size in sizes.values()]
    return [ours, min(theirs, default=None)]


def digits(value: float) -> str:
    """Returns a number with three digits, or all of those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def hardware(machine: dict) -> str:
    """Returns what the numbers of a file were measured on."""
    if machine.get("device", "cpu") != "cpu":
        return machine["device"]
    processor = machine["processor"].replace("(R)", "").removesuffix(" Processor")
    vectors = f", {machine['vectors']}" if "vectors" in machine else ""
    return f"{machine['cores']} cores of {processor}{vectors}"


def markdown(heading: list[str], rows: list[list[str]]) -> str:
    """Returns a Markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [heading, ["---"] * len(heading), *rows])
