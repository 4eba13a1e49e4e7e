"""Where tables come from: sources whose splits are columns, and what is asked of them.

A split is a table as `dlx.data.tables` knows it, with "label" int32 where there are classes, of which 1 is
the one looked for, or else "target" float64. `ASIDE` names what is in a split and no column to learn from.
What is held out never depends on the seed of a run; equal rows are in one fold.
"""

import gzip
import importlib.util
import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from dlx.data import card_fraud
from dlx.data.builders.catalogue import arrays
from dlx.data.splits import Arrays, Source, check, folds, held_out

ASIDE = ("label", "target", "day", "card")
FOLDS = 10
INCOMES = (1.5, 3.0, 4.5, 6.0)  # in 10,000 dollars: districts are held out in equal shares of these ranges


def california_housing(*, validation: float | int = 0.1, manual_dir: str | Path | None = None) -> Source:
    """California housing (Pace and Barry 1997): what houses cost in 20,640 districts, in dollars of 1990.

    8 numbers, of which `total_bedrooms` is missing in 207 districts, and a category of 5. As in Geron's book,
    a fifth is the test split, in equal shares of five ranges of income. No value is above 500,001 dollars.
    """
    table = _columns("california_housing", manual_dir)
    strata = np.digitize(table["median_income"], INCOMES)
    table["target"] = table.pop("median_house_value")
    return _source("california_housing", table, held_out(strata, 0.2), strata, validation)


def uci_real_estate(
    *, fold: int = 0, validation: float | int = 0.1, manual_dir: str | Path | None = None
) -> Source:
    """UCI's real estate valuation (Yeh and Hsu 2018): 414 sales, 6 numbers; "test" is fold 0..9.

    The target is a price in 10,000 New Taiwan dollars per ping, 3.3 square metres.
    """
    table = _columns("uci_real_estate", manual_dir)
    table["target"] = table.pop("price")
    return _folded("uci_real_estate", table, fold, validation)


def diabetes(*, fold: int = 0, validation: float | int = 0.1) -> Source:
    """Diabetes (Efron et al. 2004), embedded in scikit-learn: 442 patients; "test" is fold 0..9.

    9 numbers and the sex; the target is a measure of the progression a year later. Needs no network.
    """
    names = ("age", "sex", "bmi", "blood_pressure", *(f"serum_{index}" for index in range(1, 7)))
    data = _embedded("diabetes_data_raw.csv.gz", " ")
    table = dict(zip(names, data.T, strict=True))
    table["sex"] = np.where(table["sex"] == 1, "1", "2")
    table["target"] = _embedded("diabetes_target.csv.gz", " ")
    return _folded("diabetes", table, fold, validation)


def german_credit(
    *, fold: int = 0, validation: float | int = 0.1, manual_dir: str | Path | None = None
) -> Source:
    """Statlog German credit (Hofmann 1994): 1,000 applicants, 7 numbers, 13 categories; "test" is fold 0..9.

    The label 1 is a bad risk, of which there are 300.
    """
    table = _columns("german_credit", manual_dir)
    table["label"] = (table.pop("risk") == 2).astype(np.int32)
    return _folded("german_credit", table, fold, validation, ("good", "bad"))


def uci_credit_default(*, validation: float | int = 0.1, manual_dir: str | Path | None = None) -> Source:
    """UCI's default of credit card clients (Yeh and Lien 2009): 30,000 clients, 20 numbers, 3 categories.

    A fifth of each class is the test split. The label 1 is a default in the next month, of which there are
    6,636. 35 clients are equal in all columns to others, and may be on both sides.
    """
    table = _columns("uci_credit_default", manual_dir)
    table["label"] = table.pop("default")
    label = table["label"]
    return _source("uci_credit_default", table, held_out(label, 0.2), label, validation, ("paid", "default"))


def uci_audit(
    *, fold: int = 0, validation: float | int = 0.1, manual_dir: str | Path | None = None
) -> Source:
    """UCI's audit data (Hooda, Bawa and Rana 2018): 776 firms, 25 numbers, a category; "test" is fold 0..9.

    The label 1 is a risky firm, of which there are 305. A rule made the label: it says whether `Audit_Risk`
    is at least 1, the product of `Inherent_Risk`, `CONTROL_RISK` and a constant; so these leak. What was
    seen at the firms is Sector_score, LOCATION_ID, PARA_A, PARA_B, TOTAL, numbers, Money_Value, District_Loss
    and History, the rest was computed from it.
    """
    table = _columns("uci_audit", manual_dir)
    table["label"] = table.pop("Risk")
    return _folded("uci_audit", table, fold, validation, ("fit", "risky"))


MEASURES = (
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "concave_points",
    "symmetry",
    "fractal_dimension",
)


def breast_cancer(*, fold: int = 0, validation: float | int = 0.1) -> Source:
    """Wisconsin breast cancer (Street et al. 1993), embedded in scikit-learn: "test" is fold 0..9.

    569 tumours, 30 numbers from pictures of their cells; the label 1 is malignant, 212 times. Needs no
    network.
    """
    data = _embedded("breast_cancer.csv", ",", skip=1)
    names = [f"{kind}_{measure}" for kind in ("mean", "error", "worst") for measure in MEASURES]
    table = dict(zip(names, data.T, strict=False))
    table["label"] = (data[:, 30] == 0).astype(np.int32)
    return _folded("breast_cancer", table, fold, validation, ("benign", "malignant"))


HISTORY = max(card_fraud.WINDOWS) + card_fraud.DELAY + card_fraud.TERMINAL_DAYS  # days before training


def simulated_card_fraud(
    *,
    cards: int = 5000,
    terminals: int = 10_000,
    radius: float | int = 5.0,
    takeovers: int = 2,
    leaks: int = 3,
    days: int = 7,
    validation: float | int = 0.1,
    seed: int = 0,
) -> Source:
    """Card payments of the Fraud Detection Handbook's simulator; see `dlx.data.card_fraud`.

    `days` of payments to train on, then 7 days in which frauds come to be known, then `days` to test on,
    without the cards known to be stolen. Validation has the fraction `validation` of the cards, in the
    training days. 15 numbers; "day" and "card" int32 tell whose payment it is. `seed` draws the world, in
    which about 1 in 120 payments is a fraud, the label 1.
    """
    delay = card_fraud.DELAY
    start = HISTORY + (2 - HISTORY) % 7  # a Wednesday
    rng = np.random.default_rng(seed)
    payments = card_fraud.simulate(
        rng,
        start + 2 * days + delay,
        cards=cards,
        terminals=terminals,
        radius=float(radius),
        sources=takeovers,
        leaks=leaks,
    )
    held = held_out(np.zeros(cards, int), validation)[payments.card]
    training = card_fraud.week(payments, start, days)
    marks = {"train": training & ~held, "validation": training & held}
    marks["test"] = card_fraud.week(payments, start + days + delay, days, delay)
    splits = {}
    for split, mark in marks.items():
        rows = np.flatnonzero(mark)
        if not len(rows) and split == "validation" and not validation:
            continue
        label = (payments.scenario[rows] > 0).astype(np.int32)
        aside = {"day": payments.time[rows] // card_fraud.DAY, "card": payments.card[rows]}
        splits[split] = card_fraud.features(payments, rows) | {
            "label": label,
            **{name: column.astype(np.int32) for name, column in aside.items()},
        }
    return _checked("simulated_card_fraud", splits, ("genuine", "fraud"))


def synthetic_table(
    *,
    count: int = 400,
    classes: bool | int = False,
    rare: float | int = 0.5,
    missing: float | int = 0.05,
    validation: float | int = 0.1,
    seed: int = 0,
) -> Source:
    """Rows of four numbers and two categories that a small model learns in seconds; needs no network.

    The target is a smooth function of them and noise; with `classes`, the label says whether it is among the
    share `rare` of the largest. The first number is skewed, the second `missing` in that share of the rows.
    The test split is a fifth.
    """
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(count, 4))
    kind, colour = rng.integers(0, 3, count), rng.integers(0, 4, count)
    value = numbers[:, 0] + np.sin(2 * numbers[:, 1]) + numbers[:, 2] * (kind - 1) + 0.5 * (colour == 2)
    value += 0.1 * rng.normal(size=count)
    table = {
        "income": np.exp(numbers[:, 0]),
        "age": np.where(rng.random(count) < missing, np.nan, numbers[:, 1]),
        "weight": numbers[:, 2],
        "noise": numbers[:, 3],
        "kind": np.array(["a", "b", "c"])[kind],
        "colour": np.array(["blue", "green", "red", "white"])[colour],
    }
    label = (value > np.quantile(value, 1 - rare)).astype(np.int32)
    if classes:
        table |= {"label": label, "day": rng.integers(0, 3, count).astype(np.int32)}
        table |= {"card": rng.integers(0, count // 4 + 1, count).astype(np.int32)}
    else:
        table["target"] = 100 + 10 * value
    test = held_out(label, 0.2)
    return _source("synthetic_table", table, test, label, validation, ("no", "yes") if classes else ())


TABLE_SOURCES = {
    "california_housing": california_housing,
    "uci_real_estate": uci_real_estate,
    "diabetes": diabetes,
    "german_credit": german_credit,
    "uci_credit_default": uci_credit_default,
    "uci_audit": uci_audit,
    "breast_cancer": breast_cancer,
    "simulated_card_fraud": simulated_card_fraud,
    "synthetic_table": synthetic_table,
}


def _columns(name: str, manual_dir: str | Path | None) -> Arrays:
    """Reads the columns of a set of the catalogue, preparing it first if need be."""
    stored = arrays(name, manual_dir)["train"]
    columns = {}
    for column, values in stored.items():
        if f"{column}_ends" in stored:
            data, ends = values.tobytes(), [0, *stored[f"{column}_ends"].tolist()]
            columns[column] = np.array([data[a:b].decode() for a, b in itertools.pairwise(ends)])
        elif not (column.endswith("_ends") and column.removesuffix("_ends") in stored):
            columns[column] = values
    return columns


def _folded(
    name: str, table: Arrays, fold: int, validation: float | int, classes: tuple[str, ...] = ()
) -> Source:
    """Makes fold 0..9 the test split, the same row always in the same one."""
    if fold not in range(FOLDS):
        raise ValueError(f"fold={fold} is none of the folds 0..{FOLDS - 1}")
    rows = list(zip(*(column.tolist() for column in table.values()), strict=True))
    first: dict[tuple, int] = {}
    which = np.array([first.setdefault(tuple(map(str, row)), len(first)) for row in rows])
    _, places = np.unique(which, return_index=True)
    strata = table["label"] if classes else np.zeros(len(rows), int)
    own = folds(strata[places], FOLDS)[which]
    return _source(name, table, own == fold, strata, validation, classes)


def _source(
    name: str,
    table: Arrays,
    test: Bool[np.ndarray, "n"],
    strata: Int[np.ndarray, "n"],
    validation: float | int,
    classes: tuple[str, ...] = (),
) -> Source:
    """Holds the fraction `validation` of each of the strata out of what is no test row."""
    rest = np.flatnonzero(~test)
    held = rest[held_out(strata[rest], validation)]
    parts = {"train": np.setdiff1d(rest, held), "validation": held, "test": np.flatnonzero(test)}
    splits = {
        split: {column: values[rows] for column, values in table.items()}
        for split, rows in parts.items()
        if len(rows) or split != "validation"
    }
    return _checked(name, splits, classes)


def _checked(name: str, splits: Mapping[str, Arrays], classes: tuple[str, ...]) -> Source:
    """Checks the lengths, and the labels or targets, of all splits; columns may have missing values."""
    for split, table in splits.items():
        if len(lengths := {len(column) for column in table.values()}) > 1:
            raise ValueError(f"{name} {split} has columns of different lengths, {sorted(lengths)}")
        asked = {column: values for column, values in table.items() if column in ("label", "target")}
        check(asked, classes, f"{name} {split}")
    return Source(dict(splits), classes)


def _embedded(file: str, delimiter: str, skip: int = 0) -> np.ndarray:
    """Reads a file of numbers from scikit-learn's data, without importing it, which takes a second."""
    spec = importlib.util.find_spec("sklearn")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "datasets" / "data" / file
        if path.exists():
            data = path.read_bytes()
            text = (gzip.decompress(data) if file.endswith(".gz") else data).decode()
            return np.loadtxt(text.splitlines(), delimiter=delimiter, skiprows=skip)
    raise FileNotFoundError(
        f"scikit-learn has no file datasets/data/{file}; install scikit-learn 1.1 or later"
    )
