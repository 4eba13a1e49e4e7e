"""California housing: 20,640 districts of the 1990 census; the form with missing values and a category."""

from pathlib import Path

from dlx.data.builders import archive, files, table
from dlx.data.builders.text import About
from dlx.data.tokenizer import utf8

RAW = files.registered("https://raw.githubusercontent.com/ageron/handson-ml2/master/datasets/housing/")

COLUMNS = {
    "longitude": float,
    "latitude": float,
    "housing_median_age": float,
    "total_rooms": float,
    "total_bedrooms": float,
    "population": float,
    "households": float,
    "median_income": float,
    "ocean_proximity": str,
    "median_house_value": float,
}

ABOUT = About(
    description="Median house values of districts, with bedrooms missing in 207 of them.",
    homepage="https://github.com/ageron/handson-ml2",
    license="Apache-2.0",
    citation="""\
@article{pace1997sparse,
  title={Sparse spatial autoregressions},
  author={Pace, R. Kelley and Barry, Ronald},
  journal={Statistics and Probability Letters},
  year={1997}
}""",
)


def read(path: Path) -> list[dict[str, str]]:
    """Returns the rows of the file in the archive."""
    [data] = archive.read(path.resolve(), r"(housing\.csv)", 3_000_000).values()
    return table.rows(utf8(data, f"housing.csv in {path}"))


Builder = table.builder("california_housing", RAW[0], ABOUT, COLUMNS, read, 20_640)
