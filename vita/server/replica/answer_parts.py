"""The parts of chat answers in the fields of the OpenAI API: content, reasoning and calls, complete or as deltas."""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vita.data.records import Message, ToolCall
from vita.data.tokens.tokenizer import Tokenizer
from vita.infer.answer_formats.answer_format import AnswerFormat
from vita.infer.answer_formats.deltas import ArgumentsDelta, CallStart, Delta, TextDelta
from vita.infer.answer_formats.parser import DeltaParser

TAIL_TOKENS = 32
"""Number of tokens at the end of a prompt that may begin the reasoning."""


class AnswerParts:
    """The parsers of the answers of one request, by the number of the choice."""

    def __init__(
        self,
        format: AnswerFormat,
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        prompt_end: str = "",
        parallel: bool = True,
        only_calls: bool = False,
    ) -> None:
        """Without `parallel` only the first call of an answer is returned.

        With `only_calls`, which the grammar of the answer requires, nothing is returned as content.
        """
        self._format, self._tools, self._prompt_end, self._parallel = format, tools, prompt_end, parallel
        self._only_calls = only_calls
        self._parsers: dict[int, DeltaParser] = {}
        self._arguments: dict[int, dict[int, list[str]]] = {}
        """Choice -> index of a returned call -> pieces of its arguments."""
        self._orders: dict[int, list[tuple[str, int]]] = {}
        """Choice -> the parts of its complete answer: `reasoning`, `text` or `call`, and the number of characters."""

    def message(self, choice: int, text: str, *, refused: bool) -> dict[str, Any]:
        """Return the message of a complete answer."""
        message: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
        calls: list[dict[str, Any]] = []
        order = self._orders[choice] = list[tuple[str, int]]()
        for delta in self.deltas(choice, text, last=True, refused=refused):
            _add_part(order, delta)
            for name in ("content", "reasoning_content"):
                if name in delta:
                    message[name] = message.get(name, "") + delta[name]
            calls += [call for call in delta.get("tool_calls", ()) if "id" in call]
            for call in delta.get("tool_calls", ()):
                if "id" not in call:
                    calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
        if calls or self._only_calls:
            message["content"] = message["content"] or None
        if calls:
            message["tool_calls"] = [{name: value for name, value in call.items() if name != "index"} for call in calls]
        return message

    def order(self, choice: int) -> list[dict[str, Any]] | None:
        """Return the parts of a complete answer in their order, if a text follows a call; otherwise None.

        The message has one field for all texts and one for all calls.
        """
        order = self._orders.get(choice, [])
        kinds = [kind for kind, _ in order]
        if "call" not in kinds or set(kinds[kinds.index("call") :]) == {"call"}:
            return None
        return [{"type": kind, **({} if kind == "call" else {"length": length})} for kind, length in order]

    def deltas(self, choice: int, text: str, *, last: bool, refused: bool) -> Iterator[dict[str, Any]]:
        """Yield the deltas of new text of an answer; the text of a refusal is content."""
        if refused:
            if text:
                yield {"content": text}
            return
        parser = self._parsers.get(choice)
        if parser is None:
            parser = self._parsers[choice] = self._format.parser(self._tools, prompt_end=self._prompt_end, partial=True)
        for delta in parser.push(text):
            yield from self._fields(choice, delta)
        for delta in parser.finish() if last else ():
            yield from self._fields(choice, delta)

    def finish(self, choice: int, finish: str | None) -> str | None:
        """Return the finish reason: `tool_calls` for a complete answer with calls whose arguments are all complete.

        A client executes the calls of such an answer. A call that a stop text ends within its arguments, or whose
        arguments become invalid JSON, does not count.
        """
        calls = self._arguments.get(choice)
        if finish != "stop" or not calls:
            return finish
        return "tool_calls" if all(ToolCall("", "".join(pieces)).is_complete for pieces in calls.values()) else finish

    def _fields(self, choice: int, delta: Delta) -> Iterator[dict[str, Any]]:
        match delta:
            case TextDelta("reasoning", text):
                yield {"reasoning_content": text}
            case TextDelta(_, text) if not self._only_calls:
                yield {"content": text}
            case CallStart(index, name) if index == 0 or self._parallel:
                self._arguments.setdefault(choice, {})[index] = []
                head = {"index": index, "id": self._new_id(), "type": "function"}
                yield {"tool_calls": [{**head, "function": {"name": name, "arguments": ""}}]}
            case ArgumentsDelta(index, text) if index == 0 or self._parallel:
                self._arguments[choice][index].append(text)
                yield {"tool_calls": [{"index": index, "function": {"arguments": text}}]}
            case _:
                pass

    def _new_id(self) -> str:
        """Return the id of a call."""
        if self._format.short_call_ids:
            return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))
        return f"call_{secrets.token_hex(12)}"


def _add_part(order: list[tuple[str, int]], delta: Mapping[str, Any]) -> None:
    """Extend the last part by a delta, or begin another one."""
    for kind, name in (("reasoning", "reasoning_content"), ("text", "content")):
        if length := len(delta.get(name) or ""):
            before = order.pop()[1] if order and order[-1][0] == kind else 0
            order.append((kind, before + length))
    order += [("call", 0) for call in delta.get("tool_calls", ()) if "id" in call]


def prompt_tail(tokenizer: Tokenizer, ids: Sequence[int], messages: Sequence[Message], *, continued: bool) -> str:
    """Return the end of a prompt, which may begin the reasoning.

    A continued message may contain its end, so that only a message that is still in its reasoning begins with it.
    """
    if not continued:
        return tokenizer.decode(ids[-TAIL_TOKENS:], special=True)
    content = messages[-1].content
    open_tag, close_tag = content.rfind("<think>"), content.rfind("</think>")
    return "<think>" if open_tag > close_tag else ""
