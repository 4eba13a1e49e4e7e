"""Raw files are verified whatever way they come; nothing half-made is mistaken for a data set."""

import gzip
import hashlib
import http.server
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dlx.data.builders import BUILDERS, archive, catalogue, files, idx

RAW_FILES = os.environ.get("DLX_DATA_DIR")
needs_raw_files = pytest.mark.skipif(not RAW_FILES, reason="DLX_DATA_DIR names no folder of raw files")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty data directory, no raw files and no network."""

    def unreachable(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "home"))
    monkeypatch.delenv("DLX_DATA_DIR", raising=False)
    return tmp_path / "home"


def contents(folder):
    """What a folder holds beside lock files."""
    return [path for path in Path(folder).rglob("*") if path.suffix != ".lock"]


# IDX


def idx_bytes(shape, magic=None, extra=0):
    body = bytes(i % 251 for i in range(int(np.prod(shape)) + extra))
    return (magic or bytes([0, 0, 8, len(shape)])) + struct.pack(f">{len(shape)}I", *shape) + body


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_files_are_read(tmp_path, pack):
    (tmp_path / "x").write_bytes(pack(idx_bytes((5, 3, 4))))
    expected = (np.arange(60) % 251).reshape(5, 3, 4)
    assert np.array_equal(idx.read(tmp_path / "x", 3), expected)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (idx_bytes((5, 3, 4), extra=-1), "truncated: shape .* needs 76 bytes, it has 75"),
        (idx_bytes((5, 3, 4), extra=2), "too long"),
        (idx_bytes((5, 3, 4))[:9], "truncated: its header needs 16 bytes, it has 9"),
        (
            idx_bytes((5, 3, 4), magic=b"\0\0\x0d\3"),
            "begins with the bytes 00000d03; .* begins with 00000803",
        ),
        (idx_bytes((60,)), "begins with the bytes 00000801"),
        (b"", "begins with the bytes ;"),
        (gzip.compress(idx_bytes((5, 3, 4)))[:-12], "damaged or truncated gzip"),
    ],
)
def test_a_wrong_idx_file_is_named(tmp_path, data, message):
    (tmp_path / "wrong").write_bytes(data)
    with pytest.raises(ValueError, match=f"wrong .*{message}|wrong {message}"):
        idx.read(tmp_path / "wrong", 3)


# Archives


IMAGES = {"0/a.JPG": b"zero", "1/b.JPG": b"one", "1/c.JPG": b"another one"}
PATTERN = r"Dataset/([0-9]/[^/]+\.JPG)"


def pack(path, kind, images, top="Repository-1234/"):
    entries = {f"{top}Dataset/{name}": data for name, data in images.items()} | {f"{top}README.md": b"read"}
    if kind == "folder":
        for name, data in entries.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as packed:
            for name, data in entries.items():
                packed.writestr(name, data)
    else:
        with tarfile.open(path, f"w:{kind}") as packed:
            for name, data in entries.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                packed.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("kind", ["xz", "gz", "zip", "folder"])
def test_any_container_of_the_same_files_is_the_same(tmp_path, kind):
    shuffled = dict(reversed(IMAGES.items()))
    members = archive.read(pack(tmp_path / "packed", kind, shuffled), PATTERN, 100)
    assert members == IMAGES and list(members) == sorted(IMAGES)
    assert archive.digest(members) == archive.digest(shuffled)


def test_any_change_of_content_changes_the_digest():
    changes = [{"0/a.JPG": b"zer0"}, {"2/d.JPG": b""}]
    others = [IMAGES | change for change in changes] + [{"0/a.JPG": b"zero"}, {}]
    assert len({archive.digest(members) for members in [IMAGES, *others]}) == 5


def test_a_damaged_or_oversized_container_is_named(tmp_path):
    path = pack(tmp_path / "packed", "xz", IMAGES)
    with pytest.raises(ValueError, match=r"packed holds 1/c.JPG beyond the 17 bytes"):
        archive.read(path, PATTERN, 17)
    for top in ("first/", "second/"):
        pack(tmp_path / "both", "folder", IMAGES, top)
    with pytest.raises(ValueError, match=r"both holds ./..JPG twice"):
        archive.read(tmp_path / "both", PATTERN, 100)
    for kind in ("xz", "gz", "zip"):
        noise = {name: np.random.default_rng(ord(name[2])).bytes(100_000) for name in IMAGES}
        pack(path, kind, noise).write_bytes(path.read_bytes()[:150_000])
        with pytest.raises(ValueError, match=r"packed is damaged|packed is neither"):
            archive.read(path, PATTERN, 1_000_000)
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="neither a folder nor a zip or tar file"):
        archive.read(path, PATTERN, 100)


# Raw files


def raw_file(data, url="http://127.0.0.1:9/x.bin"):
    return files._row(url, len(data), hashlib.sha256(data).hexdigest(), "x.bin")


def test_the_folder_of_the_set_comes_before_the_top(tmp_path):
    for folder, data in {"": b"other set", "one": b"this set"}.items():
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "x.bin").write_bytes(data)
    cache = tmp_path / "cache"
    assert files.collect([raw_file(b"this set")], "one", tmp_path, cache, False) == {
        "x.bin": tmp_path / "one" / "x.bin"
    }
    assert files.collect([raw_file(b"other set")], "two", tmp_path, cache, False) == {
        "x.bin": tmp_path / "x.bin"
    }


def test_a_wrong_manual_file_is_refused(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"wrong")
    right, wrong = (hashlib.sha256(data).hexdigest() for data in (b"right", b"wrong"))
    with pytest.raises(
        ValueError, match=rf"{tmp_path}/x.bin is not .* sha256 {right}; found .* sha256 {wrong}"
    ):
        files.collect([raw_file(b"right")], "set", tmp_path, tmp_path / "cache", False)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves a folder; yields its address and the folder."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=folder)

        def log_message(self, *_):
            pass

    monkeypatch.setenv("no_proxy", "*")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/x.bin", folder
        running.shutdown()
        thread.join()


def test_a_download_is_verified_and_kept(tmp_path, server):
    url, folder = server
    (folder / "x.bin").write_bytes(b"right")
    cache, raws = tmp_path / "cache", [raw_file(b"right", url)]
    for _ in range(2):
        found = files.collect(raws, "set", None, cache, False)
        assert found["x.bin"].read_bytes() == b"right" and contents(cache) == [cache / "x.bin"]
        (folder / "x.bin").unlink(missing_ok=True)  # the second time it comes from the cache
    (cache / "x.bin").write_bytes(b"rotten")
    with pytest.raises(FileNotFoundError, match="x.bin"):
        files.collect(raws, "set", None, cache, False)
    (folder / "x.bin").write_bytes(b"right")
    assert files.collect(raws, "set", None, cache, False)["x.bin"].read_bytes() == b"right"


def test_a_wrong_download_is_refused_and_leaves_nothing(tmp_path, server):
    url, folder = server
    (folder / "x.bin").write_bytes(b"wrong")
    with pytest.raises(ValueError, match=r"x.bin gave something else than x.bin: .* expected 5 bytes"):
        files.collect([raw_file(b"right", url)], "set", None, tmp_path / "cache", False)
    assert contents(tmp_path / "cache") == []


# The catalogue


@pytest.mark.parametrize("name", BUILDERS)
def test_without_file_and_network_one_error_lists_all_at_once(home, tmp_path, name):
    start = time.monotonic()
    with pytest.raises(FileNotFoundError) as caught:
        catalogue.prepare(name, progress=False)
    assert time.monotonic() - start < 5
    message = str(caught.value)
    for raw in BUILDERS[name].load().RAW:
        assert raw.name in message and raw.url in message and raw.about in message
    assert "DLX_DATA_DIR" in message and "Name or service not known" in message
    assert contents(home) == []
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/{name} .or {tmp_path}"):
        catalogue.prepare(name, tmp_path, progress=False)
    with pytest.raises(FileNotFoundError, match="nowhere, does not exist"):
        catalogue.prepare(name, tmp_path / "nowhere", progress=False)


def test_an_unknown_name_gets_a_suggestion(home):
    with pytest.raises(ValueError, match="did you mean fashion_mnist"):
        catalogue.prepare("fashion_mist")


def saved(folder):
    splits = {"train": {"x": np.arange(1000, dtype=np.uint8), "label": np.arange(4, dtype=np.int32)}}
    catalogue._save(folder, splits)
    return splits


def test_arrays_are_kept_as_they_are(tmp_path):
    splits = saved(tmp_path)
    kept = catalogue._load(tmp_path)
    assert kept is not None and kept.keys() == splits.keys()
    for name, array in splits["train"].items():
        assert kept["train"][name].dtype == array.dtype and np.array_equal(kept["train"][name], array)
    assert not [path for path in contents(tmp_path) if "partial" in path.name]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "remove", "manifest", "list"])
def test_damaged_arrays_are_not_used(tmp_path, damage):
    saved(tmp_path)
    path, manifest = tmp_path / "train.x.npy", tmp_path / "manifest.json"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[500] ^= 1
    kept = {"cut": data[:-7], "empty": b""}.get(damage, data)
    path.write_bytes(kept)
    if damage == "remove":
        path.unlink()
    if damage == "manifest":
        manifest.write_text(manifest.read_text()[:-9])
    if damage == "list":
        manifest.write_text(json.dumps([1]))
    assert catalogue._load(tmp_path) is None


KILLED = """
import os, signal, sys
from dlx.data.builders import catalogue, sign_language_digits as module
whole = module._examples
def dying(members):
    for index, example in whole(members):
        if index == 100:
            how = sys.argv[1]
            os.kill(os.getpid(), signal.SIGKILL) if how == "kill" else exec("raise RuntimeError('stopped')")
        yield index, example
module._examples = dying
catalogue.prepare("sign_language_digits")
"""


@needs_raw_files
def test_an_interrupted_preparation_is_not_mistaken_for_a_complete_one(home, monkeypatch):
    monkeypatch.setenv("DLX_DATA_DIR", RAW_FILES)
    for how, code in {"kill": -signal.SIGKILL, "raise": 1}.items():
        run = subprocess.run([sys.executable, "-c", KILLED, how], capture_output=True, text=True)
        assert run.returncode == code, run.stderr
        assert not list(home.rglob("dataset_info.json"))
    assert catalogue.prepare("sign_language_digits").new
    folder = home / "dlx_sign_language_digits"
    assert [path.name for path in folder.iterdir()] == ["1.0.0"]
    splits = catalogue.arrays("sign_language_digits")
    assert len(splits["train"]["label"]) == 1650 and len(splits["test"]["label"]) == 412


# PneumoniaMNIST


def npz(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path


def test_pneumonia_files_are_known_by_their_images_in_any_order(tmp_path, monkeypatch):
    """Another order and another container of the same examples verify and give the same records."""
    from dlx.data.builders import pneumonia_mnist

    rng = np.random.default_rng(0)
    sizes = {"train": 7, "validation": 3, "test": 4}
    monkeypatch.setattr(pneumonia_mnist, "SIZES", sizes)
    first, second, other = {}, {}, {}
    for split, count in sizes.items():
        stem = pneumonia_mnist.STEMS[split]
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels, order = np.uint8(np.arange(count) % 2)[:, None], rng.permutation(count)
        first |= {f"{stem}_images": images, f"{stem}_labels": labels}
        second |= {f"{stem}_labels": labels[order], f"{stem}_images": images[order]}
        other |= {f"{stem}_images": images, f"{stem}_labels": labels[order]}
    paths = [npz(tmp_path / f"{n}.npz", **arrays) for n, arrays in enumerate((first, second, other))]
    tables = [pneumonia_mnist.examples(path) for path in paths]
    assert all(np.array_equal(tables[0][split], tables[1][split]) for split in sizes)
    content = archive.digest({split: table.tobytes() for split, table in tables[0].items()})
    monkeypatch.setattr(pneumonia_mnist, "DIGEST", content)
    for path in paths[:2]:
        pneumonia_mnist.verify(path)
    with pytest.raises(ValueError, match=f"expected content digest {content}; found"):
        pneumonia_mnist.verify(paths[2])
    with pytest.raises(ValueError, match="does not hold val_labels.npy"):
        pneumonia_mnist.verify(npz(paths[2], **{k: v for k, v in first.items() if k != "val_labels"}))
    with pytest.raises(ValueError, match="train_images.npy of float64"):
        pneumonia_mnist.verify(npz(paths[2], **first | {"train_images": first["train_images"] / 255}))
    for index, example in pneumonia_mnist._records(tables[0]["train"]):
        assert np.array_equal(example["image"].reshape(-1), tables[1]["train"][index, :784])
        assert example["label"] == tables[1]["train"][index, 784]
