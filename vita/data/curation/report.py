"""The report of a corpus: what came from where, what was dropped and why, and under which licences the rest stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vita.data.curation.filter_pass import PartTable, Tally
from vita.data.curation.split_pass import Decisions
from vita.spine.plain_text import markdown_text

NO_LICENCE = "not stated"


def describe(
    tally: Tally,
    tables: Sequence[PartTable],
    decisions: Decisions,
    *,
    filters: Sequence[Mapping[str, Any]],
    repeats: Mapping[str, float],
    wanted: float,
    passed_over: Sequence[str],
) -> dict[str, Any]:
    """Everything that the report says, as plain values that are the same on every machine."""
    sizes = np.concatenate([table.sizes for table in tables])
    train, held_out = decisions.passes > 0, decisions.held_out
    by_source = _split([table.sources for table in tables], [table.source_of for table in tables])
    read_in_training = sizes * decisions.passes
    by_licence = _split([table.licences for table in tables], [table.licence_of for table in tables])
    dropped = _dropped(tally)
    few = int(held_out.sum())
    return {
        "documents": {
            "read": sum(count.documents for count in tally.read.values()),
            "dropped": sum(count["documents"] for count in dropped.values()),
            "train": int(train.sum()),
            "train_with_repeats": int(decisions.passes.sum()),
            "held_out": int(held_out.sum()),
            "renamed": len(decisions.new_ids),
        },
        "bytes": {
            "read": sum(count.bytes for count in tally.read.values()),
            "train": int(sizes[train].sum()),
            "train_with_repeats": int(read_in_training.sum()),
            "held_out": int(sizes[held_out].sum()),
        },
        "sources": {
            source: {
                "read": _plain(tally.read.get(source)),
                "mended": tally.mended.get(source, 0),
                "train": _count(sizes, by_source.get(source), train),
                "share": _share(read_in_training, by_source.get(source)),
                "held_out": _count(sizes, by_source.get(source), held_out),
                "dropped": {
                    reason: _plain(count) for reason, count in sorted(tally.dropped.get(source, {}).items())
                },
            }
            for source in sorted({*tally.read, *tally.dropped})
        },
        "licences": {
            licence or NO_LICENCE: _count(sizes, places, train | held_out)
            for licence, places in sorted(by_licence.items(), key=lambda item: item[0] or "")
            if (train | held_out)[places].any()
        },
        "dropped": dropped,
        "filters": list(filters),
        "repeats": dict(repeats),
        "passed_over": sorted(passed_over),
        "damaged_files": sorted(tally.damaged),
        "advice": [too_few(few)] if wanted and few < FEWEST_HELD_OUT else [],
    }  # fmt: skip


FEWEST_HELD_OUT = 2
"""Documents from which an interval can be determined: the spread between documents needs two."""


def too_few(held_out: int) -> str:
    """What is wrong with so few held-out documents, and what to do."""
    what = "nothing is held out" if not held_out else f"only {held_out} document is held out"
    return (
        f"{what}: no interval can be determined from it and no gate on its figures can be decided; "
        "set `held_out` to a number of documents (`held_out: 100`), or cut the text into more (`cut_at: blank_lines`)"
    )


def _split(names: Sequence[Sequence[Any]], codes: Sequence[np.ndarray]) -> dict[Any, np.ndarray]:
    """name -> the places of its documents, over all parts."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(name for part in names for name in part))}
    lookup = [np.array([numbers[name] for name in part], np.int64) for part in names]
    everything = np.concatenate([table[code] for table, code in zip(lookup, codes, strict=True)])
    return {name: np.flatnonzero(everything == number) for name, number in numbers.items()}


def _count(sizes: np.ndarray, places: np.ndarray | None, chosen: np.ndarray) -> dict[str, int]:
    places = places[chosen[places]] if places is not None else np.zeros(0, np.int64)
    return {"documents": len(places), "bytes": int(sizes[places].sum())}


def _share(sizes: np.ndarray, places: np.ndarray | None) -> float:
    """How much of all bytes lies at `places`."""
    return round(float(sizes[places].sum() / sizes.sum()), 6) if places is not None and sizes.any() else 0.0


def _plain(count: Any) -> dict[str, int]:
    return {"documents": count.documents, "bytes": count.bytes} if count else {"documents": 0, "bytes": 0}


def _dropped(tally: Tally) -> dict[str, dict[str, Any]]:
    totals: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for reasons in tally.dropped.values():
        for reason, count in reasons.items():
            totals[reason] += count.documents
            sizes[reason] += count.bytes
    return {
        reason: {
            "documents": totals[reason],
            "bytes": sizes[reason],
            "samples": [
                {name: sample[name] for name in ("id", "source", "detail", "text")} for sample in tally.samples[reason]
            ],
        }
        for reason in sorted(totals)
    }


# -- for people


def to_markdown(report: Mapping[str, Any]) -> str:
    """The report as a page."""
    documents, size = report["documents"], report["bytes"]
    lines = [
        "# Corpus",
        "",
        f"{documents['read']:,} documents ({_mb(size['read'])}) were read, {documents['dropped']:,} dropped. "
        f"{documents['train']:,} ({_mb(size['train'])}) train"
        + (
            f", {documents['train_with_repeats']:,} with repeats"
            if documents["train_with_repeats"] != documents["train"]
            else ""
        )
        + f"; {documents['held_out']:,} ({_mb(size['held_out'])}) are held out.",
        "",
        *(line for advice in report["advice"] for line in (f"**Note:** {advice}.", "")),
        "## Sources",
        "",
        *_table(
            ["source", "read", "MB", "mended", "dropped", "train", "held out", "train MB", "share of training"],
            (
                [
                    markdown_text(source),
                    f"{one['read']['documents']:,}",
                    _mb(one["read"]["bytes"], unit=""),
                    f"{one['mended']:,}",
                    f"{sum(count['documents'] for count in one['dropped'].values()):,}",
                    f"{one['train']['documents']:,}",
                    f"{one['held_out']['documents']:,}",
                    _mb(one["train"]["bytes"], unit=""),
                    f"{one['share']:.1%}",
                ]
                for source, one in report["sources"].items()
            ),
        ),
        "## Licences",
        "",
        *_table(
            ["licence", "documents", "MB"],
            (
                [markdown_text(licence), f"{one['documents']:,}", _mb(one["bytes"], unit="")]
                for licence, one in report["licences"].items()
            ),
        ),
        "## Dropped",
        "",
        *_dropped_lines(report),
    ]
    if report["documents"]["renamed"]:
        lines += [
            f"{report['documents']['renamed']:,} documents shared their id with another text; they became `id#2`, ...",
            "",
        ]
    if report["damaged_files"]:
        lines += ["## Damaged files", "", "Read up to the damage:", ""]
        lines += [*(f"- {markdown_text(file)}" for file in report["damaged_files"]), ""]
    if report["passed_over"]:
        lines += ["Files of other kinds, passed over: " + ", ".join(map(markdown_text, report["passed_over"][:20])), ""]
    return "\n".join(lines)


def _dropped_lines(report: Mapping[str, Any]) -> list[str]:
    if not report["dropped"]:
        return ["Nothing was dropped.", ""]
    rows = sorted(report["dropped"].items(), key=lambda item: (-item[1]["documents"], item[0]))
    lines = _table(
        ["reason", "documents", "MB"],
        ([f"`{reason}`", f"{one['documents']:,}", _mb(one["bytes"], unit="")] for reason, one in rows),
    )
    for reason, one in rows:
        lines += [f"### `{reason}`", ""]
        for sample in one["samples"]:
            shown = f": {markdown_text(sample['text'])}" if sample["text"] else ""
            source, detail = markdown_text(sample["source"]), markdown_text(sample["detail"])
            lines.append(f"- **{markdown_text(sample['id'])}** ({source}; {detail}){shown}")
        lines.append("")
    return lines


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|" + "|".join(" --- " for _ in head) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]


def _mb(size: int, *, unit: str = " MB") -> str:
    return f"{size / 1e6:,.2f}{unit}"
