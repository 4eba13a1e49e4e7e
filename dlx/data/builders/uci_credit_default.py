"""Default of credit card clients of UCI: 30,000 clients in Taiwan in 2005, 6,636 of whom defaulted."""

from pathlib import Path

from dlx.data.builders import table
from dlx.data.builders.text import About, content, plain_or_gzipped
from dlx.data.tokenizer import utf8

RAW = (
    plain_or_gzipped(
        name="UCI_Credit_Card.csv",
        url="https://raw.githubusercontent.com/fju155447/uci/84670e783ab9fd2459b7096d82965f28dafb66b2/UCI_Credit_Card.csv",
        size=2_905_603,
        sha256="023eb2c3ad9efd15e7869616fa50a0143f25223105c7069ba632431530afdb61",
    ),
)

MONTHS = ("september", "august", "july", "june", "may", "april")  # of 2005, as the file has them
NAMES = (
    "limit",
    "sex",
    "education",
    "marriage",
    "age",
    *(f"{kind}_{month}" for kind in ("delay", "bill", "paid") for month in MONTHS),
)  # of X1 to X23
COLUMNS: dict[str, type] = {
    **dict.fromkeys(NAMES, float),
    **dict.fromkeys(("sex", "education", "marriage"), str),
    "default": int,
}

ABOUT = About(
    description="Limit, person, months of delay, bills and payments of clients, in New Taiwan dollars.",
    homepage="https://archive.ics.uci.edu/dataset/350",
    license="CC BY 4.0",
    citation="""\
@article{yeh2009comparisons,
  title={The comparisons of data mining techniques for the predictive accuracy of probability of default of
    credit card clients},
  author={Yeh, I-Cheng and Lien, Che-hui},
  journal={Expert Systems with Applications},
  year={2009}
}""",
)


def read(path: Path) -> list[dict[str, str]]:
    """Returns the rows by their names, the number of the client left out."""
    names = ["ID", *NAMES, "default"]
    _, *lines = utf8(content(path), str(path)).splitlines()
    return table.rows("\n".join(lines), names)


Builder = table.builder("uci_credit_default", RAW[0], ABOUT, COLUMNS, read, 30_000)
