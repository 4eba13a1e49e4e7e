"""What the builders of time series share: rows of text to numbers, and a builder made of a reader."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from dlx.data.builders import BUILDERS, files
from dlx.data.builders.series_columns import COLUMNS
from dlx.data.builders.text import About, content

MISSING = ("", "NA", "NaN", "nan")


class Row(NamedTuple):
    """A time such as "2010-01-31 23:00:00", "1958-03" or "1866", what it is measured of, and the values."""

    time: str
    group: str
    values: Sequence[str]


def rows(path: Path, columns: Sequence[str], delimiter: str = ",", unnamed: int = 0) -> Iterator[list[str]]:
    """Yields the fields of each line below the header; a ValueError if that is not `columns`.

    A line has a field for each column, and as many more as are `unnamed`.
    """
    lines = csv.reader(io.StringIO(content(path).decode("utf-8-sig"), newline=""), delimiter=delimiter)
    header = next(lines, [])
    if header != list(columns):
        raise ValueError(f"{path} has the columns {header}; expected {list(columns)}")
    for number, line in enumerate(lines, 2):
        if len(line) != len(header) + unnamed:
            raise ValueError(
                f"{path}, line {number}: {len(line)} fields, {len(header) + unnamed} are expected"
            )
        yield line


def number(text: str) -> float:
    """Returns a number, NaN where it is missing; raises a ValueError for anything else."""
    return float("nan") if text in MISSING else float(text)


def examples(found: Iterable[Row]) -> list[dict[str, Any]]:
    """Returns {"time": minutes since 1970, "group", "values"} of rows, sorted by group and time."""
    kept = list(found)
    minutes = np.array([row.time for row in kept], "datetime64[s]").astype("datetime64[m]").astype(np.int32)
    order = sorted(range(len(kept)), key=lambda index: (kept[index].group, minutes[index]))
    return [
        {
            "time": minutes[index],
            "group": kept[index].group,
            "values": np.array([number(text) for text in kept[index].values], np.float32),
        }
        for index in order
    ]


def builder(
    dataset: str,
    raws: Sequence[files.Raw],
    about: About,
    read: Callable[[Path], Mapping[str, Iterable[Row]]],
    counts: Mapping[str, int],
) -> type[tfds.core.GeneratorBasedBuilder]:
    """Returns a TFDS builder that writes what `read(folder of raws)` gives, {split: rows}, sorted.

    A ValueError is raised if the splits have not the `counts` of rows that are known of the set.
    """

    class Builder(tfds.core.GeneratorBasedBuilder):
        """Writes rows of series as records."""

        name = BUILDERS[dataset].name
        VERSION = tfds.core.Version(BUILDERS[dataset].version)
        MANUAL_DOWNLOAD_INSTRUCTIONS = f"Put {', '.join(raw.name for raw in raws)} into the folder."

        def _info(self) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(
                    {
                        "time": tfds.features.Scalar(np.int32),
                        "group": tfds.features.Text(),
                        "values": tfds.features.Tensor(shape=(None,), dtype=np.float32),
                    }
                ),
                disable_shuffling=True,
                **about._asdict(),
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterable]:
            folder = Path(dl_manager.manual_dir)
            splits = {split: examples(found) for split, found in read(folder).items()}
            found = {split: len(part) for split, part in splits.items()}
            if found != dict(counts):
                raise ValueError(f"{folder} gives {found} rows; {dataset} has {dict(counts)}")
            for split, part in splits.items():
                width = len(COLUMNS[dataset][split])
                if any(len(row["values"]) != width for row in part):
                    raise ValueError(f"{dataset} {split} has rows that are not of {width} columns")
            return {split: enumerate(part) for split, part in splits.items()}

        def _generate_examples(self) -> Iterable:
            raise NotImplementedError("the splits carry their examples")

    return Builder
