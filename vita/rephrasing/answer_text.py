"""The text of an answer: the text parts of a chat message, without reasoning before it.

message_text({"content": [{"type": "thinking", "thinking": [...]}, {"type": "text", "text": "Hi."}]})     # "Hi."
without_reasoning("<thinking>How?</thinking> Hi.")                                                       # "Hi."
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vita.infer.answer_formats.deltas import TextDelta
from vita.infer.answer_formats.harmony import CHANNEL, START, HarmonyParser

_TEXT_TYPES = ("text", "output_text")
_REASONING_TYPES = ("thinking", "redacted_thinking", "reasoning", "reasoning_text")
_TAGS = r"(?:seed:)?think|thinking|thought|reasoning"
_REASONING = re.compile(
    rf"\A\s*(?:<({_TAGS})>.*?(?:</\1>|\Z)|\[THINK\].*?(?:\[/THINK\]|\Z)|<\|channel>thought.*?(?:<channel\|>|\Z)"
    r"|<\|START_THINKING\|>.*?(?:<\|END_THINKING\|>|\Z))\s*",
    re.DOTALL | re.IGNORECASE,
)
_REASONING_END = re.compile(
    rf"\A(?:(?!<(?:{_TAGS})>|\[THINK\]|<\|START_THINKING\|>).)*?(</(?:{_TAGS})>|\[/THINK\]|<\|END_THINKING\|>)\s*",
    re.DOTALL | re.IGNORECASE,
)
"""Reasoning without its opening tag: templates of DeepSeek-R1, Qwen3 and others write `<think>` into the prompt."""
_RESPONSE_MARKS = re.compile(r"\A\s*<\|START_(?:RESPONSE|TEXT)\|>|<\|END_(?:RESPONSE|TEXT)\|>\s*\Z")
"""Marks of Cohere's models around the answer."""
_HARMONY = re.compile(rf"\A\s*(?:{re.escape(START)}assistant)?(?={re.escape(CHANNEL)})")
_PLAIN_HARMONY = re.compile(r"\Aanalysis\S.*?assistantfinal", re.DOTALL)
"""Channels of GPT-OSS in a text whose special tokens an endpoint has removed."""


def message_text(message: Mapping[str, Any]) -> str:
    """Return the text of the `content` of an assistant's message: a text, null, or a list of parts.

    Parts with reasoning are left out. Raises `ValueError` with a description for another form of content.
    """
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise ValueError(f"`content` of the type {type(content).__name__}")
    return "".join(map(_part_text, content))


def _part_text(part: Any) -> str:
    if not isinstance(part, Mapping):
        raise ValueError(f"a part of `content` of the type {type(part).__name__}")
    kind = part.get("type")
    if kind in _REASONING_TYPES:
        return ""
    if kind not in _TEXT_TYPES or not isinstance(part.get("text"), str):
        raise ValueError(f"a part of `content` with the type {str(kind)[:40]!r} and the fields {', '.join(part)[:80]}")
    return str(part["text"])


def without_reasoning(text: str, passage: str = "") -> str:
    """Return an answer without reasoning before it: tags as `<think>`, and the channels of GPT-OSS but the final one.

    Reasoning that does not end is removed to the end. A text about `</think>` keeps it if its passage contains it.
    """
    if match := _HARMONY.match(text):
        parser = HarmonyParser(parse_calls=False)
        deltas = [*parser.push(text[match.end() :]), *parser.finish()]
        return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta) and delta.kind == "content")
    text = _PLAIN_HARMONY.sub("", text)
    has_begin = False
    while match := _REASONING.match(text):
        text, has_begin = text[match.end() :], True
    if not has_begin and (end := _REASONING_END.match(text)) and end[1] not in passage:
        text = text[end.end() :]
    return _RESPONSE_MARKS.sub("", text)
