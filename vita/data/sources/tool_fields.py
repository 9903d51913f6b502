"""Parsing of tools, calls and template variables from the fields of rows, messages and requests.

    parse_calls([{"function": {"name": "lookup", "arguments": "{}"}}], "messages[1].tool_calls")   # (ToolCall(...),)
    parse_variables({"tools": "[...]"})                                                            # TemplateVariables

Tools, calls and arguments may be JSON texts or values. Tools without the envelope `{"type": "function", "function":
...}` get it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vita.data.records import NO_VARIABLES, TemplateVariables, ToolCall
from vita.data.sources.fields import TEMPLATE_FIELDS, FormatMismatch, UnsupportedField, is_empty
from vita.data.sources.readers import json_type

_FUNCTION_FIELDS = ("name", "description", "parameters", "strict", "return", "returns")
_CALL_FIELDS = ("id", "type", "function", "index")


def parse_variables(row: Mapping[str, Any]) -> TemplateVariables:
    """Parse the fields of a row that the chat template reads."""
    if all(is_empty(row.get(name)) for name in TEMPLATE_FIELDS):
        return NO_VARIABLES
    names = [name for name in ("tools", "functions") if not is_empty(row.get(name))]
    if len(names) > 1 and row["tools"] != row["functions"]:
        raise FormatMismatch("`tools` and `functions`, of which only one is read", reason="ambiguous")
    tools = parse_tools(row[names[0]], names[0]) if names else ()
    return TemplateVariables(tools, _parse_documents(row.get("documents")), _parse_settings(row))


def parse_tools(value: Any, where: str) -> tuple[Mapping[str, Any], ...]:
    """Parse a list of tools, or its JSON text."""
    tools = _parse_json(value, where)
    if not isinstance(tools, (list, tuple)):
        raise FormatMismatch(f"`{where}` holds {json_type(tools)} where a list of tools was expected")
    return tuple(_parse_tool(tool, f"{where}[{number}]") for number, tool in enumerate(tools))


def _parse_tool(value: Any, where: str) -> Mapping[str, Any]:
    tool = _parse_json(value, where)
    if not isinstance(tool, Mapping):
        raise FormatMismatch(f"`{where}` is not an object with the function's name and parameters")
    if "function" not in tool:
        tool = {"type": "function", "function": tool}
    if tool.get("type") not in (None, "function"):
        hint = "only functions are supported"
        raise UnsupportedField("type", where, f"`{where}` has the type {tool['type']!r}", hint)
    function = _parse_json(tool["function"], f"{where}.function")
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise FormatMismatch(f"`{where}` has no function with a name")
    parameters = _parse_json(function.get("parameters"), f"{where}.function.parameters")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise FormatMismatch(f"`{where}` has parameters that are not a JSON Schema")
    if "parameters" in function:
        function = {**function, "parameters": parameters or {"type": "object", "properties": {}}}
    return {**tool, "type": "function", "function": function}


def parse_calls(value: Any, where: str) -> tuple[ToolCall, ...]:
    """Parse the calls of a message: a list, one call, or the JSON text of either."""
    calls = _parse_json(value, where)
    calls = [calls] if isinstance(calls, Mapping) else calls
    if not isinstance(calls, (list, tuple)):
        raise FormatMismatch(f"`{where}` holds {json_type(calls)} where calls were expected")
    return tuple(parse_call(call, f"{where}[{number}]") for number, call in enumerate(calls))


def parse_call(value: Any, where: str) -> ToolCall:
    """Parse a call `{id, type, function: {name, arguments}}`, or `{name, arguments}`."""
    call = _parse_json(value, where)
    if not isinstance(call, Mapping):
        raise FormatMismatch(f"`{where}` is not an object with a function")
    if call.get("type") not in (None, "function"):
        hint = "only calls of functions are supported"
        raise UnsupportedField("type", where, f"`{where}` has the type {call['type']!r}", hint)
    known = (*_CALL_FIELDS, "name", "arguments", "parameters")
    unknown = next((name for name, part in call.items() if name not in known and not is_empty(part)), None)
    if unknown:
        raise UnsupportedField(unknown, where, f"`{where}.{unknown}`, a field that is not supported", "remove it")
    function = _parse_json(call.get("function", call), f"{where}.function")
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise FormatMismatch(f"`{where}` has no function with a name")
    arguments = function.get("arguments", function.get("parameters"))
    id = call.get("id")
    return ToolCall(name, parse_arguments(arguments, f"{where}.arguments"), None if is_empty(id) else str(id))


def parse_arguments(value: Any, where: str) -> str:
    """Return arguments, an object or its JSON text, as JSON text; no value is the empty object."""
    arguments = {} if is_empty(value) else _parse_json(value, where)
    if not isinstance(arguments, Mapping):
        raise FormatMismatch(f"`{where}` holds {json_type(arguments)} where a JSON object was expected")
    return value if isinstance(value, str) and value.strip() else json.dumps(arguments, ensure_ascii=False)


def _parse_documents(value: Any) -> tuple[Mapping[str, Any], ...]:
    documents = [] if is_empty(value) else _parse_json(value, "documents")
    if not isinstance(documents, (list, tuple)) or not all(isinstance(part, Mapping) for part in documents):
        raise FormatMismatch("`documents` is not a list of objects, such as {title, text}")
    return tuple(documents)


def _parse_settings(row: Mapping[str, Any]) -> Mapping[str, Any]:
    value = row.get("chat_template_kwargs")
    settings = {} if is_empty(value) else _parse_json(value, "chat_template_kwargs")
    if not isinstance(settings, Mapping):
        raise FormatMismatch("`chat_template_kwargs` is not an object with variables of the chat template")
    return settings


def _parse_json(value: Any, where: str) -> Any:
    """Return a value, parsed if it is JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value, parse_constant=_refuse_constant)
    except ValueError as error:
        raise FormatMismatch(f"`{where}` is not JSON ({error})") from None
    except RecursionError:
        raise FormatMismatch(f"`{where}` is nested too deeply") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")
