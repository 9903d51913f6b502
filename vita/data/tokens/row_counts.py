"""Counts of the rows that a stage read: learned, held out, or dropped by reason; the numbers add up.

counts = RecordCounts("dialogues", length=512)
counts.drop("cut_before_answer")
counts.summary()        # "3 dialogues to learn from, 1 held out, 1 dropped, of 5 read. Dropped: ..."
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vita.data.records import DroppedRecord
from vita.data.sources.fields import metadata_fields
from vita.data.sources.source import Source
from vita.data.tokens.dialogue_encoding import EncodedDialogue
from vita.spine.errors import DataError
from vita.spine.events import Emit

LOUD = 0.1
"""More than this share of dropped rows is a warning."""


@dataclass
class RecordCounts:
    """The number of records read, learned, held out and dropped."""

    kind: str
    """The kind of the records: dialogues, pairs or answers."""
    length: int
    """Tokens of the longest sequence."""
    truncates: bool = True
    """True if the stage has the setting `on_long`."""
    learned: int = 0
    """Records to learn from, each counted once however often its source repeats it."""
    heldout: int = 0
    truncated: int = 0
    """Records that lost their end and still have a token to learn."""
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, DroppedRecord] = field(default_factory=dict)
    """The first record of each reason whose drop has a detail."""
    omitted: Counter[str] = field(default_factory=Counter)
    """Records with a message that the chat template leaves out, by the message's role."""
    altered: int = 0
    """Records with an answer that the chat template writes in other words."""
    metadata: dict[str, None] = field(default_factory=dict)
    """Fields of rows that are not learned, in the order in which they were first seen."""

    @property
    def read(self) -> int:
        """All records and rows that were read."""
        return self.learned + self.heldout + self.dropped.total()

    def drop(self, reason: str) -> None:
        """Count a record that is not used."""
        self.dropped[reason] += 1

    def drop_record(self, drop: DroppedRecord) -> None:
        """Count a record that is not used, and keep the first of each reason as an example."""
        self.drop(drop.reason)
        if drop.detail:
            self.examples.setdefault(drop.reason, drop)

    def keep(self, *, held_out: bool, truncated: bool) -> None:
        """Count a record that is learned or held out."""
        self.heldout += held_out
        self.learned += not held_out
        self.truncated += truncated

    def note_template(self, sequences: Sequence[EncodedDialogue]) -> None:
        """Count what the chat template leaves out of a record that is learned or held out, and what it changes."""
        self.omitted.update({role for encoded in sequences for role in encoded.omitted})
        self.altered += any(encoded.altered for encoded in sequences)

    def note_omitted(self, roles: Iterable[str]) -> None:
        """Count a record of which the chat template leaves out messages of these roles."""
        self.omitted.update(set(roles))

    def add_metadata(self, metadata: Mapping[str, Any], source: Source) -> None:
        """Note the fields of a row that are not learned; the built-in world's are its own."""
        if source.world is None:
            self.metadata |= dict.fromkeys(metadata_fields(metadata, ()))

    def facts(self) -> dict[str, int]:
        """Return the counts under their names in facts and reports."""
        drops = {f"dropped_{reason}": count for reason, count in sorted(self.dropped.items())}
        template = {f"template_omits_{role}": count for role, count in sorted(self.omitted.items())}
        if self.altered:
            template["template_alters_answer"] = self.altered
        return {
            "read": self.read, f"heldout_{self.kind}": self.heldout, "truncated": self.truncated, **drops, **template
        }  # fmt: skip

    def causes(self) -> str:
        """Return the reasons of all drops with their counts."""
        return ", ".join(f"{count:,} {self.describe(reason)}" for reason, count in sorted(self.dropped.items()))

    def describe(self, reason: str) -> str:
        """Return a description of a reason, with advice."""
        if reason.startswith("unsupported_"):
            return f"with the unsupported field `{reason.removeprefix('unsupported_')}`"
        words = REASONS.get(reason, f"for the reason `{reason}`")
        if reason == "too_long" and self.truncates:
            words += " or set `on_long: truncate`"
        return words.format(length=f"{self.length:,}")

    def summary(self) -> str:
        """Return the counts in one sentence."""
        text = f"{self.learned:,} {self.kind} to learn from, {self.heldout:,} held out"
        if self.dropped:
            text += f", {self.dropped.total():,} dropped"
        text += f", of {self.read:,} read"
        if self.dropped:
            text += f". Dropped: {self.causes()}"
        return text + (f". {self.truncated:,} cut short at {self.length:,} tokens" if self.truncated else "")

    def report(self, emit: Emit, *, where: str) -> None:
        """Emit the summary, as a warning where many records were dropped; refuse to go on with none."""
        if not self.learned:
            causes = self.causes() or ("all are held out" if self.heldout else "there were none")
            got = (
                f"{self.read:,} read, {self.heldout:,} held out: {causes}" if self.heldout and self.dropped else causes
            )
            examples = "; ".join(f"{drop.id} from {drop.source}: {drop.detail}" for drop in self.examples.values())
            problem = f"the sources hold no {self.kind} to learn from ({got})"
            raise DataError(where, problem + (f"; for example {examples}" if examples else ""), quoted=examples)
        emit("note", text=self.summary())
        lost = self.dropped.total() - self.dropped["repeated"]
        if lost > LOUD * self.read:
            text = f"{lost:,} of {self.read:,} {self.kind} are not learned: {self.causes()}"
            emit("note", text=text, level="warning")
        for problem in self._template_problems():
            emit("note", text=problem, level="warning")
        if self.metadata:
            names = ", ".join(f"`{name}`" for name in self.metadata)
            emit("note", text=f"rows also have {names}: kept as metadata, not learned")

    def _template_problems(self) -> Iterator[str]:
        used = self.learned + self.heldout
        for role, count in sorted(self.omitted.items()):
            yield f"the chat template leaves out a {role} message of {count:,} of {used:,} {self.kind}"
        if self.altered:
            yield (
                f"the chat template changes the text of an answer in {self.altered:,} of {used:,} {self.kind}; "
                "it is learned as the template writes it"
            )


def counts_in(facts: Mapping[str, Any]) -> dict[str, int]:
    """Return the counts among the facts of an artifact, for its `report.json`."""
    names = ("read", "truncated", "dialogues", "pairs", "prompts", "texts")
    return {
        name: value
        for name, value in facts.items()
        if name in names or (name.startswith(("dropped_", "heldout_", "template_")) and isinstance(value, int))
    }


REASONS = {
    "too_long": "longer than {length} tokens; raise `max_length`",
    "cut_before_answer": "cut at {length} tokens before their answer began; raise `max_length` up to the model's "
    "context, or set `on_long: drop`",
    "no_answer": "without an answer",
    "not_learned": "with weight 0 for every answer",
    "no_target": "without a token to learn",
    "no_prompt": "without a prompt",
    "prompt_too_long": "longer than {length} tokens, which leave room for the answer; lower `max_tokens`",
    "repeated": "asked before",
    "same": "with two equal answers",
    "same_after_cut": "with answers that are equal once cut at {length} tokens; raise `max_length` or set "
    "`on_long: drop`",
    "tie": "without a preference (a tie)",
    "template": "that the chat template refuses",
    "rated_bad": "rated bad by their label",
    "no_text": "without text",
    "no_label": "without a label",
    "held_out_text": "that are also held out",
    "same_texts": "of two equal texts",
    "not_similar": "that are not similar",
    "no_score": "with a similarity that is not a number",
    "misfit": "not in the format of their file",
    "ambiguous": "with two fields of which only one can be read",
    "not_json": "not JSON",
    "not_utf8": "not UTF-8",
    "not_an_object": "not an object with fields",
}
"""Reasons in words."""
