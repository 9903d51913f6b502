"""Tools and calls that are written as text: the Hermes format, and the raw format of Glaive.

    parse_tool_text(messages, variables)        # Hermes: <tools>, <tool_call> and <tool_response> in the messages
    glaive_dialogue("USER: Hi. ASSISTANT: <functioncall> {...} <|endoftext|>")

The texts become tools, calls and results, which every chat template writes in its own way. The instructions for the
text format, which stand in the system message beside the tools, are removed with them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from vita.data.records import Message, TemplateVariables, ToolCall
from vita.data.sources.fields import FormatMismatch
from vita.data.sources.tool_fields import parse_call, parse_tools

_TOOLS = re.compile(r"<tools>\s*(.*?)\s*</tools>", re.DOTALL)
_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_RESULT = re.compile(r"<tool_response>\s*(.*?)\s*</tool_response>", re.DOTALL)


def parse_tool_text(
    messages: Sequence[Message], variables: TemplateVariables
) -> tuple[list[Message], TemplateVariables]:
    """Parse the Hermes format; a dialogue without tools and without `<tools>` in its system message is unchanged."""
    opening = messages[0] if messages and messages[0].role == "system" else None
    tools = _system_tools(opening.content) if opening else None
    if opening and tools is not None:
        introduction, heading, _ = opening.content.partition("\n\n# Tools\n")
        messages = [*([replace(opening, content=introduction)] if heading else []), *messages[1:]]
        variables = variables if variables.tools else replace(variables, tools=tools)
    if not variables.tools:
        return list(messages), variables
    return [part for message in messages for part in _parse_message(message)], variables


def _system_tools(content: str) -> tuple[Mapping[str, Any], ...] | None:
    """Return the tools of a system message that describes the Hermes format; None for another message."""
    blocks = [match.group(1) for match in _TOOLS.finditer(content) if match.group(1).startswith(("[", "{"))]
    if not blocks or "<tool_call>" not in content:
        return None
    try:
        return parse_tools(list(_json_values(blocks[0])), "<tools>")
    except FormatMismatch:
        return None


def _parse_message(message: Message) -> Iterator[Message]:
    """Yield the message with its calls, or one message for each result."""
    if message.role == "assistant" and not message.tool_calls:
        blocks = [match.group(1) for match in _CALL.finditer(message.content)]
        if blocks:
            calls = tuple(_text_call(block) for block in blocks)
            yield replace(message, content=_CALL.sub("", message.content).strip(), tool_calls=calls)
            return
    if message.role == "tool" and (blocks := [match.group(1) for match in _RESULT.finditer(message.content)]):
        for block in blocks:
            yield replace(message, content=block)
        return
    yield message


def _text_call(text: str) -> ToolCall:
    try:
        return parse_call(text, "<tool_call>")
    except FormatMismatch:
        return parse_call(_python_json(text), "<tool_call>")


def _json_values(text: str) -> Iterator[Any]:
    """Yield the values of a JSON list, or of JSON values that follow one another."""
    decoder, position = json.JSONDecoder(), 0
    while position < len(text):
        try:
            value, position = decoder.raw_decode(text, position)
        except ValueError as error:
            raise FormatMismatch(f"a function is not JSON ({error})") from None
        yield from value if isinstance(value, list) else [value]
        while position < len(text) and text[position] in " \t\r\n,":
            position += 1


def _python_json(text: str) -> str:
    """Return the JSON of an object that was written as a Python value."""
    import ast

    try:
        return json.dumps(ast.literal_eval(text), ensure_ascii=False)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        raise FormatMismatch(f"a call is neither JSON nor a Python value: {text[:80]}") from None


# -- Glaive

_SPEAKER = re.compile(r"(?:\A|\s)\s*(SYSTEM|USER|ASSISTANT|FUNCTION RESPONSE):\s*")
_QUOTED_CALL = re.compile(r"""\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*'(.*)'\s*\}""", re.DOTALL)
_FUNCTION_CALL = re.compile(r"<functioncall>\s*(.*?)\s*(?:</functioncall>|\Z)", re.DOTALL)
_END = "<|endoftext|>"
_HEADING = re.compile(r"\s*(?:SYSTEM:\s*)?")


def glaive_system(text: str) -> tuple[str, tuple[Mapping[str, Any], ...]]:
    """Return the text of a Glaive system message and its functions.

    The text before functions is the introduction of the format; it is removed with them.
    """
    text = _HEADING.sub("", text, count=1).strip()
    start = text.find("{")
    if start < 0:
        return text, ()
    return "", parse_tools(list(_json_values(text[start:])), "system")


def glaive_dialogue(text: str) -> list[Message]:
    """Return the messages of a Glaive chat."""
    opening, *parts = _SPEAKER.split(text)
    if opening.strip() or not parts:
        raise FormatMismatch("the chat does not begin with `USER:`")
    return [
        _glaive_message(speaker, content.replace(_END, "").strip())
        for speaker, content in zip(parts[::2], parts[1::2], strict=True)
    ]


def _glaive_message(speaker: str, content: str) -> Message:
    if speaker == "ASSISTANT":
        match = _FUNCTION_CALL.search(content)
        if match:
            return Message("assistant", content[: match.start()].strip(), tool_calls=(_glaive_call(match.group(1)),))
        return Message("assistant", content)
    roles: Mapping[str, Any] = {"USER": "user", "FUNCTION RESPONSE": "tool", "SYSTEM": "system"}
    return Message(roles[speaker], content)


def _glaive_call(text: str) -> ToolCall:
    """Parse a call whose arguments are JSON in single quotes: `{"name": "f", "arguments": '{"a": 1}'}`."""
    match = _QUOTED_CALL.fullmatch(text)
    if match is None:
        return parse_call(text, "<functioncall>")
    arguments = match.group(2).replace("\\'", "'")
    return parse_call({"name": json.loads(match.group(1)), "arguments": arguments}, "<functioncall>")
