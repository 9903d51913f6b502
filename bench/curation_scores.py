"""Scores of a curated corpus against the known truth of its documents."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.figures import Figure


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSON Lines file, also compressed."""
    import zstandard

    with path.open("rb") as file:
        stream: Any = file
        if path.suffix == ".zst":
            stream = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file))
        elif path.suffix == ".gz":
            stream = gzip.GzipFile(fileobj=file)
        yield from map(json.loads, stream)


def truth_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Return document id -> truth."""
    return {row["id"]: row for row in read_rows(folder / "truth.jsonl.gz")}


def score(truth: Mapping[str, Mapping[str, Any]], corpus: Path, source: Path) -> Iterator[Figure]:
    """Yield the shares of what was found among what was to be found, and of what was lost among clean documents."""
    kept = {
        row["id"]: row for part in ("train", "heldout") for path in (corpus / part).iterdir() for row in read_rows(path)
    }
    drops = {row["id"]: row for row in read_rows(corpus / "drops.jsonl.zst")}
    original = {row["id"]: row for path in sorted(source.iterdir()) for row in read_rows(path)}
    by_kind: dict[str, list[str]] = defaultdict(list)
    for id, row in truth.items():
        by_kind[row["kind"].split("_")[0]].append(id)
    yield _share("junk dropped", [id in drops for id in by_kind["junk"]])
    yield from _duplicates(truth, drops)
    yield from _personal_data(truth, kept, original)
    repaired = [
        hashlib.sha1(kept[id]["text"].encode()).hexdigest() == truth[id]["clean_sha1"]
        for id in by_kind["mojibake"]
        if id in kept
    ]
    yield _share("encodings repaired exactly", repaired)
    yield _share("contaminated documents dropped", [id in drops for id in by_kind["contam"]])
    contaminated = [drops[id]["reason"] == "contaminated" for id in by_kind["base"] if id in drops]
    yield _share("clean documents dropped as contaminated", contaminated, of=len(by_kind["base"]))
    for name, ids, language in (
        ("English", by_kind["base"], "en"),
        ("other", by_kind["lang"], None),
    ):
        wanted = [kept[id]["metadata"]["language"] == (language or truth[id]["lang"]) for id in ids if id in kept]
        yield _share(f"language identified, {name} documents", wanted)
    yield from _false_drops(truth, drops, original)


def _duplicates(truth: Mapping[str, Mapping[str, Any]], drops: Mapping[str, Any]) -> Iterator[Figure]:
    """Yield the share of copies that were dropped, of the pairs that passed the filters, by Jaccard index."""
    passed = {id for id in truth if id not in drops or "duplicate" in drops[id]["reason"]}
    bins: dict[str, list[bool]] = defaultdict(list)
    for id, row in truth.items():
        if row.get("group") and row.get("parent") in passed and id in passed:
            index = row["jaccard"]
            name = "from 0.75" if index >= 0.75 else "0.70 to 0.75" if index >= 0.7 else "below 0.70"
            pair = {id, row["parent"]}
            # Below the threshold, only a drop for the other document of the pair is a wrong one.
            merged = any(drops[one].get("repeats", {}).get("id") in pair for one in pair if one in drops)
            bins[name].append(merged if name == "below 0.70" else any(one in drops for one in pair))
    for name, records in sorted(bins.items()):
        yield _share(f"copies dropped, Jaccard index {name}", records)
    halves = [id not in drops for id, row in truth.items() if row["kind"] == "half" and id in passed]
    yield _share("texts that share half of their words kept", halves)


def _personal_data(
    truth: Mapping[str, Mapping[str, Any]],
    kept: Mapping[str, Any],
    original: Mapping[str, Any],
) -> Iterator[Figure]:
    """Yield the share of planted values that were masked, and of clean documents that contain a mask."""
    records: dict[str, list[bool]] = defaultdict(list)
    for id, row in truth.items():
        for kind, value in row.get("pii", []) if id in kept else ():
            records[kind].append(value not in kept[id]["text"])
    for kind, values in sorted(records.items()):
        yield _share(f"personal data masked, {kind}", values)
    masks = (
        "<EMAIL>",
        "<PHONE>",
        "<IP_ADDRESS>",
        "<CARD>",
        "<IBAN>",
        "<NATIONAL_ID>",
        "<KEY>",
    )
    clean = [id for id, row in truth.items() if row["kind"] == "base" and id in kept]
    for mask in masks:
        changed = [mask in kept[id]["text"] and mask not in original[id]["text"] for id in clean]
        yield _share(f"clean documents with {mask}", changed)


def _false_drops(
    truth: Mapping[str, Mapping[str, Any]],
    drops: Mapping[str, Any],
    original: Mapping[str, Any],
) -> Iterator[Figure]:
    """Yield the share of natural documents that a filter dropped, by source."""
    lost: dict[str, list[bool]] = defaultdict(list)
    for id, row in truth.items():
        if row["kind"] == "base":
            reason = drops.get(id, {}).get("reason", "")
            lost[original[id]["source"]].append("." in reason and not reason.startswith("personal_data"))
    for source, values in sorted(lost.items()):
        yield _share(f"natural documents dropped by a filter, {source}", values)


def _share(name: str, hits: list[bool], *, of: int | None = None) -> Figure:
    """Return a share with its Wilson interval."""
    from vita.stats.intervals import wilson

    count = len(hits) if of is None else of
    if not count:
        return Figure(f"curation, {name}", float("nan"), "share")
    interval = wilson(sum(hits), count)
    spread = {
        "of": "value",
        "low": round(interval.low, 4),
        "high": round(interval.high, 4),
        "documents": count,
    }
    return Figure(f"curation, {name}", round(sum(hits) / count, 4), "share", spread=spread)
