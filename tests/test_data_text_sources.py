"""Text sources: published counts, nothing in two splits, and nothing half-read taken for a data set."""

import csv
import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dlx.data import pipeline, sources, text, text_sources
from dlx.data.builders import BUILDERS, hashing
from dlx.data.text_sources import TEXT_SOURCES
from dlx.data.tokenizer import TOKENIZERS

RAW_FILES = os.environ.get("DLX_DATA_DIR")
needs_raw_files = pytest.mark.skipif(not RAW_FILES, reason="DLX_DATA_DIR names no folder of raw files")
SYNTHETIC = ["synthetic_text", "synthetic_sentences", "synthetic_pairs", "synthetic_dialogues"]


def sizes(source):
    return {split: len(examples) for split, examples in source.splits.items()}


def raw(name, file):
    return Path(RAW_FILES) / name / file


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data directory for the module, with raw files at hand."""
    if not RAW_FILES:
        pytest.skip("DLX_DATA_DIR names no folder of raw files")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("tfds")))
        yield sources.data_dir()


# Synthetic text


@pytest.mark.parametrize("name", SYNTHETIC)
def test_synthetic_text_is_a_function_of_the_seed(name):
    first, again, other = (TEXT_SOURCES[name](seed=seed) for seed in (0, 0, 1))
    assert first == again and first.splits["train"] != other.splits["train"]
    assert sources.SOURCES[name] is TEXT_SOURCES[name]
    for examples in first.splits.values():
        assert isinstance(examples, tuple) and len(examples)


@pytest.mark.parametrize("name", SYNTHETIC[1:])
def test_synthetic_examples_are_in_one_split(name):
    source = TEXT_SOURCES[name]()
    assert sum(sizes(source).values()) == (200 if name == "synthetic_dialogues" else 400)
    field = {"synthetic_pairs": "target", "synthetic_dialogues": "turns"}.get(name, "text")
    seen = [{example[field] for example in examples} for examples in source.splits.values()]
    assert len(seen) == 3 and sum(map(len, seen)) == len(set.union(*seen))
    assert min(sizes(source).values()) > 5


def test_synthetic_sentences_tell_their_label():
    source = text_sources.synthetic_sentences()
    assert source.classes == ("negative", "positive")
    for example in source.splits["train"]:
        assert example["text"].split()[-1] in text_sources.PRAISE[example["label"]]


def test_synthetic_pairs_can_be_translated_back():
    english = {foreign: word for word, foreign in text_sources.WORDS.items()}
    assert len(english) == len(text_sources.WORDS)
    for example in text_sources.synthetic_pairs().splits["test"]:
        assert " ".join(english[word] for word in reversed(example["source"].split())) == example["target"]


def test_synthetic_dialogues_answer_what_was_asked():
    source = text_sources.synthetic_dialogues(turns=6)
    for example in source.splits["train"]:
        assert len(example["turns"]) == 6
        for question, answer in zip(example["turns"][::2], example["turns"][1::2], strict=True):
            assert answer.startswith(question.removeprefix("who knows that ").removesuffix("?"))
            assert answer.endswith(f"the {source.classes[example['label']]}.")
    with pytest.raises(ValueError, match="turns=3 must be even"):
        text_sources.synthetic_dialogues(turns=3)


def test_synthetic_text_goes_through_tokenizer_and_pipeline():
    source = text_sources.synthetic_sentences()
    train = source.splits["train"]
    words = TOKENIZERS["characters"]((example["text"] for example in train), special=["pad", "unk"])
    rows = [{"tokens": words.encode(e["text"]), "label": e["label"]} for e in train]
    batch = pipeline.batches(text.pad(rows, 80), 8, 0)(3)
    assert batch["tokens"].shape == batch["tokens_mask"].shape == (8, 80) and batch["label"].shape == (8,)


def test_sources_need_no_library_to_be_imported():
    code = (
        "import sys; from dlx.data import text_sources; text_sources.synthetic_pairs(); "
        "heavy = {'tensorflow_datasets', 'tokenizers', 'jax', 'grain'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Checks


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "reviews train is empty"),
        (
            [{"text": "fine", "label": 0}, {"text": " \n", "label": 1}],
            r"'text' in example 1: ' \\n'; drop it",
        ),
        ([{"text": "fine", "label": 2}], "holds 2 in example 0; allowed are 0..1"),
        ([{"text": (), "label": 0}], "no text under 'text' in example 0"),
        ([{"text": ("Hi.", ""), "label": 0}], "no text under 'text' in example 0"),
    ],
)
def test_faults_of_a_split_are_named(examples, message):
    with pytest.raises(ValueError, match=message):
        text_sources.checked(examples, ("text",), ("no", "yes"), "reviews train")


def test_text_of_ones_own_is_read(tmp_path):
    (tmp_path / "a.txt").write_text("Grüße\r\n", encoding="utf-8", newline="")
    (tmp_path / "b.txt").write_bytes(b"caf\xe9")
    (tmp_path / "c.txt").write_bytes(b"")
    source = text_sources.text_files(files={"train": str(tmp_path / "a.txt")})
    assert source.splits == {"train": ({"text": "Grüße\r\n"},)} and source.classes == ()
    with pytest.raises(ValueError, match=r"b.txt is not UTF-8: byte 0xe9 at offset 3"):
        text_sources.text_files(files={"train": tmp_path / "b.txt"})
    with pytest.raises(ValueError, match="text_files train has no text under 'text' in example 0"):
        text_sources.text_files(files={"train": tmp_path / "c.txt"})


def test_hashed_shares_are_even_and_fixed():
    keys = [f"sentence {index}" for index in range(20_000)]
    chosen = hashing.split_by(keys, {"validation": 0.05, "test": 0.1})
    counts = [chosen.count(split) / 20_000 for split in ("train", "validation", "test")]
    assert np.allclose(counts, [0.85, 0.05, 0.1], atol=0.006)
    assert hashing.split_by(keys[::-1], {"validation": 0.05, "test": 0.1}) == chosen[::-1]
    assert abs(hashing.share("the same on every machine") - 0.913499) < 1e-6


# Builders on small files of their form


def test_pairs_that_share_a_sentence_are_one_group():
    from dlx.data.builders import tatoeba_deu_eng as module

    pairs = [
        ("Hi.", "Hallo!"),
        ("Go!", "Los!"),
        ("Hello.", "hallo"),  # as the first, in German
        ("hi", "Servus."),  # as the first, in English
        ("Bye.", "Servus!"),  # so three links away
        ("Run!", "Lauf!"),
    ]
    assert module.groups(pairs) == ["e bye", "e go", "e bye", "e bye", "e bye", "e run"]
    assert module.groups(pairs[::-1]) == module.groups(pairs)[::-1]
    assert module.key("?!") == "?!" and module.key("It's  Öl, OK?") == "it s öl ok"
    assert module.normalized("e\u0301t\u00a0e\u0301\u200b  x\u00ad") == "ét é x"


def tables(path, rows):
    """A folder as the makers of the self-dialogues publish it; a row is (worker, reject, turns)."""
    for name, members in rows.items():
        columns = [f"Answer.sentence{turn}" for turn in (1, 10, 2, 3, 4, 5, 6, 7, 8, 9)]
        stream = io.StringIO(newline="")
        table = csv.DictWriter(stream, ["WorkerId", *columns, "Approve", "Reject"])
        table.writeheader()
        for worker, reject, turns in members:
            said = {f"Answer.sentence{turn}": words for turn, words in enumerate(turns, 1)}
            table.writerow({"WorkerId": worker, "Reject": reject, **said})
        (path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        (path / "corpus" / name).write_text(stream.getvalue(), encoding="utf-8", newline="")
    (path / "blocked_workers.txt").write_text("BAD\nWORSE\n")
    return path


def test_self_dialogues_are_read_from_the_tables_of_their_makers(tmp_path, monkeypatch):
    from dlx.data.builders import self_dialogue as module

    ten = [f"turn {turn}" for turn in range(1, 11)]
    spaced = [' He said\n"well", ', "{}", "", "Bye."]
    rows = {
        "music/one.csv": [("A", "", ten), ("BAD", "", ten), ("B", "x", ten)],
        "rock/two.csv": [("A", "", spaced), ("WORSE", "", ten)],
    }
    folder = tables(tmp_path / "self_dialogue_corpus-1", rows)
    with pytest.raises(ValueError, match="does not hold the registered dialogues: .* found 2 with"):
        module.dialogues(folder)
    expected = [("music", tuple(ten)), ("rock", ('He said "well",', "Bye."))]
    monkeypatch.setattr(module, "DIGEST", module.digest(expected[::-1]))
    with tarfile.open(tmp_path / "self_dialogue.tar.gz", "w:gz") as packed:
        packed.add(folder, "self_dialogue_corpus-1")
    lines = "".join(json.dumps({"topic": topic, "turns": turns}) + "\n" for topic, turns in expected)
    (tmp_path / "self_dialogue.jsonl").write_text(lines)
    (tmp_path / "self_dialogue.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for path in (folder, *(tmp_path / f"self_dialogue.{end}" for end in ("tar.gz", "jsonl", "jsonl.gz"))):
        assert module.dialogues(path) == expected
    (tmp_path / "wrong.jsonl").write_text('{"topic": "music"}\n')
    with pytest.raises(ValueError, match="wrong.jsonl is no self-dialogue corpus: KeyError"):
        module.dialogues(tmp_path / "wrong.jsonl")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(lines.encode())[:-9])
    with pytest.raises(ValueError, match="cut.jsonl.gz is a damaged or truncated gzip file"):
        module.dialogues(tmp_path / "cut.jsonl.gz")


def test_a_file_that_is_no_utf8_is_named(tmp_path):
    from dlx.data.builders import sentence_polarity as module

    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        packed.writestr("d/rt-polarity.pos", b"fine .\n")
        packed.writestr("d/rt-polarity.neg", b"caf\xe9 .\n")
    with pytest.raises(ValueError, match=r"rt-polarity.neg in .*x.zip is not UTF-8: byte 0xe9 at offset 3"):
        module.read(tmp_path / "x.zip")


def test_a_set_of_the_wrong_size_is_refused(tmp_path):
    import tensorflow_datasets as tfds

    from dlx.data.builders import text as builders
    from dlx.data.builders import tiny_shakespeare as module

    (tmp_path / "input.txt").write_text("a" * 20)
    with tfds.core.registered.skip_registration():
        Builder = builders.builder(
            "tiny_shakespeare", module.RAW[0], module.ABOUT, ("text",), module.read, {"train": 2}
        )
    manager = type("Manager", (), {"manual_dir": tmp_path})()
    with pytest.raises(ValueError, match="gives {'train': 1, 'validation': 1} examples; .* has {'train': 2}"):
        Builder(data_dir=tmp_path)._split_generators(manager)


# The real ones


def test_tiny_shakespeare_is_split_as_in_nanogpt(prepared):
    splits = sources.SOURCES["tiny_shakespeare"]().splits
    assert list(splits) == ["train", "validation"]
    train, validation = (splits[name][0]["text"] for name in splits)
    assert (len(train), len(validation)) == (1_003_854, 111_540)  # as nanoGPT's prepare.py prints
    assert train + validation == raw("tiny_shakespeare", "input.txt").read_text()
    letters = TOKENIZERS["characters"]([train])
    assert letters.size == 65 and letters.decode(letters.encode(validation)) == validation


def test_sentence_polarity_has_ten_folds(prepared):
    folds = [text_sources.sentence_polarity(fold=fold) for fold in range(10)]
    for source in folds:
        everything = [example for examples in source.splits.values() for example in examples]
        assert len(everything) == 10_662 and sum(example["label"] for example in everything) == 5_331
        seen = [{example["text"] for example in examples} for examples in source.splits.values()]
        assert sum(map(len, seen)) == len(set.union(*seen))
        counts = sizes(source)
        assert abs(counts["test"] - 1066) < 100 and abs(counts["validation"] - 960) < 100
    tested = [example for source in folds for example in source.splits["test"]]
    assert len(tested) == 10_662
    positive = [example["text"] for example in tested if example["label"]]
    assert any("destined to be the 21st century's new" in sentence for sentence in positive)
    assert sizes(text_sources.sentence_polarity(validation=0)) == {
        "train": 10_662 - sizes(folds[0])["test"],
        "test": sizes(folds[0])["test"],
    }
    with pytest.raises(ValueError, match="fold=10 is none"):
        text_sources.sentence_polarity(fold=10)


def test_clinc_oos_has_its_published_totals(prepared):
    source = text_sources.clinc_oos()
    assert len(source.classes) == 151 and source.classes[-1] == "oos"
    expected = {"train": (100, 100), "validation": (20, 100), "test": (30, 1000)}
    for split, (each, outside) in expected.items():
        labels = np.bincount([example["label"] for example in source.splits[split]])
        assert labels.tolist() == [each] * 150 + [outside]
    seen = [{example["text"] for example in source.splits[split]} for split in expected]
    assert [len(a & b) for a, b in zip(seen, seen[1:] + seen[:1], strict=True)] == [3, 0, 2]  # as published
    first = source.splits["train"][0]
    assert first["text"].startswith("what expression would i use")
    assert source.classes[first["label"]] == "translate"


@needs_raw_files
def test_no_sentence_of_tatoeba_is_in_two_splits():
    from dlx.data.builders import tatoeba_deu_eng as module

    splits = module.read(raw("tatoeba_deu_eng", "deu-eng.zip"))
    assert {split: len(pairs) for split, pairs in splits.items()} == module.COUNTS
    assert sum(module.COUNTS.values()) == 169_813  # all of them are distinct
    for field in ("source", "target"):
        seen = [{module.key(pair[field]) for pair in pairs} for pairs in splits.values()]
        assert sum(map(len, seen)) == len(set.union(*seen))
    assert splits["train"][0] == {"source": "Hallo!", "target": "Hi."}
    assert all(value == module.normalized(value) for pair in splits["test"] for value in pair.values())


@needs_raw_files
def test_self_dialogues_have_their_published_totals():
    from dlx.data.builders import self_dialogue as module

    splits = module.read(raw("self_dialogue", "self_dialogue.jsonl.gz"))
    assert {split: len(examples) for split, examples in splits.items()} == module.COUNTS
    everything = [example for examples in splits.values() for example in examples]
    assert len(everything) == 24_156 and len(BUILDERS["self_dialogue"].classes) == 23
    turns = [len(example["turns"].split("\n")) for example in everything]
    assert sum(turns) == 373_592 and set(turns) == {2, 10, 18, 20}
    assert np.bincount([example["label"] for example in everything]).max() == 4_914  # music
    seen = [{example["turns"] for example in examples} for examples in splits.values()]
    assert sum(map(len, seen)) == len(set.union(*seen))


@needs_raw_files
@pytest.mark.parametrize("name", ["clinc_oos", "self_dialogue", "tatoeba_deu_eng"])
def test_the_raw_files_at_hand_are_the_registered_ones(name, tmp_path):
    from dlx.data.builders import files

    module = BUILDERS[name].load()
    found = files.collect(module.RAW, name, Path(RAW_FILES), tmp_path, False)
    assert list(found) == [file.name for file in module.RAW]
    path = tmp_path / module.RAW[0].name
    path.write_bytes(b'{"topic": "music", "turns": ["Hi.", "Bye."]}')
    with pytest.raises(ValueError, match=r"not the registered file|not hold the registered"):
        files.collect(module.RAW, name, tmp_path, tmp_path, False)


def test_dialogues_come_as_turns():
    stored = {"label": np.int32([0, 1])}
    for name, strings in {"turns": ["Hé.\nYes?", "A\nB\nC"]}.items():
        data = [string.encode() for string in strings]
        stored[name] = np.frombuffer(b"".join(data), np.uint8)
        stored[f"{name}_ends"] = np.cumsum([len(part) for part in data])
    assert text_sources._examples(stored, ("turns",)) == [
        {"turns": ("Hé.", "Yes?"), "label": 0},
        {"turns": ("A", "B", "C"), "label": 1},
    ]
