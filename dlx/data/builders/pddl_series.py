"""Seven series in the public domain: volatility, shares, oil, gas, carbon dioxide and temperature.

The monthly prices of the S&P 500 (Shiller) are means of the days' closing prices, so that one month's change
is correlated with the next by a quarter even if prices are a random walk (Working 1960). What the columns
"Dividend" and after hold is 0 where it is not known yet; they are left out. Of the file of carbon dioxide the
last headings are not those of its columns; "Average" is the mean of the month in parts per million.
"""

from collections.abc import Iterator
from pathlib import Path

from dlx.data.builders import files, series
from dlx.data.builders.text import About

RAW = files.registered("https://raw.githubusercontent.com/datasets/")
COUNTS = {
    "vix": 9_235,
    "sp500": 1_866,
    "brent": 9_958,
    "natural_gas": 7_437,
    "co2": 820,
    "global_temperature_gcag": 2_095,
    "global_temperature_gistemp": 1_728,
}
PRICE = ("Date", "Price")
SHILLER = (
    "Date",
    "SP500",
    "Dividend",
    "Earnings",
    "Consumer Price Index",
    "Long Interest Rate",
    "Real Price",
    "Real Dividend",
    "Real Earnings",
    "PE10",
)
CO2 = ("Date", "Decimal Date", "Average", "Interpolated", "Trend", "Number of Days")
TEMPERATURES = {"global_temperature_gcag": "gcag", "global_temperature_gistemp": "GISTEMP"}

ABOUT = About(
    description="VIX and prices of Brent oil (dollars a barrel) and Henry Hub gas (dollars per million BTU) "
    "by day; S&P 500, carbon dioxide on Mauna Loa and the anomaly of the global temperature in degrees "
    "Celsius (two sources) by month.",
    homepage="https://datahub.io/core",
    license="PDDL 1.0",
    citation="""\
@misc{datahubcore,
  title={Core data sets},
  author={DataHub},
  howpublished={https://github.com/datasets},
  note={From CBOE, R. Shiller, US EIA, NOAA and NASA}
}""",
)


def read(folder: Path) -> dict[str, Iterator[series.Row]]:
    """Returns the rows of each series."""
    vix = series.rows(folder / "vix-daily.csv", ("DATE", "OPEN", "HIGH", "LOW", "CLOSE"))
    found = {
        "vix": (series.Row(line[0], "VIX", line[1:]) for line in vix),
        "sp500": priced(folder / "sp500-shiller-monthly.csv", "S&P 500", SHILLER),
        "brent": priced(folder / "brent-daily.csv", "Brent", PRICE),
        "natural_gas": priced(folder / "natural-gas-daily.csv", "Henry Hub", PRICE),
        "co2": carbon(folder / "co2-mm-mlo.csv"),
    }
    for split, source in TEMPERATURES.items():
        found[split] = temperature(folder / "global-temp-monthly.csv", source)
    return found


def priced(path: Path, group: str, columns: tuple[str, ...]) -> Iterator[series.Row]:
    """Yields date and price, the first two columns."""
    for line in series.rows(path, columns):
        yield series.Row(line[0], group, line[1:2])


def carbon(path: Path) -> Iterator[series.Row]:
    """Yields month and mean; the lines have one field more than the heading."""
    for line in series.rows(path, CO2, unnamed=1):
        yield series.Row(line[0], "Mauna Loa", line[2:3])


def temperature(path: Path, source: str) -> Iterator[series.Row]:
    """Yields month and anomaly of one of the two sources."""
    for line in series.rows(path, ("Source", "Year", "Mean")):
        if line[0] == source:
            yield series.Row(line[1], source, line[2:])


Builder = series.builder("pddl_series", RAW, ABOUT, read, COUNTS)
