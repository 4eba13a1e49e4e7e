"""Beijing PM2.5: fine particles at the US embassy and the weather at the airport, hourly, 2010 to 2014.

2,067 of the 43,824 values of PM2.5 are missing. Each direction of the wind becomes a column of 0 and 1.
"""

from collections.abc import Iterator
from pathlib import Path

from dlx.data.builders import series
from dlx.data.builders.series_columns import WINDS
from dlx.data.builders.text import About, plain_or_gzipped

RAW = (
    plain_or_gzipped(
        "pollution.csv",
        "https://raw.githubusercontent.com/jbrownlee/Datasets/d20fcb6402ae/pollution.csv",
        2_010_492,
        "892e9559205d16d32623135c127a3951c12e46ea1e0b3093e107ce89a9fd60e2",
    ),
)
FIELDS = ("No", "year", "month", "day", "hour", "pm2.5", "DEWP", "TEMP", "PRES", "cbwd", "Iws", "Is", "Ir")

ABOUT = About(
    description="PM2.5 in micrograms per cubic metre, dew point and temperature in degrees Celsius, pressure "
    "in hPa, cumulated wind speed in m/s, cumulated hours of snow and rain, and the direction of the wind.",
    homepage="https://archive.ics.uci.edu/dataset/381/beijing+pm2+5+data",
    license="CC BY 4.0",
    citation="""\
@article{liang2015assessing,
  title={Assessing Beijing's PM2.5 pollution: severity, weather impact, APEC and winter heating},
  author={Xuan Liang and Tao Zou and Bin Guo and Shuo Li and Haozhe Zhang and Shuyi Zhang and Hui Huang and
    Song Xi Chen},
  journal={Proceedings of the Royal Society A},
  volume={471},
  number={20150257},
  year={2015}
}""",
)


def read(folder: Path) -> dict[str, Iterator[series.Row]]:
    """Returns the rows of the file; a ValueError names a direction of the wind that is not known."""
    return {"train": map(row, series.rows(folder / RAW[0].name, FIELDS))}


def row(line: list[str]) -> series.Row:
    """Returns one line as a row."""
    _, year, month, day, hour, particles, dew, temperature, pressure, wind, speed, snow, rain = line
    if wind not in WINDS:
        raise ValueError(f"row {line[0]} has the wind {wind!r}; known are {', '.join(WINDS)}")
    time = f"{year}-{int(month):02}-{int(day):02}T{int(hour):02}:00"
    measured = [particles, dew, temperature, pressure, speed, snow, rain]
    return series.Row(time, "Beijing", [*measured, *(str(int(wind == name)) for name in WINDS)])


Builder = series.builder("beijing_pm25", RAW, ABOUT, read, {"train": 43_824})
