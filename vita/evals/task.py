"""What a likelihood task asks: items read from JSON lines, one small module per task in `vita/evals/tasks/`.

A task turns a row into a `Choice` (which of these is likeliest?) or a `Cloze` (does the model say exactly this?):

    @TASKS.add("copa")
    def copa(row: Fields) -> Choice:
        '''Which cause or effect is plausible?'''
        return choice(row, delimiter=" ")
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from vita.data.sources.benchmark_rows import Fields, benchmark_rows
from vita.spine.errors import DataError
from vita.spine.parts import Parts


@dataclass(frozen=True, slots=True)
class Choice:
    """Options of which one is right; each is a (context, continuation) pair, ranked by the continuation's likelihood.

    `texts` are the options as written, by whose length a likelihood may be divided; None where length says nothing
    (one continuation after several contexts, or pairs of sentences).
    """

    options: tuple[tuple[str, str], ...]
    gold: int
    texts: tuple[str, ...] | None = None
    id: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class Cloze:
    """A context and the one continuation that counts, which greedy decoding must reproduce exactly."""

    context: str
    continuation: str
    id: str = ""
    group: str = ""


Item = Choice | Cloze


Task = Callable[[Fields], Item]

TASKS: Parts[Task] = Parts("task")
"""name -> the function that reads one row."""


def choice(row: Fields, *, delimiter: str) -> Choice:
    """One query with several answers, from `{query, choices, gold}`; the delimiter stands between the two."""
    query, texts = row.text("query"), row.texts("choices")
    context, space = _without_trailing_space(query + delimiter)
    return Choice(tuple((context, space + text) for text in texts), row.gold(texts), texts)


def schema(row: Fields) -> Choice:
    """Several contexts with one continuation, from `{context_options, continuation, gold}`.

    Only the continuation is scored ("partial" scoring, Trinh & Le 2018), so the length of the names does not count.
    """
    contexts = row.texts("context_options")
    continuation = " " + row.text("continuation").strip()
    return Choice(tuple((context.rstrip(), continuation) for context in contexts), row.gold(contexts))


def items(name: str, path: str, *, limit: int | None = None, seed: int = 0) -> list[Item]:
    """The items of a task file; with a limit, a sample that depends on the seed and the task alone.

    So two models asked with the same settings answer the same items and can be compared in pairs.
    """
    task = TASKS[name]
    found = list(benchmark_rows(path))
    if not found:
        raise DataError(path, expected="one item a row", got="an empty file")
    chosen = range(len(found))
    if limit is not None and limit < len(found):
        chosen = sorted(random.Random(seed ^ zlib.crc32(name.encode())).sample(chosen, limit))
    return [_numbered(task(found[index]), index) for index in chosen]


def _numbered(item: Item, index: int) -> Item:
    return item if item.id else replace(item, id=str(index))


def _without_trailing_space(text: str) -> tuple[str, str]:
    bare = text.rstrip(" ")
    return bare, text[len(bare) :]
