"""Decontamination: find documents that contain a passage of a benchmark, also with small changes.

A passage is a text of a benchmark row: a question, an answer, a context. The coverage of a passage by a document is the
share of its words in n-grams that the document contains (Lambert et al. 2024, section 3.2: 8-grams, coverage 0.5). A
passage shorter than an n-gram is not compared; such passages are counted.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt64
from pydantic import Field, model_validator

from vita.data.content import comparable_bytes, normalize_text
from vita.data.curation.word_batch import WordBatch
from vita.data.sources.benchmark_rows import benchmark_rows
from vita.spine.config import InputPath, Settings, input_paths
from vita.spine.errors import DataError, PlanError


class BenchmarkFile(Settings):
    """A benchmark file: a path, or `{path, fields}`."""

    path: InputPath
    """File of items (JSON lines, JSON or Parquet, also .gz and .zst)."""
    fields: tuple[str, ...] = ()
    """Fields of a row that are compared; by default all texts of the row."""

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class Decontamination(Settings):
    """The benchmarks, and the measure by which a document contains one of their passages."""

    benchmarks: dict[str, BenchmarkFile] = Field(default_factory=dict)
    """Benchmark files by name."""
    tests: bool = False
    """Also compare with the files of the life's test stages; a change of these files then repeats the curation."""
    ngram_words: int = Field(default=8, ge=3, le=50)
    """Number of words in an n-gram."""
    min_coverage: float = Field(default=0.5, gt=0, le=1)
    """Share of a passage's words in common n-grams, from which the document is dropped."""
    min_words: int = Field(default=13, ge=1)
    """Minimum number of words in common n-grams; a passage that is shorter must be covered completely."""
    action: Literal["drop", "count"] = "drop"
    """`drop` to drop the documents with a passage, `count` to keep and count them."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, str) and value != "tests":
            raise ValueError(f"expected `tests` or `{{benchmarks: {{name: file}}}}`, got `{value}`")
        return {"tests": True} if value == "tests" else value


_TEST_FILES = ("tasks", "instructions", "tool_calls", "labelled", "pairs")
"""Settings of the stage `test` whose files are benchmarks."""


def files_of_test(settings: Settings) -> Iterator[tuple[str, InputPath]]:
    """Yield (name, path) of the files of a test stage that are benchmarks."""
    for field in _TEST_FILES:
        value = getattr(settings, field)
        for name, file in (value if isinstance(value, dict) else {field: value}).items():
            for path in input_paths(file):
                yield name, path


def with_test_files(settings: Decontamination, tests: Iterable[Settings]) -> Decontamination:
    """Return the settings with the files of test stages as further benchmarks, named as in their settings.

    `tests` is false in the result.
    """
    benchmarks = dict(settings.benchmarks)
    known = {str(file.path) for file in benchmarks.values()}
    for test in tests:
        for name, path in files_of_test(test):
            if path not in known:
                known.add(path)
                name = f"{name}-{len(benchmarks)}" if name in benchmarks else name
                benchmarks[name] = BenchmarkFile(path=path)
    if not benchmarks:
        raise PlanError("curate.decontaminate.tests", "no test stage of the life reads a file")
    return settings.model_copy(update={"benchmarks": benchmarks, "tests": False})


@dataclass(frozen=True)
class BenchmarkCounts:
    """The size of a benchmark."""

    items: int
    passages: int
    short_passages: int
    """Passages with fewer words than an n-gram, which are not compared."""


class Match(NamedTuple):
    """A passage that a document contains."""

    benchmark: str
    item: int
    """Number of the row in the benchmark, from 1."""
    coverage: float

    def __str__(self) -> str:
        return f"{self.coverage:.2f} of a passage of {self.benchmark}, item {self.item}"


@dataclass(frozen=True)
class BenchmarkIndex:
    """The n-grams of all passages, in ascending order of their hashes."""

    names: tuple[str, ...]
    counts: tuple[BenchmarkCounts, ...]
    settings: Decontamination
    hashes: UInt64[np.ndarray, "E"]
    passages: Int64[np.ndarray, "E"]
    positions: Int64[np.ndarray, "E"]
    """Index of the n-gram's first word in its passage."""
    words: Int64[np.ndarray, "P"]
    """Number of words of each passage."""
    benchmarks: Int64[np.ndarray, "P"]
    items: Int64[np.ndarray, "P"]
    filter: Bool[np.ndarray, "F"]
    """True for the leading bits of the hashes: most n-grams of a document are excluded by one lookup."""

    @classmethod
    def build(cls, settings: Decontamination, *, where: str) -> BenchmarkIndex:
        """Read the benchmark files and index their passages."""
        n = settings.ngram_words
        texts: list[bytes] = []
        owners: list[tuple[int, int]] = []
        num_items: list[int] = []
        for number, (name, file) in enumerate(settings.benchmarks.items()):
            item = 0
            for item, row in enumerate(benchmark_rows(file.path), 1):
                for text in _passages(row, file.fields, where=f"{where}.benchmarks.{name}: {row.where}"):
                    texts.append(comparable_bytes(*normalize_text(text)))
                    owners.append((number, item))
            num_items.append(item)
        batch = WordBatch.of(texts)
        words = np.bincount(batch.documents, minlength=len(texts))
        benchmarks, items = np.array(owners, np.int64).reshape(-1, 2).T
        grams = batch.ngrams(n)
        passages = batch.documents[grams.starts]
        first_words = np.concatenate([[0], np.cumsum(words)])[:-1]
        order = np.argsort(grams.hashes, kind="stable")
        counts = tuple(
            BenchmarkCounts(
                items=num_items[number],
                passages=int((benchmarks == number).sum()),
                short_passages=int((words[benchmarks == number] < n).sum()),
            )
            for number in range(len(settings.benchmarks))
        )
        return cls(
            tuple(settings.benchmarks), counts, settings, grams.hashes[order], passages[order],
            (grams.starts - first_words[passages])[order], words, benchmarks, items, _bit_filter(grams.hashes),
        )  # fmt: skip

    def save(self, path: Path) -> SavedIndex:
        """Write the arrays; other processes may read or write the same file at the same time."""
        draft = path.with_name(f"{path.stem}-{os.getpid()}-{uuid.uuid4().hex[:8]}.npz")
        np.savez(draft, **{name: getattr(self, name) for name in _ARRAYS})  # pyright: ignore[reportArgumentType]
        draft.replace(path)
        return SavedIndex(path, self.settings)

    def search(self, batch: WordBatch) -> dict[int, list[Match]]:
        """Return document -> the passages that it contains, the highest coverage first."""
        grams = batch.ngrams(self.settings.ngram_words)
        candidates = np.flatnonzero(self.filter[grams.hashes >> _shift(self.filter)])
        hashes = grams.hashes[candidates]
        first = np.searchsorted(self.hashes, hashes, side="left")
        counts = np.searchsorted(self.hashes, hashes, side="right") - first
        if not counts.any():
            return {}
        documents = np.repeat(batch.documents[grams.starts[candidates]], counts)
        offsets = np.arange(len(documents)) - np.repeat(np.cumsum(counts) - counts, counts)
        entries = np.repeat(first, counts) + offsets
        return self._matches(documents, self.passages[entries], self.positions[entries])

    def _matches(
        self, documents: Int64[np.ndarray, "H"], passages: Int64[np.ndarray, "H"], positions: Int64[np.ndarray, "H"]
    ) -> dict[int, list[Match]]:
        """Return document -> the passages with enough coverage."""
        n = self.settings.ngram_words
        order = np.lexsort((positions, passages, documents))
        documents, passages, positions = documents[order], passages[order], positions[order]
        is_start = np.ones(len(order), bool)
        is_start[1:] = (documents[1:] != documents[:-1]) | (passages[1:] != passages[:-1])
        # Each n-gram adds the words after the end of the one before.
        added = np.minimum(np.diff(positions, prepend=0), n)
        added[is_start] = n
        starts = np.flatnonzero(is_start)
        covered = np.add.reduceat(added, starts)
        documents, passages = documents[starts], passages[starts]
        words = self.words[passages]
        coverage = covered / words
        is_match = (coverage >= self.settings.min_coverage) & (covered >= np.minimum(self.settings.min_words, words))
        matches: dict[int, list[Match]] = {}
        for document, passage, share in zip(
            documents[is_match].tolist(), passages[is_match].tolist(), coverage[is_match].tolist(), strict=True
        ):
            match = Match(self.names[self.benchmarks[passage]], int(self.items[passage]), share)
            matches.setdefault(document, []).append(match)
        for document_matches in matches.values():
            document_matches.sort(key=lambda match: -match.coverage)
        return matches


@dataclass(frozen=True)
class SavedIndex:
    """An index in a file, which each worker process loads."""

    path: Path
    settings: Decontamination

    def load(self) -> BenchmarkIndex:
        """Load the index, without the sizes of the benchmarks."""
        with np.load(self.path) as arrays:
            return BenchmarkIndex(
                tuple(self.settings.benchmarks), (), self.settings, **{name: arrays[name] for name in _ARRAYS}
            )


_ARRAYS = ("hashes", "passages", "positions", "words", "benchmarks", "items", "filter")


def _bit_filter(hashes: UInt64[np.ndarray, "E"]) -> Bool[np.ndarray, "F"]:
    bits = min(24, max(16, len(hashes).bit_length() + 5))
    mask = np.zeros(1 << bits, bool)
    mask[hashes >> _shift(mask)] = True
    return mask


def _shift(bit_filter: Bool[np.ndarray, "F"]) -> np.uint64:
    return np.uint64(65 - len(bit_filter).bit_length())


def _passages(row: Mapping[str, Any], fields: Iterable[str], *, where: str) -> Iterator[str]:
    """Yield the texts in the fields of a row, by default in all fields; texts may be in lists and mappings."""
    if not fields:
        yield from _texts(dict(row))
    for field in fields:
        if field not in row:
            raise DataError(where, expected=f"a field `{field}`", got=", ".join(row))
        yield from _texts(row[field])


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
