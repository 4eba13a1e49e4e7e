"""What the builders of text share: files known by their content, and a builder made of a reader."""

import gzip
import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from dlx.data.builders import BUILDERS, files

Example = dict[str, Any]


class About(NamedTuple):
    """What is said of a data set beside its examples."""

    description: str
    homepage: str
    license: str
    citation: str


def content(path: Path) -> bytes:
    """Returns the bytes of a file, unpacked if it is gzipped; raises a ValueError if that is damaged."""
    data = path.resolve().read_bytes()
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} is a damaged or truncated gzip file: {error}") from error


def plain_or_gzipped(name: str, url: str, size: int, sha256: str) -> files.Raw:
    """Returns a file known by what it holds, `size` bytes of that SHA-256, as it is or gzipped."""
    about = f"{size:,} bytes, sha256 {sha256}"

    def verify(path: Path) -> None:
        data = content(path)
        actual = f"{len(data):,} bytes, sha256 {hashlib.sha256(data).hexdigest()}"
        if actual != about:
            raise ValueError(
                f"{path} does not hold the registered content: expected {about}; found {actual}. "
                "Replace it, or remove it so that it is downloaded"
            )

    return files.Raw(name, url, f"{about}, or gzipped", verify, (f"{name}.gz",))


def builder(
    dataset: str,
    raw: files.Raw,
    about: About,
    texts: tuple[str, ...],
    read: Callable[[Path], Mapping[str, Iterable[Example]]],
    counts: Mapping[str, int],
) -> type[tfds.core.GeneratorBasedBuilder]:
    """Returns a TFDS builder that writes what `read(path of raw)` gives, {split: examples}, in its order.

    `texts` names the features that are text; a set with classes has a "label" too. A ValueError is raised if
    the splits have not the `counts` of examples that are known of the set.
    """
    classes = BUILDERS[dataset].classes
    label = {"label": tfds.features.ClassLabel(names=list(classes))} if classes else {}

    class Builder(tfds.core.GeneratorBasedBuilder):
        """Writes texts as records."""

        name = BUILDERS[dataset].name
        VERSION = tfds.core.Version(BUILDERS[dataset].version)
        MANUAL_DOWNLOAD_INSTRUCTIONS = f"Put {raw.name}, from {raw.url}, into the folder."

        def _info(self) -> tfds.core.DatasetInfo:
            features = {name: tfds.features.Text() for name in texts} | label
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                disable_shuffling=True,
                **about._asdict(),
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterable]:
            path = Path(dl_manager.manual_dir) / raw.name
            splits = {split: list(examples) for split, examples in read(path).items()}
            found = {split: len(examples) for split, examples in splits.items()}
            if found != dict(counts):
                raise ValueError(f"{path} gives {found} examples; {dataset} has {dict(counts)}")
            return {split: enumerate(examples) for split, examples in splits.items()}

        def _generate_examples(self) -> Iterable:
            raise NotImplementedError("the splits carry their examples")

    return Builder
