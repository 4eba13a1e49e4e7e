"""CLINC150: what people ask a virtual assistant, 150 intents and questions out of its scope; official splits.

Three questions of the validation split and two of the test split are also in the training split as published.
"""

import json
from pathlib import Path

from dlx.data.builders import BUILDERS, text
from dlx.data.tokenizer import utf8

RAW = (
    text.plain_or_gzipped(
        name="data_full.json",
        url="https://raw.githubusercontent.com/clinc/oos-eval/master/data/data_full.json",
        size=2_495_390,
        sha256="36923c3705a59e08fe9c3883d8bc2dd966ef93e22cb78ac41171782a698d56e0",
    ),
)

ABOUT = text.About(
    description="Queries to a virtual assistant in 150 intents of 10 domains, and queries out of scope.",
    homepage="https://github.com/clinc/oos-eval",
    license="CC BY 3.0",
    citation="""\
@inproceedings{larson2019evaluation,
  title={An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction},
  author={Larson, Stefan and Mahendran, Anish and Peper, Joseph J. and Clarke, Christopher and Lee, Andrew
    and Hill, Parker and Kummerfeld, Jonathan K. and Leach, Kevin and Laurenzano, Michael A. and Tang, Lingjia
    and Mars, Jason},
  booktitle={EMNLP-IJCNLP},
  year={2019}
}""",
)


def read(path: Path) -> dict[str, list[text.Example]]:
    """Returns the splits, each with its out-of-scope questions at the end."""
    data = json.loads(utf8(text.content(path), str(path)))
    number = {intent: index for index, intent in enumerate(BUILDERS["clinc_oos"].classes)}
    return {
        split: [
            {"text": query, "label": number[intent]} for query, intent in [*data[name], *data[f"oos_{name}"]]
        ]
        for split, name in {"train": "train", "validation": "val", "test": "test"}.items()
    }


COUNTS = {"train": 15_100, "validation": 3_100, "test": 5_500}

Builder = text.builder("clinc_oos", RAW[0], ABOUT, ("text",), read, COUNTS)
