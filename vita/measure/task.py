"""What a likelihood task asks: items read from JSON lines, one small module per task in `vita/measure/tasks/`.

A task turns a row into a `Choice` (which of these is likeliest?) or a `Cloze` (does the model say exactly this?):

    @TASKS.add("copa")
    def copa(row: Fields) -> Choice:
        '''Which cause or effect is plausible?'''
        return choice(row, delimiter=" ")
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vita.data.readers import READERS
from vita.data.sources import Source, usable_files
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


class Fields(Mapping[str, Any]):
    """A row of a task file; a field that is missing or of another type is refused with file and line."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values, self.where = values, where

    def text(self, name: str) -> str:
        """The string in a field."""
        return self._of(name, str, "text")

    def number(self, name: str) -> int:
        """The whole number in a field."""
        return self._of(name, int, "a whole number")

    def texts(self, name: str) -> tuple[str, ...]:
        """The strings in a field, at least two."""
        values = self._of(name, list, "a list of texts")
        if len(values) < 2 or not all(isinstance(value, str) and value for value in values):
            raise DataError(f"{self.where}: {name}", expected="two or more texts", got=values)
        return tuple(values)

    def gold(self, options: Sequence[Any]) -> int:
        """The index of the right option, from the field `gold`."""
        index = self.number("gold")
        if not 0 <= index < len(options):
            raise DataError(f"{self.where}: gold", expected=f"0 to {len(options) - 1}", got=index)
        return index

    def _of(self, name: str, kind: type, expected: str) -> Any:
        value = self._values.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise DataError(f"{self.where}: {name}", expected=expected, got=value)
        return value

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


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
    found = list(rows(path))
    if not found:
        raise DataError(path, expected="one item a row", got="an empty file")
    chosen = range(len(found))
    if limit is not None and limit < len(found):
        chosen = sorted(random.Random(seed ^ zlib.crc32(name.encode())).sample(chosen, limit))
    return [_numbered(task(found[index]), index) for index in chosen]


def rows(path: str) -> Iterator[Fields]:
    """The rows of a task's file."""
    source = Source.model_validate(path)
    for file in usable_files(source):
        for row in READERS[file.suffix](file, source):
            if row.values is None:
                problem = row.problem
                raise DataError(row.where, expected="a task's row", got=problem.got if problem else "nothing")
            yield Fields(row.values, row.where)


def _numbered(item: Item, index: int) -> Item:
    return item if item.id else replace(item, id=str(index))


def _without_trailing_space(text: str) -> tuple[str, str]:
    bare = text.rstrip(" ")
    return bare, text[len(bare) :]
