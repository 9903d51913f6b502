"""What users said of answers, and what can be learnt from it: pairs, dialogues, and answers with a verdict.

    refined = refine(read_feedback(folder), Cleaning(), redact=str, taken=frozenset())
    refined.pairs, refined.dialogues, refined.rated, refined.drops

Every pair remembers the requests and the models that it came from, and how many people agreed. What says nothing of
which answer is better (two bad ones, a tie, a flag alone) makes no pair.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from vita.data.records import Dialogue, Drop, Message, Preference, Rated
from vita.spine.config import Settings
from vita.spine.errors import DataError

FILE = "feedback.jsonl"
Kind = Literal["thumb", "edit", "flag", "vote"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Said:
    """What one user said of one answer."""

    id: str
    kind: Kind
    request: str
    """The request that was answered."""
    model: str
    """The digest of the weights that answered."""
    prompt: tuple[Message, ...]
    answer: str
    value: float | None = None
    """Of a thumb 1 or -1; of a vote 1, or 0 for a tie."""
    better: str | None = None
    """Of an edit: the answer as it should have been."""
    rejected: str | None = None
    """Of a vote: the other answer."""
    reason: str = ""
    who: str | None = None
    """A pseudonym."""
    consent: bool = False
    """Whether it may be learnt from."""

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "prompt": [message.as_row() for message in self.prompt]}


class Cleaning(Settings):
    """What becomes of feedback before anything is learnt from it."""

    agreement: float = Field(default=0.6, gt=0.5, le=1)
    """The share of voices on a pair that must agree; others are dropped as disputed."""
    per_user: int = Field(default=200, ge=1)
    """How many voices of one user count."""
    pairs_per_prompt: int = Field(default=8, ge=1)
    """How many pairs one prompt may give, so that a busy prompt does not outweigh the rest."""
    longest: int = Field(default=4000, ge=1)
    """Characters of an answer, at most."""
    overlap: int = Field(default=8, ge=2)
    """Words in a row that a prompt may not share with what the model is tested on; a shorter one may not equal it."""


@dataclass(frozen=True)
class Refined:
    """What can be learnt."""

    pairs: list[Preference]
    dialogues: list[Dialogue]
    """Edited answers, to be imitated."""
    rated: list[Rated]
    """Thumbs that found no partner for a pair."""
    drops: list[Drop]
    counts: dict[str, int] = field(default_factory=dict)


def write_feedback(said: Iterable[Said], folder: Path) -> int:
    """One line a voice; answers with their number."""
    rows = [json.dumps(one.as_json(), ensure_ascii=False, sort_keys=True) for one in said]
    (folder / FILE).write_text("".join(row + "\n" for row in rows), encoding="utf-8")
    return len(rows)


def read_feedback(folder: Path) -> Iterator[Said]:
    """The voices in a folder, in order."""
    path = folder / FILE
    if not path.is_file():
        raise DataError(str(folder), f"holds no {FILE}")
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            yield _said(line, f"{path}:{number}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(str(path), f"is not UTF-8: {error}") from None


def refine(
    said: Iterable[Said],
    cleaning: Cleaning,
    *,
    redact: Callable[[str], str] = str,
    tested: Iterable[str] = (),
) -> Refined:
    """Clean, merge and turn into training data; `tested` are the texts that the model must not be trained on."""
    drops: list[Drop] = []
    taken = Overlap(tested, words=cleaning.overlap)
    redacted = (_redacted(one, redact) for one in _latest(said, drops))
    kept = list(_usable(redacted, cleaning, taken, drops))
    voices = [*_direct(kept), *_matched(kept)]
    pairs = list(_pairs(voices, cleaning, drops))
    used = {request for pair in pairs for request in pair.metadata["requests"]}
    rated = [_rated(one) for one in kept if one.kind == "thumb" and one.request not in used]
    dialogues = list(
        {one.id: one for one in (_dialogue(said) for said in kept if said.kind == "edit" and said.better)}.values()
    )
    kinds = Counter(one.kind for one in kept)
    counts = {f"kept_{kind}": kinds[kind] for kind in KINDS}
    counts |= {"pairs": len(pairs), "dialogues": len(dialogues), "rated": len(rated), "dropped": len(drops)}
    return Refined(pairs, dialogues, rated, drops, counts)


class Overlap:
    """Texts that something is tested on, and whether another text shares a run of words with them."""

    def __init__(self, texts: Iterable[str], *, words: int) -> None:
        self.words = words
        self._runs: set[tuple[str, ...]] = set()
        for text in texts:
            self._runs.update(self._of(text))

    def __contains__(self, text: str) -> bool:
        return any(run in self._runs for run in self._of(text))

    def _of(self, text: str) -> Iterator[tuple[str, ...]]:
        found = re.findall(r"\w+", text.casefold())
        if len(found) <= self.words:
            yield tuple(found)
        for start in range(len(found) - self.words + 1):
            yield tuple(found[start : start + self.words])


# -- which voices count


def _latest(said: Iterable[Said], drops: list[Drop]) -> Iterator[Said]:
    """Who said something else of the same answers later has changed their mind, and only the last word counts."""
    every = list(said)
    last = {_question(one): one.id for one in every}
    for one in every:
        question = _question(one)
        if question is None or last[question] == one.id:
            yield one
        else:
            drops.append(Drop(one.id, "feedback", "another word later"))


def _question(one: Said) -> tuple[Any, ...] | None:
    """What a thumb or a vote decides, and who; where nobody says who, an answer's thumbs are one person's."""
    if one.kind == "thumb":
        return one.who, one.request, one.answer
    if one.kind == "vote" and one.who:
        return one.who, one.prompt, frozenset((one.answer, one.rejected))
    return None


def _usable(said: Iterable[Said], cleaning: Cleaning, taken: Overlap, drops: list[Drop]) -> Iterator[Said]:
    users: Counter[str] = Counter()
    seen: set[tuple[Any, ...]] = set()
    for one in said:
        again = (one.who, one.kind, one.request, one.answer, one.better, one.rejected)
        reason = _unusable(one, cleaning, taken)
        if reason is None and again in seen:
            reason = "said twice"
        if reason is None and one.who and users[one.who] >= cleaning.per_user:
            reason = "one user's too many"
        if reason:
            drops.append(Drop(one.id, "feedback", reason, one.reason[:200] if one.consent else ""))
            continue
        seen.add(again)
        users[one.who or ""] += 1
        yield one


def _unusable(one: Said, cleaning: Cleaning, taken: Overlap) -> str | None:
    """Why a voice cannot be used, if it cannot."""
    if not one.consent:
        return "no consent"
    if not one.prompt or one.prompt[-1].role != "user" or not one.prompt[-1].content.strip():
        return "no prompt"
    texts = [text for text in (one.answer, one.better, one.rejected) if text is not None]
    if any(not text.strip() for text in texts):
        return "an empty answer"
    if any(len(text) > cleaning.longest for text in texts):
        return "a long answer"
    if any(message.content in taken for message in one.prompt if message.role == "user"):
        return "tested on"
    if one.kind == "flag":
        return "a flag alone"
    if one.kind == "vote" and not one.value:
        return "a tie"
    if (one.kind == "edit" and one.better == one.answer) or (one.kind == "vote" and one.rejected == one.answer):
        return "both answers alike"
    return None


def _redacted(one: Said, redact: Callable[[str], str]) -> Said:
    prompt = tuple(Message(message.role, redact(message.content)) for message in one.prompt)
    better, rejected = (None if text is None else redact(text) for text in (one.better, one.rejected))
    return Said(one.id, one.kind, one.request, one.model, prompt, redact(one.answer), one.value, better, rejected,
                redact(one.reason), one.who, one.consent)  # fmt: skip


# -- voices on pairs

_Voice = tuple[tuple[Message, ...], str, str, tuple[Said, ...]]
"""(prompt, better, worse, who said so)"""


def _direct(kept: Sequence[Said]) -> Iterator[_Voice]:
    for one in kept:
        if one.kind == "vote" and one.rejected is not None:
            yield one.prompt, one.answer, one.rejected, (one,)
        elif one.kind == "edit" and one.better is not None:
            yield one.prompt, one.better, one.answer, (one,)


def _matched(kept: Sequence[Said]) -> Iterator[_Voice]:
    """Every liked answer against every disliked one to the same prompt."""
    liked: dict[tuple[Message, ...], list[Said]] = defaultdict(list)
    disliked: dict[tuple[Message, ...], list[Said]] = defaultdict(list)
    for one in kept:
        if one.kind == "thumb":
            (liked if (one.value or 0) > 0 else disliked)[one.prompt].append(one)
    for prompt, good in liked.items():
        for up, down in product(good, disliked.get(prompt, ())):
            if up.answer != down.answer:
                yield prompt, up.answer, down.answer, (up, down)


def _pairs(voices: Iterable[_Voice], cleaning: Cleaning, drops: list[Drop]) -> Iterator[Preference]:
    """Voices on the same two answers counted together, whichever side they take."""
    told: dict[tuple[Any, ...], list[tuple[str, tuple[Said, ...]]]] = defaultdict(list)
    for prompt, better, worse, who in voices:
        told[(prompt, *sorted((better, worse)))].append((better, who))
    given: Counter[tuple[Message, ...]] = Counter()
    for (prompt, first, second), opinions in told.items():
        wins = Counter(better for better, _ in opinions)
        chosen, votes = wins.most_common(1)[0]
        rejected = second if chosen == first else first
        share, id = votes / len(opinions), _id(prompt, chosen, rejected)
        if share < cleaning.agreement:
            drops.append(Drop(id, "feedback", "disputed", f"{votes} of {len(opinions)} agree"))
            continue
        if given[prompt] >= cleaning.pairs_per_prompt:
            drops.append(Drop(id, "feedback", "one prompt's too many"))
            continue
        given[prompt] += 1
        sources = [one for better, who in opinions if better == chosen for one in who]
        yield Preference(
            id,
            prompt,
            (Message("assistant", chosen),),
            (Message("assistant", rejected),),
            "feedback",
            margin=round(2 * share - 1, 6),
            metadata=_lineage(sources) | {"votes": len(opinions)},
        )


def _lineage(sources: Sequence[Said]) -> dict[str, Any]:
    return {
        "requests": sorted({one.request for one in sources}),
        "models": sorted({one.model for one in sources}),
        "feedback": sorted({one.id for one in sources}),
    }


def _dialogue(one: Said) -> Dialogue:
    messages = (*one.prompt, Message("assistant", one.better or ""))
    return Dialogue(_id(one.prompt, one.better or "", ""), messages, "feedback", metadata=_lineage([one]))


def _rated(one: Said) -> Rated:
    answer = (Message("assistant", one.answer),)
    return Rated(one.id, one.prompt, answer, (one.value or 0) > 0, "feedback", metadata=_lineage([one]))


def _id(prompt: Sequence[Message], chosen: str, rejected: str) -> str:
    told = json.dumps([[message.as_row() for message in prompt], chosen, rejected], ensure_ascii=False)
    return "feedback/" + hashlib.sha256(told.encode()).hexdigest()[:16]


def _said(line: str, where: str) -> Said:
    try:
        row = json.loads(line)
        row["prompt"] = tuple(Message(turn["role"], turn["content"]) for turn in row["prompt"])
        said = Said(**row)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(where, f"is no feedback: {error}") from None
    if said.kind not in KINDS:
        raise DataError(where, expected=f"a kind: {', '.join(KINDS)}", got=said.kind)
    texts = [said.id, said.request, said.model, said.answer, *(one.content for one in said.prompt)]
    texts += [text for text in (said.better, said.rejected, said.reason) if text is not None]
    if not all(isinstance(text, str) for text in texts):
        raise DataError(where, expected="texts for `prompt`, `answer`, `better`, `rejected`", got=line[:80])
    if said.kind == "thumb" and said.value not in (1, -1):
        raise DataError(where, expected="a thumb's `value` of 1 or -1", got=said.value)
    return said
