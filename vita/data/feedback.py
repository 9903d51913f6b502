"""User feedback on answers, and its conversion to training data: pairs, dialogues and rated answers.

    refined = refine(read_feedback(folder), FeedbackFilter(), redact=str, taken=frozenset())
    refined.pairs, refined.dialogues, refined.rated, refined.drops

Every pair records its requests, its models, and the number of votes. Feedback that does not say which answer is better
(two bad answers, a tie, a flag alone) makes no pair.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from vita.data.records import Dialogue, DroppedRecord, Message, Preference, UnpairedPreference
from vita.spine.config import Settings
from vita.spine.errors import DataError

FILE = "feedback.jsonl"
Kind = Literal["thumb", "edit", "flag", "vote"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class FeedbackRecord:
    """The feedback of one user on one answer."""

    id: str
    kind: Kind
    request: str
    """Id of the answered request."""
    model: str
    """Digest of the weights that generated the answer."""
    prompt: tuple[Message, ...]
    answer: str
    value: float | None = None
    """1 or -1 for a thumb; 1 for a vote, or 0 for a tie."""
    better: str | None = None
    """The corrected answer of an edit."""
    rejected: str | None = None
    """The other answer of a vote."""
    reason: str = ""
    who: str | None = None
    """Pseudonym of the user."""
    consent: bool = False
    """The user permits training on it."""

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "prompt": [message.as_row() for message in self.prompt]}


class FeedbackFilter(Settings):
    """The settings for filtering feedback before training."""

    min_agreement: float = Field(default=0.6, gt=0.5, le=1)
    """Minimum share of the feedback on a pair that agrees; other pairs are dropped as disputed."""
    max_per_user: int = Field(default=200, ge=1)
    """Maximum number of feedback records of one user."""
    max_pairs_per_prompt: int = Field(default=8, ge=1)
    """Maximum number of pairs of one prompt, so that a frequent prompt does not dominate."""
    max_chars: int = Field(default=4000, ge=1)
    """Maximum characters of an answer."""
    ngram_overlap: int = Field(default=8, ge=2)
    """Number of consecutive words that a prompt must not share with an evaluation text; a shorter prompt must not equal
    one."""


@dataclass(frozen=True)
class FeedbackDataset:
    """The training data from feedback."""

    pairs: list[Preference]
    dialogues: list[Dialogue]
    """Edited answers, for supervised training."""
    rated: list[UnpairedPreference]
    """Thumbs that are not part of a pair."""
    drops: list[DroppedRecord]
    counts: dict[str, int] = field(default_factory=dict)


def write_feedback(records: Iterable[FeedbackRecord], folder: Path) -> int:
    """Write one line per record, and return their number."""
    number = 0
    with (folder / FILE).open("w", encoding="utf-8", newline="\n") as file:
        for number, record in enumerate(records, 1):  # noqa: B007 (the last number is the result)
            file.write(json.dumps(record.as_json(), ensure_ascii=False, sort_keys=True) + "\n")
    return number


def read_feedback(folder: Path) -> Iterator[FeedbackRecord]:
    """Yield the feedback records of a folder, in order."""
    path = folder / FILE
    if not path.is_file():
        raise DataError(str(folder), f"contains no {FILE}")
    with path.open(encoding="utf-8", newline="\n") as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _parse_record(line.rstrip("\n"), f"{path}:{number}")
        except UnicodeDecodeError as error:
            raise DataError(str(path), f"is not UTF-8: {error}") from None


def refine(
    records: Iterable[FeedbackRecord],
    settings: FeedbackFilter,
    *,
    redact: Callable[[str], str] = str,
    test_texts: Iterable[str] = (),
) -> FeedbackDataset:
    """Filter and merge feedback into training data; `test_texts` are texts that the model must not be trained on."""
    drops: list[DroppedRecord] = []
    test_overlap = OverlapIndex(test_texts, words=settings.ngram_overlap)
    redacted = (_redact_record(record, redact) for record in _latest(records, drops))
    usable = list(_filter_records(redacted, settings, test_overlap, drops))
    pairs = list(_pairs(usable, settings, drops))
    used = {request for pair in pairs for request in pair.metadata["requests"]}
    rated = [_rated(record) for record in usable if record.kind == "thumb" and record.request not in used]
    dialogues = list(
        {
            record.id: record for record in (_dialogue(edit) for edit in usable if edit.kind == "edit" and edit.better)
        }.values()
    )
    kinds = Counter(record.kind for record in usable)
    counts = {f"kept_{kind}": kinds[kind] for kind in KINDS}
    counts |= {"pairs": len(pairs), "dialogues": len(dialogues), "rated": len(rated), "dropped": len(drops)}
    return FeedbackDataset(pairs, dialogues, rated, drops, counts)


class OverlapIndex:
    """An index of test texts, which contains the texts that share a run of words with them."""

    def __init__(self, texts: Iterable[str], *, words: int) -> None:
        self.words = words
        self._runs: set[tuple[str, ...]] = set()
        for text in texts:
            self._runs.update(self._of(text))

    def __contains__(self, text: str) -> bool:
        return any(run in self._runs for run in self._of(text))

    def _of(self, text: str) -> Iterator[tuple[str, ...]]:
        tokens = re.findall(r"\w+", text.casefold())
        if len(tokens) <= self.words:
            yield tuple(tokens)
        for start in range(len(tokens) - self.words + 1):
            yield tuple(tokens[start : start + self.words])


# -- filtering


def _latest(feedback: Iterable[FeedbackRecord], drops: list[DroppedRecord]) -> Iterator[FeedbackRecord]:
    """Yield the latest record of each user on the same answers; earlier records are dropped."""
    records = list(feedback)
    last = {_vote_key(record): record.id for record in records}
    for record in records:
        question = _vote_key(record)
        if question is None or last[question] == record.id:
            yield record
        else:
            drops.append(DroppedRecord(record.id, "feedback", "superseded"))


def _vote_key(record: FeedbackRecord) -> tuple[Any, ...] | None:
    """Return the key of a vote and its user: of several records with the same key, the latest counts.

    Anonymous thumbs and edits of an answer count as those of one user.
    """
    if record.kind in ("thumb", "edit"):
        return record.kind, record.who, record.request, record.answer
    if record.kind == "vote" and record.who:
        return record.who, record.prompt, frozenset((record.answer, record.rejected))
    return None


def _filter_records(
    records: Iterable[FeedbackRecord], settings: FeedbackFilter, test_overlap: OverlapIndex, drops: list[DroppedRecord]
) -> Iterator[FeedbackRecord]:
    users: Counter[str] = Counter()
    seen_keys: set[tuple[Any, ...]] = set()
    for record in records:
        duplicate_key = (record.who, record.kind, record.request, record.answer, record.better, record.rejected)
        reason = _drop_reason(record, settings, test_overlap)
        if reason is None and duplicate_key in seen_keys:
            reason = "duplicate"
        if reason is None and record.who and users[record.who] >= settings.max_per_user:
            reason = "limit per user"
        if reason:
            drops.append(DroppedRecord(record.id, "feedback", reason, record.reason[:200] if record.consent else ""))
            continue
        seen_keys.add(duplicate_key)
        users[record.who or ""] += 1
        yield record


def _drop_reason(record: FeedbackRecord, cleaning: FeedbackFilter, test_overlap: OverlapIndex) -> str | None:
    """Return the reason why a record cannot be used, or None."""
    if not record.consent:
        return "no consent"
    if not record.prompt or record.prompt[-1].role != "user" or not record.prompt[-1].content.strip():
        return "no prompt"
    texts = [text for text in (record.answer, record.better, record.rejected) if text is not None]
    if any(not text.strip() for text in texts):
        return "empty answer"
    if any(len(text) > cleaning.max_chars for text in texts):
        return "answer too long"
    if any(message.content in test_overlap for message in record.prompt if message.role == "user"):
        return "evaluation prompt"
    if record.kind == "flag":
        return "flag without other feedback"
    if record.kind == "vote" and not record.value:
        return "tie"
    if (record.kind == "edit" and record.better == record.answer) or (
        record.kind == "vote" and record.rejected == record.answer
    ):
        return "equal answers"
    return None


def _redact_record(record: FeedbackRecord, redact: Callable[[str], str]) -> FeedbackRecord:
    prompt = tuple(Message(message.role, redact(message.content)) for message in record.prompt)
    better, rejected = (None if text is None else redact(text) for text in (record.better, record.rejected))
    return replace(
        record,
        prompt=prompt,
        answer=redact(record.answer),
        better=better,
        rejected=rejected,
        reason=redact(record.reason),
    )


# -- pairs

_Pair = tuple[str, str]
"""Two answers to a prompt, in alphabetical order."""
_MAX_TRIES_PER_PAIR = 64
"""Maximum number of candidate pairs per pair that a prompt may contribute."""


@dataclass
class _PromptFeedback:
    """The feedback on the answers to one prompt."""

    liked: dict[str, list[FeedbackRecord]] = field(default_factory=dict)
    """Answer -> its thumbs up."""
    disliked: dict[str, list[FeedbackRecord]] = field(default_factory=dict)
    compared: dict[_Pair, list[tuple[str, FeedbackRecord]]] = field(default_factory=dict)
    """Votes and edits: pair -> (better answer, record)."""

    def add(self, record: FeedbackRecord) -> _Pair | None:
        """Add a record, and return the pair that it compares, if any."""
        if record.kind == "thumb":
            thumbs = self.liked if (record.value or 0) > 0 else self.disliked
            thumbs.setdefault(record.answer, []).append(record)
            return None
        better, worse = (record.answer, record.rejected) if record.kind == "vote" else (record.better, record.answer)
        if better is None or worse is None:
            return None
        pair = (min(better, worse), max(better, worse))
        self.compared.setdefault(pair, []).append((better, record))
        return pair

    def matched_pairs(self) -> Iterator[_Pair]:
        """Yield the pairs of a liked and a disliked answer, in the order of the first thumbs.

        A pair occurs twice if both of its answers have thumbs up and down.
        """
        for better in self.liked:
            for worse in self.disliked:
                if better != worse:
                    yield min(better, worse), max(better, worse)

    def count(self) -> int:
        """Return the number of pairs, without building them."""
        in_both = len(self.liked.keys() & self.disliked.keys())
        matched = len(self.liked) * len(self.disliked) - in_both - in_both * (in_both - 1) // 2
        unmatched = sum(not self._is_matched(pair) for pair in self.compared)
        return matched + unmatched

    def votes(self, better: str, worse: str) -> int:
        """Return the number of votes for `better`: each thumb up is compared with each thumb down."""
        direct = sum(chosen == better for chosen, _ in self.compared.get((min(better, worse), max(better, worse)), ()))
        return direct + len(self.liked.get(better, ())) * len(self.disliked.get(worse, ()))

    def sources(self, better: str, worse: str) -> list[FeedbackRecord]:
        """Return the records that prefer `better`."""
        compared = self.compared.get((min(better, worse), max(better, worse)), ())
        direct = [record for chosen, record in compared if chosen == better]
        up, down = self.liked.get(better, []), self.disliked.get(worse, [])
        return [*direct, *up, *down] if up and down else direct

    def _is_matched(self, pair: _Pair) -> bool:
        return any(a in self.liked and b in self.disliked for a, b in (pair, pair[::-1]))


def _pairs(
    records: Iterable[FeedbackRecord], cleaning: FeedbackFilter, drops: list[DroppedRecord]
) -> Iterator[Preference]:
    """Yield a preference per pair of answers, with the votes for either answer counted together.

    Pairs are formed one at a time up to the limit of a prompt, so that a prompt with thousands of thumbs takes time
    linear in its thumbs.
    """
    by_prompt: dict[tuple[Message, ...], _PromptFeedback] = {}
    compared: dict[tuple[tuple[Message, ...], _Pair], None] = {}
    liked: dict[tuple[Message, ...], None] = {}
    for record in records:
        if record.kind == "thumb" and (record.value or 0) > 0:
            liked[record.prompt] = None
        if pair := by_prompt.setdefault(record.prompt, _PromptFeedback()).add(record):
            compared[record.prompt, pair] = None
    num_pairs: Counter[tuple[Message, ...]] = Counter()
    tried_pairs: dict[tuple[Message, ...], set[_Pair]] = defaultdict(set)

    def resolve(prompt: tuple[Message, ...], pair: _Pair) -> Preference | None:
        tried_pairs[prompt].add(pair)
        result = _resolve_pair(prompt, by_prompt[prompt], pair, cleaning)
        if isinstance(result, DroppedRecord):
            drops.append(result)
            return None
        num_pairs[prompt] += 1
        return result

    def is_full(prompt: tuple[Message, ...]) -> bool:
        limit = cleaning.max_pairs_per_prompt
        return num_pairs[prompt] >= limit or len(tried_pairs[prompt]) >= limit * _MAX_TRIES_PER_PAIR

    for prompt, pair in compared:
        if not is_full(prompt) and (result := resolve(prompt, pair)):
            yield result
    for prompt in {**liked, **dict.fromkeys(by_prompt)}:
        prompt_feedback = by_prompt[prompt]
        for pair in prompt_feedback.matched_pairs():
            if is_full(prompt):
                break
            if pair not in tried_pairs[prompt] and (result := resolve(prompt, pair)):
                yield result
        if remaining := prompt_feedback.count() - len(tried_pairs[prompt]):
            drops.append(
                DroppedRecord(_id(prompt, "", ""), "feedback", "limit per prompt", f"{remaining} more pairs of answers")
            )


def _resolve_pair(
    prompt: tuple[Message, ...], prompt_feedback: _PromptFeedback, pair: _Pair, cleaning: FeedbackFilter
) -> Preference | DroppedRecord:
    """Return the preference of the majority on a pair, or a drop if the votes disagree."""
    first, second = pair
    votes = {first: prompt_feedback.votes(first, second), second: prompt_feedback.votes(second, first)}
    chosen, rejected = (first, second) if votes[first] >= votes[second] else (second, first)
    total = votes[first] + votes[second]
    share, id = votes[chosen] / total, _id(prompt, chosen, rejected)
    if share < cleaning.min_agreement:
        return DroppedRecord(id, "feedback", "disputed", f"{votes[chosen]} of {total} agree")
    return Preference(
        id,
        prompt,
        (Message("assistant", chosen),),
        (Message("assistant", rejected),),
        "feedback",
        margin=round(2 * share - 1, 6),
        metadata=_lineage(prompt_feedback.sources(chosen, rejected)) | {"votes": total},
    )


def _lineage(sources: Sequence[FeedbackRecord]) -> dict[str, Any]:
    return {
        "requests": sorted({record.request for record in sources}),
        "models": sorted({record.model for record in sources}),
        "feedback": sorted({record.id for record in sources}),
    }


def _dialogue(record: FeedbackRecord) -> Dialogue:
    messages = (*record.prompt, Message("assistant", record.better or ""))
    return Dialogue(_id(record.prompt, record.better or "", ""), messages, "feedback", metadata=_lineage([record]))


def _rated(record: FeedbackRecord) -> UnpairedPreference:
    answer = (Message("assistant", record.answer),)
    return UnpairedPreference(
        record.id, record.prompt, answer, (record.value or 0) > 0, "feedback", metadata=_lineage([record])
    )


def _id(prompt: Sequence[Message], chosen: str, rejected: str) -> str:
    content = json.dumps([[message.as_row() for message in prompt], chosen, rejected], ensure_ascii=False)
    return "feedback/" + hashlib.sha256(content.encode()).hexdigest()[:16]


def _parse_record(line: str, where: str) -> FeedbackRecord:
    try:
        row = json.loads(line)
        row["prompt"] = tuple(Message(turn["role"], turn["content"]) for turn in row["prompt"])
        record = FeedbackRecord(**row)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(where, f"is not a feedback record: {error}") from None
    if record.kind not in KINDS:
        raise DataError(where, expected=f"a kind: {', '.join(KINDS)}", got=record.kind)
    texts = [record.id, record.request, record.model, record.answer, *(message.content for message in record.prompt)]
    texts += [text for text in (record.better, record.rejected, record.reason) if text is not None]
    if not all(isinstance(text, str) for text in texts):
        raise DataError(where, expected="texts for `prompt`, `answer`, `better`, `rejected`", got=line[:80])
    if record.kind == "thumb" and record.value not in (1, -1):
        raise DataError(where, expected="a thumb's `value` of 1 or -1", got=record.value)
    return record
