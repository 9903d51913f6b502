"""The messages of the Messages API and their blocks, as messages of a chat request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from vita.server.api import read
from vita.server.errors import invalid
from vita.server.request_body import DialogueBody
from vita.server.tool_api import Name

_DIRECT_CALLER = {"type": "direct"}


class _Block(DialogueBody):
    """The fields of every block."""

    index: int | None = None
    """Accepted for compatibility: the number of the block in a streamed answer."""


class _CachedBlock(_Block):
    """A block at which a client may ask for a cached prompt."""

    cache_control: dict[str, Any] | None = None
    """Accepted for compatibility."""


class InputMessage(DialogueBody):
    """A message of the dialogue."""

    unsupported: ClassVar[Any] = {"clear_at": ("never",), "output_config": ({},)}

    role: Literal["user", "assistant", "system"]
    """The author; `system` is an instruction at this place of the dialogue, for chat templates that write it."""
    content: str | list[Any]
    """A text or blocks."""


class InputText(_CachedBlock):
    """A block of text."""

    unsupported: ClassVar[Any] = {"citations": ([],)}

    type: Literal["text"]
    text: str
    """The text."""
    parsed_output: Any = None
    """Accepted for compatibility: the text as an object, which the Anthropic client adds to an answer."""


class InputThinking(_Block):
    """The reasoning of an earlier answer."""

    type: Literal["thinking"]
    thinking: str
    """The reasoning."""
    signature: str | None = None
    """Accepted for compatibility; the server does not sign reasoning."""


class InputToolUse(_CachedBlock):
    """A call in an earlier answer."""

    unsupported: ClassVar[Any] = {"caller": (_DIRECT_CALLER,), "toolset_name": ()}

    type: Literal["tool_use"]
    id: str = Field(max_length=200)
    """Identifier of the call, to which the result refers."""
    name: Name
    """Name of the tool."""
    input: dict[str, Any]
    """The input of the tool."""


class InputToolResult(_CachedBlock):
    """The result of a call."""

    unsupported: ClassVar[Any] = {"toolset_name": ()}

    type: Literal["tool_result"]
    tool_use_id: str
    """Identifier of the call."""
    content: str | list[Any] | None = None
    """The result: a text or blocks of text."""
    is_error: bool | None = None
    """With true, the tool failed: the text that the model reads begins with `Error: `."""


def chat_messages(message: Mapping[str, Any], where: str, call_ids: set[str]) -> list[dict[str, Any]]:
    """Return the chat messages of a message: results of tools become messages of their own.

    `call_ids` are the ids of the calls of earlier messages, to which those of this message are added. Blocks of text
    are joined, and so are blocks of reasoning.
    """
    entry = read(InputMessage, message, where=where)
    if isinstance(entry.content, str):
        return [{"role": entry.role, "content": entry.content}]
    if not entry.content and entry.role != "assistant":  # an earlier answer can be empty
        raise invalid(f"`{where}.content` must be a text or a list of blocks", f"{where}.content")
    messages: list[dict[str, Any]] = []
    texts: list[str] = []
    answer: dict[str, Any] = {"role": entry.role}
    for number, block in enumerate(entry.content):
        at = f"{where}.content[{number}]"
        match block.get("type") if isinstance(block, dict) else None:
            case "text":
                texts.append(read(InputText, block, where=at).text)
            case "tool_result" if entry.role == "user":
                if texts:
                    raise invalid(f"`{at}`: blocks of the type `tool_result` must come before those of the text", at)
                messages.append(_tool_message(read(InputToolResult, block, where=at), at, call_ids))
            case "tool_use" if entry.role == "assistant":
                call = read(InputToolUse, block, where=at)
                function = {"name": call.name, "arguments": json.dumps(call.input)}
                answer.setdefault("tool_calls", []).append({"id": call.id, "type": "function", "function": function})
                call_ids.add(call.id)
            case "thinking" if entry.role == "assistant":
                thinking = read(InputThinking, block, where=at).thinking
                answer["reasoning_content"] = answer.get("reasoning_content", "") + thinking
            case str(kind):
                raise invalid(f"`{at}`: blocks of the type `{kind[:64]}` are not supported here", at)
            case _:
                raise invalid(f"`{at}` must be a block: an object with a `type`", at)
    if texts or not messages:
        answer["content"] = "".join(texts)
        messages.append(answer)
    return messages


def call_names(message: Mapping[str, Any], where: str, place: str) -> dict[str, str]:
    """Return the names of the calls of an assistant message (`FieldNames.calls`).

    `where` is its place in the request, and `place` that of its chat message.
    """
    blocks = message["content"] if isinstance(message["content"], list) else []
    numbers = [number for number, block in enumerate(blocks) if block["type"] == "tool_use"]
    names = {f"{place}.tool_calls[{index}]": f"{where}.content[{number}]" for index, number in enumerate(numbers)}
    functions = {f"{name}.function": block for name, block in names.items()}
    return names | functions | {f"{name}.arguments": f"{block}.input" for name, block in functions.items()}


def text_of(content: str | list[Any], where: str) -> str:
    """Return the text of a content: a text, or blocks of the type `text`."""
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for number, block in enumerate(content):
        kind = block.get("type") if isinstance(block, dict) else None
        if isinstance(kind, str) and kind != "text":
            message = f"`{where}[{number}].type` `{kind[:64]}` is not supported here: only texts are"
            raise invalid(message, f"{where}[{number}].type", code="unsupported_parameter")
        if kind is None or not isinstance(block, dict):
            raise invalid(f"`{where}` must be a text or a list of text blocks", f"{where}[{number}]")
        texts.append(read(InputText, block, where=f"{where}[{number}]").text)
    return "".join(texts)


def _tool_message(result: InputToolResult, where: str, call_ids: set[str]) -> dict[str, Any]:
    """Return the chat message of a result; the text of a failed tool begins with `Error`."""
    if result.tool_use_id not in call_ids:
        raise invalid(f"`{where}.tool_use_id` is the id of no earlier call", f"{where}.tool_use_id")
    text = text_of(result.content or "", f"{where}.content")
    if result.is_error and not text.lower().startswith("error"):
        text = f"Error: {text}" if text else "Error"
    return {"role": "tool", "tool_call_id": result.tool_use_id, "content": text}
