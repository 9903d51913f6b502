"""Convert user feedback to training data. The feedback is filtered and merged; each row keeps its request IDs.

Only feedback with consent is used. Personal data is redacted. Disputed feedback and evaluation prompts are dropped with
a reason. The next `dpo` trains on the pairs.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from vita.data.feedback import FeedbackFilter, read_feedback, refine
from vita.data.records import Preference, UnpairedPreference
from vita.data.sources.read import Source, dialogues, documents
from vita.data.world import World, WorldSettings
from vita.reporting.page import write_page
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
    """Settings of the built-in world, whose held-out questions are evaluation prompts, too."""
    min_pairs: int = Field(1, ge=0)
    """Minimum number of pairs; fewer are an error."""


@dataclass(frozen=True)
class Inputs:
    feedback: Feedback


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Preferences]:
    refined = refine(
        read_feedback(inputs.feedback.path), config.cleaning, redact=redact, test_texts=_evaluation_texts(config)
    )
    if len(refined.pairs) < config.min_pairs:
        reasons = ", ".join(f"{number} {reason}" for reason, number in Counter(d.reason for d in refined.drops).items())
        raise DataError("refine", expected=f"at least {config.min_pairs} pairs", got=len(refined.pairs),
                        hint=f"dropped: {reasons}" if reasons else "the feedback contains no pairs")  # fmt: skip
    folder = context.draft_folder()
    _write(folder / "preferences.jsonl", (_pair(record) for record in refined.pairs))
    _write(folder / "dialogues.jsonl", (_row(record, "messages") for record in refined.dialogues))
    _write(folder / "rated.jsonl", (_rated(record) for record in refined.rated))
    _write(folder / "drops.jsonl", (asdict(record) for record in refined.drops))
    reasons = Counter(drop.reason for drop in refined.drops)
    pairs = [
        {"prompt": pair.prompt[-1].content, "chosen": pair.chosen[-1].content, "rejected": pair.rejected[-1].content,
         "votes": pair.metadata["votes"]}
        for pair in refined.pairs[:10]
    ]  # fmt: skip
    sections = {"Results": refined.counts, "Drops": dict(reasons.most_common()), "The first pairs": pairs}
    lead = "Pairs of answers with the feedback of users, and the ids of their requests."
    write_page(folder, title="Feedback data", lead=lead, sections=sections)
    context.emit(
        "note", text=", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in refined.counts.items())
    )
    return Draft(Preferences, folder, dict(refined.counts))


def _evaluation_texts(config: Config) -> Iterator[str]:
    for source in config.decontaminate_texts:
        yield from (document.text for document in documents(source))
    for source in config.decontaminate_dialogues:
        for dialogue in dialogues(source):
            yield from (message.content for message in dialogue.messages if message.role == "user")
    if config.world:
        yield from (question.prompt for question in World.create(config.world).questions("never_asked"))


def _row(record: Any, *fields: str) -> dict[str, Any]:
    """Return a record as a row; `fields` are its fields of messages."""
    return {**asdict(record), **{name: [message.as_row() for message in getattr(record, name)] for name in fields}}


def _pair(pair: Preference) -> dict[str, Any]:
    row = _row(pair, "prompt", "chosen", "rejected")
    return {name: value for name, value in row.items() if value is not None}


def _rated(rated: UnpairedPreference) -> dict[str, Any]:
    row = _row(rated, "prompt", "answer")
    return {"id": row["id"], "prompt": row["prompt"], "completion": row["answer"], "label": row["good"]}


def _write(path: Path, rows: Iterable[Any]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
