"""A life as the ledger knows it: its steps in order, what each took and gave, and what was answered at its end.

chronicle = read_life(ledger, store, "cat")
[chapter.name for chapter in chronicle.chapters]     # ["design", "curate", "tokenize", ...]

Only what is recorded is told: a step that was never carried out is not there, an artifact that is gone says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vita.spine.errors import StoreError, VitaError
from vita.spine.ledger import Ledger, Run
from vita.spine.store import Store

UNREADABLE = (VitaError, OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError)
"""What reading a damaged or unfamiliar record may raise; whoever tells of a whole life tells of that, and goes on."""
_LIVED = "lived"


@dataclass(frozen=True)
class Chapter:
    """One step of a life as it was carried out."""

    name: str
    digest: str
    kind: str
    facts: Mapping[str, Any]
    run: Run | None
    inputs: Mapping[str, str]
    """Slot -> digest of what filled it."""
    stops: int = 0
    """How often it failed, was stopped or was killed before it was done."""
    older: tuple[str, ...] = ()
    """The steps that have been carried out anew since, of whose earlier answer this one was made."""

    @property
    def stage(self) -> str:
        return self.run.stage if self.run else ""

    @property
    def config(self) -> Mapping[str, Any]:
        return self.run.config if self.run else {}

    @property
    def record(self) -> Mapping[str, Any]:
        return (self.run.record if self.run else None) or {}

    @property
    def seconds(self) -> float:
        """How long it worked; 0 where nobody wrote it down."""
        return float(self.record.get("seconds") or (self.run.seconds if self.run else None) or 0)


@dataclass(frozen=True)
class Chronicle:
    """A life."""

    life: str
    about: str
    chapters: tuple[Chapter, ...]
    questions: tuple[str, ...] = ()
    answers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Model digest -> its answer to each question."""
    gaps: tuple[str, ...] = ()
    """What could not be read."""

    @property
    def names(self) -> dict[str, str]:
        """Digest -> the step that gave it."""
        return {chapter.digest: chapter.name for chapter in reversed(self.chapters)}

    def of_kind(self, kind: str) -> list[Chapter]:
        return [chapter for chapter in self.chapters if chapter.kind == kind]

    @property
    def models(self) -> list[Chapter]:
        """Each model once, oldest first."""
        seen: dict[str, Chapter] = {}
        for chapter in self.of_kind("model"):
            seen.setdefault(chapter.digest, chapter)
        return list(seen.values())


def remember(
    ledger: Ledger,
    life: str,
    *,
    about: str,
    steps: Sequence[str],
    questions: Sequence[str] = (),
    answers: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Set down what the ledger cannot tell by itself: the order of a life's file, and what its models answered."""
    own = {name: list(said) for name, said in (answers or {}).items()}
    data = {"about": about, "steps": list(steps), "questions": list(questions), "answers": own}
    if _remembered(ledger, life) != data:
        ledger.log(_LIVED, life, **data)


def known_answers(ledger: Ledger, life: str, questions: Sequence[str]) -> dict[str, list[str]]:
    """Model digest -> what it answered to just these questions the last time, so that it need not be asked again."""
    found = _remembered(ledger, life)
    return dict(found.get("answers", {})) if found.get("questions") == list(questions) else {}


def read_life(ledger: Ledger, store: Store, life: str) -> Chronicle:
    """What the ledger knows of the life; no chapters where it knows none of that name."""
    history = [(name.removeprefix(f"{life}/"), digest) for name, digest in ledger.newest_names(f"{life}/")]
    current = dict(history)
    once = {digest: step for step, digest in history}
    runs = ledger.find(life=life)
    chapters, gaps = [], []
    for step, digest in current.items():
        try:
            chapters.append(_chapter(ledger, store, step, digest, runs=runs, current=current, once=once))
        except UNREADABLE as error:
            gaps.append(f"The step {step} cannot be told: {error}")
    noted = _remembered(ledger, life)
    order = {step: index for index, step in enumerate(noted.get("steps", ()))}
    if order:
        gaps += _gone_from_the_file([one.name for one in chapters if one.name not in order])
        chapters = [one for one in chapters if one.name in order]
    chapters.sort(key=lambda one: (order.get(one.name, 0), one.run.began if one.run else 0))
    return Chronicle(
        life, noted.get("about", ""), tuple(chapters), tuple(noted.get("questions", ())), noted.get("answers", {}),
        tuple(gaps),
    )  # fmt: skip


def _chapter(
    ledger: Ledger, store: Store, step: str, digest: str, *,
    runs: Sequence[Run], current: Mapping[str, str], once: Mapping[str, str],
) -> Chapter:  # fmt: skip
    own = [run for run in runs if run.step == step]
    made = [run for run in own if run.artifact == digest and run.state == "done"]
    run = made[-1] if made else next(iter(reversed(ledger.find(artifact=digest, state="done"))), None)
    inputs = ledger.inputs(run.id) if run else {}
    older = [once[taken] for taken in inputs.values() if taken in once and current[once[taken]] != taken]
    try:
        manifest = store.manifest(digest)
        kind, facts = manifest.kind, manifest.facts
    except StoreError:
        kind, facts = "gone", {}
    stops = sum(one.state in ("failed", "stopped", "abandoned") for one in own)
    return Chapter(step, digest, kind, facts, run, inputs, stops, tuple(dict.fromkeys(older)))


def _gone_from_the_file(steps: Sequence[str]) -> list[str]:
    if not steps:
        return []
    return [f"Carried out earlier, and no longer in the file of this life: {', '.join(steps)}."]


def _remembered(ledger: Ledger, life: str) -> dict[str, Any]:
    found = [event["data"] for event in ledger.events(life) if event["event"] == _LIVED]
    return found[-1] if found else {}
