"""Make training data of what users said: cleaned, merged, and with a line back to every request.

Only what its sender let us learn from is used; what is private is blacked out, disputed voices and what the model
is tested on are left out, each with its reason. The next `dpo` learns from the pairs.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from vita.data.feedback import FeedbackDataset, FeedbackFilter, read_feedback, refine
from vita.data.records import Preference, UnpairedPreference
from vita.data.sources.read import Source, dialogues, documents
from vita.data.world import World, WorldSettings
from vita.reporting.page import ReportPage, Section, Table, write_page
from vita.server.gateway.redaction import redact
from vita.spine.config import Settings
from vita.spine.errors import DataError
from vita.spine.plan import Context, Draft
from vita.stages.kinds import Feedback, Preferences

VERSION = 3


class Config(Settings):
    """The filters of the feedback and the decontamination of its prompts."""

    cleaning: FeedbackFilter = Field(default_factory=FeedbackFilter)
    """Criteria for feedback that is used."""
    decontaminate_texts: tuple[Source, ...] = ()
    """Evaluation texts: a prompt that shares an n-gram with them is dropped (decontamination)."""
    decontaminate_dialogues: tuple[Source, ...] = ()
    """Evaluation dialogues, in the same way."""
    world: WorldSettings | None = None
    """Settings of the embedded world, whose held-out questions are evaluation prompts, too."""
    min_pairs: int = Field(1, ge=0)
    """Minimum number of pairs; fewer are an error."""


@dataclass(frozen=True)
class Inputs:
    feedback: Feedback


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Preferences]:
    found = refine(read_feedback(inputs.feedback.path), config.cleaning, redact=redact, tested=_tested(config))
    if len(found.pairs) < config.min_pairs:
        said = ", ".join(f"{number} {reason}" for reason, number in Counter(d.reason for d in found.drops).items())
        raise DataError("refine", expected=f"at least {config.min_pairs} pairs", got=len(found.pairs),
                        hint=f"dropped: {said}" if said else "the feedback holds nothing to compare")  # fmt: skip
    folder = context.draft_folder()
    _write(folder / "preferences.jsonl", (_pair(one) for one in found.pairs))
    _write(folder / "dialogues.jsonl", (_row(one, "messages") for one in found.dialogues))
    _write(folder / "rated.jsonl", (_rated(one) for one in found.rated))
    _write(folder / "drops.jsonl", (asdict(one) for one in found.drops))
    write_page(_page(found), folder)
    context.emit(
        "note", text=", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in found.counts.items())
    )
    return Draft(Preferences, folder, dict(found.counts))


def _tested(config: Config) -> Iterator[str]:
    for source in config.decontaminate_texts:
        yield from (document.text for document in documents(source))
    for source in config.decontaminate_dialogues:
        for dialogue in dialogues(source):
            yield from (message.content for message in dialogue.messages if message.role == "user")
    if config.world:
        yield from (question.prompt for question in World.create(config.world).questions("never_asked"))


def _row(record: Any, *fields: str) -> dict[str, Any]:
    """A record as a row; `fields` hold messages."""
    return {**asdict(record), **{name: [message.as_row() for message in getattr(record, name)] for name in fields}}


def _pair(pair: Preference) -> dict[str, Any]:
    row = _row(pair, "prompt", "chosen", "rejected")
    return {name: value for name, value in row.items() if value is not None}


def _rated(rated: UnpairedPreference) -> dict[str, Any]:
    row = _row(rated, "prompt", "answer")
    return {"id": row["id"], "prompt": row["prompt"], "completion": row["answer"], "label": row["good"]}


def _write(path: Path, rows: Iterable[Any]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _page(found: FeedbackDataset) -> ReportPage:
    counts = Table(
        ("what", "number"), [(name.replace("_", " "), f"{number:,}") for name, number in found.counts.items()]
    )
    reasons = Counter(drop.reason for drop in found.drops)
    dropped = Table(("left out for", "number"), [(reason, f"{number:,}") for reason, number in reasons.most_common()])
    examples = Table(
        ("prompt", "better", "worse", "votes"),
        [
            (one.prompt[-1].content, one.chosen[-1].content, one.rejected[-1].content, str(one.metadata["votes"]))
            for one in found.pairs[:10]
        ],
    )
    lead = "Pairs of answers that users told apart, with a line back to the requests that they come from."
    sections = [Section("What came of it", [counts, dropped]), Section("The first pairs", [examples])]
    return ReportPage("Data from feedback", lead, sections)
