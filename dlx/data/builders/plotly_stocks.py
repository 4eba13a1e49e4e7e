"""Apple's share by day: prices in dollars and volume, from February 2015 to February 2017."""

from collections.abc import Iterator
from pathlib import Path

from dlx.data.builders import files, series
from dlx.data.builders.text import About

RAW = files.registered("https://raw.githubusercontent.com/plotly/datasets/")
NAMES = ("Open", "High", "Low", "Close", "Volume", "Adjusted")
FIELDS = ("Date", *(f"AAPL.{name}" for name in NAMES), "dn", "mavg", "up", "direction")

ABOUT = About(
    description="506 trading days of AAPL: open, high, low, close, volume, and close adjusted for dividends.",
    homepage="https://github.com/plotly/datasets",
    license="MIT",
    citation="""\
@misc{plotlydatasets,
  title={Datasets used in Plotly examples and documentation},
  author={Plotly},
  howpublished={https://github.com/plotly/datasets}
}""",
)


def read(folder: Path) -> dict[str, Iterator[series.Row]]:
    """Returns the rows of the file, without what is computed from them."""
    lines = series.rows(folder / RAW[0].name, FIELDS)
    return {"train": (series.Row(line[0], "AAPL", line[1:7]) for line in lines)}


Builder = series.builder("plotly_stocks", RAW, ABOUT, read, {"train": 506})
