"""List every config, and every variant that has a result, with its published and measured result."""

import json
from pathlib import Path

from experiments.commands import reproduce
from experiments.sweeping import drawing

CONFIGS = Path("configs")


def add_arguments(parser) -> None:
    """Adds --json."""
    parser.add_argument("--json", action="store_true", help="print one JSON object per config")


def run(arguments) -> None:
    """Prints a line for each config."""
    rows = [
        row(name)
        for file in sorted(CONFIGS.glob("*/*.py"))
        for name in (str(file), *reproduce.variants(file))
    ]
    if arguments.json:
        print(*map(json.dumps, rows), sep="\n")
        return
    print(*table(rows), sep="\n")


def row(name: str) -> dict:
    """Returns what is known of a config; measured values come from experiments/results alone."""
    from dlx import configuration

    config = configuration.load(name)
    file, _, variant = name.partition(":")
    stem = f"{Path(file).stem}-{variant}" if variant else Path(file).stem
    result = reproduce.RESULTS / config.experiment / f"{stem}.json"
    measured = json.loads(result.read_text()) if result.is_file() else None
    return {
        "config": name,
        "application": config.experiment,
        "published": config.published.to_dict() if "published" in config else None,
        "measured": measured,
    }


def table(rows: list[dict]) -> list[str]:
    """Returns the rows as aligned lines under a heading."""
    cells = [("CONFIG", "APPLICATION", "METRIC", "PUBLISHED", "MEASURED")]
    for row in rows:
        published, measured = row["published"] or {}, row["measured"]
        metric = published.get("metric") or (measured or {}).get("metric", "")
        found = "unmeasured"
        if measured:
            found = drawing.extent(measured) if "rows" in measured else reproduce.value(measured)
            found += f" (n={len(measured['seeds'])})"
        value = f"{published['value']:g}" if published else "none"
        cells.append((row["config"], row["application"], metric, value, found))
    widths = [max(len(line[i]) for line in cells) for i in range(5)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
