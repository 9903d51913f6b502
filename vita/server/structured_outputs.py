"""Models of the fields of a request that constrain the form of the response."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from vita.server.request_body import Misplaced, RequestBody


class JsonSchemaFormat(RequestBody):
    """A JSON schema with its name."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    """Name of the format."""
    description: str | None = None
    """Accepted for compatibility; the model does not see it."""
    json_schema: dict[str, Any] | bool = Field(default_factory=dict, alias="schema")
    """The schema; any JSON value by default, or with `true`."""
    strict: bool | None = None
    """Accepted for compatibility; the response always follows the schema."""


class ResponseFormat(RequestBody):
    """The format of the response."""

    type: Literal["text", "json_object", "json_schema"]
    """`text`, any JSON object, or the JSON of a schema."""
    json_schema: JsonSchemaFormat | None = None
    """The schema of the type `json_schema`."""

    @model_validator(mode="after")
    def _schema_belongs_to_its_type(self) -> Self:
        if self.type == "json_schema" and self.json_schema is None:
            raise Misplaced("response_format.json_schema", "is required", code="missing_required_parameter")
        if self.type != "json_schema" and self.json_schema is not None:
            raise Misplaced("response_format.json_schema", "is only allowed with the type `json_schema`")
        return self


class StructuredOutputs(RequestBody):
    """The form of the response; exactly one field."""

    json_schema: dict[str, Any] | bool | None = Field(default=None, alias="json")
    """A JSON schema; `true` is any JSON value."""
    regex: str | None = Field(default=None, min_length=1, max_length=10_000)
    """A regular expression that matches the whole response."""
    choice: list[Annotated[str, Field(min_length=1)]] | None = Field(default=None, min_length=1, max_length=1000)
    """Texts, of which the response is one."""
    grammar: str | None = Field(default=None, min_length=1, max_length=100_000)
    """A grammar in the notation of Lark, or of llama.cpp (GBNF)."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if sum(value is not None for value in (self.json_schema, self.regex, self.choice, self.grammar)) != 1:
            raise Misplaced("structured_outputs", "needs exactly one of `json`, `regex`, `choice` and `grammar`")
        return self
