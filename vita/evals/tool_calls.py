"""Tool-calling evaluation: dialogues with tools, whose calls are compared with those of the data.

    items = read(Source(path="calls.jsonl"), limit=100)
    results = ask(engine, items, max_tokens=256)
    figures(results)      # valid_call, correct_function, exact_match, unneeded_call

Every assistant message of a dialogue is one item: its prompt is all that comes before it. A call is valid if the
function exists and the arguments satisfy its JSON Schema. The order of several calls has no effect. An answer without
a call counts as wrong where the data calls a function, and a call counts as unneeded where the data answers.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vita.data.records import Dialogue, Message, TemplateVariables, ToolCall
from vita.data.sources.read import Source, dialogues
from vita.infer.answer_formats.answer_format import ParsedAnswer
from vita.infer.sampling import Sampling
from vita.spine.errors import DataError
from vita.stats.intervals import Interval, share

if TYPE_CHECKING:
    from vita.infer.engine import Engine


@dataclass(frozen=True, slots=True)
class ToolCallItem:
    """A prompt with tools, and the calls of the answer in the data; none if the data answers with text."""

    id: str
    prompt: tuple[Message, ...]
    variables: TemplateVariables
    expected: tuple[ToolCall, ...]


@dataclass(frozen=True, slots=True)
class ToolCallResult:
    """An answer with its verdicts."""

    item: ToolCallItem
    answer: ParsedAnswer
    finish: str
    valid: bool
    """True if the answer contains calls, and all of them are valid."""
    correct_function: bool
    """True if the answer calls the functions of the data."""
    exact_match: bool
    """True if the answer calls them with the arguments of the data."""

    @property
    def called(self) -> bool:
        """Return True if the answer contains a call."""
        return bool(self.answer.calls)

    def as_json(self) -> dict[str, Any]:
        """Return the row of the item."""
        verdicts = {
            "valid_call": self.valid,
            "correct_function": self.correct_function,
            "exact_match": self.exact_match,
        }
        return {
            "id": self.item.id,
            "group": "call" if self.item.expected else "no call",
            "prompt": self.item.prompt[-1].content,
            "answer": self.answer.content,
            "calls": [call.as_row()["function"] for call in self.answer.calls],
            "expected": [call.as_row()["function"] for call in self.item.expected],
            "finish": self.finish,
            **(verdicts if self.item.expected else {"unneeded_call": self.called}),
        }


def read(source: Source, *, limit: int | None = None, seed: int = 0) -> list[ToolCallItem]:
    """Read the items of dialogues with tools; with a limit, a seeded sample of them."""
    items = [item for dialogue in dialogues(source) for item in _items(dialogue)]
    if not items:
        raise DataError(source.label(), expected="dialogues with `tools`", got="none")
    if limit is None or limit >= len(items):
        return items
    return [items[index] for index in sorted(random.Random(seed).sample(range(len(items)), limit))]


def ask(engine: Engine, items: Sequence[ToolCallItem], *, max_tokens: int) -> list[ToolCallResult]:
    """Answer every prompt greedily; a prompt that leaves no room in the context is not answered and fails."""
    prompts = [engine.chat_ids(item.prompt, item.variables) for item in items]
    fits = [len(ids) < engine.model.architecture.context for ids in prompts]
    greedy = Sampling(temperature=0.0, max_tokens=max_tokens)
    fitting = [ids for ids, fit in zip(prompts, fits, strict=True) if fit]
    answers = iter(engine.generate(fitting, greedy, visible=engine.visible_ids))
    results = []
    for item, ids, fit in zip(items, prompts, fits, strict=True):
        answer = next(answers) if fit else None
        prompt_end = engine.tokenizer.decode(ids[-32:], special=True)
        text = answer.text if answer else ""
        parsed = engine.answer_format.parse(text, item.variables.tools, prompt_end=prompt_end)
        results.append(judge(item, parsed, finish=answer.finish if answer else "too long"))
    return results


def judge(item: ToolCallItem, answer: ParsedAnswer, *, finish: str = "stop") -> ToolCallResult:
    """Judge the calls of an answer."""
    calls, expected = answer.calls, item.expected
    valid = bool(calls) and all(is_valid(call, item.variables.tools) for call in calls)
    same_functions = bool(calls) and sorted(call.name for call in calls) == sorted(call.name for call in expected)
    same_calls = same_functions and sorted(map(_canonical, calls)) == sorted(map(_canonical, expected))
    return ToolCallResult(item, answer, finish, valid, same_functions, same_calls)


def is_valid(call: ToolCall, tools: Sequence[Mapping[str, Any]]) -> bool:
    """Return True if the function exists and the arguments satisfy its JSON Schema."""
    functions = {tool["function"]["name"]: tool["function"] for tool in tools}
    function = functions.get(call.name)
    return function is not None and _satisfies(call.values, function.get("parameters") or {})


def figures(results: Sequence[ToolCallResult]) -> dict[str, Interval]:
    """Return the shares of valid and correct calls, of unneeded calls, and of unanswered prompts."""
    called = [result for result in results if result.item.expected]
    answered = [result for result in results if not result.item.expected]
    shares = {}
    if called:
        shares |= {
            "valid_call": share([result.valid for result in called]),
            "correct_function": share([result.correct_function for result in called]),
            "exact_match": share([result.exact_match for result in called]),
        }
    if answered:
        shares["unneeded_call"] = share([result.called for result in answered])
    return {**shares, "unanswered": share([result.finish == "too long" for result in results])}


def _items(dialogue: Dialogue) -> Iterator[ToolCallItem]:
    if not dialogue.variables.tools:
        return
    for number, message in enumerate(dialogue.messages):
        if message.role == "assistant" and number and message.learned:
            prompt = dialogue.messages[:number]
            yield ToolCallItem(f"{dialogue.id}/{number}", prompt, dialogue.variables, message.tool_calls)


def _canonical(call: ToolCall) -> str:
    return f"{call.name} {json.dumps(call.values, sort_keys=True)}"


def _satisfies(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
    """Return True if arguments satisfy a schema; a schema that is invalid itself allows everything."""
    import referencing
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError, UnknownType
    from referencing.exceptions import Unresolvable

    try:
        Draft202012Validator.check_schema(schema)
        # An empty registry: references to other addresses are not fetched.
        return Draft202012Validator(schema, registry=referencing.Registry()).is_valid(arguments)
    except (SchemaError, UnknownType, Unresolvable, RecursionError):
        return True
