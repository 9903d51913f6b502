"""The Messages API of Anthropic over chat completions."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from vita.data.exact_json import parse_exact
from vita.infer.answer_formats.json_scanner import complete_values
from vita.server.api import ChatRequest, TokenizeRequest, read
from vita.server.dialects.field_names import FieldNames
from vita.server.dialects.message_blocks import call_names, chat_messages, text_of
from vita.server.dialects.message_fields import (
    CountTokensRequest,
    MessagesDialogue,
    MessagesGeneration,
    MessagesRequest,
    OutputConfig,
)
from vita.server.dialects.parts import AnswerReader, Part, PartChange, read_answer
from vita.server.dialects.translation import named_event
from vita.server.errors import ApiError, invalid

_CHAT_NAMES = {
    "stop": "stop_sequences", "tool_choice.function.name": "tool_choice.name",
    "response_format": "output_config.format", "response_format.json_schema.schema": "output_config.format.schema",
    "tools[].function": "tools[]", "tools[].function.parameters": "tools[].input_schema",
    "reasoning_effort": "output_config.effort", "chat_template_kwargs.enable_thinking": "thinking",
}  # fmt: skip
_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
_ERROR_TYPES = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large",
    429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip


class MessagesApi:
    """The dialect of /v1/messages."""

    def translate(self, body: dict[str, Any]) -> MessagesTranslation:
        """Translate a request; raises `ApiError` for a field that is wrong or not supported."""
        _refuse_threads(body)
        request = read(MessagesRequest, body)
        return MessagesTranslation(request, *_chat_request(request, max_tokens=request.max_tokens))

    def error(self, body: Mapping[str, Any], status: int) -> dict[str, Any]:
        """Return the body of an error in the format of the Messages API."""
        kind = _ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
        error = body.get("error")
        message = error.get("message") if isinstance(error, Mapping) else str(error)
        details = {"details": error["details"]} if isinstance(error, Mapping) and "details" in error else {}
        return {"type": "error", "error": {"type": kind, "message": message, **details}}


class TokenCounting(MessagesApi):
    """The dialect of /v1/messages/count_tokens, which is translated to /tokenize."""

    def translate(self, body: dict[str, Any]) -> TokenCount:  # type: ignore[override]
        """Translate a request; raises `ApiError` for a field that is wrong or not supported."""
        _refuse_threads(body)
        request = read(CountTokensRequest, body)
        chat, names = _chat_request(request, max_tokens=request.max_tokens)
        return TokenCount({name: value for name, value in chat.items() if name in TokenizeRequest.model_fields}, names)


class TokenCount:
    """The translation of a request to count tokens."""

    id: None = None

    def __init__(self, chat: dict[str, Any], names: FieldNames) -> None:
        self.chat, self.names = chat, names

    def response(self, completion: Mapping[str, Any]) -> dict[str, Any]:
        """Translate the answer of /tokenize."""
        return {"input_tokens": completion["count"]}

    def events(self, chunk: Mapping[str, Any]) -> Iterator[bytes]:
        """Yield nothing: the answer is not streamed."""
        yield from ()

    def end(self) -> Iterator[bytes]:
        """Yield nothing: the answer is not streamed."""
        yield from ()


class MessagesTranslation:
    """The translation of one request and of its answer."""

    def __init__(self, request: MessagesRequest, chat: dict[str, Any], names: FieldNames) -> None:
        self.chat, self.names = chat, names
        self._request, self.id = request, f"msg_{secrets.token_hex(12)}"
        self._reader, self._begun = AnswerReader(), False
        self._input_usage: dict[str, int] = {}
        """The numbers of input tokens of the first event, which the last event repeats."""

    def response(self, completion: Mapping[str, Any]) -> dict[str, Any]:
        """Translate a chat completion."""
        answer = read_answer(completion)
        content, usage = (
            [_block(part, finish=answer.finish) for part in answer.parts],
            _usage(completion.get("usage") or {}),
        )
        return {**self._message(), "content": content, **self._stop(answer.finish, answer.stop), "usage": usage}

    def events(self, chunk: Mapping[str, Any]) -> Iterator[bytes]:
        """Translate a chunk of a streamed chat completion."""
        if "error" in chunk:
            yield named_event("error", MessagesApi().error(self.names.original_body(chunk), 500))
            return
        if not self._begun:
            self._begun = True
            usage = _usage(chunk.get("usage") or {})
            if chunk.get("usage"):
                self._input_usage = {name: count for name, count in usage.items() if name != "output_tokens"}
            message = {**self._message(), "content": [], **self._stop(None, None), "usage": usage}
            yield named_event("message_start", {"message": message})
            yield named_event("ping", {})
        for change in self._reader.read(chunk):
            yield _change_event(change)

    def end(self) -> Iterator[bytes]:
        """Yield the events after the last chunk."""
        yield from map(_change_event, self._reader.close())
        delta = self._stop(self._reader.finish, self._reader.stop)
        usage = {**_usage(self._reader.usage), **self._input_usage}
        yield named_event("message_delta", {"delta": delta, "usage": usage})
        yield named_event("message_stop", {})

    def _message(self) -> dict[str, Any]:
        return {"id": self.id, "type": "message", "role": "assistant", "model": self._request.model}

    def _stop(self, finish: str | None, stop: str | None) -> dict[str, Any]:
        """Return the reason of the end; a stop text of the release, which the request does not have, ends the turn."""
        if finish == "stop" and stop in (self._request.stop_sequences or ()):
            return {"stop_reason": "stop_sequence", "stop_sequence": stop}
        return {"stop_reason": _STOP_REASONS.get(finish or ""), "stop_sequence": None}


def _usage(usage: Mapping[str, Any]) -> dict[str, int]:
    """Return the usage; as in Anthropic's API, `input_tokens` are the tokens that were not read from the cache."""
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return {
        "input_tokens": usage.get("prompt_tokens", 0) - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.get("completion_tokens", 0),
    }


def _block(part: Part, *, finish: str | None = None, empty: bool = False) -> dict[str, Any]:
    """Return a content block of an answer with a finish reason; an empty one begins a streamed block."""
    text = "" if empty else part.text
    match part.kind:
        case "reasoning":
            return {"type": "thinking", "thinking": text, "signature": ""}
        case "text":
            return {"type": "text", "text": text}
        case "call":
            return {
                "type": "tool_use",
                "id": part.id,
                "name": part.name,
                "input": _input(text, finish),
            }


def _input(text: str, finish: str | None) -> Any:
    """Return the input of a call as the model wrote it.

    Of arguments that `max_tokens` cut off, it contains the values that are complete. Other arguments that are not
    JSON give an empty input.
    """
    try:
        parse_exact(text or "{}")
    except (ValueError, RecursionError):
        text = complete_values(text) if finish == "length" else ""
    return orjson.Fragment(text) if text else {}


def _change_event(change: PartChange) -> bytes:
    index = {"index": change.part.index}
    match change.kind:
        case "begin":
            return named_event("content_block_start", {**index, "content_block": _block(change.part, empty=True)})
        case "end":
            return named_event("content_block_stop", index)
        case "grow":
            kinds = {"reasoning": "thinking", "text": "text", "call": "input_json"}
            names = {"reasoning": "thinking", "text": "text", "call": "partial_json"}
            kind = change.part.kind
            delta = {"type": f"{kinds[kind]}_delta", names[kind]: change.text}
            return named_event("content_block_delta", {**index, "delta": delta})


# -- the request


def _refuse_threads(body: Mapping[str, Any]) -> None:
    """Raise `ApiError` for a request with a thread.

    The details of the error tell the tool runner of the Anthropic client to send the whole dialogue in each request.
    """
    if body.get("thread") is not None:
        message = "`thread` is not supported by this server: send all messages of the dialogue and no thread"
        details = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
        raise ApiError(400, message, param="thread", code="unsupported_parameter", extra={"details": details})


def _chat_request(request: MessagesGeneration, *, max_tokens: int | None) -> tuple[dict[str, Any], FieldNames]:
    """Return the chat request with the same meaning, and the names of its fields in the Messages API.

    Raises `ApiError` with these names.
    """
    fields = {
        "response_format": _response_format(request.output_config),
        **_choice(request),
        "max_tokens": max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "stop": request.stop_sequences or None,
        "stream": request.stream or None,
        # The first event of a message already has the number of its input tokens.
        "stream_options": {"include_usage": True, "continuous_usage_stats": True} if request.stream else None,
        "user": request.metadata.user_id if request.metadata else None,
    }
    dialogue, places, calls = _dialogue(request)
    chat = dialogue | {name: value for name, value in fields.items() if value is not None}
    names = FieldNames({**_CHAT_NAMES, "continue_final_message": places[-1]}, places, calls)
    try:
        read(ChatRequest, chat)
    except ApiError as error:
        raise names.original_error(error) from None
    return chat, names


def _dialogue(request: MessagesDialogue) -> tuple[dict[str, Any], list[str], dict[str, str]]:
    """Return the fields of a chat request that determine the prompt, and the original names of messages and calls."""
    messages: list[dict[str, Any]] = []
    places: list[str] = []
    if request.system is not None:
        messages.append({"role": "system", "content": text_of(request.system, "system")})
        places.append("system")
    call_ids, calls = set[str](), dict[str, str]()
    for number, message in enumerate(request.messages):
        place = f"messages[{number}]"
        added = chat_messages(message, place, call_ids)
        messages += added
        if message["role"] == "assistant":
            calls |= call_names(message, place, f"messages[{len(messages) - 1}]")
        places += [place] * len(added)
    dialogue: dict[str, Any] = {"model": request.model, "messages": messages}
    if request.tools:
        dialogue["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    **({"description": tool.description} if tool.description else {}),
                    **({"parameters": tool.input_schema} if tool.input_schema else {}),
                    **({"strict": True} if tool.strict else {}),
                },
            }
            for tool in request.tools
        ]
    if request.output_config and request.output_config.effort:
        dialogue["reasoning_effort"] = request.output_config.effort
    if request.thinking is not None and request.thinking.type != "adaptive":
        dialogue["chat_template_kwargs"] = {"enable_thinking": request.thinking.type == "enabled"}
    last = messages[-1]
    if last["role"] == "assistant" and not last.get("tool_calls"):
        dialogue["continue_final_message"] = True
    return dialogue, places, calls


def _response_format(config: OutputConfig | None) -> dict[str, Any] | None:
    if config is None or config.format is None:
        return None
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": config.format.json_schema}}


def _choice(request: MessagesDialogue) -> dict[str, Any]:
    choice = request.tool_choice
    if choice is None:
        return {}
    if choice.type == "tool" and not choice.name:
        raise invalid("`tool_choice.name` is required", "tool_choice.name")
    if choice.type != "tool" and choice.name is not None:
        raise invalid("`tool_choice.name` is only allowed with the type `tool`", "tool_choice.name")
    words: dict[str, Any] = {"auto": "auto", "any": "required", "none": "none"}
    named = {"type": "function", "function": {"name": choice.name}}
    parallel = False if choice.disable_parallel_tool_use else None
    return {"tool_choice": words.get(choice.type, named), "parallel_tool_calls": parallel}
