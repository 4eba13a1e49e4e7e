"""The page: results against published values, learning curves, sweeps, speed, pictures, fine print."""

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from experiments.commands import report
from experiments.commands.reproduce import value
from experiments.page import compare, drawing
from experiments.page.compare import Ratio
from experiments.sweeping import drawing as sweep_drawing

HERE = Path(__file__).parent
LIMIT = 1_900_000  # bytes of a page; pictures that would go beyond are left out, and the page says so
SIDE = 960  # pixels that an embedded picture is wide at most
PER_RUN = 3  # pictures of one run


def document(runs: Path) -> str:
    """Returns the whole page, from experiments/results and the figures that `demo` drew below `runs`."""
    results = {file: json.loads(file.read_text()) for file in report.results()}
    single = {file: result for file, result in results.items() if "rows" not in result}
    sweeps = {file: result for file, result in results.items() if "rows" in result}
    parts = [
        tally(single),
        chooser([file.parent.name for file in results]),
        forest(single),
        learning(single),
        swept(sweeps),
        speed(),
        "<!-- pictures -->",
        machines(results),
    ]
    text = "\n".join(parts)
    style, script = ((HERE / name).read_text() for name in ("style.css", "filter.js"))
    frame = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>dlx: results</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        "<h1>dlx: what was measured, and what was published</h1>\n"
        "<p>Made by <code>python -m experiments report</code> from the files that <code>reproduce</code>, "
        "<code>sweep</code> and <code>benchmark</code> wrote. No measured number was typed.</p>\n"
        f"<main>\n{text}\n</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )
    return frame.replace("<!-- pictures -->", pictures(figures(runs), LIMIT - len(frame.encode())))


def tally(results: Mapping[Path, Mapping]) -> str:
    """Returns how many results have which verdict; the legend of the marks, too."""
    said = {
        "better": "better than published",
        "matched": "within one standard deviation",
        "missed": "worse than published",
        "baseline": "without a published value:",
    }
    verdicts = [result["verdict"] for result in results.values()]
    beside = [compare.standing(r).split()[0] for r in results.values() if r["verdict"] == "baseline"]
    said["baseline"] += ", ".join(
        f" {beside.count(word)} {text}"
        for word, text in (
            ("ahead", "ahead of the best simpler method of the run"),
            ("even", "even with it"),
            ("behind", "behind it"),
            ("baseline", "with nothing beside them"),
        )
        if word in beside
    )
    items = [
        f'<li class="{name}">{drawing.sign(name)}<b>{verdicts.count(name)}</b> {text}</li>'
        for name, text in said.items()
    ]
    return f'<ul class="tally">{"".join(items)}</ul>'


def chooser(applications: Sequence[str]) -> str:
    """Returns the menu of applications, hidden until JavaScript shows that it works."""
    options = [f'<option value="{escape(name)}">{words(name)}</option>' for name in sorted(set(applications))]
    menu = f'<select id="application"><option value="">all</option>{"".join(options)}</select>'
    return f'<nav class="filter" hidden><label for="application">Application</label> {menu}</nav>'


def words(name: str) -> str:
    """Returns a name as words, escaped."""
    return escape(name.replace("_", " "))


def marked(file: Path) -> str:
    """Returns the attribute by which the filter knows what belongs to which application."""
    return f'data-application="{escape(file.parent.name)}"'


def section(title: str, about: str, inside: str, applications: bool = True) -> str:
    """Returns a section under its heading; an empty one is left out."""
    if not inside:
        return ""
    kind = ' class="applications"' if applications else ""
    return f"<section{kind}>\n<h2>{title}</h2>\n<p>{about}</p>\n{inside}\n</section>"


def forest(results: Mapping[Path, Mapping]) -> str:
    """Returns all results on one axis of ratios, grouped by application."""
    ratios = {file: compare.ratio(result) for file, result in results.items()}
    ends = drawing.spans([found.middle for found in ratios.values() if found])
    lines = [head(ends, ("config", "measured", "compared to", "verdict"))]
    for application in dict.fromkeys(file.parent.name for file in results):
        lines.append(f'<h3 data-application="{escape(application)}">{words(application)}</h3>')
        lines += [
            one(file, result, ratios[file], ends)
            for file, result in results.items()
            if file.parent.name == application
        ]
    about = (
        "Right of 1x is better, whatever the metric: 2x is half the error, where the error of a share such "
        "as accuracy is what is missing to 1, or twice the score. Bars are one standard deviation over seeds "
        "or folds; without a bar there is one seed. The scale is logarithmic. A diamond compares with "
        "the best of the simpler methods that were measured in the same run. Open a line for its source."
    )
    return section("Results against published values", about, "\n".join(lines))


def head(ends: tuple[float, float], names: Sequence[str]) -> str:
    """Returns the axis above lines, with the names of the columns."""
    name, measured, other, verdict = (
        f'<span class="{kind}">{text}</span>'
        for kind, text in zip(("name", "measured", "reference", "verdict-name"), names, strict=True)
    )
    cells = f"{name}{drawing.axis(ends)}{measured}{other}{verdict}"
    return f'<div class="axis" aria-hidden="true"><div>{cells}</div></div>'


def one(file: Path, result: Mapping, found: Ratio | None, ends: tuple[float, float]) -> str:
    """Returns the line of a result: where it stands, and all about it to unfold."""
    reference, metric = compare.reference(result), result["metric"].replace("_", " ")
    measured = value(result)
    title = f"{file.stem}: {metric} {measured}"
    kind, other, facts = "", "-", []
    if reference and found:
        kind = "published" if reference.published else "against"
        other = f"{reference.value:.5g}"
        title += f"; {kind} {other} ({reference.source}); {found.middle:.2f} times as good by {found.of}"
        facts.append((kind, f"{escape(other)}, {escape(reference.source)}"))
        facts.append(("ratio", f"{found.middle:.3f}x by {found.of} ({found.low:.3f} to {found.high:.3f})"))
    name, _, variant = file.stem.partition("-")
    command = f"python -m experiments reproduce {file.parent.name}/{name}{':' + variant if variant else ''}"
    facts += [
        (
            "seeds",
            escape(
                ", ".join(f"{s}: {v:.5g}" for s, v in zip(result["seeds"], result["values"], strict=True))
            ),
        ),
        ("trained for", f"{sum(result['train_seconds']) / len(result['seeds']):,.0f} s a seed"),
        ("hardware", escape(report.hardware(machine(result)))),
        ("commit", escape(result["machine"]["commit"])),
        ("config", f"{escape(str(result['config_sha256'])[:12])} (sha256)"),
        ("command", f"<code>{escape(command)} --seeds {len(result['seeds'])}</code>"),
    ]
    verdict = result["verdict"]
    cells = [
        f'<span class="name">{words(file.stem)} <small>{escape(metric)}</small></span>',
        drawing.track(found, verdict, ends, title),
        f'<span class="measured">{escape(measured)}</span>',
        f'<span class="reference" data-kind="{kind}">{escape(other)}</span>',
        f'<span class="verdict {verdict}">{drawing.sign(verdict)}{escape(compare.standing(result))}</span>',
    ]
    return unfolding(cells, facts, marked(file))


def machine(result: Mapping) -> dict:
    """Returns what a result was measured on, as the speed files say it."""
    facts = dict(result["machine"])
    return facts | ({"device": "cpu"} if "cpu" in facts["device"] else {})


def unfolding(cells: Sequence[str], facts: Sequence[tuple[str, str]], attributes: str = "") -> str:
    """Returns a line that opens to show facts, (term, HTML) each."""
    terms = "".join(f"<dt>{escape(term)}</dt><dd>{text}</dd>" for term, text in facts)
    summary = f"<summary>{''.join(cells)}</summary>"
    return f'<details class="row" {attributes}>{summary}<dl class="facts">{terms}</dl></details>'


def learning(results: Mapping[Path, Mapping]) -> str:
    """Returns the learning curves of the results that have at least two points of one."""
    cards = []
    for file, result in results.items():
        found = result["curves"]
        points = drawing.band(found["seeds"]) if found["seeds"] and all(found["seeds"]) else []
        if len(points) < 2:
            continue
        about = f"{found['metric'].replace('_', ' ')}, {found['set']}, {many(found['seeds'])}"
        (start, first, _), (end, last, _) = points[0], points[-1]
        title = f"{file.stem}: {about}, {first:.4g} at step {start} and {last:.4g} at step {end}"
        caption = f"<b>{words(file.stem)}</b>, {words(file.parent.name)}<br>{escape(about)}"
        drawn = drawing.curve(found["seeds"], title)
        cards.append(f"<figure {marked(file)}>{drawn}<figcaption>{caption}</figcaption></figure>")
    about = "What was measured while training, not on the test data: the mean over seeds, and a band of one "
    about += "standard deviation. Their scales do not begin at 0."
    return section("Learning curves", about, f'<div class="cards">{"".join(cards)}</div>' if cards else "")


def many(seeds: Sequence) -> str:
    """Returns how many seeds these are, in words."""
    return f"{len(seeds)} seeds" if len(seeds) > 1 else "one seed"


def swept(results: Mapping[Path, Mapping]) -> str:
    """Returns the pictures of sweeps with their tables."""
    cards = []
    for file, result in results.items():
        table = escape("\n".join(sweep_drawing.table(result)))
        inside = "".join(
            picture(
                drawn, f"{file.stem.replace('_', ' ')}: {result['metric']} by setting, as in the table below"
            )
            for drawn in beside(file)
        )
        caption = f"<b>{words(file.stem)}</b>, {words(file.parent.name)}, {many(result['seeds'])}, "
        caption += escape(sweep_drawing.extent(result))
        numbers = f'<details><summary>numbers</summary><pre class="scroll">{table}</pre></details>'
        cards.append(f"<figure {marked(file)}>{inside}<figcaption>{caption}{numbers}</figcaption></figure>")
    about = "One setting varied, everything else alike, over seeds."
    return section("Sweeps", about, f'<div class="cards wide">{"".join(cards)}</div>' if cards else "")


def beside(file: Path) -> list[Path]:
    """Returns the pictures that belong to a result: those that no longer name of a result begins."""
    stems = sorted((other.stem for other in file.parent.glob("*.json")), key=len)

    def owner(drawn: Path) -> str:
        return max((s for s in stems if f"{drawn.stem}_".startswith(f"{s}_")), key=len, default="")

    return [drawn for drawn in sorted(file.parent.glob("*.png")) if owner(drawn) == file.stem]


def speed() -> str:
    """Returns all speeds against their peers, each benchmark on an axis of ratios of its own."""
    groups: dict[str, list[Mapping]] = {"models": report.apart(report.best())}
    for file in sorted(set(report.SPEED.glob("*.json")) - set(report.SPEED.glob(report.MODELS))):
        found = json.loads(file.read_text())
        rows = [row | {"machine": found["machine"]} for row in found["rows"]]
        groups.setdefault(found["benchmark"], []).extend(rows)
    lines = []
    for benchmark, rows in groups.items():
        ratios = [faster(row) for row in rows]
        ends = drawing.spans([found.middle for found in ratios])
        lines += (
            [f"<h3>{words(benchmark)}</h3>", head(ends, ("what", "dlx", "peer", "dlx is"))] if rows else []
        )
        lines += [raced(row, found, ends) for row, found in zip(rows, ratios, strict=True)]
    about = (
        "How many times as fast as PyTorch, or as the bare jitted step, in turns on one machine: the median "
        "of the repeats, a bar between the quartiles. Right of 1x dlx is faster; the scale is logarithmic."
    )
    return section("Speed, side by side", about, "\n".join(lines), applications=False)


def faster(row: Mapping) -> Ratio:
    """Returns how many times as fast dlx is, with the quartiles; an overhead of 25 % is 0.8 times."""
    low, high = row["quartiles"]
    if "overhead" in row:
        return Ratio(1 / (1 + row["overhead"]), 1 / (1 + high), 1 / (1 + low), "time")
    return Ratio(row["times_as_fast"], low, high, "time")


def raced(row: Mapping, found: Ratio, ends: tuple[float, float]) -> str:
    """Returns the line of a benchmark's row."""
    verdict = "better" if found.low > 1 else "missed" if found.high < 1 else "matched"
    said = {"better": "faster", "missed": "slower", "matched": "even"}[verdict]
    ours, theirs = (f"{amount(row['median'][side])} {row['unit']}" for side in ("dlx", "peer"))
    facts = [("peer", f"{escape(row['peer'])}, {escape(theirs)}"), ("dlx", escape(ours))]
    facts.append(("ratio", f"{found.middle:.2f}x ({found.low:.2f} to {found.high:.2f})"))
    if detail := row.get("detail"):
        seconds = {side: value for side, value in detail["compile_s"].items() if value is not None}
        facts.append(
            ("compilation", escape(", ".join(f"{side} {value:.0f} s" for side, value in seconds.items())))
        )
        sizes = ["-" if size is None else f"{size / 2**20:,.0f} MiB" for size in report.needs(detail)]
        facts.append(("memory", f"dlx {sizes[0]}, PyTorch {sizes[1]}"))
    facts += [
        ("hardware", escape(report.hardware(row["machine"]))),
        ("commit", escape(row["machine"]["commit"])),
    ]
    title = f"{row['what']}: dlx {ours}, {row['peer']} {theirs}; dlx is {found.middle:.2f} times as fast"
    cells = [
        f'<span class="name">{escape(row["what"])} <small>{escape(row["peer"])}</small></span>',
        drawing.track(found, verdict, ends, title),
        f'<span class="measured">{escape(ours)}</span>',
        f'<span class="reference" data-kind="peer">{escape(theirs)}</span>',
        f'<span class="verdict {verdict}">{drawing.sign(verdict)}{said}, {found.middle:.2f}x</span>',
    ]
    return unfolding(cells, facts)


def amount(value: float) -> str:
    """Returns a number in few letters: 3.28, 1,364, 301k or 5.73M."""
    if value >= 1e6:
        return f"{value / 1e6:.3g}M"
    return f"{value / 1e3:.3g}k" if value >= 1e4 else report.digits(value)


def figures(runs: Path) -> list[tuple[str, str, Path]]:
    """Returns (application, name of the run, picture) for what `demo` drew of results and below `runs`.

    Of the seeds of a run the first that has figures counts; learning curves stand elsewhere on the page.
    """
    found = [
        (file.parent.name, file.stem, drawn)
        for file in report.results()
        if "rows" not in json.loads(file.read_text())
        for drawn in beside(file)
    ]
    taken = {(application, name) for application, name, _ in found}
    for folder in sorted(runs.rglob("figures")):
        config = folder.parent / "config.json"
        if not config.is_file() or "sweep" in folder.relative_to(runs).parts:
            continue
        application = json.loads(config.read_text())["experiment"]
        words = [part for part in folder.parent.relative_to(runs).parts if not part.isdigit()]
        name = "/".join(part for part in words if part not in ("reproduce", application)) or application
        drawn = [file for file in sorted(folder.glob("*.png")) if file.stem != "curves"][:PER_RUN]
        if drawn and (application, name) not in taken:
            taken.add((application, name))
            found += [(application, name, file) for file in drawn]
    return sorted(found)


def pictures(found: Sequence[tuple[str, str, Path]], room: int) -> str:
    """Returns the pictures that fit into `room` bytes, and says how many did not."""
    cards, left = [], 0
    for application, name, file in found:
        title = f"{words(name)}: {words(file.stem)}" if file.stem != name else words(name)
        card = (
            f'<figure data-application="{escape(application)}">'
            + picture(
                file, f"{application.replace('_', ' ')}, {name}: {file.stem.replace('_', ' ')}, drawn by demo"
            )
            + f"<figcaption><b>{title}</b>, {words(application)}</figcaption></figure>"
        )
        if (room := room - len(card.encode())) < 0:
            left += 1
            room += len(card.encode())
        else:
            cards.append(card)
    about = "What <code>python -m experiments demo</code> draws of a trained run. Choose one to enlarge it."
    about += f" {left} more are left out to keep this page small." if left else ""
    return section("Pictures", about, f'<div class="cards wide">{"".join(cards)}</div>' if cards else "")


def picture(file: Path, alt: str) -> str:
    """Returns a picture inside the page, made smaller where it is large."""
    from PIL import Image

    with Image.open(file) as image:
        flat = Image.new("RGB", image.size, "white")
        flat.paste(image, mask=image.getchannel("A") if image.mode == "RGBA" else None)
    if flat.width > SIDE:
        flat = flat.resize((SIDE, round(flat.height * SIDE / flat.width)), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    flat.save(data, "webp", quality=80, method=6)
    text = base64.b64encode(data.getvalue()).decode()
    size = f'width="{flat.width}" height="{flat.height}"'
    image = f'<img alt="{escape(alt, quote=True)}" {size} src="data:image/webp;base64,{text}">'
    return f'<div class="picture" tabindex="0">{image}</div>'


def machines(results: Mapping[Path, Mapping]) -> str:
    """Returns what was measured on what, and at which commit."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for file, result in results.items():
        facts = result["machine"]
        versions = [
            f"{name} {facts[name]}" for name in ("python", "jax", "flax", "optax", "numpy") if name in facts
        ]
        plural = "s" if len(result["seeds"]) > 1 else ""
        seeds = f"{words(file.parent.name)}/{words(file.stem)} (seed{plural} {spelled(result['seeds'])})"
        key = (report.hardware(machine(result)), ", ".join(versions), facts["commit"])
        groups.setdefault(key, []).append(seeds)
    heading = "".join(f"<th>{name}</th>" for name in ("hardware", "versions", "commit", "results"))
    rows = [
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in key) + f"<td>{', '.join(names)}</td></tr>"
        for key, names in groups.items()
    ]
    about = "A commit that ends in &quot;-dirty&quot; had changes that were not committed yet."
    table = f"<table><thead><tr>{heading}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    inside = f'<div class="scroll">{table}</div>' if rows else ""
    return section("Fine print", about, inside, applications=False)


def spelled(seeds: Sequence[int]) -> str:
    """Returns numbers in a row as a range."""
    if list(seeds) == list(range(len(seeds))) and len(seeds) > 1:
        return f"0 to {len(seeds) - 1}"
    return re.sub(r"[\[\]]", "", str(list(seeds)))
