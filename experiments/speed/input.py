"""Examples per second out of the input pipeline, against torch's DataLoader on the same bytes.

Every pass is one that a run makes: shuffled anew, in full batches. Two kinds of peer: what a PyTorch program
has by default (a Dataset of single examples, the default collate), with 0 and with 2 workers that persist;
and for arrays the stronger forms that few write: a sampler of whole batches, and no DataLoader at all.
Workers are started, and both sides have made a pass, before the clock runs.
"""

import io
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack

import numpy as np
import torch
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, TensorDataset

from dlx.data import pipeline, sources
from dlx.data.splits import Arrays
from experiments.speed.table import Found, Row, in_turns

REPEATS = 7
SIDE = 64  # pixels, of a decoded JPEG


def measure(repeats: int | None = None, *, smoke: bool = False) -> Found:
    """Measures MNIST in batches of 128 and the JPEGs of sign_language_digits in batches of 64."""
    repeats = repeats or REPEATS
    if smoke:
        drawn = sources.synthetic_images(count=2048, size=28, channels=1, validation=0).splits["train"]
        return found(arrays(drawn, 128, repeats), jpegs(jpeg_files(64), 16, repeats, passes=1))
    images = sources.mnist().splits["train"]
    files = sources.sign_language_digits(size=SIDE).splits["train"]
    return found(arrays(images, 128, repeats), jpegs(files, 64, repeats))


def found(memory: list[Row], files: list[Row]) -> Found:
    """Joins the rows, and says which DataLoader is the faster one: it is the peer that counts."""
    remarks = []
    for rows in (memory, files):
        loaders = [row for row in rows if row.peer.startswith("DataLoader, ")]
        best = max(loaders, key=lambda row: float(np.median(row.theirs)))
        ratio = float(np.median(best.ratios()))
        remarks.append(f"{best.what}: {ratio:.2f} times as fast as the faster default loader ({best.peer})")
    return Found([*memory, *files], remarks)


def arrays(split: Arrays, batch: int, repeats: int) -> list[Row]:
    """Compares the loaders of a split in memory."""
    tensors = TensorDataset(*map(torch.from_numpy, split.values()))
    gathered = Gathered(tensors.tensors)
    sampler = BatchSampler(RandomSampler(gathered), batch, drop_last=True)
    read = pipeline.batches(split, batch, seed=0)
    steps = len(tensors) // batch
    position = 0

    def ours():
        nonlocal position  # the next epoch, whose order is drawn within the time
        for step in range(position, position + steps):
            last = read(step)
        position += steps
        return last

    with ExitStack() as stack:
        peers = {
            f"DataLoader, {workers} workers": epoch(loader(tensors, batch, workers, stack))
            for workers in (0, 2)
        }
        peers["DataLoader of whole batches"] = epoch(DataLoader(gathered, sampler=sampler, batch_size=None))
        peers["randperm and index_select"] = lambda: by_hand(tensors.tensors, batch)
        return compared(f"arrays in memory, batches of {batch}", ours, peers, steps * batch, repeats)


def jpegs(split: sources.Encoded, batch: int, repeats: int, passes: int = 3) -> list[Row]:
    """Compares the decoders of JPEG files, kept as bytes in memory, at SIDE pixels."""
    files = [split.data[begin:end].tobytes() for begin, end in split.spans]
    dataset = Jpegs(files, split.labels)
    steps = len(files) // batch

    def ours():
        # a fresh reader, so that nothing is read ahead outside of the time, nor while the peer is measured
        read = pipeline.batches(split, batch, seed=0)
        for step in range(passes * steps):
            last = read(step)
        return last

    with ExitStack() as stack:
        peers = {
            f"DataLoader, {workers} workers": epoch(loader(dataset, batch, workers, stack), passes)
            for workers in (0, 2)
        }
        what = f"JPEG to {SIDE} px, batches of {batch}"
        return compared(what, ours, peers, passes * steps * batch, repeats)


def compared(
    what: str, ours: Callable, peers: Mapping[str, Callable], examples: int, repeats: int
) -> list[Row]:
    """Measures everyone in turns, in examples per second, after a pass that only warms up."""
    sides = {"dlx": ours, **peers}
    for side in sides.values():
        side()

    def rate(side: Callable) -> float:
        clock = time.perf_counter()
        side()
        return examples / (time.perf_counter() - clock)

    rates = in_turns(repeats, {name: lambda side=side: rate(side) for name, side in sides.items()})
    return [Row(what, name, "examples/s", rates["dlx"], rates[name]) for name in peers]


def loader(dataset: Dataset, batch: int, workers: int, stack: ExitStack) -> DataLoader:
    """Returns the loader that a PyTorch program has; leaving `stack` ends its workers.

    Workers are spawned, since forking a process with threads is not safe; they start before the clock does.
    """
    context = {"multiprocessing_context": "spawn", "persistent_workers": True} if workers else {}
    result = DataLoader(
        dataset, batch_size=batch, shuffle=True, drop_last=True, num_workers=workers, **context
    )

    def close():
        iterator = getattr(result, "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()

    stack.callback(close)
    return result


def epoch(batches: DataLoader, passes: int = 1) -> Callable:
    """Returns a function that reads everything `passes` times."""

    def read():
        for _ in range(passes):
            for batch in batches:
                last = batch
        return last

    return read


def by_hand(tensors: tuple[torch.Tensor, ...], batch: int) -> list[torch.Tensor]:
    """Reads every full batch once, shuffled, as one writes it without a DataLoader."""
    order = torch.randperm(len(tensors[0]))
    for start in range(0, len(order) - batch + 1, batch):
        rows = order[start : start + batch]
        last = [tensor.index_select(0, rows) for tensor in tensors]
    return last


class Gathered(Dataset):
    """A dataset whose index is a list of rows, gathered at once."""

    def __init__(self, tensors: tuple[torch.Tensor, ...]):
        """Takes tensors that share their leading axis."""
        self.tensors = tensors

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.tensors[0])

    def __getitem__(self, rows: list[int]) -> list[torch.Tensor]:
        """Returns a batch."""
        return [tensor[rows] for tensor in self.tensors]


class Jpegs(Dataset):
    """JPEG files in memory, decoded by Pillow as PyTorch's tutorials do."""

    def __init__(self, files: list[bytes], labels: np.ndarray):
        """Takes the bytes of each file, and its label."""
        self.files, self.labels = files, labels

    def __len__(self) -> int:
        """Returns the number of files."""
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Returns one image, uint8 [SIDE, SIDE, 3], and its label."""
        image = Image.open(io.BytesIO(self.files[index])).convert("RGB")
        image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image)), int(self.labels[index])


def jpeg_files(count: int, side: int = 100) -> sources.Encoded:
    """Returns `count` smooth colour pictures as JPEG files, to try things on without prepared data."""
    rng = np.random.default_rng(0)
    files = []
    for coarse in rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8):
        stream = io.BytesIO()
        Image.fromarray(coarse).resize((side, side)).save(stream, "JPEG")
        files.append(stream.getvalue())
    ends = np.cumsum([len(file) for file in files])
    spans = np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1)
    names = [f"picture {index}" for index in range(count)]
    labels = np.zeros(count, np.int32)
    return sources.Encoded(np.frombuffer(b"".join(files), np.uint8), spans, labels, names, SIDE)
