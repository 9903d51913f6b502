"""The input items of the Responses API and their parts, as messages of a chat request.

Items of earlier responses are accepted as the API returns them and as the OpenAI client dumps them: their `id`,
`status`, `annotations`, `logprobs`, `parsed` and `parsed_arguments` do not change the dialogue.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from vita.server.api import read
from vita.server.errors import invalid
from vita.server.request_body import DialogueBody
from vita.server.tool_api import Name

_DIRECT_CALLER = {"type": "direct"}


class _Item(DialogueBody):
    """The fields of every item."""

    id: str | None = None
    """Accepted for compatibility."""
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    """Accepted for compatibility."""


class MessageItem(_Item):
    """A message of the dialogue."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    """The author."""
    content: str | list[Any]
    """A text or parts."""
    name: str | None = None
    """Name of the author, as in a chat message; not part of the OpenAI API."""
    phase: Literal["commentary", "final_answer"] | None = None
    """Accepted for compatibility."""


class ReasoningItem(_Item):
    """The reasoning of an earlier response."""

    unsupported: ClassVar[Any] = {"encrypted_content": ("",)}

    type: Literal["reasoning"]
    content: str | list[Any] | None = None
    """The reasoning."""
    summary: str | list[Any] | None = None
    """A summary, which is used if there is no content."""


class FunctionCallItem(_Item):
    """A call in an earlier response."""

    unsupported: ClassVar[Any] = {"namespace": (), "caller": (_DIRECT_CALLER,), "async": (False,), "async_": (False,)}

    type: Literal["function_call"]
    call_id: str = Field(max_length=200)
    """Identifier of the call, to which the result refers."""
    name: Name
    """Name of the function."""
    arguments: str
    """The arguments as JSON, also if they were cut off."""
    parsed_arguments: Any = None
    """Accepted for compatibility: the arguments as an object, which the OpenAI client adds to an answer."""


class FunctionCallOutputItem(_Item):
    """The result of a call."""

    unsupported: ClassVar[Any] = {"namespace": (), "caller": (_DIRECT_CALLER,)}

    type: Literal["function_call_output"]
    call_id: str
    """Identifier of the call."""
    output: str | list[Any]
    """The result: a text or parts."""
    name: str | None = None
    """Name of the function."""


class TextPart(DialogueBody):
    """A part with a text."""

    type: Literal["input_text", "text", "reasoning_text", "summary_text"]
    text: str
    """The text."""
    prompt_cache_breakpoint: dict[str, Any] | None = None
    """Accepted for compatibility."""


class OutputTextPart(DialogueBody):
    """A text of an earlier response."""

    type: Literal["output_text"]
    text: str
    """The text."""
    annotations: list[Any] | None = None
    """Accepted for compatibility."""
    logprobs: list[Any] | None = None
    """Accepted for compatibility."""
    parsed: Any = None
    """Accepted for compatibility: the text as an object, which the OpenAI client adds to an answer."""


class RefusalPart(DialogueBody):
    """A refusal in an earlier response, which the dialogue contains as text."""

    type: Literal["refusal"]
    refusal: str
    """The text."""


def chat_messages(
    items: list[dict[str, Any]], *, earlier: int = 0
) -> tuple[list[dict[str, Any]], list[str], dict[str, str]]:
    """Return the messages of input items, for each of them the place of its first item, and the names of calls.

    The names are those of `FieldNames.calls`; `earlier` is the number of messages of the chat request before these.
    Reasoning and calls become parts of one message of the assistant. Several items of reasoning in one message are
    joined.
    """
    messages: list[dict[str, Any]] = []
    places: list[str] = []
    assistant: dict[str, Any] | None = None
    call_ids, call_names = set[str](), dict[str, str]()

    def answer() -> dict[str, Any]:
        nonlocal assistant
        if assistant is None:
            assistant = {"role": "assistant"}
            messages.append(assistant)
        return assistant

    for number, item in enumerate(items):
        where = f"input[{number}]"
        match "message" if item.get("type") is None else item["type"]:
            case "reasoning":
                reasoning = read(ReasoningItem, item, where=where)
                name = "content" if reasoning.content else "summary"
                text = _text(getattr(reasoning, name) or "", f"{where}.{name}")
                if text:  # an item without a text has no message
                    answer()["reasoning_content"] = answer().get("reasoning_content", "") + text
            case "function_call":
                call = read(FunctionCallItem, item, where=where)
                function = {"name": call.name, "arguments": call.arguments}
                entry = {"id": call.call_id, "type": "function", "function": function}
                calls = answer().setdefault("tool_calls", [])
                name = f"messages[{earlier + len(messages) - 1}].tool_calls[{len(calls)}]"
                call_names |= {name: where, f"{name}.function": where, f"{name}.id": f"{where}.call_id"}
                calls.append(entry)
                call_ids.add(call.call_id)
            case "function_call_output":
                assistant = None
                result = read(FunctionCallOutputItem, item, where=where)
                if result.call_id not in call_ids:
                    raise invalid(f"`{where}.call_id` is the id of no earlier call", f"{where}.call_id")
                content = _text(result.output, f"{where}.output")
                message = {"role": "tool", "tool_call_id": result.call_id, "content": content}
                messages.append(message | ({"name": result.name} if result.name else {}))
            case "message":
                entry = read(MessageItem, item, where=where)
                is_answer = entry.role == "assistant"
                if not is_answer or (assistant is not None and ("content" in assistant or "tool_calls" in assistant)):
                    assistant = None
                message = answer() if is_answer else {"role": entry.role}
                message["content"] = _text(entry.content, f"{where}.content", has_refusals=is_answer)
                if entry.name is not None:
                    message["name"] = entry.name
                if not is_answer:
                    messages.append(message)
            case kind:
                message = f"`{where}.type` `{str(kind)[:64]}` is not supported"
                raise invalid(message, f"{where}.type", code="unsupported_parameter")
        places += [where] * (len(messages) - len(places))  # an item adds at most one message
    return messages, places, call_names


def _text(content: str | list[Any], where: str, *, has_refusals: bool = False) -> str:
    """Return the text of a content: a text, or parts with texts, and refusals in a message of the assistant."""
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for number, part in enumerate(content):
        at = f"{where}[{number}]"
        kind = part.get("type") if isinstance(part, dict) else None
        match kind:
            case "input_text" | "text" | "reasoning_text" | "summary_text":
                texts.append(read(TextPart, part, where=at).text)
            case "output_text":
                texts.append(read(OutputTextPart, part, where=at).text)
            case "refusal" if has_refusals:
                texts.append(read(RefusalPart, part, where=at).refusal)
            case str():
                message = f"`{at}.type` `{kind[:64]}` is not supported here: only texts are"
                raise invalid(message, f"{at}.type", code="unsupported_parameter")
            case _:
                raise invalid(f"`{at}` must be a part with a text", at, code="invalid_value")
    return "".join(texts)
