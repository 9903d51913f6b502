"""Does a model do as it is told? Prompts whose instructions a program can check (IFEval, Zhou et al. 2023).

    items = read("ifeval.jsonl.gz", limit=100)
    followed = ask(engine, items, as_chat=True, max_tokens=512)
    figures(followed)      # prompt_strict, prompt_loose, instruction_strict, instruction_loose

Strict judges the answer as it came; loose also without its first line, its last line and its asterisks, and takes
the best, so that "Sure, here it is:" costs nothing. What cannot be checked never counts as followed.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vita.data.sources.benchmark_rows import Fields, benchmark_rows
from vita.evals.ifeval_checks import CHECKS
from vita.evals.samples import prompt_ids
from vita.infer.sampling import Sampling
from vita.spine.errors import ConfigError, DataError
from vita.stats.intervals import Interval, bootstrap_ratio, share, wilson

if TYPE_CHECKING:
    from vita.infer.engine import Engine


@dataclass(frozen=True, slots=True)
class Instruction:
    """One thing that the answer must be or have."""

    id: str
    says: Mapping[str, Any]

    def fulfilled(self, answer: str) -> bool | None:
        """Whether the answer does it; an empty answer does nothing."""
        return CHECKS[self.id](answer, **self.says) if answer.strip() else False


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt and its instructions."""

    id: str
    prompt: str
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class Followed:
    """An answer, and for each instruction whether it was followed; None where that could not be checked."""

    item: Item
    answer: str
    finish: str
    strict: tuple[bool | None, ...]
    loose: tuple[bool | None, ...]

    def as_json(self) -> dict[str, Any]:
        verdicts = zip(self.item.instructions, self.strict, self.loose, strict=True)
        return {
            "id": self.item.id,
            "group": "",
            "prompt": self.item.prompt,
            "answer": self.answer,
            "finish": self.finish,
            "prompt_strict": all(self.strict),
            "prompt_loose": all(self.loose),
            "instructions": [
                {"id": one.id, **one.says, "strict": strict, "loose": loose} for one, strict, loose in verdicts
            ],
        }


def read(path: str, *, limit: int | None = None, seed: int = 0) -> list[Item]:
    """The items of a file of rows `{key, prompt, instruction_id_list, kwargs}`; with a limit, a seeded sample."""
    found = [_item(row, index) for index, row in enumerate(benchmark_rows(path))]
    if not found:
        raise DataError(path, expected="one prompt a row", got="an empty file")
    if limit is None or limit >= len(found):
        return found
    return [found[index] for index in sorted(random.Random(seed).sample(range(len(found)), limit))]


def ask(engine: Engine, items: Sequence[Item], *, as_chat: bool, max_tokens: int) -> list[Followed]:
    """Every prompt answered greedily; one that leaves no room in the model's context stays unanswered, and fails."""
    prompts = [prompt_ids(engine, item.prompt, as_chat=as_chat) for item in items]
    fits = [len(ids) < engine.model.architecture.context for ids in prompts]
    greedy = Sampling(temperature=0.0, max_tokens=max_tokens)
    answers = iter(engine.generate([ids for ids, fit in zip(prompts, fits, strict=True) if fit], greedy))
    found: list[Followed] = []
    for item, fit in zip(items, fits, strict=True):
        answer = next(answers) if fit else None
        found.append(judge(item, answer.text if answer else "", finish=answer.finish if answer else "too long"))
    return found


def judge(item: Item, answer: str, *, finish: str = "stop") -> Followed:
    """Which instructions the answer follows, strictly and loosely."""
    versions = list(_versions(answer))
    strict = tuple(one.fulfilled(answer) for one in item.instructions)
    loose = tuple(_best([one.fulfilled(version) for version in versions]) for one in item.instructions)
    return Followed(item, answer, finish, strict, loose)


def figures(followed: Sequence[Followed], *, seed: int = 0) -> dict[str, Interval]:
    """Accuracy of whole prompts and of single instructions, strict and loose; and what could not be told."""
    every = [verdict for one in followed for verdict in one.strict]
    return {
        "prompt_strict": share([all(one.strict) for one in followed]),
        "prompt_loose": share([all(one.loose) for one in followed]),
        "instruction_strict": _by_prompt([one.strict for one in followed], seed=seed),
        "instruction_loose": _by_prompt([one.loose for one in followed], seed=seed),
        "unchecked": share([verdict is None for verdict in every]),
        "unanswered": share([one.finish == "too long" for one in followed]),
    }


def by_instruction(followed: Sequence[Followed]) -> dict[str, dict[str, Interval]]:
    """Each kind of instruction: strict, loose."""
    found: dict[str, list[tuple[bool, bool]]] = {}
    for one in followed:
        for instruction, strict, loose in zip(one.item.instructions, one.strict, one.loose, strict=True):
            found.setdefault(instruction.id, []).append((strict is True, loose is True))
    return {
        name: {"strict": share([strict for strict, _ in own]), "loose": share([loose for _, loose in own])}
        for name, own in sorted(found.items())
    }


def _by_prompt(verdicts: Sequence[Sequence[bool | None]], *, seed: int) -> Interval:
    """The share of instructions followed; those of one prompt belong together, so prompts are resampled."""
    followed = [sum(verdict is True for verdict in own) for own in verdicts]
    given = [len(own) for own in verdicts]
    if sum(followed) in (0, sum(given)):  # resampling nothing but zeros would claim to be certain
        return wilson(len(verdicts) if sum(followed) else 0, len(verdicts))
    return bootstrap_ratio(followed, given, seed=seed)


def _best(verdicts: Sequence[bool | None]) -> bool | None:
    return True if True in verdicts else None if None in verdicts else False


def _versions(answer: str) -> Iterator[str]:
    """The answer, without its first line, its last one, both; and each of these without asterisks."""
    lines = answer.split("\n")
    for some in (lines, lines[1:], lines[:-1], lines[1:-1]):
        text = "\n".join(some).strip()
        yield text
        yield text.replace("*", "")


def _item(row: Fields, index: int) -> Item:
    names, given = row.get("instruction_id_list"), row.get("kwargs")
    if not isinstance(names, list) or not isinstance(given, list) or not names or len(names) != len(given):
        raise DataError(row.where, expected="as many `kwargs` as `instruction_id_list`, at least one", got=dict(row))
    instructions = tuple(_instruction(*pair, where=row.where) for pair in zip(names, given, strict=True))
    return Item(str(row.get("key", index)), row.text("prompt"), instructions)


def _instruction(name: Any, given: Any, *, where: str) -> Instruction:
    if not isinstance(name, str) or not isinstance(given, dict | None):
        raise DataError(where, expected="an instruction's id and its settings", got=f"{name!r}, {given!r}")
    try:
        check = CHECKS[name]
    except ConfigError as error:
        raise DataError(where, str(error)) from None
    says = {key: value for key, value in (given or {}).items() if value is not None}
    try:
        inspect.signature(check).bind("", **says)
    except TypeError as error:
        raise DataError(f"{where}: {name}", f"its settings do not fit: {error}") from None
    return Instruction(name, says)
