"""The front matter of a model card, as the Hugging Face hub reads it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vita.cards.model_card import Card
from vita.data.curation.report import NO_LICENCE
from vita.stats.intervals import Interval

_HUB_LICENCES = {
    "apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-3.0", "cc-by-2.0", "cc-by-sa-4.0", "cc-by-sa-3.0",
    "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "bsd-3-clause", "bsd-2-clause", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0",
    "odc-by",    "pddl", "unlicense", "wtfpl", "isc", "zlib",
}  # fmt: skip
"""Licence identifiers of the hub; the front matter gives another licence as `other`, with its name."""
_HEADLINE_GROUPS = (
    "texts",
    "tasks",
    "world",
    "instructions",
    "edge_cases",
    "comparison",
    "probes",
    "redteam",
    "review",
)


def front_matter(card: Card) -> dict[str, Any]:
    """Return the front matter of a card; unknown fields are left out."""
    tags = ["vita", *(["conversational"] if card.chat else []), *(["synthetic-data"] if card.is_synthetic else [])]
    results = list(_results(card))
    return {
        **_licence(card.licences),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": tags,
        "datasets": _hub_datasets(card),
        "metrics": list(dict.fromkeys(metric["type"] for result in results for metric in result["metrics"])),
        "model-index": [{"name": card.name, "results": results}],
    }


def _licence(licences: Sequence[str]) -> dict[str, Any]:
    """Return the hub's `license`: the licence of the data, since the weights state none."""
    if not licences or licences == [NO_LICENCE]:
        return {"license": "unknown"}
    if len(licences) == 1 and licences[0].lower() in _HUB_LICENCES:
        return {"license": licences[0].lower()}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", "-and-".join(licences).lower()).strip("-")}


def _hub_datasets(card: Card) -> list[str]:
    """Return the data sets that have a name on the hub; a local file has none."""
    names = [
        str(source["huggingface"])
        for artifact in card.lineage
        if artifact.run and isinstance(artifact.run.config.get("sources"), list)
        for source in artifact.run.config["sources"]
        if isinstance(source, Mapping) and source.get("huggingface")
    ]
    return list(dict.fromkeys(names))


def _results(card: Card) -> Iterator[dict[str, Any]]:
    for evaluation in card.evaluations:
        for dataset in dict.fromkeys(name.split("/")[0] for name in evaluation.figures):
            metrics = [
                {"type": name.removeprefix(f"{dataset}/"), "value": round(interval.value, 6), "args": _ends(interval)}
                for name, interval in evaluation.figures.items()
                if name.split("/")[0] == dataset
                and evaluation.groups[name] in _HEADLINE_GROUPS
                and interval.value == interval.value
            ]
            if metrics:
                yield {
                    "task": {"type": "text-generation", "name": evaluation.label},
                    "dataset": {"type": dataset, "name": dataset},
                    "metrics": metrics,
                }


def _ends(interval: Interval) -> dict[str, Any]:
    return {key: end for key, end in interval.as_json().items() if key != "value" and end is not None}
