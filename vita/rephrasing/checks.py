"""The checks of rewrites: a rewrite that fails one is dropped with the reason and its value.

checks = RewriteChecks(settings, training=keys, held_out=keys, benchmarks=[BenchmarkCheck.build(...)])
checks.problem(candidate, result, text)       # DropReason("copy", "0.93 of its 5-grams are in the passage"), or None
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vita.data.content import comparable_bytes, content_key, normalize_text
from vita.data.curation.decontamination import BenchmarkIndex, Decontamination
from vita.data.curation.filter_table import DropReason
from vita.data.curation.word_batch import WordBatch
from vita.redteam.detectors import loops, refuses
from vita.rephrasing.answer_text import without_reasoning
from vita.rephrasing.candidates import Candidate
from vita.rephrasing.corpus_copy import KeySet
from vita.rephrasing.result_log import RewriteResult

COPY_NGRAM_WORDS = 5
MIN_COPIED_WORDS = 20
"""Smallest number of consecutive words of a source that are a copy: answers may quote a sentence."""
ECHO_WORDS = 8
"""Number of consecutive words of the instructions that are an echo of the prompt."""


@dataclass(frozen=True)
class CheckSettings:
    """The thresholds of the checks."""

    min_bytes: int
    max_copied: float
    check_form: bool


def rewrite_text(result: RewriteResult, passage: str = "") -> str:
    """Return the normalized text of a result, without reasoning before it (see `without_reasoning`)."""
    return normalize_text(without_reasoning(result.text, passage))[0].strip()


def copied_share(text: str, passage: str) -> float:
    """Return the share of the word 5-grams of a text that occur in the passage; 0 for a shorter text."""
    data = [comparable_bytes(*normalize_text(part)) for part in (text, passage)]
    batch = WordBatch.of(data)
    grams = batch.ngrams(COPY_NGRAM_WORDS)
    is_text = batch.documents[grams.starts] == 0
    return float(np.isin(grams.hashes[is_text], grams.hashes[~is_text]).mean()) if is_text.any() else 0.0


def longest_run(text: str, other: str) -> tuple[int, int]:
    """Return the number of words in the longest run of words that two texts have in common, and that of `other`.

    Words are compared as in `copied_share`. The time is the product of both numbers, 5 ms for 1,000 words each.
    """
    batch = WordBatch.of([comparable_bytes(*normalize_text(part)) for part in (text, other)])
    words, others = (batch.hashes[batch.documents == number] for number in (0, 1))
    runs, longest = np.zeros(len(others) + 1, np.int64), 0
    for word, is_common in zip(words, np.isin(words, others).tolist(), strict=True):
        runs[1:] = np.where(others == word, runs[:-1] + 1, 0) if is_common else 0
        longest = max(longest, int(runs.max())) if is_common else longest
    return longest, len(others)


@dataclass(frozen=True)
class BenchmarkCheck:
    """The benchmarks of one curation."""

    index: BenchmarkIndex
    keeps_contaminated: bool
    """True to count the rewrites with passages of benchmarks, False to drop them."""

    @classmethod
    def build(cls, settings: Decontamination, *, where: str) -> BenchmarkCheck:
        """Read the benchmarks of the settings of a curation."""
        return cls(BenchmarkIndex.build(settings, where=where), settings.action == "count")


def _passage(candidate: Candidate, result: RewriteResult) -> str:
    """Return the part of the passage that the model got: a model with a short context gets its beginning."""
    data = candidate.passage.encode("utf-8")
    return data[: result.source_bytes or len(data)].decode("utf-8", "ignore")


def _echo(candidate: Candidate, text: str) -> DropReason | None:
    """Return the reason if a rewrite contains the instructions of its prompt, unless its document contains them."""
    instructions = candidate.style.instructions
    run, _ = longest_run(text, instructions)
    if run < ECHO_WORDS or longest_run(candidate.passage, instructions)[0] >= ECHO_WORDS:
        return None
    return DropReason("echo", f"contains {run} consecutive words of the instructions, {ECHO_WORDS} or more")


@dataclass
class RewriteChecks:
    """The checks in their order."""

    settings: CheckSettings
    training: KeySet
    """Contents of the training part, and of the rewrites that were added."""
    held_out: KeySet
    benchmarks: Sequence[BenchmarkCheck] = ()
    contaminated: dict[str, int] = field(default_factory=dict)
    """Benchmark -> rewrites with one of its passages."""

    def problem(self, candidate: Candidate, result: RewriteResult, text: str) -> DropReason | None:
        """Return the reason to drop a rewrite with this text; None if it passes."""
        return self._of_answer(candidate, result, text) or self._of_content(text) or self._of_form(candidate, text)

    def _of_answer(self, candidate: Candidate, result: RewriteResult, text: str) -> DropReason | None:
        settings, size = self.settings, len(text.encode("utf-8"))
        if result.finish == "too_long":
            return DropReason("too_long", result.detail)
        if result.finish == "refused":
            return DropReason("refused_by_endpoint", result.detail)
        if result.finish == "length":
            return DropReason("cut_off", f"cut off at the maximum of tokens, after {size} bytes")
        if not text:
            return DropReason("empty", "no text")
        if refuses(text):
            return DropReason("refusal", text[:100])
        if size < settings.min_bytes:
            return DropReason("too_short", f"{size} bytes, under {settings.min_bytes}")
        if problem := _echo(candidate, text) or self._copy(text, _passage(candidate, result)):
            return problem
        if loops(text):
            return DropReason("repetition", "more than 60% of its 4-grams occur more than once")
        return None

    def _copy(self, text: str, passage: str) -> DropReason | None:
        """Return the reason if a rewrite is made of parts of its source, contains most of it, or is equal to it."""
        limit = self.settings.max_copied
        if (share := copied_share(text, passage)) > limit:
            return DropReason("copy", f"{share:.2f} of its {COPY_NGRAM_WORDS}-grams are in the source, over {limit:g}")
        run, words = longest_run(text, passage)
        if run == words == longest_run(passage, text)[1]:
            return DropReason("copy", "equal to its source")
        if run >= MIN_COPIED_WORDS and (run == words or run > limit * words):
            return DropReason("copy", f"contains {run} consecutive words of the {words} of its source")
        return None

    def _of_content(self, text: str) -> DropReason | None:
        data = text.encode("utf-8")
        key = content_key(text, data)
        if key in self.held_out:
            return DropReason("held_out", "equal to a held-out document")
        if key in self.training:
            return DropReason("duplicate", "equal to a training document or to another rewrite")
        words = WordBatch.of([comparable_bytes(text, data)]) if self.benchmarks else None
        for check in self.benchmarks:
            matches = check.index.search(words).get(0, []) if words else []
            for name in {match.benchmark for match in matches}:
                self.contaminated[name] = self.contaminated.get(name, 0) + 1
            if matches and not check.keeps_contaminated:
                return DropReason("contaminated", f"contains {matches[0]}")
        return None

    def _of_form(self, candidate: Candidate, text: str) -> DropReason | None:
        style = candidate.style
        if not self.settings.check_form or style.has_form(text):
            return None
        return DropReason("other_form", f"it does not contain {style.form}")

    def accept(self, text: str) -> None:
        """Record a rewrite, so that an equal one is dropped later."""
        self.training.add(content_key(text, text.encode("utf-8")))
