"""The columns of the series of the catalogue, in their order, by data set and split."""

from dlx.data.builders.anomaly_sets import KNOWN_CAUSE

WINDS = ("NW", "NE", "SE", "cv")  # directions at the airport of Beijing; cv is calm and variable
CROPS = ("barley", "corn", "cotton", "hay", "rice", "sorghum", "soybean", "wheat")
STOCK = ("open", "high", "low", "close", "volume", "adjusted")

COLUMNS: dict[str, dict[str, tuple[str, ...]]] = {
    "etth1": {"train": ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")},
    "beijing_pm25": {
        "train": (
            "pm2.5",
            "dew_point",
            "temperature",
            "pressure",
            "wind_speed",
            "snow_hours",
            "rain_hours",
            *(f"wind_{name}" for name in WINDS),
        )
    },
    "nass_crop_yield": {crop: ("acres", "yield") for crop in CROPS},
    "pddl_series": {
        "vix": ("open", "high", "low", "close"),
        "sp500": ("price",),
        "brent": ("price",),
        "natural_gas": ("price",),
        "co2": ("co2",),
        "global_temperature_gcag": ("anomaly",),
        "global_temperature_gistemp": ("anomaly",),
    },
    "plotly_stocks": {"train": STOCK},
    "nab_realknowncause": dict.fromkeys(KNOWN_CAUSE, ("value", "anomaly")),
}
