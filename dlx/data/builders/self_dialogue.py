"""The self-dialogue corpus: 24,156 conversations on 23 topics, each written by one person; split by dialogue.

The makers publish the tables of a crowd-work site. What is kept of them is the topic and the turns of work
that was neither rejected nor done by a blocked worker; the same, one JSON object a line, is read as well.
Either way the content is verified. Dialogues that are equal are in one split.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

from dlx.data.builders import BUILDERS, archive, files, hashing, text
from dlx.data.tokenizer import utf8

COMMIT = "113a1b0ff103"
COUNT = 24_156
DIGEST = "c3b687deeae6cbd8d9c20857cc140df8ab46c2ebddb76951dc2202f803f3e5c7"  # of `digest`

Dialogue = tuple[str, tuple[str, ...]]  # topic and turns


def digest(dialogues: list[Dialogue]) -> str:
    """Returns a SHA-256 of dialogues in any order, in hexadecimal."""
    lines = sorted(json.dumps(dialogue, ensure_ascii=False) for dialogue in dialogues)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def dialogues(path: Path) -> list[Dialogue]:
    """Returns the dialogues of a container of tables or of a .jsonl(.gz), or raises a ValueError."""
    path = path.resolve()
    try:
        data = b"" if path.is_dir() else text.content(path)
        found = list(_lines(data, path) if data.startswith(b"{") else _tables(path))
    except (KeyError, TypeError, json.JSONDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no self-dialogue corpus: {error!r}") from error
    actual = digest(found)
    if actual != DIGEST:
        raise ValueError(
            f"{path} does not hold the registered dialogues: expected {COUNT:,} with content digest "
            f"{DIGEST}; found {len(found):,} with {actual}. Replace it, or remove it so that it is downloaded"
        )
    return found


def _lines(data: bytes, path: Path) -> Iterator[Dialogue]:
    """Yields the dialogues of {"topic": ..., "turns": [...]} lines."""
    for line in utf8(data, str(path)).splitlines():
        row = json.loads(line)
        yield row["topic"], tuple(row["turns"])


def _tables(path: Path) -> Iterator[Dialogue]:
    """Yields the dialogues of the tables corpus/<topic>/<batch>.csv."""
    members = archive.read(path, r"(blocked_workers\.txt|corpus/[^/]+/[^/]+\.csv)", 200_000_000)
    blocked = set(members.pop("blocked_workers.txt").decode().split())
    for name, data in members.items():
        for row in csv.DictReader(io.StringIO(utf8(data, f"{name} in {path}"), newline="")):
            if row.get("Reject") or row["WorkerId"] in blocked:
                continue
            count = sum(column is not None and column.startswith("Answer.sentence") for column in row)
            turns = [" ".join((row[f"Answer.sentence{turn}"] or "").split()) for turn in range(1, count + 1)]
            yield name.split("/")[1], tuple(turn for turn in turns if turn not in ("", "{}"))


RAW = (
    files.Raw(
        name="self_dialogue.tar.gz",
        url=f"https://github.com/jfainberg/self_dialogue_corpus/archive/{COMMIT}.tar.gz",
        about=f"tar, zip or folder of corpus/<topic>/*.csv and blocked_workers.txt, or a .jsonl(.gz) of "
        f"{COUNT:,} dialogues, content digest {DIGEST}",
        verify=lambda path: (dialogues(path), None)[1],
        aliases=("self_dialogue.jsonl*", "self_dialogue.zip", "self_dialogue_corpus*"),
    ),
)

ABOUT = text.About(
    description="Conversations that one person wrote in both roles, on films, music, sports and fashion.",
    homepage="https://github.com/jfainberg/self_dialogue_corpus",
    license="BSD-3-Clause",
    citation="""\
@article{fainberg2018talking,
  title={Talking to myself: self-dialogues as data for conversational agents},
  author={Fainberg, Joachim and Krause, Ben and Dobre, Mihai and Damonte, Marco and Kahembwe, Emmanuel and
    Duma, Daniel and Webber, Bonnie and Fancellu, Federico},
  journal={arXiv preprint arXiv:1809.06641},
  year={2018}
}""",
)


def read(path: Path) -> dict[str, list[text.Example]]:
    """Returns the dialogues by split, sorted by topic and content, the turns joined by newlines."""
    number = {topic: index for index, topic in enumerate(BUILDERS["self_dialogue"].classes)}
    ordered = sorted((number[topic], "\n".join(turns)) for topic, turns in dialogues(path))
    splits: dict[str, list[text.Example]] = {"train": [], "validation": [], "test": []}
    chosen = hashing.split_by([turns for _, turns in ordered], {"validation": 0.05, "test": 0.05})
    for (topic, turns), split in zip(ordered, chosen, strict=True):
        splits[split].append({"turns": turns, "label": topic})
    return splits


COUNTS = {"train": 21_797, "validation": 1_175, "test": 1_184}

Builder = text.builder("self_dialogue", RAW[0], ABOUT, ("turns",), read, COUNTS)
