"""The Responses API of OpenAI (OpenResponses) over chat completions, without stored conversations."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from vita.server.api import ChatRequest, read
from vita.server.dialects.field_names import FieldNames
from vita.server.dialects.parts import AnswerReader, Part, PartChange, read_answer
from vita.server.dialects.response_items import chat_messages
from vita.server.dialects.translation import named_event
from vita.server.errors import ApiError, invalid
from vita.server.request_body import RequestBody
from vita.server.tool_api import Name, ObjectSchema

_CHAT_NAMES = {
    "messages": "input", "max_tokens": "max_output_tokens", "response_format": "text.format",
    "response_format.json_schema": "text.format", "tool_choice.function": "tool_choice",
    "tool_choice.allowed_tools": "tool_choice",
    "reasoning_effort": "reasoning.effort", "tools[].function": "tools[]",
}  # fmt: skip
_INCOMPLETE_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Finish reason of a chat completion -> reason of an incomplete response."""
ENCRYPTED_REASONING = "reasoning.encrypted_content"
"""The only accepted value of `include`: reasoning is returned as text, and nothing is stored that it would replace."""


class ResponseFunction(RequestBody):
    """A function that the model can call."""

    unsupported: ClassVar[Any] = {
        "allowed_callers": (["direct"],), "async": (False,), "defer_loading": (False,), "output_schema": (),
    }  # fmt: skip

    type: Literal["function"]
    """The only supported type is `function`."""
    name: Name
    """Name of the function."""
    description: str | None = None
    """Description for the model."""
    parameters: ObjectSchema | None = None
    """JSON Schema of the arguments."""
    strict: bool | None = None
    """Constrain the arguments of calls to the schema."""


class TextFormat(RequestBody):
    """The format of the text."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    """`text`, any JSON object, or the JSON of a schema."""
    name: str | None = None
    """Name of the format."""
    description: str | None = None
    """Accepted for compatibility."""
    json_schema: dict[str, Any] | bool | None = Field(default=None, alias="schema")
    """The schema of the type `json_schema`."""
    strict: bool | None = None
    """Accepted for compatibility; the response always follows the schema."""


class TextOptions(RequestBody):
    """Options of the text of a response."""

    format: TextFormat = TextFormat()
    """The format of the text."""
    verbosity: Literal["medium"] | None = None
    """The only supported value is `medium`, the default."""


class ReasoningOptions(RequestBody):
    """Options of the reasoning."""

    unsupported: ClassVar[Any] = {"context": ("auto",), "generate_summary": (), "mode": ("standard",)}

    effort: str | None = None
    """Effort of the reasoning; only for chat templates that read it."""
    summary: Literal["auto", "concise", "detailed"] | None = None
    """Accepted for compatibility; the reasoning is returned as the model wrote it."""


class ResponsesRequest(RequestBody):
    """POST /v1/responses."""

    unsupported: ClassVar[Any] = {
        "previous_response_id": (), "conversation": (), "background": (False,), "prompt": (), "max_tool_calls": (),
        "include": ([], [ENCRYPTED_REASONING]), "top_logprobs": (0,), "context_management": (), "moderation": (),
        "stream_options": ({"include_obfuscation": False},), "access_programs": (), "background_options": (),
        "image": (),
    }  # fmt: skip

    model: str = Field(min_length=1, max_length=200)
    """Name of the model, as GET /v1/models lists it."""
    input: str | Annotated[list[dict[str, Any]], Field(max_length=4096)]
    """A text, or items: messages, calls of functions, their results, and reasoning."""
    instructions: str | None = None
    """A system message before the input."""
    max_output_tokens: int | None = Field(default=None, ge=1, le=2**31)
    """Maximum number of tokens of the response."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """Sampling temperature; 0 selects the most likely token at each step."""
    top_p: float | None = Field(default=None, ge=0, le=1)
    """Sample only from the most likely tokens whose probabilities add up to this value."""
    tools: list[ResponseFunction] | None = Field(default=None, max_length=128)
    """Functions that the model can call."""
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    """`auto`, `none`, `required`, or {"type": "function", "name": ...}."""
    parallel_tool_calls: bool | None = None
    """With false, at most one function is called."""
    text: TextOptions | None = None
    """Options of the text."""
    reasoning: ReasoningOptions | None = None
    """Options of the reasoning."""
    truncation: Literal["auto", "disabled"] | None = None
    """`auto` drops the oldest turns of a dialogue that exceeds the context."""
    stream: bool = False
    """Stream the response as server-sent events."""
    store: bool | None = None
    """Accepted for compatibility; no response is stored for later requests."""
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    """Returned with the response."""
    user: str | None = Field(default=None, max_length=512)
    """Identifier of the end user."""
    service_tier: str | None = Field(default=None, max_length=50)
    """Accepted for compatibility."""
    prompt_cache_key: str | None = Field(default=None, max_length=512)
    """Accepted for compatibility."""
    prompt_cache_retention: str | None = Field(default=None, max_length=50)
    """Accepted for compatibility."""
    prompt_cache_options: dict[str, Any] | None = None
    """Accepted for compatibility."""
    safety_identifier: str | None = Field(default=None, max_length=512)
    """Accepted for compatibility."""


class ResponsesApi:
    """The dialect of /v1/responses."""

    def translate(self, body: dict[str, Any]) -> ResponsesTranslation:
        """Translate a request; raises `ApiError` for a field that is wrong or not supported."""
        request = read(ResponsesRequest, body)
        chat, names = _chat_request(request)
        try:
            read(ChatRequest, chat)
        except ApiError as error:
            raise names.original_error(error) from None
        return ResponsesTranslation(request, chat, names)

    def error(self, body: Mapping[str, Any], status: int) -> dict[str, Any]:
        """Return the body of an error; its format is that of chat completions."""
        return dict(body)


class ResponsesTranslation:
    """The translation of one request and of its answer."""

    def __init__(self, request: ResponsesRequest, chat: dict[str, Any], names: FieldNames) -> None:
        self.chat, self.names = chat, names
        self._request, self.id = request, f"resp_{secrets.token_hex(16)}"
        self._created, self._number = int(time.time()), 0
        self._reader, self._items = AnswerReader(), dict[int, str]()
        self._begun = False

    def response(self, completion: Mapping[str, Any]) -> dict[str, Any]:
        """Translate a chat completion."""
        answer = read_answer(completion)
        return self._response(self._output(answer.parts, answer.finish), answer.finish, completion.get("usage") or {})

    def events(self, chunk: Mapping[str, Any]) -> Iterator[bytes]:
        """Translate a chunk of a streamed chat completion."""
        if "error" in chunk:
            error = self.names.original_body(chunk)["error"]
            yield self._event("error", {name: error.get(name) for name in ("code", "message", "param")})
            return
        if not self._begun:
            self._begun = True
            snapshot = self._response([], None, {}, status="in_progress")
            yield self._event("response.created", {"response": snapshot})
            yield self._event("response.in_progress", {"response": snapshot})
        for change in self._reader.read(chunk):
            yield from self._changes(change)

    def end(self) -> Iterator[bytes]:
        """Yield the events after the last chunk."""
        reader = self._reader
        for change in reader.close():
            yield from self._changes(change, finish=reader.finish)
        response = self._response(self._output(reader.parts, reader.finish), reader.finish, reader.usage)
        yield self._event(f"response.{response['status']}", {"response": response})

    # -- parts

    def _changes(self, change: PartChange, *, finish: str | None = None) -> Iterator[bytes]:
        """Yield the events of a change; `finish` is the finish reason at the end of the answer."""
        part = change.part
        item_position = {"item_id": self._item_id(part), "output_index": part.index}
        content = {**item_position, "content_index": 0}
        match change.kind, part.kind:
            case "begin", kind:
                item = self._item(part, "in_progress")
                if kind != "call":
                    item["content"] = []
                yield self._event("response.output_item.added", {"output_index": part.index, "item": item})
                if kind != "call":
                    yield self._event("response.content_part.added", {**content, "part": _content(part)})
            case "grow", "call":
                yield self._event("response.function_call_arguments.delta", {**item_position, "delta": change.text})
            case "grow", kind:
                extra = {"logprobs": []} if kind == "text" else {}
                name = "output_text" if kind == "text" else "reasoning_text"
                yield self._event(f"response.{name}.delta", {**content, "delta": change.text, **extra})
            case "end", kind:
                yield from self._ended(self._item(part, _status(part, finish)), part, item_position, content)

    def _ended(
        self, item: dict[str, Any], part: Part, item_position: dict[str, Any], content: dict[str, Any]
    ) -> Iterator[bytes]:
        if part.kind == "call":
            finished_call = {**item_position, "name": part.name, "arguments": part.text}
            yield self._event("response.function_call_arguments.done", finished_call)
        else:
            name = "output_text" if part.kind == "text" else "reasoning_text"
            extra = {"logprobs": []} if part.kind == "text" else {}
            yield self._event(f"response.{name}.done", {**content, "text": part.text, **extra})
            yield self._event("response.content_part.done", {**content, "part": _content(part)})
        yield self._event("response.output_item.done", {"output_index": part.index, "item": item})

    def _output(self, parts: Sequence[Part], finish: str | None) -> list[dict[str, Any]]:
        """Return the items of an answer, of which only the last can be cut off."""
        return [self._item(part, _status(part, finish if part is parts[-1] else None)) for part in parts]

    def _item(self, part: Part, status: str) -> dict[str, Any]:
        head = {"id": self._item_id(part), "status": status}
        match part.kind:
            case "reasoning":
                return {"type": "reasoning", **head, "summary": [], "content": [_content(part)]}
            case "text":
                return {"type": "message", **head, "role": "assistant", "content": [_content(part)]}
            case "call":
                call = {"call_id": part.id, "name": part.name, "arguments": part.text}
                return {"type": "function_call", **head, **call}

    def _item_id(self, part: Part) -> str:
        prefix = {"reasoning": "rs", "text": "msg", "call": "fc"}[part.kind]
        return self._items.setdefault(part.index, f"{prefix}_{secrets.token_hex(16)}")

    def _event(self, kind: str, content: Mapping[str, Any]) -> bytes:
        number, self._number = self._number, self._number + 1
        return named_event(kind, {**content, "sequence_number": number})

    def _response(
        self, output: list[dict[str, Any]], finish: str | None, usage: Mapping[str, Any], *, status: str = ""
    ) -> dict[str, Any]:
        request = self._request
        reason = _INCOMPLETE_REASONS.get(finish or "")
        done = {"input": usage.get("prompt_tokens", 0), "output": usage.get("completion_tokens", 0)}
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens", 0)
        counts = {
            "input_tokens": done["input"],
            "input_tokens_details": {"cached_tokens": cached},
            "output_tokens": done["output"],
            "output_tokens_details": {"reasoning_tokens": reasoning},
            "total_tokens": done["input"] + done["output"],
        }
        settings = request.model_dump(by_alias=True, exclude={"input", "stream", "store"})
        return {
            **settings,
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "status": status or ("incomplete" if reason else "completed"),
            "error": None,
            "incomplete_details": {"reason": reason} if reason else None,
            "output": output,
            "tools": settings["tools"] or [],
            "tool_choice": request.tool_choice or "auto",
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "text": settings["text"] or {"format": {"type": "text"}},
            "previous_response_id": None,
            "store": False,
            "metadata": request.metadata or {},
            "usage": None if status else counts,
        }


def _status(part: Part, finish: str | None) -> str:
    """Return the status of a part at the end of an answer with a finish reason."""
    is_incomplete = not _is_json(part.text) if part.kind == "call" else finish in _INCOMPLETE_REASONS
    return "incomplete" if is_incomplete else "completed"


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _content(part: Part) -> dict[str, Any]:
    if part.kind == "reasoning":
        return {"type": "reasoning_text", "text": part.text}
    return {"type": "output_text", "text": part.text, "annotations": [], "logprobs": []}


# -- the request


def _chat_request(request: ResponsesRequest) -> tuple[dict[str, Any], FieldNames]:
    """Return the chat request with the same meaning, and the names of its fields in the Responses API."""
    if isinstance(request.input, str):
        messages, places, calls = [{"role": "user", "content": request.input}], ["input"], {}
    else:
        messages, places, calls = chat_messages(request.input, earlier=int(request.instructions is not None))
    if request.instructions is not None:
        messages.insert(0, {"role": "system", "content": request.instructions})
        places.insert(0, "instructions")
    chat = {
        "model": request.model,
        "messages": messages,
        "max_tokens": request.max_output_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "tools": _tools(request),
        "tool_choice": _tool_choice(request.tool_choice),
        "parallel_tool_calls": request.parallel_tool_calls if request.tools else None,
        "response_format": _response_format(request),
        "reasoning_effort": request.reasoning.effort if request.reasoning else None,
        "truncation": request.truncation,
        "stream": request.stream or None,
        "stream_options": {"include_usage": True} if request.stream else None,
        "user": request.user,
    }
    return {name: value for name, value in chat.items() if value is not None}, FieldNames(_CHAT_NAMES, places, calls)


def _tools(request: ResponsesRequest) -> list[dict[str, Any]] | None:
    tools = [tool.model_dump(exclude_none=True) for tool in request.tools or ()]
    return [{"type": tool.pop("type"), "function": tool} for tool in tools] or None


def _tool_choice(choice: Any) -> Any:
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") == "allowed_tools":
        rows = choice.get("tools")
        tools = [_chat_function(row) for row in rows] if isinstance(rows, list) else rows
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.get("mode"), "tools": tools}}
    if choice.get("type") != "function" or not isinstance(choice.get("name"), str) or len(choice) > 2:
        raise invalid('`tool_choice` must be a word or {"type": "function", "name": ...}', "tool_choice")
    return {"type": "function", "function": {"name": choice["name"]}}


def _chat_function(tool: Any) -> Any:
    """Return a function of `allowed_tools` in the form of chat completions."""
    name = tool.get("name") if isinstance(tool, dict) and tool.get("type") == "function" else None
    return {"type": "function", "function": {"name": name}}


def _response_format(request: ResponsesRequest) -> dict[str, Any] | None:
    format = request.text.format if request.text else TextFormat()
    if format.type != "json_schema":
        return {"type": format.type} if format.type != "text" else None
    schema = {"name": format.name or "response", "schema": {} if format.json_schema is None else format.json_schema}
    return {"type": "json_schema", "json_schema": schema}
