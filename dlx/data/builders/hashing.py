"""Splits that go by what an example says: equal texts are always together."""

import hashlib
from collections.abc import Iterable, Mapping


def share(text: str) -> float:
    """Returns a number in [0, 1) that scatters evenly and depends on the text alone."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48


def split_by(keys: Iterable[str], parts: Mapping[str, float]) -> list[str]:
    """Returns for each key the split it belongs to: "train", or one of `parts`, {split: its share}.

    Equal keys are in the same split, whatever else there is.
    """
    bounds, bound = [], 0.0
    for split, part in parts.items():
        bound += part
        bounds.append((bound, split))
    shares = (share(key) for key in keys)
    return [next((split for bound, split in bounds if place < bound), "train") for place in shares]
