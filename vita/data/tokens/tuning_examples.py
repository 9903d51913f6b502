"""Dialogues as fine-tuning reads them: in tokens, cut to length, held out or dropped with the reason.

    for dialogue in read_dialogues(sources, tokenizer, template, EncodingSettings(length=512)): ...

The stage `sft` and `vita data show` both read with this function, so that what is shown is what is learned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vita.data.hash_sampling import hash_fraction, messages_text, repeat_count
from vita.data.record_rights import Rights, rights_of
from vita.data.records import Dialogue, DroppedRecord, Message
from vita.data.sources.flaws import answer_flaw
from vita.data.sources.read import dialogues
from vita.data.sources.source import Source
from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.dialogue_encoding import EncodedDialogue, encode_training
from vita.data.tokens.tokenizer import Tokenizer
from vita.data.tokens.truncation import OnLong, fit
from vita.spine.errors import DataError


@dataclass(frozen=True)
class EncodingSettings:
    """The settings for the conversion of records to token sequences."""

    length: int
    """Tokens of the longest sequence."""
    on_long: OnLong = "truncate"
    held_out: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class TuningDialogue:
    """A dialogue in tokens, or the reason why it is dropped."""

    id: str
    source: str
    sequences: tuple[EncodedDialogue, ...] = ()
    """Cut to length; more than one where the template changes answers once later turns follow."""
    tokens: int = 0
    """Tokens of the whole dialogue."""
    truncated: bool = False
    held_out: bool = False
    repeats: int = 1
    """Number of times that it occurs in an epoch."""
    drop: DroppedRecord | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the row that are not learned."""
    rights: Rights = field(default_factory=Rights)
    """Of a dialogue that is not dropped."""


def read_dialogues(
    sources: Iterable[Source], tokenizer: Tokenizer, template: ChatTemplate, settings: EncodingSettings
) -> Iterator[TuningDialogue]:
    """Yield all dialogues of the sources in order, including dropped ones."""
    for source in sources:
        drops: list[DroppedRecord] = []
        for dialogue in dialogues(source, dropped=drops.append):
            yield from map(_dropped, drops)
            drops.clear()
            yield prepare_dialogue(dialogue, source, tokenizer, template, settings)
        yield from map(_dropped, drops)


def refused_by_template(error: DataError, id: str, name: str, source: Source) -> DroppedRecord:
    """Return the drop of a record that the chat template refuses; raise where bad rows are errors."""
    if source.on_bad_row == "error":
        problem = error.problem or str(error)
        hint = f"{error.hint}; or set `on_bad_row: drop`" if error.hint else "correct it, or set `on_bad_row: drop`"
        raise DataError(f"{id} from {name}: {error.where}", problem, hint=hint, quoted=problem) from None
    return DroppedRecord(id, name, "template", str(error))


def is_held_out(messages: Sequence[Message], settings: EncodingSettings) -> bool:
    """Return True if a dialogue is held out, by the hash of its text, so that no copy of it is learned."""
    return hash_fraction(messages_text(messages), f"{settings.seed}/held out") < settings.held_out


def _dropped(drop: DroppedRecord) -> TuningDialogue:
    return TuningDialogue(drop.id, drop.source, drop=drop)


def prepare_dialogue(
    dialogue: Dialogue, source: Source, tokenizer: Tokenizer, template: ChatTemplate, settings: EncodingSettings
) -> TuningDialogue:
    """Return a dialogue in tokens, cut to length, or dropped with the reason."""
    flaw = answer_flaw(dialogue.messages)
    if flaw:
        return _dropped(DroppedRecord(dialogue.id, dialogue.source, flaw.reason, flaw.detail))
    try:
        encodings = encode_training(tokenizer, template, dialogue.messages, dialogue.variables)
    except DataError as error:
        return _dropped(refused_by_template(error, dialogue.id, dialogue.source, source))
    fitted = [fit(encoded, length=settings.length, on_long=settings.on_long) for encoded in encodings]
    sequences = tuple(encoded for encoded in fitted if isinstance(encoded, EncodedDialogue))
    tokens = max(len(encoded.ids) for encoded in encodings)
    if not sequences:
        reason = next(reason for reason in fitted if isinstance(reason, str))
        return TuningDialogue(
            dialogue.id,
            dialogue.source,
            tokens=tokens,
            drop=DroppedRecord(dialogue.id, dialogue.source, reason, f"{tokens} tokens"),
        )
    return TuningDialogue(
        dialogue.id,
        dialogue.source,
        sequences,
        tokens,
        truncated=tokens > settings.length,
        held_out=is_held_out(dialogue.messages, settings),
        repeats=repeat_count(source.repeat, dialogue.id),
        metadata=dialogue.metadata if source.world is None else {},
        rights=rights_of(dialogue),
    )
