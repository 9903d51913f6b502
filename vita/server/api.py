"""Models of request bodies: the fields of the OpenAI API with their ranges. Every other field is refused by its name.

    request = parse(ChatRequest, body)        # raises ApiError 400 with the wrong field in `param`

Null means absent, as in the OpenAI API; in messages and calls, unknown fields with null are absent, too. A field of the
OpenAI API that is not supported has an error code of its own, different from that of an unknown field. This module does
not import torch: the gateway uses the same models.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypeVar

import orjson
from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from vita.data.records import Message
from vita.server.errors import invalid
from vita.server.request_body import DialogueBody, InvalidPlace, Misplaced
from vita.server.request_body import RequestBody as RequestBody
from vita.server.structured_outputs import ResponseFormat, StructuredOutputs
from vita.server.tool_api import MessageToolCall, NamedToolChoice, ToolFields, with_allowed_tools
from vita.server.validation_errors import request_error

Ids = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(fail_fast=True)]
"""Validation stops at the first error, so that a body with a million wrong ids does not take seconds."""
Prompts = str | Annotated[list[str], Field(fail_fast=True)] | Ids | Annotated[list[Ids], Field(fail_fast=True)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
MAX_STOPS = 16
"""Maximum number of stop texts of a request."""


class StreamOptions(RequestBody):
    """Options of a streamed response."""

    include_usage: bool = False
    """Send the token usage in a last chunk without choices."""
    continuous_usage_stats: bool = False
    """With `include_usage`, send the usage up to each chunk with the chunk; not part of the OpenAI API, as in vLLM."""
    include_obfuscation: bool | None = None
    """Accepted for compatibility; the server adds no obfuscation."""


class Decoding(RequestBody):
    """Fields that completions and chat completions share."""

    model: str = Field(min_length=1, max_length=200)
    """Name of the model, as GET /v1/models lists it."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """Sampling temperature; 0 selects the most likely token at each step."""
    top_p: float | None = Field(default=None, ge=0, le=1)
    """Sample only from the most likely tokens whose probabilities add up to this value (nucleus sampling)."""
    top_k: int | None = Field(default=None, ge=0, le=2**31)
    """Sample only from the k most likely tokens; 0 for all. Not part of the OpenAI API."""
    min_p: float | None = Field(default=None, ge=0, le=1)
    """Sample only from tokens with at least this share of the probability of the most likely one. Not part of the
    OpenAI API."""
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    """Factor against tokens that are already in the prompt or the completion; 1 for none. Not part of the OpenAI
    API."""
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    """Random seed. The same seed gives the same completion; without a seed every completion is different."""
    n: int = Field(default=1, ge=1, le=128)
    """Number of completions for each prompt."""
    stop: Stop | Annotated[list[Stop], Field(fail_fast=True, max_length=MAX_STOPS)] | None = None
    """Up to 16 texts (4 in the OpenAI API); generation stops before the first of them, which is the `stop_reason`."""
    max_tokens: int | None = Field(default=None, ge=0, le=2**31)
    """Maximum number of tokens of the completion."""
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    """Subtracted from the logit of every token that is already in the completion."""
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    """Subtracted from the logit of a token for each of its occurrences in the completion."""
    logit_bias: dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Bias] | None = None
    """Values that are added to the logits of these token ids."""
    stream: bool = False
    """Stream the response as server-sent events."""
    stream_options: StreamOptions | None = None
    """Options of the stream; only with `stream`."""
    structured_outputs: StructuredOutputs | None = None
    """A form that the completion has: a JSON schema, a regular expression, a choice or a grammar. Not part of the
    OpenAI API; vLLM has the same field."""
    user: str | None = Field(default=None, max_length=512)
    """Identifier of the end user, for the records of the service; the completion does not depend on it."""

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _first_wrong_bias(cls, value: Any) -> Any:
        """Keep only the first invalid entry, so that the error report stays short."""
        if not isinstance(value, dict):
            return value
        wrong = next((item for item in value.items() if not _is_bias(*item)), None)
        return value if wrong is None else dict([wrong])

    @model_validator(mode="after")
    def _options_belong_to_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise Misplaced("stream_options", "is only allowed when `stream` is true")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop texts as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def biases(self) -> dict[int, float]:
        """Token id -> value that is added to its logit."""
        return {int(token): bias for token, bias in (self.logit_bias or {}).items()}


class CompletionRequest(Decoding):
    """POST /v1/completions."""

    unsupported = {"suffix": ("",), "best_of": (1,)}

    prompt: Prompts = Field(default="", json_schema_extra={"examples": ["Once upon a time"]})
    """A text, token ids, or a list of either; an empty text starts a new document."""
    echo: bool = False
    """Return the prompt before the completion, with its log-probabilities where they are requested."""
    logprobs: int | None = Field(default=None, ge=0, le=20)
    """Return the log-probabilities of the tokens and of this number of most likely alternatives."""

    @field_validator("prompt", mode="before")
    @classmethod
    def _of_one_kind(cls, value: Any) -> Any:
        return _texts_or_ids(value, "prompt")

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts as a list."""
        return _as_list(self.prompt)


class ChatMessage(DialogueBody):
    """One message of a dialogue."""

    unsupported = {"function_call": (), "refusal": (), "audio": (), "annotations": ([],)}

    role: Literal["system", "developer", "user", "assistant", "tool"]
    """Role of the author; `developer` is equivalent to `system`, and `tool` is the result of a call."""
    content: str | None = None
    """Content of the message; parts of type `text`, and of type `refusal` in an assistant message, are concatenated.
    Only an assistant message with calls or reasoning may have none."""
    name: str | None = Field(default=None, max_length=200)
    """Name of the author, or of the function of a result. The name of an author is ignored if the chat template does
    not write it."""
    tool_calls: list[MessageToolCall] | None = Field(default=None, max_length=128)
    """Calls of an assistant message."""
    tool_call_id: str | None = Field(default=None, max_length=200)
    """Of a message of the role `tool`: the id of the call of which it is the result."""
    reasoning_content: str | None = None
    """Reasoning of an assistant message. Not part of the OpenAI API."""
    parsed: Any = None
    """Accepted for compatibility: the content as an object, which the OpenAI client adds to an answer."""

    def check(self, where: str) -> None:
        """Raise `Misplaced` for fields that do not belong to a message of this role."""
        if self.content is None and not self.tool_calls and not self.reasoning_content:
            raise Misplaced(f"{where}.content", "is required", code="missing_required_parameter")
        for name in ("tool_calls", "reasoning_content"):
            if getattr(self, name) and self.role != "assistant":
                raise Misplaced(f"{where}.{name}", "is only allowed in a message of the role `assistant`")
        if self.tool_call_id is not None and self.role != "tool":
            raise Misplaced(f"{where}.tool_call_id", "is only allowed in a message of the role `tool`")

    def as_message(self) -> Message:
        """Return the message for the chat template."""
        return Message(
            "system" if self.role == "developer" else self.role,
            self.content or "",
            tool_calls=tuple(call.as_call() for call in self.tool_calls or ()),
            tool_call_id=self.tool_call_id,
            name=self.name,
            reasoning=self.reasoning_content,
        )

    @field_validator("content", mode="before")
    @classmethod
    def _parts_together(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, list):
            return value
        kinds = ("text", "refusal") if info.data.get("role") == "assistant" else ("text",)
        texts = []
        for index, part in enumerate(value):
            kind = part.get("type") if isinstance(part, dict) else None
            if isinstance(kind, str) and kind not in kinds:
                problem = f"`{kind[:64]}` is not supported here: only texts are"
                raise InvalidPlace((index, "type"), problem, code="unsupported_parameter")
            if kind is None or kind not in kinds or not isinstance(part.get(kind), str):
                raise InvalidPlace((index,), 'must be a part {"type": "text", "text": ...}')
            extra = next((name for name in part if name not in ("type", kind) and part[name] is not None), None)
            if extra is not None:
                raise InvalidPlace((index, extra[:100]), "is an unknown field of a part", code="unknown_parameter")
            texts.append(part[kind])
        return "".join(texts)


def check_messages(messages: Sequence[ChatMessage], continue_final_message: bool) -> None:
    """Raise `Misplaced` for fields that do not belong to a message, or a last message that cannot be continued.

    A result that names a call must follow it; after a call without an id, it may have any id.
    """
    call_ids: set[str | None] = set()
    for index, message in enumerate(messages):
        message.check(f"messages[{index}]")
        call_ids |= {call.id for call in message.tool_calls or ()}
        if message.tool_call_id is not None and not call_ids & {message.tool_call_id, None}:
            raise Misplaced(f"messages[{index}].tool_call_id", f"is the id of no earlier call: {message.tool_call_id}")
    last = messages[-1] if messages else None
    if continue_final_message and (last is None or last.role != "assistant" or last.tool_calls or not last.content):
        raise Misplaced("continue_final_message", "needs a last message of the assistant with a text")


class ChatRequest(ToolFields, Decoding):
    """POST /v1/chat/completions."""

    unsupported = {
        "functions": ([],), "function_call": ("none",), "audio": (), "modalities": (["text"],), "prediction": (),
        "verbosity": ("medium",), "web_search_options": (), "moderation": (), "suffix": (), "best_of": (1,),
        "echo": (False,),
    }  # fmt: skip

    messages: Annotated[list[ChatMessage], Field(fail_fast=True)] = Field(min_length=1, max_length=4096)
    """The messages of the dialogue."""
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | None = None
    """`auto`, the default with tools: the model calls functions or answers. `none`: the model does not see the tools.
    `required`: the model calls at least one function. A named function: the model calls this function once. With
    `allowed_tools`, the model sees only the listed functions."""
    parallel_tool_calls: bool | None = None
    """With false, only the first call of an answer is returned."""
    add_generation_prompt: bool | None = None
    """End the prompt with the start of an assistant message; the default, unless the last message is continued. Not
    part of the OpenAI API."""
    max_completion_tokens: int | None = Field(default=None, ge=1, le=2**31)
    """Maximum number of tokens of the completion; the newer name of `max_tokens`."""
    logprobs: bool = False
    """Return the log-probability of each token of the completion."""
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    """Number of most likely tokens to return at each position; only with `logprobs`."""
    response_format: ResponseFormat | None = None
    """Format of the response: `text`, `json_object`, or `json_schema` with a schema that the response follows."""
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    """Accepted for compatibility, as `store`, `service_tier`, `prompt_cache_key` and `safety_identifier`: the response
    does not depend on them."""
    store: bool | None = None
    """Accepted for compatibility; the operator decides what is stored."""
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
    truncation: Literal["auto", "disabled"] = "disabled"
    """`auto` drops the oldest turns of a dialogue that exceeds the context; `disabled` refuses the request.
    A field of the OpenAI Responses API."""

    @model_validator(mode="before")
    @classmethod
    def _only_allowed_tools(cls, values: Any) -> Any:
        return with_allowed_tools(values)

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise Misplaced("top_logprobs", "is only allowed when `logprobs` is true")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise Misplaced(
                "max_completion_tokens", "and `max_tokens` are two names of the same limit, but they differ"
            )
        if self.max_tokens == 0:
            raise Misplaced("max_tokens", "must be at least 1")
        check_messages(self.messages, self.continue_final_message)
        self._check_tool_choice()
        self._check_constraints()
        if self.add_generation_prompt and self.continue_final_message:
            raise Misplaced("add_generation_prompt", "cannot be true together with `continue_final_message`")
        return self

    def _check_tool_choice(self) -> None:
        for name in ("tool_choice", "parallel_tool_calls"):
            if getattr(self, name) not in (None, "none") and not self.tools:
                raise Misplaced(name, "is only allowed when `tools` are specified")
        if isinstance(self.tool_choice, NamedToolChoice) and not self.callable_tools:
            raise Misplaced("tool_choice.function.name", "is the name of no function in `tools`")

    def _check_constraints(self) -> None:
        """Raise `Misplaced` for fields that contradict a constraint of the answer."""
        formats = [name for name in ("response_format", "structured_outputs") if self.is_constrained_by(name)]
        if len(formats) > 1:
            raise Misplaced("structured_outputs", "and `response_format` cannot both constrain the response")
        if formats and self.tool_choice not in (None, "none", "auto"):
            raise Misplaced(formats[0], "cannot be combined with a required call")
        constraint = next(iter(formats), "tool_choice" if self.requires_calls else None)
        if constraint is None and self.has_strict_tools:
            strict = next(index for index, tool in enumerate(self.tools or ()) if tool.function.strict)
            constraint = f"tools[{strict}].function.strict"
        for name in ("stop", "continue_final_message"):
            if constraint and getattr(self, name):
                problem = f"cannot be combined with `{constraint}`, which constrains the whole response"
                raise Misplaced(name, problem, fields=[constraint])

    def is_constrained_by(self, name: str) -> bool:
        """Return True if a field constrains the response."""
        value = getattr(self, name)
        return value is not None and (name != "response_format" or value.type != "text")

    @property
    def requires_calls(self) -> bool:
        """Return True if the response must be a call."""
        return self.tool_choice not in (None, "none", "auto")

    @property
    def allows_several_calls(self) -> bool:
        """Return True if the response may have several calls; a named function is called exactly once."""
        return self.parallel_tool_calls is not False and not isinstance(self.tool_choice, NamedToolChoice)

    @property
    def has_strict_tools(self) -> bool:
        """Return True if calls of an offered function are constrained to its schema."""
        return self.tool_choice != "none" and any(tool.function.strict for tool in self.tools or ())

    @property
    def callable_tools(self) -> list[dict[str, Any]]:
        """The tools that the model may call: those offered, or the one that `tool_choice` names."""
        named = self.tool_choice.function.name if isinstance(self.tool_choice, NamedToolChoice) else None
        tools = self.tools if self.tool_choice != "none" else None
        return [tool.model_dump(exclude_none=True) for tool in tools or () if named in (None, tool.function.name)]

    @property
    def offered_tools(self) -> list[dict[str, Any]]:
        """The tools that the model can call."""
        return [] if self.tool_choice == "none" else [dict(tool) for tool in self.variables().tools]

    @property
    def limit(self) -> int | None:
        """Maximum number of tokens of the completion, from either field."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class EmbeddingRequest(RequestBody):
    """POST /v1/embeddings."""

    model: str = Field(min_length=1, max_length=200)
    """The name of the model."""
    input: Prompts
    """A text, token ids, or a list of either; none may be empty."""
    dimensions: int | None = Field(default=None, ge=1)
    """Number of leading dimensions of the embedding, which are scaled to length 1; by default all."""
    encoding_format: Literal["float", "base64"] = "float"
    """JSON numbers, or little-endian float32 in base64."""
    user: str | None = Field(default=None, max_length=512)
    """Identifier of the end user, for the records of the service."""

    @field_validator("input", mode="before")
    @classmethod
    def _of_one_kind(cls, value: Any) -> Any:
        value = _texts_or_ids(value, "input")
        if any(
            not text for text in (value if isinstance(value, list) and isinstance(value[0], (str, list)) else [value])
        ):
            raise ValueError("an empty text does not have an embedding")
        return value

    @property
    def inputs(self) -> list[str] | list[list[int]]:
        """The inputs as a list."""
        return _as_list(self.input)


class TokenizeRequest(ToolFields):
    """POST /tokenize: a text or a dialogue."""

    model: str | None = None
    """The name of the model."""
    prompt: str | None = None
    """A text; names of special tokens in it are encoded as special tokens."""
    messages: Annotated[list[ChatMessage], Field(fail_fast=True, min_length=1, max_length=4096)] | None = None
    """A dialogue; names of special tokens in it are encoded as plain text."""
    add_generation_prompt: bool = True
    """End the dialogue with the start of an assistant message."""
    add_special_tokens: bool = True
    """Accepted for compatibility; the tokenizer does not add special tokens."""
    return_token_strs: bool = False
    """Return the text of each token also."""
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | None = None
    """As in a chat request: with `none`, the prompt has no tools; the text that a required call forces is counted."""
    parallel_tool_calls: bool | None = None
    """As in a chat request."""
    response_format: ResponseFormat | None = None
    """As in a chat request; the text that the format forces is counted."""
    top_k: int | None = Field(default=None, ge=0, le=2**31)
    """As in a chat request: refused by a backend that does not support it. The tokens do not depend on it."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise Misplaced("prompt", "or `messages` is required, but not both")
        check_messages(self.messages or (), self.continue_final_message)
        return self

    def as_chat(self, model: str) -> ChatRequest:
        """Return the chat request with this dialogue; raises `ApiError` for fields that contradict each other."""
        names = {*ToolFields.model_fields, "messages", "tool_choice", "parallel_tool_calls", "response_format", "top_k"}
        return read(ChatRequest, {"model": model, **self.model_dump(include=names, exclude_unset=True, by_alias=True)})


class DetokenizeRequest(RequestBody):
    """POST /detokenize."""

    model: str | None = None
    """The name of the model."""
    tokens: Ids = Field(max_length=2**20)
    """Token ids."""


R = TypeVar("R", bound=RequestBody)


def parse(model: type[R], body: bytes) -> R:
    """Parse and validate a request body; raises `ApiError` with the wrong field."""
    return read(model, json_object(body))


def json_object(body: bytes) -> dict[str, Any]:
    """Parse a request body, which is a JSON object or empty."""
    try:
        value = orjson.loads(body) if body.strip() else {}
    except orjson.JSONDecodeError as error:
        raise invalid(f"The body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise invalid(f"The body must be a JSON object, not {_kind(value)}")
    return value


def read(model: type[R], values: Mapping[str, Any], *, where: str = "") -> R:
    """Validate the values of a request, or of the object at `where` in it; raises `ApiError` with the wrong field."""
    prefix = f"{where}." if where else ""
    fields = _supported_fields(model, values, prefix)
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise request_error(error, prefix) from None


def _supported_fields(model: type[RequestBody], values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Drop nulls and neutral values of unsupported fields; refuses unknown and unsupported fields."""
    fields = {}
    for name, value in values.items():
        if name in model.model_fields:
            if value is not None:
                fields[name] = value
        elif name in model.unsupported:
            if value is not None and not any(value == neutral for neutral in model.unsupported[name]):
                message = f"`{prefix}{name}` is not supported by this server"
                raise invalid(message, f"{prefix}{name}", code="unsupported_parameter")
        elif value is not None or not issubclass(model, DialogueBody):
            message = f"Unrecognized request argument supplied: {prefix}{name[:100]}"
            raise invalid(message, f"{prefix}{name[:100]}", code="unknown_parameter")
    return fields


def base64_floats(numbers: Sequence[float]) -> str:
    """Encode numbers as little-endian float32 in base64, the format `base64` of embeddings."""
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def _texts_or_ids(value: Any, name: str) -> Any:
    """Return `value` if it is one of the four forms of a prompt; raises ValueError otherwise."""
    if isinstance(value, str) or (isinstance(value, list) and value and _is_ids_or_texts(value)):
        return value
    raise ValueError(f"`{name}` must be a text, a list of texts, a list of token ids or a list of such lists")


def _is_ids_or_texts(value: list[Any]) -> bool:
    return (
        all(isinstance(text, str) for text in value)
        or _are_ids(value)
        or all(isinstance(ids, list) and ids and _are_ids(ids) for ids in value)
    )


def _are_ids(value: list[Any]) -> bool:
    return all(type(token) is int for token in value)


def _is_bias(token: Any, bias: Any) -> bool:
    """Return True if an entry of `logit_bias` is valid."""
    number = type(bias) in (int, float) and -100 <= bias <= 100
    return number and isinstance(token, str) and token.isascii() and token.isdigit() and len(token) <= 9


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) and value and isinstance(value[0], (str, list)) else [value]


def _kind(value: Any) -> str:
    return {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}.get(type(value), "a number")
