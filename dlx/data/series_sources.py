"""Where time series come from; sets of the catalogue are prepared on first use, as in `dlx.data.sources`.

A function of `SERIES` returns a checked `Series`. Which part of it is for training is said by borders in
time, see `dlx.data.series.windows`.
"""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from dlx.data.builders.catalogue import arrays
from dlx.data.builders.series_columns import COLUMNS, CROPS
from dlx.data.series import Series, check, regular


def etth1(*, manual_dir: str | Path | None = None) -> Series:
    """ETTh1 (Zhou et al. 2021): 17,420 hours of six loads and the oil temperature "OT" of a transformer.

    The usual borders are months of 30 days: 12 to train from 2016-07-01, 4 to validate from 2017-06-26, and 4
    to test from 2017-10-24 to 2018-02-21. The rest is not used.
    """
    return _catalogued("etth1", "train", manual_dir)


def beijing_pm25(*, manual_dir: str | Path | None = None) -> Series:
    """Beijing PM2.5 (Liang et al. 2015): 43,824 hours from 2010 to 2014, "pm2.5" in micrograms per m3.

    With the weather of the same hours; 2,067 values of PM2.5 are missing, up to 155 in a row.
    """
    return _catalogued("beijing_pm25", "train", manual_dir)


def nass_crop_yield(*, crop: str = "corn", years: int = 100, manual_dir: str | Path | None = None) -> Series:
    """Yields of a crop in the states of the USA (USDA NASS), a group for each state, a row for each year.

    Columns "acres" and "yield" (per acre: bushels; pounds of cotton and rice; tons of hay). A year that a
    state skips is a row of missing values. States whose series goes over fewer than so many `years` are left
    out.
    """
    if crop not in CROPS:
        raise ValueError(f"crop={crop!r} is none of {', '.join(CROPS)}")
    whole = regular(_catalogued("nass_crop_yield", crop, manual_dir), "Y")
    sizes = np.bincount(whole.group, minlength=len(whole.groups))
    if not (sizes >= years).any():
        raise ValueError(f"no state has {years} years of {crop}; the longest series has {sizes.max()}")
    keep = (sizes >= years)[whole.group]
    names, group = np.unique(whole.group[keep], return_inverse=True)
    groups = tuple(whole.groups[index] for index in names)
    return Series(whole.time[keep], whole.values[keep], whole.columns, group.astype(np.int32), groups)


def pddl_series(*, series: str = "co2", manual_dir: str | Path | None = None) -> Series:
    """One of seven series in the public domain, by day or month.

    "vix" (open, high, low, close), "brent" and "natural_gas" (price) by trading day; "sp500" (price, the mean
    of the month's closing prices), "co2" (parts per million on Mauna Loa), "global_temperature_gcag" and
    "global_temperature_gistemp" (anomaly in degrees Celsius) by month.
    """
    names = COLUMNS["pddl_series"]
    if series not in names:
        raise ValueError(f"series={series!r} is none of {', '.join(names)}")
    return _catalogued("pddl_series", series, manual_dir)


def plotly_stocks(*, manual_dir: str | Path | None = None) -> Series:
    """Apple's share on 506 trading days from February 2015: open, high, low, close, volume, adjusted."""
    return _catalogued("plotly_stocks", "train", manual_dir)


def synthetic_series(
    *,
    count: int = 600,
    channels: int = 2,
    season: int = 24,
    noise: float | int = 0.2,
    missing: float | int = 0.0,
    seed: int = 0,
) -> Series:
    """Hours from 2020-01-01 of waves with a season, a slow walk and noise: "x0", "x1" ...; needs no network.

    Waves have amplitude 1 and a phase for each channel. The walk makes the last value worth something, and
    steps by a tenth of `noise`, the noise's standard deviation. Each value is missing with probability
    `missing`.
    """
    if count < 2 or channels < 1 or season < 2 or not 0 <= missing < 1:
        raise ValueError(
            f"count={count} and season={season} must be at least 2, channels={channels} at least 1, "
            f"missing={missing} at least 0 and below 1"
        )
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 2 * np.pi, channels)
    values = np.sin(2 * np.pi * np.arange(count)[:, None] / season + phase)
    values += rng.normal(scale=0.1 * noise, size=values.shape).cumsum(axis=0)
    values += rng.normal(scale=noise, size=values.shape)
    values[rng.random(values.shape) < missing] = np.nan
    time = np.datetime64("2020-01-01", "m") + 60 * np.arange(count)
    names = tuple(f"x{index}" for index in range(channels))
    return check(Series(time, values, names, np.zeros(count, np.int32), ("synthetic",)), "synthetic_series")


SERIES = {
    "etth1": etth1,
    "beijing_pm25": beijing_pm25,
    "nass_crop_yield": nass_crop_yield,
    "pddl_series": pddl_series,
    "plotly_stocks": plotly_stocks,
    "synthetic_series": synthetic_series,
}


def _catalogued(name: str, split: str, manual_dir: str | Path | None) -> Series:
    """Reads a series of the catalogue, preparing its set first if need be."""
    stored = arrays(name, manual_dir)[split]
    names = _strings(stored["group"], stored["group_ends"])
    groups, group = np.unique(names, return_inverse=True)
    time = stored["time"].astype("datetime64[m]")
    values, columns = stored["values"].astype(np.float64), COLUMNS[name][split]
    return check(Series(time, values, columns, group.astype(np.int32), tuple(groups.tolist())), name)


def _strings(data: UInt8[np.ndarray, "bytes"], ends: np.ndarray) -> list[str]:
    """Returns strings that lie on end."""
    text, begins = data.tobytes(), [0, *ends[:-1].tolist()]
    return [text[begin:end].decode() for begin, end in zip(begins, ends.tolist(), strict=True)]
