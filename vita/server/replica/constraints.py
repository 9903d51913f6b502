"""The grammar that the fields of a request require of its answers, compiled for the tokens of the model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from vita.infer.answer_formats.answer_grammar import CallConstraint, answer_grammar
from vita.infer.engine import Engine
from vita.infer.grammars import (
    Constraint,
    GrammarError,
    choice_grammar,
    json_grammar,
    lark_grammar,
    regex_grammar,
)
from vita.server import api
from vita.server.errors import ApiError, invalid
from vita.server.structured_outputs import StructuredOutputs

_ANY_OBJECT = {"type": "object"}


async def chat_constraint(engine: Engine, params: api.ChatRequest, *, prompt_end: str) -> Constraint | None:
    """Return the constraint of a chat answer; raises `ApiError` for a schema or a grammar that is not supported."""
    content, field = _content(params)
    if content is None and not params.requires_calls and not params.has_strict_tools:
        return None
    template = engine.template
    assert template is not None, "a chat request was rendered with a template"
    calls = None
    if params.callable_tools:
        calls = CallConstraint(
            await asyncio.to_thread(_with_supported_schemas, engine, params),
            params.requires_calls,
            params.allows_several_calls,
            template.for_tools.features.call_sample or "",
        )
    if content is None:
        field = "tool_choice" if params.requires_calls else "tools"

    def compiled() -> Constraint:
        grammar = answer_grammar(
            engine.answer_format,
            specials=engine.tokenizer.specials,
            prompt_end=prompt_end,
            content=content() if content else None,
            calls=calls,
        )
        return engine.grammars.compile(grammar, closings=engine.answer_format.closings, where=field)

    return await _compiled(compiled, field)


async def completion_constraint(engine: Engine, params: api.CompletionRequest) -> Constraint | None:
    """Return the constraint of a completion; raises `ApiError` for a grammar that is not supported."""
    if params.structured_outputs is None:
        return None
    content, field = _form(params.structured_outputs)
    return await _compiled(lambda: engine.grammars.compile(content(), where=field), field)


def _content(params: api.ChatRequest) -> tuple[Callable[[], str] | None, str]:
    """Return the grammar of the content, and the field that requires it."""
    if params.structured_outputs is not None:
        return _form(params.structured_outputs)
    format = params.response_format
    if format is None or format.type == "text":
        return None, ""
    if format.json_schema is None:
        return lambda: json_grammar(_ANY_OBJECT), "response_format"
    schema = format.json_schema.json_schema
    return lambda: json_grammar(schema), "response_format.json_schema.schema"


def _form(form: StructuredOutputs) -> tuple[Callable[[], str], str]:
    """Return the grammar of a form, and the field that requires it."""
    if (schema := form.json_schema) is not None:
        return lambda: json_grammar(schema), "structured_outputs.json"
    if (pattern := form.regex) is not None:
        return lambda: regex_grammar(pattern), "structured_outputs.regex"
    if (choices := form.choice) is not None:
        return lambda: choice_grammar(choices), "structured_outputs.choice"
    grammar = form.grammar or ""
    return lambda: lark_grammar(grammar), "structured_outputs.grammar"


def _with_supported_schemas(engine: Engine, params: api.ChatRequest) -> list[Mapping[str, Any]]:
    """Return the callable tools with any object as the arguments of functions whose schema cannot be followed.

    Raises `ApiError` for such a schema of a function that is strict.
    """
    template, supported = engine.template, list[Mapping[str, Any]]()
    assert template is not None, "a chat request was rendered with a template"
    names = [tool.function.name for tool in params.tools or ()]
    for tool in params.callable_tools:
        function = tool["function"]
        try:
            calls = CallConstraint([tool], required=True, sample=template.for_tools.features.call_sample or "")
            engine.grammars.check(answer_grammar(engine.answer_format, specials=engine.tokenizer.specials, calls=calls))
        except (GrammarError, RecursionError) as error:
            if function.get("strict"):
                raise _refusal(error, f"tools[{names.index(function['name'])}].function.parameters") from None
            function = {**function, "parameters": _ANY_OBJECT}
        supported.append({**tool, "function": function})
    return supported


async def _compiled(compiled: Callable[[], Constraint], field: str) -> Constraint:
    try:
        return await asyncio.to_thread(compiled)
    except (GrammarError, RecursionError) as error:
        raise _refusal(error, field) from None


def _refusal(error: GrammarError | RecursionError, field: str) -> ApiError:
    """Return the error of a field whose grammar cannot be followed."""
    problem = error.problem if isinstance(error, GrammarError) else "it is nested too deeply"
    return invalid(f"Invalid `{field}`: {problem}", field, code="unsupported_grammar")
