"""Crop yields of the United States by state and year, from 1866 to 2011, a split for each crop.

Units of a yield per acre: bushels (barley, corn, sorghum, soybean, wheat), pounds (cotton, rice), tons (hay).
"""

from collections.abc import Iterator
from pathlib import Path

from dlx.data.builders import files, series
from dlx.data.builders.series_columns import CROPS
from dlx.data.builders.text import About

RAW = files.registered("https://raw.githubusercontent.com/kwstat/agridat/")
COUNTS = (4_839, 6_381, 2_338, 5_044, 662, 1_647, 2_528, 5_963)

ABOUT = About(
    description="Area harvested in acres and yield per acre of eight crops, by state and year.",
    homepage="https://www.nass.usda.gov/Quick_Stats/",
    license="MIT (agridat); the numbers of USDA NASS are in the public domain",
    citation="""\
@misc{wright2024agridat,
  title={agridat: Agricultural Datasets},
  author={Kevin Wright},
  howpublished={https://github.com/kwstat/agridat},
  note={nass.barley to nass.wheat, from United States Department of Agriculture, NASS}
}""",
)


def read(folder: Path) -> dict[str, Iterator[series.Row]]:
    """Returns the rows of each crop; the group is the state."""
    return {crop: crops(folder / f"nass.{crop}.txt") for crop in CROPS}


def crops(path: Path) -> Iterator[series.Row]:
    """Yields the rows of one crop."""
    for year, state, *values in series.rows(path, ("year", "state", "acres", "yield"), "\t"):
        yield series.Row(year, state, values)


Builder = series.builder("nass_crop_yield", RAW, ABOUT, read, dict(zip(CROPS, COUNTS, strict=True)))
