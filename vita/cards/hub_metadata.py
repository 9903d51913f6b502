"""The front matter of a model card, as the Hugging Face hub reads it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from vita.cards.model_card import Card
from vita.spine.erasures import NOT_STATED
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
    "classification",
    "embedding",
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
        **_licence(card),
        **_base_model(card),
        "library_name": "sentence-transformers" if card.task == "sentence-similarity" else "transformers",
        "pipeline_tag": card.task,
        "tags": tags,
        "datasets": _hub_datasets(card),
        "metrics": list(dict.fromkeys(metric["type"] for result in results for metric in result["metrics"])),
        "model-index": [{"name": card.name, "results": results}],
    }


def _licence(card: Card) -> dict[str, Any]:
    """Return the hub's `license`: that of the base model together with those of the data."""
    base = card.origin.get("license_name") or card.origin.get("license")
    stated = [licence for licence in card.licences if licence != NOT_STATED]
    licences = list(dict.fromkeys(licence.lower() for licence in [*([str(base)] if base else []), *stated]))
    if not licences:
        return {"license": "unknown"}
    if len(licences) == 1:
        return _single_licence(card, licences[0])
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", "-and-".join(licences)).strip("-")}


def _single_licence(card: Card, licence: str) -> dict[str, Any]:
    """Return the fields of one licence; one that the hub does not know keeps the name and link of the base model."""
    known = str(card.origin.get("license") or "").lower()
    if licence in _HUB_LICENCES or (licence == known and known != "other"):
        return {"license": licence}
    link = {"license_link": card.origin["license_link"]} if card.origin.get("license_link") else {}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", licence).strip("-"), **link}


def _base_model(card: Card) -> dict[str, Any]:
    """Return the hub's `base_model` of a model that was made from one of the Hub."""
    if card.is_adopted:
        base = [str(name) for name in card.origin.get("base_models") or ()]
        return {"base_model": base[0] if len(base) == 1 else base} if base else {}
    model = card.origin.get("hub")
    return {"base_model": str(model), "base_model_relation": "finetune"} if model else {}


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
                    "task": {"type": card.task, "name": evaluation.label},
                    "dataset": {"type": dataset, "name": dataset},
                    "metrics": metrics,
                }


def _ends(interval: Interval) -> dict[str, Any]:
    return {key: end for key, end in interval.as_json().items() if key != "value" and end is not None}
