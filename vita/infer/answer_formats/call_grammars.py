"""Grammars of calls: the text of a call format with arguments that the schema of the function accepts.

    rules = calls_rules(format, tools, specials=tokenizer.specials, sample=features.call_sample, parallel=True)

The rules are in Lark's notation and define `calls`. A format without an entry here cannot be constrained.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vita.infer.answer_formats import notation_grammars
from vita.infer.answer_formats.call_formats import CallFormat
from vita.infer.answer_formats.call_source import CallSource, arguments_rule

Tools = Sequence[Mapping[str, Any]]


def calls_rules(
    format: CallFormat, tools: Tools, *, specials: Mapping[str, int], sample: str, parallel: bool
) -> str | None:
    """Return the rules of one call, or of several with `parallel`; None for a format that cannot be constrained."""
    rules = _RULES.get(format.name)
    functions = [tool["function"] for tool in tools]
    return None if rules is None else rules(CallSource(format, functions, specials, sample, parallel))


def _hermes(source: CallSource) -> str:
    start, end = source.marker(source.format.start), source.marker(source.format.end)
    repeated = 'calls: call ("\\n" call)*\n' if source.parallel else "calls: call\n"
    return f'{repeated}call: {start} "\\n" object "\\n" {end}\n' + source.objects("arguments")


def _list(source: CallSource, arguments: str = "arguments", name: str = "name") -> str:
    """Return the rules of a block with a JSON list of objects."""
    start, end = source.marker(source.format.start), source.marker(source.format.end)
    repeated = '"[" object (", " object)* "]"' if source.parallel else '"[" object "]"'
    return f"calls: {start} {repeated} {end}\n" + source.objects(arguments, name=name)


def _mistral(source: CallSource) -> str:
    if "[ARGS]" not in source.sample:
        return _list(source)
    start, separator = source.marker("[TOOL_CALLS]"), source.marker("[ARGS]")
    alternatives = " | ".join(f"call{number}" for number in range(len(source.functions)))
    rules = f"calls: ({alternatives}){'+' if source.parallel else ''}\n"
    for number, function in enumerate(source.functions):
        rules += f"call{number}: {start} {json.dumps(function['name'])} {separator} arguments{number}\n"
        rules += arguments_rule(number, function)
    return rules


def _llama(source: CallSource) -> str:
    return "calls: object\n" + source.objects("parameters")


def _deepseek(source: CallSource) -> str:
    start, end = source.marker(source.format.start), source.marker(source.format.end)
    begin, separator, finish = (source.marker(text) for text in source.format.markers)
    alternatives = " | ".join(f"call{number}" for number in range(len(source.functions)))
    rules = f"calls: {start} ({alternatives}){'+' if source.parallel else ''} {end}\n"
    for number, function in enumerate(source.functions):
        name = json.dumps(function["name"])
        if "```json" in source.sample:
            head, tail = f'"function" {separator} {name} "\\n```json\\n"', '"\\n```"'
        else:
            head, tail = f"{name} {separator}", ""
        rules += f"call{number}: {begin} {head} arguments{number} {tail} {finish}\n"
        rules += arguments_rule(number, function)
    return rules


_RULES: Mapping[str, Callable[[CallSource], str]] = {
    "hermes": _hermes,
    "phi": _list,
    "granite": _list,
    "cohere": lambda source: _list(source, "parameters", "tool_name"),
    "mistral": _mistral,
    "llama": _llama,
    "deepseek": _deepseek,
    "qwen_xml": notation_grammars.qwen_xml,
    "glm": notation_grammars.glm,
    "gemma": notation_grammars.gemma,
    "lfm": notation_grammars.lfm,
    "harmony": notation_grammars.harmony,
}
"""Name of the format -> its rules."""
