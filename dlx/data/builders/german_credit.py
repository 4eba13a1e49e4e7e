"""Statlog German credit: 1,000 applicants of a bank, 700 good risks and 300 bad; 7 numbers, 13 categories."""

from pathlib import Path

from dlx.data.builders import files, table
from dlx.data.builders.text import About
from dlx.data.tokenizer import utf8

RAW = files.registered("https://archive.ics.uci.edu/ml/machine-learning-databases/statlog/german/german.data")

COLUMNS = {
    "checking_account": str,
    "months": float,
    "credit_history": str,
    "purpose": str,
    "amount": float,
    "savings": str,
    "employment_since": str,
    "installment_rate": float,
    "personal_status": str,
    "guarantors": str,
    "residence_since": float,
    "property": str,
    "age": float,
    "other_installments": str,
    "housing": str,
    "credits": float,
    "job": str,
    "dependants": float,
    "telephone": str,
    "foreign_worker": str,
    "risk": int,
}

ABOUT = About(
    description="Applicants for credit; risk is 1 for good and 2 for bad.",
    homepage="https://archive.ics.uci.edu/dataset/144",
    license="CC BY 4.0",
    citation="""\
@misc{hofmann1994statlog,
  title={Statlog (German Credit Data)},
  author={Hofmann, Hans},
  year={1994},
  publisher={UCI Machine Learning Repository}
}""",
)


def read(path: Path) -> list[dict[str, str]]:
    """Returns the rows."""
    return table.rows(utf8(path.read_bytes(), str(path)), list(COLUMNS), " ")


Builder = table.builder("german_credit", RAW[0], ABOUT, COLUMNS, read, 1_000)
