"""Instruction-following evaluation: prompts whose instructions a program can check (IFEval, Zhou et al. 2023).

    items = read("ifeval.jsonl.gz", limit=100)
    followed = ask(engine, items, as_chat=True, max_tokens=512)
    figures(followed)      # prompt_strict, prompt_loose, instruction_strict, instruction_loose

Strict accuracy judges the answer as generated. Loose accuracy also judges it without its first line, its last line
and its asterisks, and takes the best verdict, so that "Sure, here it is:" costs nothing. An instruction that cannot
be checked never counts as followed.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vita.data.sources.benchmark_rows import BenchmarkRow, benchmark_rows
from vita.evals.ifeval_checks import CHECKS
from vita.evals.samples import prompt_ids
from vita.infer.sampling import Sampling
from vita.spine.errors import ConfigError, DataError
from vita.stats.intervals import Interval, bootstrap_ratio, share, wilson

if TYPE_CHECKING:
    from vita.infer.engine import Engine


@dataclass(frozen=True, slots=True)
class Instruction:
    """One verifiable instruction and its settings."""

    id: str
    says: Mapping[str, Any]

    def fulfilled(self, answer: str) -> bool | None:
        """Return True if the answer follows it, False for an empty answer, None if it cannot be checked."""
        return CHECKS[self.id](answer, **self.says) if answer.strip() else False


@dataclass(frozen=True, slots=True)
class IFEvalItem:
    """A prompt and its instructions."""

    id: str
    prompt: str
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class IFEvalResult:
    """An answer with a verdict per instruction; None where an instruction could not be checked."""

    item: IFEvalItem
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
                {"id": instruction.id, **instruction.says, "strict": strict, "loose": loose}
                for instruction, strict, loose in verdicts
            ],
        }


def read(path: str, *, limit: int | None = None, seed: int = 0) -> list[IFEvalItem]:
    """Read the items of a file of rows `{key, prompt, instruction_id_list, kwargs}`; with a limit, a seeded sample."""
    items = [_item(row, index) for index, row in enumerate(benchmark_rows(path))]
    if not items:
        raise DataError(path, expected="one prompt a row", got="an empty file")
    if limit is None or limit >= len(items):
        return items
    return [items[index] for index in sorted(random.Random(seed).sample(range(len(items)), limit))]


def ask(engine: Engine, items: Sequence[IFEvalItem], *, as_chat: bool, max_tokens: int) -> list[IFEvalResult]:
    """Answer every prompt greedily; a prompt that leaves no room in the context is not answered and fails."""
    prompts = [prompt_ids(engine, item.prompt, as_chat=as_chat) for item in items]
    fits = [len(ids) < engine.model.architecture.context for ids in prompts]
    greedy = Sampling(temperature=0.0, max_tokens=max_tokens)
    answers = iter(engine.generate([ids for ids, fit in zip(prompts, fits, strict=True) if fit], greedy))
    results: list[IFEvalResult] = []
    for item, fit in zip(items, fits, strict=True):
        answer = next(answers) if fit else None
        results.append(judge(item, answer.text if answer else "", finish=answer.finish if answer else "too long"))
    return results


def judge(item: IFEvalItem, answer: str, *, finish: str = "stop") -> IFEvalResult:
    """Judge the answer by every instruction of the item, strictly and loosely."""
    versions = list(_versions(answer))
    strict = tuple(instruction.fulfilled(answer) for instruction in item.instructions)
    loose = tuple(_best([instruction.fulfilled(version) for version in versions]) for instruction in item.instructions)
    return IFEvalResult(item, answer, finish, strict, loose)


def figures(results: Sequence[IFEvalResult], *, seed: int = 0) -> dict[str, Interval]:
    """Return the accuracy per prompt and per instruction, strict and loose, and the shares unchecked and unanswered."""
    verdicts = [verdict for result in results for verdict in result.strict]
    return {
        "prompt_strict": share([all(result.strict) for result in results]),
        "prompt_loose": share([all(result.loose) for result in results]),
        "instruction_strict": _by_prompt([result.strict for result in results], seed=seed),
        "instruction_loose": _by_prompt([result.loose for result in results], seed=seed),
        "unchecked": share([verdict is None for verdict in verdicts]),
        "unanswered": share([result.finish == "too long" for result in results]),
    }


def by_instruction(results: Sequence[IFEvalResult]) -> dict[str, dict[str, Interval]]:
    """Return the strict and the loose accuracy of each kind of instruction."""
    verdicts_by_kind: dict[str, list[tuple[bool, bool]]] = {}
    for result in results:
        for instruction, strict, loose in zip(result.item.instructions, result.strict, result.loose, strict=True):
            verdicts_by_kind.setdefault(instruction.id, []).append((strict is True, loose is True))
    return {
        name: {"strict": share([strict for strict, _ in verdicts]), "loose": share([loose for _, loose in verdicts])}
        for name, verdicts in sorted(verdicts_by_kind.items())
    }


def _by_prompt(verdicts: Sequence[Sequence[bool | None]], *, seed: int) -> Interval:
    """Return the share of instructions followed; the interval resamples prompts, whose instructions are correlated."""
    counts_followed = [sum(verdict is True for verdict in prompt_verdicts) for prompt_verdicts in verdicts]
    counts = [len(prompt_verdicts) for prompt_verdicts in verdicts]
    if sum(counts_followed) in (0, sum(counts)):  # resampling equal values would give an interval of width zero
        return wilson(len(verdicts) if sum(counts_followed) else 0, len(verdicts))
    return bootstrap_ratio(counts_followed, counts, seed=seed)


def _best(verdicts: Sequence[bool | None]) -> bool | None:
    return True if True in verdicts else None if None in verdicts else False


def _versions(answer: str) -> Iterator[str]:
    """Yield the answer as it is, without its first line, its last line, and both; each also without asterisks."""
    lines = answer.split("\n")
    for part in (lines, lines[1:], lines[:-1], lines[1:-1]):
        text = "\n".join(part).strip()
        yield text
        yield text.replace("*", "")


def _item(row: BenchmarkRow, index: int) -> IFEvalItem:
    names, settings = row.get("instruction_id_list"), row.get("kwargs")
    if not isinstance(names, list) or not isinstance(settings, list) or not names or len(names) != len(settings):
        raise DataError(row.where, expected="as many `kwargs` as `instruction_id_list`, at least one", got=dict(row))
    instructions = tuple(_instruction(*pair, where=row.where) for pair in zip(names, settings, strict=True))
    return IFEvalItem(str(row.get("key", index)), row.text("prompt"), instructions)


def _instruction(name: Any, settings: Any, *, where: str) -> Instruction:
    if not isinstance(name, str) or not isinstance(settings, dict | None):
        raise DataError(where, expected="an instruction's id and its settings", got=f"{name!r}, {settings!r}")
    try:
        check = CHECKS[name]
    except ConfigError as error:
        raise DataError(where, str(error)) from None
    says = {key: value for key, value in (settings or {}).items() if value is not None}
    try:
        inspect.signature(check).bind("", **says)
    except TypeError as error:
        raise DataError(f"{where}: {name}", f"its settings do not fit: {error}") from None
    return Instruction(name, says)
