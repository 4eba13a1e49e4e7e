"""Real estate valuation of UCI: 414 sales in Sindian, New Taipei City, 2012 and 2013."""

from pathlib import Path

from dlx.data.builders import files, table
from dlx.data.builders.text import About
from dlx.data.tokenizer import utf8

RAW = files.registered("https://raw.githubusercontent.com/jessanrendell/real-estate-valuation/")

COLUMNS = dict.fromkeys(
    (
        "transaction_date",
        "age",
        "distance_to_train_station",
        "convenience_stores",
        "latitude",
        "longitude",
        "price",
    ),
    float,
)

ABOUT = About(
    description="House prices in 10,000 New Taiwan dollars per ping (3.3 square metres).",
    homepage="https://archive.ics.uci.edu/dataset/477",
    license="CC BY 4.0",
    citation="""\
@article{yeh2018building,
  title={Building real estate valuation models with comparative approach through case-based reasoning},
  author={Yeh, I-Cheng and Hsu, Tzu-Kuang},
  journal={Applied Soft Computing},
  year={2018}
}""",
)


def read(path: Path) -> list[dict[str, str]]:
    """Returns the rows; the file begins with a byte order mark."""
    return table.rows(utf8(path.read_bytes(), str(path)).removeprefix("\ufeff"))


Builder = table.builder("uci_real_estate", RAW[0], ABOUT, COLUMNS, read, 414)
