"""Tokenizers: text to integers and back, by bytes, characters, byte-level BPE or WordPiece.

A function of `TOKENIZERS` learns a tokenizer from texts, which should be those of the training split alone. A
tokenizer is its JSON text: the same texts give the same bytes, `from_json` gives the same tokenizer back.
Special tokens such as padding are ids known by name. Text never becomes one of them, so what a user types
cannot end a document or forge a turn of a chat; they are put around the ids of a text by whoever needs them.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Int32

Ids = Int32[np.ndarray, "t"]


class Tokenizer(NamedTuple):
    """Text to ids in 0..size-1 and back.

    `encode(text)` gives int32 [t], never a special token save "unk", and no ids for an empty text; it raises
    a ValueError for text that is no Unicode, and where there is no "unk" for unknown characters.
    `encode_batch(texts)` does it for many. `decode(ids)` leaves special tokens out, save "unk", which shows;
    it raises a ValueError for an id outside the vocabulary. `special` gives ids by name, such as "pad",
    "unk", "bos", "eos", "cls", "sep" and "mask"; `json` is all of it as text.
    """

    encode: Callable[[str], Ids]
    decode: Callable[[Iterable[int] | Int[np.ndarray, "t"]], str]
    encode_batch: Callable[[Sequence[str]], list[Ids]]
    size: int
    special: dict[str, int]
    json: str


def byte_level(texts: Iterable[str] = (), *, special: Sequence[str] = ()) -> Tokenizer:
    """UTF-8 bytes: ids are the special tokens, in the order given, then 0..255 shifted by their number.

    Nothing is learned, so `texts` is not read. Bytes that are no UTF-8 decode to U+FFFD.
    """
    return _from_state({"kind": "bytes", "special": _checked(special)})


def characters(texts: Iterable[str], *, special: Sequence[str] = ()) -> Tokenizer:
    """Characters: ids are the special tokens, in the order given, then the characters seen, sorted.

    A character that was not seen becomes "unk", which decodes to U+FFFD; without one it is an error.
    """
    found = "".join(sorted(set().union(*_nonempty(texts))))
    return _from_state({"kind": "characters", "special": _checked(special), "characters": found})


def bpe(texts: Iterable[str], *, size: int, special: Sequence[str] = ()) -> Tokenizer:
    """Byte-level byte-pair encoding, as in GPT-2 (Sennrich et al. 2016; Radford et al. 2019).

    Ids are the special tokens, in the order given, the 256 bytes, then pairs merged, until there are `size`
    ids or no pair is seen twice. Every text decodes to itself.
    """
    library = _library()
    names = [f"<{name}>" for name in _checked(special)]
    if size < 256 + len(names):
        raise ValueError(
            f"a vocabulary of {size} is too small: there are 256 bytes and {len(names)} special tokens"
        )
    made = _byte_pairs(library.models.BPE())
    trainer = library.trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=names,
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(_nonempty(texts), trainer)
    return _from_library(made, dict(zip(special, names, strict=True)))


BERT = ("pad", "unk", "cls", "sep", "mask")


def wordpiece(
    texts: Iterable[str], *, size: int, special: Sequence[str] = BERT, lowercase: bool = True
) -> Tokenizer:
    """WordPiece, as in BERT (Wu et al. 2016; Devlin et al. 2019): words in pieces, inner ones marked "##".

    Ids are the special tokens, in the order given, which must include "unk", the characters at the beginning
    and inside of words, then pairs merged, until there are `size` ids or no pair is seen twice. `lowercase`
    also strips accents. Decoding gives the words back, not their spacing.
    """
    library = _library()
    names = {name: f"[{name.upper()}]" for name in _checked(special)}
    if "unk" not in names:
        raise ValueError(
            f"WordPiece needs the special token 'unk'; given were {', '.join(special) or 'none'}"
        )
    texts = _nonempty(texts)
    made = _word_pieces(library.models.WordPiece(unk_token="[UNK]"), lowercase)
    words = (
        word
        for text in texts
        for word, _ in made.pre_tokenizer.pre_tokenize_str(made.normalizer.normalize_str(text))
    )
    # the trainer numbers inner characters in the order of a hash table, which changes from run to run and
    # with it every tie between pairs; those that it finds numbered already it leaves as they are
    inner = sorted({f"##{character}" for word in words for character in word[1:]})
    trainer = library.trainers.WordPieceTrainer(
        vocab_size=size, min_frequency=2, special_tokens=[*names.values(), *inner], show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    vocabulary = made.get_vocab()
    if len(vocabulary) > size:
        raise ValueError(
            f"a vocabulary of {size} is too small: {len(vocabulary)} characters and special tokens"
        )
    return _bert(vocabulary, names, lowercase)


TOKENIZERS = {"bytes": byte_level, "characters": characters, "bpe": bpe, "wordpiece": wordpiece}


def from_json(text: str) -> Tokenizer:
    """Returns the tokenizer whose `json` is `text`, or that of a `tokenizer.json` of Hugging Face.

    Raises a ValueError if `text` is neither.
    """
    try:
        state = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"no tokenizer: its text is not JSON ({error})") from error
    if not isinstance(state, dict) or not ("kind" in state or "model" in state):
        raise ValueError(
            "no tokenizer: its JSON has neither the 'kind' of dlx nor the 'model' of a tokenizer.json"
        )
    if "kind" not in state:
        return _from_library(_parsed(text), None)
    try:
        return _from_state(state)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"no tokenizer: its JSON of kind {state['kind']!r} is damaged ({error!r})"
        ) from error


def save(tokenizer: Tokenizer, path: str | Path) -> None:
    """Writes a tokenizer as JSON."""
    Path(path).write_text(tokenizer.json, encoding="utf-8")


def load(path: str | Path, *, lowercase: bool = True) -> Tokenizer:
    """Reads a tokenizer from a file or folder: what `save` wrote, or the files of GPT-2 or BERT.

    Those are tokenizer.json, or vocab.json with merges.txt (GPT-2), or vocab.txt (BERT; `lowercase` is for
    this one, which does not say itself whether its model is "uncased"). Raises a FileNotFoundError if nothing
    is there and a ValueError if it is something else.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no tokenizer at {path}")
    if path.is_dir():
        for name in ("tokenizer.json", "vocab.json", "vocab.txt"):
            if (path / name).exists():
                return load(path / name, lowercase=lowercase)
    elif path.name in ("vocab.json", "merges.txt"):
        return _gpt2(path.with_name("vocab.json"), path.with_name("merges.txt"))
    elif path.suffix in (".json", ".txt"):
        text = utf8(path.read_bytes(), str(path))
        try:
            return _bert_vocabulary(text, lowercase) if path.suffix == ".txt" else from_json(text)
        except ValueError as error:
            raise ValueError(f"{path} is {error}") from error
    raise ValueError(
        f"{path} is no tokenizer; expected a .json of dlx or Hugging Face, vocab.json with merges.txt "
        "(GPT-2), vocab.txt (BERT), or a folder that holds one of them"
    )


def pieces(tokenizer: Tokenizer, ids: Iterable[int]) -> Iterator[str]:
    """Yields text as its tokens come; what may be a part of a character waits for the rest of it."""
    seen: list[int] = []
    said = ""
    for token in ids:
        seen.append(token)
        whole = tokenizer.decode(seen)
        if not whole.endswith("\ufffd"):
            yield whole[len(said) :]
            said = whole
    yield tokenizer.decode(seen)[len(said) :]


def utf8(data: bytes, name: str) -> str:
    """Returns the text of UTF-8 bytes; raises a ValueError that says where `name` is something else."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start:,}; "
            "convert it to UTF-8 first"
        ) from error


def _nonempty(texts: Iterable[str]) -> list[str]:
    """Returns the texts, having refused to learn from nothing and from what is no Unicode."""
    kept = [text for text in texts if text]
    if not kept:
        raise ValueError("there is no text to learn a tokenizer from")
    for text in kept:
        _encoded(text, "utf-8")
    return kept


def _checked(special: Sequence[str]) -> list[str]:
    """Returns names of special tokens, having refused repeated ones and such as cannot stand in a token."""
    wrong = [name for name in special if not name.isidentifier()]
    if wrong or len(set(special)) < len(special) or isinstance(special, str):
        raise ValueError(f"special={special!r} must be distinct names such as 'pad', 'unk', 'bos', 'eos'")
    return list(special)


def _encoded(text: str, codec: str) -> bytes:
    """Encodes a text, or raises a ValueError at what is no character."""
    try:
        return text.encode(codec)
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text holds U+{ord(text[error.start]):04X} at position {error.start}, half of a surrogate "
            "pair and no character; its bytes were not UTF-8 when they were decoded"
        ) from error


def _from_state(state: Mapping[str, Any]) -> Tokenizer:
    """Builds a tokenizer from what its JSON says."""
    if state["kind"] == "bytes":
        return _bytes(state)
    if state["kind"] == "characters":
        return _characters(state)
    if state["kind"] == "tokenizers":
        return _from_library(_parsed(json.dumps(state["tokenizer"])), state["special"])
    raise ValueError(f"no tokenizer: kind {state['kind']!r}; known are 'bytes', 'characters', 'tokenizers'")


def _tokenizer(
    encode: Callable, decode: Callable, size: int, special: dict[str, int], state: Mapping, batch: Any = None
) -> Tokenizer:
    """Puts a tokenizer together around `decode`, which gets known ids without hidden special tokens."""
    hidden = [index for name, index in special.items() if name != "unk"]

    def visible(ids: Iterable[int] | Int[np.ndarray, "t"]) -> str:
        array = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids))
        wrong = array[(array < 0) | (array >= size)]
        if len(wrong):
            raise ValueError(f"the id {wrong[0]} is outside the vocabulary; allowed are 0..{size - 1}")
        return decode(array[~np.isin(array, hidden)].astype(np.int64))

    batch = batch or (lambda texts: [encode(text) for text in texts])
    text = json.dumps(state, ensure_ascii=False, separators=(",", ":"))
    return Tokenizer(encode, visible, batch, size, special, text)


def _bytes(state: Mapping[str, Any]) -> Tokenizer:
    """Builds the tokenizer of bytes."""
    special = {name: index for index, name in enumerate(_checked(state["special"]))}
    shift, unknown = len(special), special.get("unk", -1)

    def encode(text: str) -> Ids:
        return np.frombuffer(_encoded(text, "utf-8"), np.uint8).astype(np.int32) + np.int32(shift)

    def decode(ids: Int[np.ndarray, "t"]) -> str:
        # 0xff is in no UTF-8, so an unknown shows as U+FFFD
        return np.where(ids == unknown, 255, ids - shift).astype(np.uint8).tobytes().decode(errors="replace")

    return _tokenizer(encode, decode, 256 + shift, special, state)


def _characters(state: Mapping[str, Any]) -> Tokenizer:
    """Builds the tokenizer of characters."""
    special = {name: index for index, name in enumerate(_checked(state["special"]))}
    shift, unknown, known = len(special), special.get("unk"), state["characters"]
    codes = np.frombuffer(_encoded(known, "utf-32-le"), np.uint32)
    if not len(codes) or (np.diff(codes.astype(np.int64)) <= 0).any():
        raise ValueError("no tokenizer: its characters are not in Unicode's order")
    table = np.concatenate([np.full(shift, 0xFFFD, np.uint32), codes])

    def encode(text: str) -> Ids:
        wanted = np.frombuffer(_encoded(text, "utf-32-le"), np.uint32)
        index = np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)
        missing = codes[index] != wanted
        if missing.any() and unknown is None:
            position = int(np.argmax(missing))
            raise ValueError(
                f"{text[position]!r} (U+{wanted[position]:04X}) at position {position} is none of the "
                f"{len(codes)} known characters; learn from a text that has it, or with special=['unk']"
            )
        return np.where(missing, -1 if unknown is None else unknown, index + shift).astype(np.int32)

    def decode(ids: Int[np.ndarray, "t"]) -> str:
        return table[ids].tobytes().decode("utf-32-le")

    return _tokenizer(encode, decode, len(table), special, state)


def _library() -> Any:
    """Imports the library that BPE and WordPiece need."""
    try:
        import tokenizers  # here, because bytes and characters do without
    except ImportError as error:
        raise ImportError("BPE and WordPiece need the package `tokenizers`: pip install dlx[text]") from error
    return tokenizers


def _parsed(text: str) -> Any:
    """Reads a tokenizer.json with the library."""
    library = _library()
    try:
        return library.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"no tokenizer: the library `tokenizers` cannot read it ({error})") from error


def _byte_pairs(model: Any) -> Any:
    """Returns a BPE model between the bytes of words, as GPT-2 splits them, and text."""
    library = _library()
    made = library.Tokenizer(model)
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = library.decoders.ByteLevel()
    return made


def _word_pieces(model: Any, lowercase: bool) -> Any:
    """Returns a WordPiece model between words, as BERT cleans and splits them, and text."""
    library = _library()
    made = library.Tokenizer(model)
    made.normalizer = library.normalizers.BertNormalizer(lowercase=lowercase)
    made.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    made.decoder = library.decoders.WordPiece()
    return made


def _gpt2(vocabulary: Path, merges: Path) -> Tokenizer:
    """Reads GPT-2's pair of files."""
    library = _library()
    for file in (vocabulary, merges):
        if not file.exists():
            raise FileNotFoundError(f"vocab.json and merges.txt belong together; there is no {file}")
    lines = utf8(merges.read_bytes(), str(merges)).split("\n")
    pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    try:
        ids = json.loads(utf8(vocabulary.read_bytes(), str(vocabulary)))
        missing = set(library.pre_tokenizers.ByteLevel.alphabet()) - set(ids)
        made = _byte_pairs(library.models.BPE(ids, pairs))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{vocabulary} and {merges} are not the files of a GPT-2: {error}") from error
    if missing:
        raise ValueError(f"{vocabulary} lacks {len(missing)} of the 256 bytes, so some text has no ids")
    return _from_library(made, None)


def _bert_vocabulary(text: str, lowercase: bool) -> Tokenizer:
    """Reads BERT's vocab.txt: a token a line, whose number is its id."""
    tokens = text.removesuffix("\n").split("\n")
    tokens = [token.removesuffix("\r") for token in tokens]
    if len(set(tokens)) < len(tokens) or "[UNK]" not in tokens:
        fault = "has no line [UNK]" if "[UNK]" not in tokens else "holds a token twice"
        raise ValueError(f"no vocabulary of a BERT: it {fault}")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    names = {name: f"[{name.upper()}]" for name in BERT if f"[{name.upper()}]" in vocabulary}
    return _bert(vocabulary, names, lowercase)


def _bert(vocabulary: dict[str, int], names: dict[str, str], lowercase: bool) -> Tokenizer:
    """Builds a WordPiece tokenizer from its vocabulary."""
    model = _library().models.WordPiece(vocabulary, unk_token="[UNK]")
    return _from_library(_word_pieces(model, lowercase), names)


KNOWN = {  # by which special tokens go in files that do not name them
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "bos": ("<s>", "<bos>", "<|begin_of_text|>", "<|endoftext|>"),
    "eos": ("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>"),
    "cls": ("[CLS]",),
    "sep": ("[SEP]",),
    "mask": ("[MASK]", "<mask>"),
}


def _from_library(made: Any, names: dict[str, str] | None) -> Tokenizer:
    """Wraps a tokenizer of the library; `names` gives special tokens by name, None looks for known ones."""
    vocabulary = made.get_vocab()
    if names is None:
        found = {name: [token for token in known if token in vocabulary] for name, known in KNOWN.items()}
        names = {name: tokens[0] for name, tokens in found.items() if tokens}
    made.add_special_tokens(list(names.values()))
    made.no_padding()
    made.no_truncation()
    made.encode_special_tokens = True  # text such as "[SEP]" is text
    vocabulary = made.get_vocab()
    special = {name: vocabulary[token] for name, token in names.items()}

    def encode_batch(texts: Sequence[str]) -> list[Ids]:
        for text in texts:
            _encoded(text, "utf-8")
        encodings = made.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def encode(text: str) -> Ids:
        return encode_batch([text])[0]

    def decode(ids: Int[np.ndarray, "t"]) -> str:
        return made.decode(ids.tolist(), skip_special_tokens=False)

    state = {"kind": "tokenizers", "special": names, "tokenizer": json.loads(made.to_str())}
    return _tokenizer(encode, decode, max(vocabulary.values()) + 1, special, state, encode_batch)
