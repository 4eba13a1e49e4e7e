"""NAB's series with a known cause: seven measured series, and the windows in which experts saw anomalies.

The column "anomaly" is 1 in a window. Some times occur twice, where a clock was put back or two reports came
in one interval; rows are sorted by time, and of equal times all are here.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from dlx.data.builders import files, series
from dlx.data.builders.anomaly_sets import KNOWN_CAUSE
from dlx.data.builders.text import About, plain_or_gzipped

URL = "https://raw.githubusercontent.com/numenta/NAB/ea702d75cc2258d9d7dd35ca8e5e2539d71f3140"
FILES = {  # bytes and SHA-256
    "ambient_temperature_system_failure": (
        233_321,
        "230b68ccca20f59d562afd5d24ad52939c9b784386bed0054018358bf9120581",
    ),
    "cpu_utilization_asg_misconfiguration": (
        539_274,
        "58ba65dc0737cfbac11b51514476d50c438d44011232144bb8d93f392df58f9f",
    ),
    "ec2_request_latency_system_failure": (
        123_428,
        "98378580aa80157e057c61d59d81daddccc6c65a2c0c800e3f01f603b8215c3f",
    ),
    "machine_temperature_system_failure": (
        732_223,
        "92bf5b87fc7f9bba8ca0b7ec63ccaac8cb4a1371a258e8c29a10ae9c018d82a4",
    ),
    "nyc_taxi": (265_771, "d8fa6f7f0734bf5c8be12c52a94e20a82664c397d9dec4449156bd453d32856d"),
    "rogue_agent_key_hold": (55_527, "47b110baa8e3636574c1033dda1cce780873647fab58223d159d4fee6f180e86"),
    "rogue_agent_key_updown": (138_333, "9797cfef477c13306f7a33874ab4d6cf700f8f2c7e5825a2a5bc02004370909a"),
}
WINDOWS = files.registered(f"{URL}/labels/")[0]
RAW = (
    *(
        plain_or_gzipped(f"{name}.csv", f"{URL}/data/realKnownCause/{name}.csv", size, sha256)
        for name, (size, sha256) in FILES.items()
    ),
    WINDOWS,
)

ABOUT = About(
    description="Temperatures of a room and a machine, loads of servers, demand for taxis and key strokes, "
    "with the windows of their anomalies.",
    homepage="https://github.com/numenta/NAB",
    license="MIT",
    citation="""\
@inproceedings{lavin2015nab,
  title={Evaluating Real-Time Anomaly Detection Algorithms: the Numenta Anomaly Benchmark},
  author={Alexander Lavin and Subutai Ahmad},
  booktitle={ICMLA},
  year={2015}
}""",
)


def read(folder: Path) -> dict[str, Iterator[series.Row]]:
    """Returns the rows of each series."""
    windows = json.loads((folder / WINDOWS.name).read_text())
    return {
        name: marked(folder / f"{name}.csv", name, windows[f"realKnownCause/{name}.csv"])
        for name in KNOWN_CAUSE
    }


def marked(path: Path, name: str, windows: list[list[str]]) -> Iterator[series.Row]:
    """Yields time, value, and whether a window holds the time, its ends among it."""
    spans = [(begin[:19], end[:19]) for begin, end in windows]
    for time, value in series.rows(path, ("timestamp", "value")):
        inside = any(begin <= time <= end for begin, end in spans)
        yield series.Row(time, name, (value, str(int(inside))))


Builder = series.builder("nab_realknowncause", RAW, ABOUT, read, KNOWN_CAUSE)
