"""The fields of a request to the Messages API of Anthropic."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from vita.server.api import MAX_STOPS
from vita.server.request_body import RequestBody
from vita.server.tool_api import Name, ObjectSchema


class ClientTool(RequestBody):
    """A tool of the client."""

    unsupported: ClassVar[Any] = {"allowed_callers": (["direct"],), "input_examples": ([],)}

    type: Literal["custom"] | None = None
    """The only supported type is `custom`."""
    name: Name
    """Name of the tool."""
    description: str | None = None
    """Description for the model."""
    input_schema: ObjectSchema | None = None
    """JSON Schema of the input."""
    strict: bool | None = None
    """Constrain the input of calls to the schema."""
    eager_input_streaming: bool | None = None
    """Accepted for compatibility; the input is always sent while it is generated."""
    defer_loading: Literal[False] | None = None
    """The only supported value is false: the model sees all tools."""
    cache_control: dict[str, Any] | None = None
    """Accepted for compatibility."""


class ToolChoice(RequestBody):
    """The choice of tools."""

    type: Literal["auto", "any", "tool", "none"]
    """`auto`, `any` (at least one call), `tool` (a named tool) or `none`."""
    name: str | None = None
    """Name of the tool of the type `tool`."""
    disable_parallel_tool_use: bool | None = None
    """With true, at most one tool is called."""


class Thinking(RequestBody):
    """Options of the reasoning."""

    unsupported: ClassVar[Any] = {"block_binding": ()}

    type: Literal["enabled", "disabled", "adaptive"]
    """`enabled` and `disabled` set `enable_thinking` of the chat template; `adaptive` leaves its default."""
    budget_tokens: int | None = Field(default=None, ge=1)
    """Accepted for compatibility."""
    display: Literal["summarized"] | None = None
    """The only supported value is `summarized`; the reasoning is returned as the model wrote it."""


class OutputFormat(RequestBody):
    """The format of the text."""

    type: Literal["json_schema"]
    """The only format is JSON of a schema."""
    json_schema: dict[str, Any] | bool = Field(alias="schema")
    """The schema."""


class OutputConfig(RequestBody):
    """Options of the answer."""

    unsupported: ClassVar[Any] = {"task_budget": ()}

    effort: str | None = None
    """Effort of the reasoning; only for chat templates that read it."""
    format: OutputFormat | None = None
    """A format that the text follows."""


class MessageMetadata(RequestBody):
    """Data about a request."""

    user_id: str | None = Field(default=None, max_length=512)
    """Identifier of the end user."""


class MessagesDialogue(RequestBody):
    """The fields that determine the prompt."""

    unsupported: ClassVar[Any] = {
        "container": (), "mcp_servers": ([],), "context_management": (), "diagnostics": (), "inference_geo": (),
        "speed": ("standard",), "user_profile_id": (), "workspace_id": (), "output_format": (), "thread": (),
        "fallbacks": ([],), "fallback_credit_token": (), "compaction": (),
        "billing_policy": ({"type": "billing_policy", "bill_to": "self"},),
    }  # fmt: skip

    model: str = Field(min_length=1, max_length=200)
    """Name of the model, as GET /v1/models lists it."""
    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=4096)]
    """The messages of the dialogue; a last message of the assistant is continued."""
    system: str | list[dict[str, Any]] | None = None
    """The system message."""
    tools: list[ClientTool] | None = Field(default=None, max_length=128)
    """Tools that the model can call."""
    tool_choice: ToolChoice | None = None
    """The choice of tools."""
    thinking: Thinking | None = None
    """Options of the reasoning."""
    output_config: OutputConfig | None = None
    """Options of the answer."""
    cache_control: dict[str, Any] | None = None
    """Accepted for compatibility."""


class MessagesGeneration(MessagesDialogue):
    """The optional fields that determine how an answer is generated."""

    temperature: float | None = Field(default=None, ge=0, le=1)
    """Sampling temperature; 0 selects the most likely token at each step."""
    top_p: float | None = Field(default=None, ge=0, le=1)
    """Sample only from the most likely tokens whose probabilities add up to this value."""
    top_k: int | None = Field(default=None, ge=0, le=2**31)
    """Sample only from the k most likely tokens."""
    stop_sequences: list[str] | None = Field(default=None, max_length=MAX_STOPS)
    """Up to 16 texts; generation stops before the first of them."""
    stream: bool = False
    """Stream the answer as server-sent events."""
    metadata: MessageMetadata | None = None
    """Data about the request."""
    service_tier: str | None = Field(default=None, max_length=50)
    """Accepted for compatibility."""


class MessagesRequest(MessagesGeneration):
    """POST /v1/messages."""

    max_tokens: int = Field(ge=1, le=2**31)
    """Maximum number of tokens of the answer."""


class CountTokensRequest(MessagesGeneration):
    """POST /v1/messages/count_tokens: a request of /v1/messages, whose other fields do not change the count."""

    max_tokens: int | None = Field(default=None, ge=1, le=2**31)
    """Maximum number of tokens of the answer."""
