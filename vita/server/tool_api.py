"""Models of tools and calls in request bodies, with the fields of the OpenAI API."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from vita.data.records import TemplateVariables, ToolCall
from vita.infer.object_schemas import accepts_objects
from vita.server.request_body import DialogueBody, Misplaced, RequestBody

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]


def _as_object_schema(value: Any) -> Any:
    if isinstance(value, bool) or not accepts_objects(value):
        raise ValueError('needs the JSON Schema of an object, such as {"type": "object"}')
    return value


ObjectSchema = Annotated[dict[str, Any], BeforeValidator(_as_object_schema)]
"""The schema of the arguments of a function: not a boolean, and not a schema that accepts no object.

It may accept other values too, such as null; the arguments of a constrained call are an object.
"""


class FunctionDefinition(RequestBody):
    """A function that the model can call."""

    name: Name
    """Name of the function."""
    description: str | None = None
    """Description for the model."""
    parameters: ObjectSchema | None = None
    """JSON Schema of the arguments."""
    strict: bool | None = None
    """Constrain the arguments of calls to the schema."""


class Tool(RequestBody):
    """A tool; only functions are supported."""

    type: Literal["function"] = "function"
    """The only supported type is `function`."""
    function: FunctionDefinition
    """The function."""


class CalledFunction(DialogueBody):
    """The function of a call."""

    name: Name
    """Name of the function."""
    arguments: str
    """The arguments as the text of a JSON object. The chat template writes another text, such as the arguments of an
    answer that was cut off, as it is; a template that writes only objects refuses it."""
    parsed_arguments: Any = None
    """Accepted for compatibility: the arguments as an object, which the OpenAI client adds to an answer."""


class MessageToolCall(DialogueBody):
    """A call in an assistant message."""

    id: str | None = Field(default=None, max_length=200)
    """Identifier of the call, to which the result refers."""
    type: Literal["function"] = "function"
    """The only supported type is `function`."""
    function: CalledFunction
    """The function and its arguments."""
    index: int | None = None
    """Accepted for compatibility: the number of the call in a streamed answer."""

    def as_call(self) -> ToolCall:
        """Return the call."""
        return ToolCall(self.function.name, self.function.arguments.strip() or "{}", self.id)


class NamedFunction(RequestBody):
    """The name of a function."""

    name: Name
    """Name of the function."""


class NamedToolChoice(RequestBody):
    """The choice of one function."""

    type: Literal["function"]
    """The only supported type is `function`."""
    function: NamedFunction
    """The function."""


def with_allowed_tools(values: Any) -> Any:
    """Return the values of a chat request with only the tools that a `tool_choice` of the type `allowed_tools` lists.

    {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"type": "function", ...}]}}
    """
    choice = values.get("tool_choice") if isinstance(values, dict) else None
    if not isinstance(choice, dict) or choice.get("type") != "allowed_tools":
        return values
    where = "tool_choice.allowed_tools"
    allowed = choice.get("allowed_tools")
    rows = allowed.get("tools") if isinstance(allowed, dict) else None
    names = [_function_name(row) for row in rows] if isinstance(rows, list) else []
    if not isinstance(allowed, dict) or allowed.get("mode") not in ("auto", "required") or not names:
        raise Misplaced(where, "needs a `mode` (`auto` or `required`) and a list of `tools`")
    tools: list[Any] = values["tools"] if isinstance(values.get("tools"), list) else []
    known = [_function_name(tool) for tool in tools]
    if unknown := [name for name in names if name is None or name not in known]:
        raise Misplaced(f"{where}.tools", f"contains no function of `tools`: {str(unknown[0])[:64]}")
    kept_tools = [tool for tool, name in zip(tools, known, strict=True) if name in names]
    return {**values, "tools": kept_tools, "tool_choice": allowed["mode"]}


def _function_name(tool: Any) -> Any:
    function = tool.get("function") if isinstance(tool, dict) else None
    return function.get("name") if isinstance(function, dict) else None


class ToolFields(RequestBody):
    """Fields of a request that determine tools and the rendering of the chat template."""

    unsupported: ClassVar[Any] = {}

    tools: Annotated[list[Tool], Field(fail_fast=True)] | None = Field(default=None, max_length=128)
    """Functions that the model can call; the chat template must write tools."""
    documents: list[dict[str, Any]] | None = Field(default=None, max_length=1024)
    """Documents for a chat template that writes them. Not part of the OpenAI API."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Further variables of the chat template, such as `enable_thinking`. Not part of the OpenAI API."""
    reasoning_effort: str | None = Field(default=None, max_length=20)
    """Effort of the reasoning; only for chat templates that read it."""
    continue_final_message: bool = False
    """Continue the last message, which is the assistant's, instead of starting a new one. Not part of the OpenAI
    API."""

    @model_validator(mode="after")
    def _functions_have_different_names(self) -> Self:
        names = [tool.function.name for tool in self.tools or ()]
        repeated = next((number for number, name in enumerate(names) if name in names[:number]), None)
        if repeated is not None:
            raise Misplaced(f"tools[{repeated}].function.name", f"is a second function `{names[repeated]}`")
        return self

    def variables(self, *, with_tools: bool = True) -> TemplateVariables:
        """Return the variables of the chat template."""
        hidden: Any = {"function": {"strict"}}  # about the server, not for the model
        tools = tuple(tool.model_dump(exclude_none=True, exclude=hidden) for tool in self.tools or ())
        settings = dict(self.chat_template_kwargs or {})
        if self.reasoning_effort is not None:
            settings.setdefault("reasoning_effort", self.reasoning_effort)
        return TemplateVariables(tools if with_tools else (), tuple(self.documents or ()), settings)
