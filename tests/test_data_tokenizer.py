"""Tokenizers: what goes in comes out, the same texts give the same tokenizer, and text stays text."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlx.data import tokenizer as tokenizers
from dlx.data.tokenizer import TOKENIZERS, from_json, load, save

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "The dog sleeps; the fox doesn't, and jumps again and again.",
    "Füchse springen über faule Hunde, nicht wahr?",
] * 3
KINDS = {
    "bytes": {"special": ["pad", "unk", "eos"]},
    "characters": {"special": ["pad", "unk", "eos"]},
    "bpe": {"size": 300, "special": ["pad", "eos"]},
    "wordpiece": {"size": 120},
}
ANY = st.text(st.characters(codec="utf-8"), max_size=40)


@pytest.fixture(scope="module", params=KINDS)
def made(request):
    if request.param in ("bpe", "wordpiece"):
        pytest.importorskip("tokenizers", reason="BPE and WordPiece are those of `tokenizers`")
    return TOKENIZERS[request.param](TEXTS, **KINDS[request.param])


@pytest.fixture(scope="module")
def pairs():
    pytest.importorskip("tokenizers", reason="BPE is that of `tokenizers`")
    return TOKENIZERS["bpe"](TEXTS, size=300, special=["pad", "bos", "eos"])


@given(ANY)
@settings(max_examples=60, deadline=None)
def test_bytes_give_every_text_back(text):
    for special in ((), ("pad", "eos")):
        made = TOKENIZERS["bytes"](special=special)
        ids = made.encode(text)
        assert ids.dtype == np.int32 and made.decode(ids) == text
        assert (ids - len(special)).astype(np.uint8).tobytes() == text.encode()


@given(text=ANY)
@settings(max_examples=60, deadline=None)
def test_byte_pairs_give_every_text_back(pairs, text):
    for whole in (text, f"{text}<eos>{text}<|endoftext|> <pad>"):
        ids = pairs.encode(whole)
        assert ids.dtype == np.int32 and pairs.decode(ids) == whole
        assert not np.isin(ids, list(pairs.special.values())).any()


@given(ANY)
@settings(max_examples=60, deadline=None)
def test_characters_give_known_text_back_and_mark_the_rest(text):
    made = TOKENIZERS["characters"]([text, "x"])
    assert made.decode(made.encode(text)) == text
    assert made.size == len(set(text) | {"x"})
    some = TOKENIZERS["characters"](["abc"], special=["unk"])
    assert some.decode(some.encode(text)) == "".join(c if c in "abc" else "\ufffd" for c in text)
    assert (some.encode(text) == 0).sum() == sum(c not in "abc" for c in text)


def test_characters_are_numbered_as_in_nanogpt():
    made = TOKENIZERS["characters"](["hello", " w\n"])
    assert made.encode("\n ehlow").tolist() == list(range(7)) and made.special == {}
    with pytest.raises(ValueError, match=r"'é' \(U\+00E9\) at position 3 is none of the 7 known"):
        made.encode("oheé")


def test_special_tokens_come_first_and_leave_no_trace_in_text(made):
    orders = [options.get("special", list(tokenizers.BERT)) for options in KINDS.values()]
    assert list(made.special) in orders
    assert list(made.special.values()) == list(range(len(made.special)))
    hidden = [index for name, index in made.special.items() if name != "unk"]
    ids = made.encode("the fox jumps")
    mixed = np.concatenate([hidden, ids, hidden]).astype(np.int32)
    assert made.decode(mixed) == made.decode(ids) == made.decode(ids.tolist()) == "the fox jumps"
    literal = "[CLS] <pad> <eos> [MASK] <|endoftext|>"
    assert not np.isin(made.encode(literal), hidden).any()


def test_an_unknown_shows(made):
    if "unk" in made.special:
        shown = made.decode([made.special["unk"]])
        assert shown in ("\ufffd", "[UNK]")


def test_an_empty_document_has_no_ids(made):
    ids = made.encode("")
    assert ids.shape == (0,) and ids.dtype == np.int32 and made.decode(ids) == "" == made.decode([])
    assert made.encode_batch([]) == []


def test_a_batch_is_its_texts_one_by_one(made):
    texts = ["the dog", "", "Füchse", "over and over"]
    for one, ids in zip(texts, made.encode_batch(texts), strict=True):
        assert ids.dtype == np.int32 and np.array_equal(ids, made.encode(one))


def test_ids_stay_inside_the_vocabulary(made):
    ids = np.concatenate(made.encode_batch([*TEXTS, "ж 漢字 \U0001f98a"]))
    assert ids.min() >= 0 and ids.max() < made.size
    for wrong in (-1, made.size):
        with pytest.raises(ValueError, match=rf"the id {wrong} is outside .* 0..{made.size - 1}"):
            made.decode([0, wrong])


def test_a_tokenizer_is_its_json(made, tmp_path):
    save(made, tmp_path / "any name.json")
    for again in (from_json(made.json), load(tmp_path / "any name.json")):
        assert again.json == made.json and again.special == made.special and again.size == made.size
        for text in (*TEXTS, "[SEP] <eos> 漢", ""):
            assert np.array_equal(again.encode(text), made.encode(text))
            assert again.decode(made.encode(text)) == made.decode(made.encode(text))


LEARN = """
import sys, json
from dlx.data.tokenizer import TOKENIZERS
words = [f"{a}{b}{c}" for a in "abcdef" for b in "ghijkl" for c in "mnopqr"]
texts = [" ".join(words[i::7]) for i in range(7)] * 2  # every pair is as frequent as many others
for kind in ("bpe", "wordpiece"):
    print(TOKENIZERS[kind](iter(texts), size=380 if kind == "bpe" else 150).json)
"""


def test_the_same_texts_give_the_same_bytes_in_every_process():
    pytest.importorskip("tokenizers", reason="BPE and WordPiece are those of `tokenizers`")
    runs = {subprocess.run([sys.executable, "-c", LEARN], capture_output=True).stdout for _ in range(3)}
    assert len(runs) == 1 and len(runs.pop()) > 1000


def test_the_size_is_kept_and_pairs_are_learned(made):
    if made.json.startswith('{"kind":"tokenizers"'):
        assert made.size <= max(options.get("size", 0) for options in KINDS.values())
        assert len(made.encode("The quick brown fox")) < len("The quick brown fox")
    for kind in ("bpe", "wordpiece"):
        with pytest.raises(ValueError, match="a vocabulary of 20 is too small"):
            TOKENIZERS[kind](TEXTS, size=20)


@pytest.mark.parametrize("kind", ["characters", "bpe", "wordpiece"])
@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_nothing_to_learn_from_is_an_error(kind, texts):
    if kind != "characters":
        pytest.importorskip("tokenizers", reason="BPE and WordPiece are those of `tokenizers`")
    with pytest.raises(ValueError, match="no text to learn a tokenizer from"):
        TOKENIZERS[kind](texts, **KINDS[kind])


@pytest.mark.parametrize("special", [["pad", "pad"], ["a b"], [""], "pad"])
def test_wrong_names_of_special_tokens_are_an_error(special):
    with pytest.raises(ValueError, match="must be distinct names such as 'pad'"):
        TOKENIZERS["bytes"](special=special)


def test_wordpiece_needs_an_unknown():
    pytest.importorskip("tokenizers", reason="WordPiece is that of `tokenizers`")
    with pytest.raises(ValueError, match="needs the special token 'unk'"):
        TOKENIZERS["wordpiece"](TEXTS, size=120, special=["pad"])


def test_what_is_no_unicode_is_an_error(made):
    broken = b"caf\xe9".decode(errors="surrogateescape")
    for wrong in (broken, "ab\ud800c"):
        for encode in (made.encode, lambda text: made.encode_batch(["fine", text])):
            with pytest.raises(ValueError, match=r"U\+D[C8][E0][90] at position [23], half of a surrogate"):
                encode(wrong)
    for kind, options in KINDS.items():
        if kind != "bytes":
            with pytest.raises(ValueError, match="half of a surrogate"):
                TOKENIZERS[kind]([*TEXTS, broken], **options)


def test_bytes_that_are_no_utf8_are_named():
    assert tokenizers.utf8("é漢".encode(), "x") == "é漢"
    with pytest.raises(ValueError, match=r"novel.txt is not UTF-8: byte 0xe9 at offset 3;"):
        tokenizers.utf8(b"caf\xe9 noir", "novel.txt")
    made = TOKENIZERS["bytes"]()
    assert made.decode(np.frombuffer(b"caf\xe9 n", np.uint8).astype(np.int32)) == "caf\ufffd n"


# Files


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.json", b"{", "is no tokenizer: its text is not JSON"),
        ("t.json", b"[1]", "is no tokenizer: its JSON has neither the 'kind' of dlx nor the 'model'"),
        ("t.json", b'{"kind": "runes"}', "is no tokenizer: kind 'runes'; known are 'bytes'"),
        ("t.json", b'{"kind": "characters"}', "is no tokenizer: its JSON of kind 'characters'"),
        ("t.json", b'{"kind": "characters", "special": [], "characters": "ba"}', "not in Unicode's order"),
        ("t.json", b'{"model": {"type": "Oracle"}}', "is no tokenizer: the library `tokenizers` cannot read"),
        ("t.json", b'{"kind": "\xff"}', "t.json is not UTF-8: byte 0xff at offset 10"),
        ("t.model", b"anything", r"is no tokenizer; expected a .json of dlx or Hugging Face, vocab.json"),
        ("vocab.txt", b"the\nfox\n", r"is no vocabulary of a BERT: it has no line \[UNK\]"),
        ("vocab.txt", b"[UNK]\nfox\nfox\n", "is no vocabulary of a BERT: it holds a token twice"),
        ("vocab.txt", b"[UNK]\nf\xf6x\n", "vocab.txt is not UTF-8: byte 0xf6 at offset 7"),
    ],
)
def test_an_unknown_file_is_named(tmp_path, name, data, message):
    pytest.importorskip("tokenizers", reason="its files are read by `tokenizers`")
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / name)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no tokenizer at .*nowhere"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is no tokenizer; expected"):
        load(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"belong together; there is no .*merges.txt"):
        load(tmp_path)


def byte_symbols():
    tokens = pytest.importorskip("tokenizers", reason="its files are read by `tokenizers`")
    return sorted(tokens.pre_tokenizers.ByteLevel.alphabet())


@pytest.fixture
def gpt2(tmp_path):
    """The pair of files of a GPT-2 of 256 bytes and a few merges."""
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("Ġ", "f"), ("o", "x"), ("Ġf", "ox")]
    tokens = [*byte_symbols(), *(a + b for a, b in merges), "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges), ""]
    (tmp_path / "merges.txt").write_text("\n".join(lines))
    return tmp_path


SAMPLES = [
    "the fox in the thin box",
    " the  fox\n\n\tthe\r\n",
    "It's 12.5% of naïve Füchse — 漢字 \U0001f98a…",
    "don't   [MASK]ed\u00a0I'll",
    "",
]


def test_gpt2_files_give_the_ids_of_transformers(gpt2):
    transformers = pytest.importorskip("transformers", reason="the reference")
    reference = transformers.GPT2Tokenizer(str(gpt2 / "vocab.json"), str(gpt2 / "merges.txt"))
    for path in (gpt2, gpt2 / "vocab.json", gpt2 / "merges.txt"):
        made = load(path)
        for text in SAMPLES:
            assert made.encode(text).tolist() == reference(text)["input_ids"]
            assert made.decode(made.encode(text)) == text
        end = len(byte_symbols()) + 7
        assert made.special == {"bos": end, "eos": end} and made.size == end + 1
    reference.save_pretrained(gpt2 / "saved")
    made = load(gpt2 / "saved")
    assert made.special["eos"] == end
    for text in SAMPLES:
        assert made.encode(text).tolist() == reference(text)["input_ids"]
    assert made.encode("<|endoftext|>").tolist() != [end] == reference("<|endoftext|>")["input_ids"]


def test_damaged_gpt2_files_are_named(gpt2):
    ids = json.loads((gpt2 / "vocab.json").read_text())
    (gpt2 / "vocab.json").write_text(json.dumps({token: i for token, i in ids.items() if token != "Ġ"}))
    (gpt2 / "merges.txt").write_text("t h\n")
    with pytest.raises(ValueError, match="lacks 1 of the 256 bytes"):
        load(gpt2)
    (gpt2 / "merges.txt").write_text("t h e\n")
    with pytest.raises(ValueError, match="are not the files of a GPT-2"):
        load(gpt2)


PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "fox", "jump", "##s", "##ed", "over", "don"]
PIECES += ["'", "t", "naive", "naïve", ".", ",", "!", "12", "5", "%", "fuchs", "##e", "漢", "The", "-", "in"]


@pytest.mark.parametrize("lowercase", [True, False])
def test_bert_files_give_the_ids_of_transformers(tmp_path, lowercase):
    transformers = pytest.importorskip("transformers", reason="the reference")
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    reference = transformers.BertTokenizer(str(tmp_path / "vocab.txt"), do_lower_case=lowercase)
    samples = [*SAMPLES, "The fox jumps, jumped over!", "don't jumpsed", "Füchse naïve 漢漢 12.5%", "x" * 200]
    made = load(tmp_path, lowercase=lowercase)
    assert made.size == len(PIECES)
    assert made.special == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    ids = [reference(text, add_special_tokens=False)["input_ids"] for text in samples if "[MASK]" not in text]
    assert [made.encode(text).tolist() for text in samples if "[MASK]" not in text] == ids
    assert 5 in made.encode("the") and (5 in made.encode("The")) == lowercase
    reference.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.special == made.special
    assert [again.encode(text).tolist() for text in samples if "[MASK]" not in text] == ids
    assert 4 not in again.encode("[MASK]")


def test_bytes_and_characters_need_no_library():
    code = (
        "import sys; sys.modules['tokenizers'] = None; from dlx.data.tokenizer import TOKENIZERS as t; "
        "t['bytes']().encode('a'); t['characters'](['a']).encode('a'); "
        "assert not {'jax', 'tensorflow_datasets', 'transformers'} & set(sys.modules)\n"
        "try: t['bpe'](['a'], size=300)\n"
        "except ImportError as error: assert 'pip install dlx[text]' in str(error); sys.exit(7)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 7


def test_pieces_are_whole_characters():
    tokenizer = tokenizers.byte_level()
    ids = tokenizer.encode("aé€").tolist()
    assert list(tokenizers.pieces(tokenizer, iter(ids))) == ["a", "é", "€", ""]
    assert "".join(tokenizers.pieces(tokenizer, iter(ids[:-1]))) == "aé\ufffd"  # cut in the middle
    assert list(tokenizers.pieces(tokenizer, [])) == [""]
