"""Bytes from elsewhere: nothing in them runs, nothing leaves its folder, damage is an error of our own."""

import ast
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlx import checkpoint, configuration, pretrained
from dlx.data import tokenizer
from dlx.data.builders import adbench_classical, archive, catalogue, pneumonia_mnist
from experiments.__main__ import main

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("dlx/**/*.py"), *ROOT.glob("experiments/**/*.py")])
FUZZ = settings(
    max_examples=int(os.environ.get("DLX_FUZZ", "120")),
    deadline=None,
    database=None,
    derandomize="DLX_FUZZ" not in os.environ,
    suppress_health_check=list(HealthCheck),
)


def called(node):
    """The dotted name of what a call calls, as far as it is one."""
    words, target = [], node.func
    while isinstance(target, ast.Attribute):
        words.append(target.attr)
        target = target.value
    return ".".join([target.id if isinstance(target, ast.Name) else "?", *reversed(words)])


def constant(node, word):
    """The value of a keyword that is written out; None where it is not."""
    return next((getattr(k.value, "value", None) for k in node.keywords if k.arg == word), None)


IMPORTS = {  # what makes modules out of names, and where a table of ours has those names
    "dlx/configuration.py": "exec_module",  # of the config that the user names
    "dlx/data/builders/__init__.py": "import_module",
    "experiments/__main__.py": "import_module",
    "experiments/commands/benchmark.py": "import_module",
    "experiments/speed/models.py": "import_module",
}
OPENERS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
UNPACKERS = {"extractall", "extract", "unpack_archive", "iter_archive", "extract_all"}


def faults(tree, place):
    """Yields what the source of a file must not hold."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            for name in names & {"cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml"}:
                yield f"imports {name}"
            if isinstance(node, ast.ImportFrom) and node.module == "pickle":
                yield "imports from pickle"
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "pickle":
            yield from [f"uses pickle.{node.attr}"] if node.attr != "UnpicklingError" else []
        if not isinstance(node, ast.Call):
            continue
        name = called(node)
        last = name.split(".")[-1]
        if name in OPENERS or last in UNPACKERS or last == "read_pickle":
            yield f"calls {name}"
        if name in ("np.load", "numpy.load") and constant(node, "allow_pickle") is not False:
            yield "calls np.load without allow_pickle=False"
        if name == "torch.load" and constant(node, "weights_only") is not True:
            yield "calls torch.load without weights_only=True"
        if last in ("exec_module", "import_module") and IMPORTS.get(place) != last:
            yield f"calls {name}"
        if any(k.arg == "shell" for k in node.keywords):
            yield f"calls {name} with a shell"


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_source_unpickles_unpacks_or_evaluates(file):
    place = str(file.relative_to(ROOT))
    assert not list(faults(ast.parse(file.read_text()), place))


@pytest.mark.parametrize(
    "text",
    [
        "import pickle\npickle.loads(b)",
        "from pickle import loads",
        "import yaml",
        "np.load(f)",
        "np.load(f, allow_pickle=True)",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "eval(text)",
        "tarfile.open(f).extractall(folder)",
        "shutil.unpack_archive(f)",
        "subprocess.run(text, shell=True)",
        "importlib.import_module(text)",
    ],
)
def test_the_search_for_faults_finds_each(text):
    assert list(faults(ast.parse(text), "dlx/x.py"))
    assert not list(faults(ast.parse("module.eval(); pickle.UnpicklingError; re.compile(x)"), "dlx/x.py"))


class Trap:
    """What makes the folder `place` when it is unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


@pytest.fixture
def trap(tmp_path):
    """A trap that was seen to work, and is set again."""
    place = tmp_path / "sprung"
    pickle.loads(pickle.dumps(Trap(place)))
    place.rmdir()
    yield Trap(place)
    assert not place.exists(), "bytes from elsewhere were run"


def test_a_pth_file_with_a_trap_is_refused(trap, tmp_path):
    torch = pytest.importorskip("torch", reason="files of PyTorch need it")
    for name, saved, options in (
        ("bare", {"w": trap}, {}),
        ("hidden", {"state_dict": {"w": torch.zeros(2)}, "epoch": trap}, {}),
        ("old", {"w": trap}, {"_use_new_zipfile_serialization": False}),
    ):
        file = tmp_path / f"{name}.pth"
        torch.save(saved, file, **options)
        with pytest.raises(pretrained.PretrainedError, match="holds more than tensors"):
            pretrained.load(file)
    (tmp_path / "plain.bin").write_bytes(pickle.dumps({"w": trap}))
    with pytest.raises(pretrained.PretrainedError):
        pretrained.load(tmp_path / "plain.bin")


def test_arrays_with_a_trap_are_refused(trap, tmp_path):
    objects = np.array([trap], dtype=object)
    np.savez(tmp_path / "set.npz", X=objects, y=np.zeros(1))
    with pytest.raises(ValueError, match="X of .*set.npz is no plain array: its head says object"):
        adbench_classical.read(tmp_path / "set.npz")
    np.savez(
        tmp_path / "images.npz", **{f"{s}_{k}": objects for s in ("train", "val", "test") for k in KINDS}
    )
    with pytest.raises(ValueError, match="no plain array: its head says object"):
        pneumonia_mnist.examples(tmp_path / "images.npz")
    catalogue._save(tmp_path / "made", {"train": {"x": np.zeros(3)}})
    np.save(tmp_path / "made" / "train.x.npy", objects, allow_pickle=True)
    assert catalogue._load(tmp_path / "made") is None


KINDS = ("images", "labels")


def test_a_head_that_asks_for_more_than_there_is_gets_nothing(tmp_path):
    stream = io.BytesIO()
    head = {"descr": "<f8", "fortran_order": False, "shape": (2**50,)}
    np.lib.format.write_array_header_1_0(stream, head)
    with pytest.raises(
        ValueError, match="shape .1125899906842624,., 9,007,199,254,740,992 bytes, and there are 8"
    ):
        archive.array(stream.getvalue() + bytes(8), "x")


def test_a_tensor_that_says_it_is_larger_than_it_is_gets_nothing(tmp_path):
    torch = pytest.importorskip("torch", reason="files of PyTorch need it")
    torch.save({"w": torch.zeros(1, dtype=torch.float16).expand(2**50)}, tmp_path / "wide.pth")
    with pytest.raises(pretrained.PretrainedError, match="'w' has more numbers than it stores"):
        pretrained.load(tmp_path / "wide.pth")
    torch.save({"w": torch.zeros(2**22)}, tmp_path / "w.pth")
    with (
        zipfile.ZipFile(tmp_path / "w.pth") as stored,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for info in stored.infolist():
            packed.writestr(info.filename, stored.read(info))
    with pytest.raises(
        pretrained.PretrainedError, match="is compressed, which no file that PyTorch saves is"
    ):
        pretrained.load(tmp_path / "bomb.pth")


NAMES = ("../outside.txt", "/{folder}/outside.txt", "a/../../outside.txt", "..\\outside.txt")


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("name", NAMES)
def test_no_name_in_an_archive_leads_out_of_it(tmp_path, monkeypatch, kind, name):
    place = tmp_path / "here" / "deep"
    place.mkdir(parents=True)
    monkeypatch.chdir(place)
    name, file = name.format(folder=tmp_path), place / f"a.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as packed:
            packed.writestr(name, b"out")
    else:
        with tarfile.open(file, "w") as packed:
            info = tarfile.TarInfo(name)
            info.size = 3
            packed.addfile(info, io.BytesIO(b"out"))
    before = sorted(tmp_path.rglob("*"))
    assert list(archive.read(file, r".*?(outside\.txt)", 100).values()) == [b"out"]  # in memory, as a name
    assert sorted(tmp_path.rglob("*")) == before


def test_links_devices_and_holes_in_an_archive_are_not_followed(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(f"{number}.txt")
            info.type, info.linkname = kind, str(tmp_path / "secret.txt")
            packed.addfile(info)
    assert archive.read(tmp_path / "a.tar", r"(\d\.txt)", 100) == {}
    info = tarfile.TarInfo("big.txt")
    info.size = 2**40
    (tmp_path / "b.tar").write_bytes(info.tobuf() + bytes(1024))
    with pytest.raises(ValueError, match="beyond the 100 bytes"):
        archive.read(tmp_path / "b.tar", r"(.*\.txt)", 100)


def test_a_member_that_unpacks_to_more_than_it_says_is_cut_off(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.txt", bytes(10**6))
    data = (tmp_path / "a.zip").read_bytes().replace(struct.pack("<I", 10**6), struct.pack("<I", 10))
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(ValueError, match="damaged or unreadable"):
        archive.read(tmp_path / "a.zip", r"(a\.txt)", 100)


PLANTED = """
from pathlib import Path
Path({mark!r}).mkdir()
def get_config(scale="full"):
    raise ValueError("planted")
"""


def test_a_config_runs_only_when_it_is_named(tmp_path, monkeypatch, capsys):
    """Those of the repository itself, which `list` reads, are part of the program; no other file is."""
    mark = tmp_path / "ran"
    text = PLANTED.format(mark=str(mark))
    elsewhere = tmp_path / "elsewhere" / "configs" / "image_classification"
    for folder in (elsewhere, tmp_path / "run", tmp_path / "run" / "configs" / "a"):
        folder.mkdir(parents=True)
        for name in ("digits.py", "config.py", "planted.py", "sitecustomize.py"):
            (folder / name).write_text(text)
    config = {"experiment": "image_classification", "config": str(elsewhere / "digits.py")}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(tmp_path / "run")
    run = f"--workdir={tmp_path / 'run'}"
    for command in (["list"], ["report", "--check"], ["evaluate", run], ["demo", run]):
        with pytest.raises(Exception) if command[0] in ("evaluate", "demo") else silent():
            assert main(command) in (0, 1)
    for command in (["--help"], ["train", "--help"], ["sweep", "--help"], ["reproduce", "--help"]):
        with pytest.raises(SystemExit):
            main(command)
    assert main(["sweep", "planted"]) == 2 and main(["reproduce", "planted"]) == 2
    monkeypatch.chdir(tmp_path / "elsewhere" / "configs")
    assert main(["list"]) == 0
    assert not mark.exists()
    monkeypatch.chdir(ROOT)
    assert main(["train", f"--config={elsewhere / 'planted.py'}", run]) == 2
    assert "ValueError: planted" in capsys.readouterr().err
    assert mark.is_dir()  # named, it runs


class silent:
    """Does nothing."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


def damaged(data):
    """Strategy: `data` with bytes changed, cut off, doubled or put in."""
    places = st.integers(0, len(data) - 1)
    edits = st.one_of(
        st.tuples(st.just("set"), places, st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("cut"), places, st.integers(1, 64)),
        st.tuples(st.just("put"), places, st.binary(min_size=1, max_size=16)),
        st.tuples(st.just("end"), places, st.just(b"")),
    )

    def apply(changes):
        found = bytearray(data)
        for kind, place, what in changes:
            if kind == "set":
                found[place : place + len(what)] = what
            elif kind == "cut":
                del found[place : place + what]
            elif kind == "put":
                found[place:place] = what
            else:
                del found[place:]
        return bytes(found)

    return st.lists(edits, min_size=1, max_size=3).map(apply)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def weights():
    rng = np.random.default_rng(0)
    return {"a.weight": rng.normal(size=(3, 4)).astype(np.float32), "b": np.arange(5, dtype=np.int64)}


def safetensors_bytes():
    import safetensors.numpy

    return safetensors.numpy.save(weights())


def loads(file):
    """Loads weights, or fails as it may; what loads are arrays no larger than the file."""
    try:
        found = pretrained.load(file)
    except pretrained.PretrainedError as error:
        assert str(file) in str(error)
        return
    assert all(isinstance(name, str) and isinstance(array, np.ndarray) for name, array in found.items())
    assert sum(array.nbytes for array in found.values()) <= 2 * file.stat().st_size


def test_damaged_safetensors_are_an_error_or_load(place):
    pytest.importorskip("safetensors", reason="files of safetensors need it")
    file = place / "w.safetensors"

    @FUZZ
    @given(damaged(safetensors_bytes()) | st.binary(max_size=64))
    def fuzz(data):
        file.write_bytes(data)
        loads(file)

    entry = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "BF16", "F8_E4M3", "F4", "C64", "BOOL", "X", ""]) | JSON,
            "shape": st.lists(st.integers(-(2**63), 2**64), max_size=4) | JSON,
            "data_offsets": st.lists(st.integers(-1, 2**64), min_size=2, max_size=2) | JSON,
        }
    )

    @FUZZ
    @given(
        st.dictionaries(st.text(max_size=5), entry | JSON, max_size=3), st.integers(0, 2**64 - 1) | st.none()
    )
    def heads(head, size):
        text = json.dumps(head).encode()
        file.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + bytes(16))
        loads(file)

    fuzz()
    heads()
    for kind in ("F8_E4M3", "F8_E5M2", "BF16", "F16", "BOOL", "F4", "C64"):
        text = json.dumps({"a": {"dtype": kind, "shape": [2], "data_offsets": [0, 2]}}).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(2))
        loads(file)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
def test_damaged_files_of_pytorch_are_an_error_or_load(place, zipped):
    torch = pytest.importorskip("torch", reason="files of PyTorch need it")
    file, stream = place / "w.pth", io.BytesIO()
    saved = {name: torch.from_numpy(array) for name, array in weights().items()}
    torch.save(saved, stream, _use_new_zipfile_serialization=zipped)

    @FUZZ
    @given(damaged(stream.getvalue()))
    def fuzz(data):
        file.write_bytes(data)
        loads(file)

    fuzz()


def test_damaged_arrays_of_numpy_are_an_error_or_load(place):
    rng = np.random.default_rng(0)
    stream, packed = io.BytesIO(), io.BytesIO()
    np.save(stream, rng.normal(size=(3, 4)))
    np.savez_compressed(packed, X=rng.normal(size=(6, 2)), y=np.arange(6) % 2)

    @FUZZ
    @given(damaged(stream.getvalue()) | st.binary(max_size=64).map(b"\x93NUMPY\x01\x00".__add__))
    def plain(data):
        try:
            assert archive.array(data, "x").nbytes <= len(data)
        except ValueError as error:
            assert str(error).startswith("x is no ")

    @FUZZ
    @given(damaged(packed.getvalue()))
    def zipped(data):
        file = place / "set.npz"
        file.write_bytes(data)
        try:
            x, label = adbench_classical.read(file)
            assert len(x) == len(label)
        except ValueError as error:
            assert str(file) in str(error)

    plain()
    zipped()


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.xz"])
def test_damaged_archives_are_an_error_or_load(place, kind):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:" + kind.partition(".")[2]) as packed:
        for name in ("a.txt", "b.txt"):
            info = tarfile.TarInfo(name)
            info.size = 600
            packed.addfile(info, io.BytesIO(bytes(range(100)) * 6))

    @FUZZ
    @given(damaged(stream.getvalue()))
    def fuzz(data):
        (place / "a").write_bytes(data)
        try:
            assert sum(map(len, archive.read(place / "a", r"(.*)", 2000).values())) <= 2000
        except ValueError as error:
            assert str(place / "a") in str(error)

    fuzz()


def test_damaged_tokenizers_are_an_error_or_load():
    pytest.importorskip("tokenizers", reason="BPE needs the package tokenizers")
    made = [
        tokenizer.byte_level(special=["pad"]),
        tokenizer.characters(["some text"], special=["unk"]),
        tokenizer.bpe(["some text, some more text"], size=270),
    ]
    states = [json.loads(one.json) for one in made]

    def changed(state):
        """Strategy: a state with one value somewhere in it replaced."""

        def paths(value, path=()):
            yield path
            if isinstance(value, dict | list):
                for key in value if isinstance(value, dict) else range(len(value)):
                    yield from paths(value[key], (*path, key))

        def put(choice):
            path, new = choice
            copy = json.loads(json.dumps(state))
            node = copy
            for key in path[:-1]:
                node = node[key]
            if path:
                node[path[-1]] = new
            return json.dumps(copy if path else new)

        return st.tuples(st.sampled_from(list(paths(state))[:400]), JSON).map(put)

    texts = [damaged(one.json.encode()).map(lambda data: data.decode(errors="replace")) for one in made]

    @FUZZ
    @given(st.one_of(*texts, *map(changed, states), JSON.map(json.dumps)))
    def fuzz(text):
        try:
            found = tokenizer.from_json(text)
        except ValueError as error:
            assert "tokenizer" in str(error) or "special" in str(error)
            return
        found.decode(found.encode("t"))

    fuzz()
    with pytest.raises(ValueError, match="no tokenizer"):
        tokenizer.from_json(DEEP)


def test_damaged_manifests_of_checkpoints_are_passed_over(tmp_path):
    step = tmp_path / "checkpoints" / "7"
    (step / "manifest").mkdir(parents=True)
    (step / "_CHECKPOINT_METADATA").write_text("{}")
    (tmp_path / "checkpoints" / "dlx.json").write_text("{}")

    def reads(text):
        (step / "manifest" / "metadata").write_text(text)
        assert isinstance(checkpoint.shapes(tmp_path), dict)

    def signed(leaves):
        """A manifest whose own checksum is right, as one who means harm would write it."""
        text = json.dumps(leaves, sort_keys=True)
        return json.dumps({"leaves": json.loads(text), "crc32": zlib.crc32(text.encode())})

    entry = st.fixed_dictionaries({"shape": JSON, "dtype": JSON | st.just("float32"), "sum": JSON})

    @FUZZ
    @given(JSON.map(json.dumps) | st.text(max_size=20) | JSON.map(signed))
    def fuzz(text):
        reads(text)

    @FUZZ
    @given(st.dictionaries(st.text(max_size=4), entry, min_size=1, max_size=2).map(signed))
    def entries(text):
        reads(text)

    fuzz()
    entries()
    reads(DEEP)


def test_damaged_configs_of_runs_are_an_error_or_load(place):
    whole = json.dumps({"experiment": "x", "model": {"name": "mlp", "hidden": [1, 2]}}).encode()

    @FUZZ
    @given(damaged(whole) | JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=20))
    def fuzz(data):
        file = place / "config.json"
        file.write_bytes(data)
        try:
            configuration.read(file)
        except configuration.ConfigError as error:
            assert str(file) in str(error)

    fuzz()
    (place / "config.json").write_text(DEEP)
    with pytest.raises(configuration.ConfigError):
        configuration.read(place / "config.json")
