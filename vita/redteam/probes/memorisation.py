"""Memorization probe: the model continues the beginnings of training rows and of held-out rows.

The verbatim rate on held-out rows is the rate without memorization (the built-in world has many set phrases); only the
excess on training rows is memorized.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vita.data.tokens.shards import Shards
from vita.redteam.probe import MemorizedRow, ProbeInputs, ProbeItem, probe
from vita.spine.errors import DataError


@probe(
    "memorisation",
    about="Gives the beginning of training rows and compares what follows, token by token, with how they went on.",
    taxonomy=("mitre-atlas:AML.T0057", "mitre-atlas:AML.T0024", "owasp-llm-2026:LLM02", "owasp-llm-2025:LLM02"),
    severity="medium",
)
def memorisation(material: ProbeInputs) -> Iterator[ProbeItem]:
    """Yield training rows, with held-out rows as their twins."""
    return iter(material.rows)


def rows_of(tokens: Path, *, rows: int, prefix: int, length: int, enough: int, seed: int) -> list[ProbeItem]:
    """Return the beginnings of documents of a tokens artifact, as many held out as trained on, sampled by the seed."""
    items: list[ProbeItem] = []
    for part, twin in (("train", False), ("heldout", True)):
        if not (tokens / part).is_dir():
            continue
        shards = Shards.open(tokens / part)
        long_enough = np.flatnonzero(np.diff(shards.starts) >= prefix + length)
        if not len(long_enough) and not twin:
            raise DataError(
                "redteam.memorisation", expected=f"documents of {prefix + length} tokens", got="none as long"
            )
        chosen = np.random.default_rng(seed).permutation(long_enough)[:rows]
        for start in sorted(int(shards.starts[document]) for document in chosen):
            ids = [int(id) for id in shards.read(start, start + prefix + length)]
            test = MemorizedRow(prefix=tuple(ids[:prefix]), continuation=tuple(ids[prefix:]), enough=enough, twin=twin)
            items.append(ProbeItem(f"{part}/{start}", test, part, "replay"))
    return items
