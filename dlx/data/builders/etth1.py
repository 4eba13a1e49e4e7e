"""ETTh1: loads and oil temperature of an electricity transformer, hourly from July 2016 to June 2018."""

from collections.abc import Iterator
from pathlib import Path

from dlx.data.builders import files, series
from dlx.data.builders.series_columns import COLUMNS
from dlx.data.builders.text import About

RAW = files.registered("https://raw.githubusercontent.com/zhouhaoyi/ETDataset/")

ABOUT = About(
    description="17,420 hourly rows of six power loads and the oil temperature of a transformer in China.",
    homepage="https://github.com/zhouhaoyi/ETDataset",
    license="CC BY-ND 4.0",
    citation="""\
@inproceedings{zhou2021informer,
  title={Informer: Beyond Efficient Transformer for Long Sequence Time-Series Forecasting},
  author={Haoyi Zhou and Shanghang Zhang and Jieqi Peng and Shuai Zhang and Jianxin Li and Hui Xiong and
    Wancai Zhang},
  booktitle={AAAI},
  year={2021}
}""",
)


def read(folder: Path) -> dict[str, Iterator[series.Row]]:
    """Returns the rows of the file."""
    lines = series.rows(folder / RAW[0].name, ("date", *COLUMNS["etth1"]["train"]))
    return {"train": (series.Row(line[0], "ETTh1", line[1:]) for line in lines)}


Builder = series.builder("etth1", RAW, ABOUT, read, {"train": 17_420})
