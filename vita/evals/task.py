"""Likelihood tasks: items read from JSON lines, one small module per task in `vita/evals/tasks/`.

A task turns a row into a `MultipleChoice` (the likeliest of several options) or a `Cloze` (an exact continuation):

    @TASKS.add("copa")
    def copa(row: Fields) -> Choice:
        '''The plausible cause or effect.'''
        return choice(row, delimiter=" ")
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from vita.data.sources.benchmark_rows import BenchmarkRow, benchmark_rows
from vita.spine.errors import DataError
from vita.spine.registry import Registry


@dataclass(frozen=True, slots=True)
class MultipleChoice:
    """Options of which one is correct; each is a (context, continuation) pair, ranked by the continuation's likelihood.

    `texts` are the options as written, whose length normalizes the likelihoods; None where length normalization
    makes no sense (one continuation after several contexts, or pairs of sentences).
    """

    options: tuple[tuple[str, str], ...]
    gold: int
    texts: tuple[str, ...] | None = None
    id: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class Cloze:
    """A context and the correct continuation, which greedy decoding must reproduce exactly."""

    context: str
    continuation: str
    id: str = ""
    group: str = ""


Item = MultipleChoice | Cloze


Task = Callable[[BenchmarkRow], Item]

TASKS: Registry[Task] = Registry("task")
"""name -> function that converts one row."""


def choice(row: BenchmarkRow, *, delimiter: str) -> MultipleChoice:
    """Return one query with several answers, from `{query, choices, gold}`, joined by the delimiter."""
    query, texts = row.text("query"), row.texts("choices")
    context, space = _without_trailing_space(query + delimiter)
    return MultipleChoice(tuple((context, space + text) for text in texts), row.gold(texts), texts)


def schema(row: BenchmarkRow) -> MultipleChoice:
    """Return several contexts with one continuation, from `{context_options, continuation, gold}`.

    Only the continuation is scored ("partial" scoring, Trinh & Le 2018), so the length of the names has no effect.
    """
    contexts = row.texts("context_options")
    continuation = " " + row.text("continuation").strip()
    return MultipleChoice(tuple((context.rstrip(), continuation) for context in contexts), row.gold(contexts))


def items(name: str, path: str, *, limit: int | None = None, seed: int = 0) -> list[Item]:
    """Read the items of a task file; with a limit, a sample that depends on the seed and the task alone.

    Two models that are evaluated with the same settings answer the same items and can be compared in pairs.
    """
    task = TASKS[name]
    rows = list(benchmark_rows(path))
    if not rows:
        raise DataError(path, expected="one item a row", got="an empty file")
    chosen = range(len(rows))
    if limit is not None and limit < len(rows):
        chosen = sorted(random.Random(seed ^ zlib.crc32(name.encode())).sample(chosen, limit))
    return [_numbered(task(rows[index]), index) for index in chosen]


def _numbered(item: Item, index: int) -> Item:
    return item if item.id else replace(item, id=str(index))


def _without_trailing_space(text: str) -> tuple[str, str]:
    bare = text.rstrip(" ")
    return bare, text[len(bare) :]
