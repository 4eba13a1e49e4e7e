"""Audit data of UCI: 776 firms in India, of which 305 were found to be risky; a rule gave the label.

The label says whether `Audit_Risk` is at least 1, and that is the product of `Inherent_Risk`, the sum of the
six columns from `Risk_A` to `Risk_F`, `CONTROL_RISK` and `Detection_Risk`, which is 0.5 everywhere. The set
comes with a second file, trial.csv, of which 181 labels differ: they say whether its `Score` is above 2.
"""

from pathlib import Path

from dlx.data.builders import files, table
from dlx.data.builders.text import About
from dlx.data.tokenizer import utf8

RAW = files.registered("https://raw.githubusercontent.com/tsu2000/audit_risk/")

_NAMES = (
    "Sector_score LOCATION_ID PARA_A Score_A Risk_A PARA_B Score_B Risk_B TOTAL numbers Score_B_2 Risk_C "
    "Money_Value Score_MV Risk_D District_Loss PROB Risk_E History Prob Risk_F Score Inherent_Risk "
    "CONTROL_RISK Detection_Risk Audit_Risk Risk"
)  # the file calls two columns Score_B
NAMES = _NAMES.split()
COLUMNS: dict[str, type] = {**dict.fromkeys(NAMES, float), "LOCATION_ID": str, "Risk": int}

ABOUT = About(
    description="Figures from audits of firms in 14 sectors, 2015 and 2016, and the risk given to them.",
    homepage="https://archive.ics.uci.edu/dataset/475",
    license="CC BY 4.0",
    citation="""\
@article{hooda2018fraudulent,
  title={Fraudulent firm classification: a case study of an external audit},
  author={Hooda, Nishtha and Bawa, Seema and Rana, Prashant Singh},
  journal={Applied Artificial Intelligence},
  year={2018}
}""",
)


def read(path: Path) -> list[dict[str, str]]:
    """Returns the rows by names that are told apart."""
    _, *lines = utf8(path.read_bytes(), str(path)).splitlines()
    return table.rows("\n".join(lines), NAMES)


Builder = table.builder("uci_audit", RAW[0], ABOUT, COLUMNS, read, 776)
