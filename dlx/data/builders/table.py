"""What the builders of tables share: a builder made of a reader, a column a feature."""

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from dlx.data.builders import BUILDERS, files
from dlx.data.builders.text import About

Row = dict[str, Any]


def builder(
    dataset: str,
    raw: files.Raw,
    about: About,
    columns: Mapping[str, type],
    read: Callable[[Path], Iterable[Mapping[str, str]]],
    count: int,
) -> type[tfds.core.GeneratorBasedBuilder]:
    """Returns a TFDS builder that writes the rows of `read(path of raw)`, {column: text}, in their order.

    `columns` are those to keep, and whether they are of type float (an empty text is NaN), int or str. A
    ValueError is raised if there are not `count` rows.
    """
    kinds = {float: np.float64, int: np.int64}

    class Builder(tfds.core.GeneratorBasedBuilder):
        """Writes rows as records."""

        name = BUILDERS[dataset].name
        VERSION = tfds.core.Version(BUILDERS[dataset].version)
        MANUAL_DOWNLOAD_INSTRUCTIONS = f"Put {raw.name}, from {raw.url}, into the folder."

        def _info(self) -> tfds.core.DatasetInfo:
            features = {
                name: tfds.features.Text() if kind is str else tfds.features.Scalar(kinds[kind])
                for name, kind in columns.items()
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                disable_shuffling=True,
                **about._asdict(),
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterable]:
            path = Path(dl_manager.manual_dir) / raw.name
            rows = [_typed(row, columns, f"row {at} of {path}") for at, row in enumerate(read(path), 1)]
            if len(rows) != count:
                raise ValueError(f"{path} gives {len(rows)} rows; {dataset} has {count}")
            return {"train": enumerate(rows)}

        def _generate_examples(self) -> Iterable:
            raise NotImplementedError("the split carries its examples")

    return Builder


def rows(text: str, names: Sequence[str] | None = None, delimiter: str = ",") -> list[dict[str, str]]:
    """Returns the rows of delimited text by `names`, or by those of its first line."""
    lines = [line for line in csv.reader(text.splitlines(), delimiter=delimiter) if line]
    if names is None:
        names, *lines = lines
    return [dict(zip(names, line, strict=True)) for line in lines]


def _typed(row: Mapping[str, str], columns: Mapping[str, type], where: str) -> Row:
    try:
        return {
            name: math.nan if kind is float and not row[name].strip() else kind(row[name].strip())
            for name, kind in columns.items()
        }
    except (KeyError, ValueError) as error:
        raise ValueError(f"{where} cannot be read: {error}") from error
