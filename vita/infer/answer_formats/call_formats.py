"""Formats in which models write calls of functions, one class or table row each.

A format has the text that begins a block of calls, the text that ends it, and a function that parses the block, or a
reader that returns calls while they are written. It is chosen by parsing a sample call that the chat template writes
(`vita.infer.answer_formats.answer_format`), so a new format needs nothing but its row here.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vita.data.exact_json import RawNumber, dump_exact, parse_exact
from vita.data.records import ToolCall
from vita.infer.answer_formats.call_reader import BlockReader, CallReader, NotACall
from vita.infer.answer_formats.json_calls import JsonCallReader
from vita.infer.answer_formats.named_calls import DeepseekReader, MistralReader
from vita.infer.object_schemas import object_part
from vita.spine.registry import Registry

Tools = Sequence[Mapping[str, Any]]
ParseBlock = Callable[[str, Tools], list[ToolCall]]
"""(block, tools) -> its calls; raises `NotACall` for other text."""
ReadBlock = Callable[..., CallReader]
"""(text, index, partial=...) -> the reader of a block that begins with `text`; `index` counts the earlier calls."""


@dataclass(frozen=True)
class CallFormat:
    """A format of calls."""

    name: str
    start: str
    """The text that begins a block; empty if the answer as a whole is the block."""
    end: str
    """The text that ends a block; empty if the block ends with the answer."""
    parse: ParseBlock | None = None
    """The function that parses a complete block; None for a format with `read`."""
    read: ReadBlock | None = None
    """The function that creates a reader of a block; None for a format with `parse`."""
    markers: tuple[str, ...] = ()
    """Further texts inside a block that may be special tokens, and must be visible."""
    closings: tuple[str, ...] = ()
    """Texts that end a free text inside a block, with which a constrained call is completed."""

    @property
    def visible(self) -> tuple[str, ...]:
        """The texts of the format that may be special tokens."""
        return tuple(text for text in (self.start, self.end, *self.markers) if text)

    def reader_of(self, text: str, tools: Tools, index: int, *, partial: bool) -> CallReader:
        """Return the reader of a block that begins with `text`, which has a visible character."""
        if self.read is not None:
            return self.read(text, index, partial=partial)
        assert self.parse is not None
        parse = self.parse
        return BlockReader(index, partial=partial, end=self.end, parse=lambda block: parse(block, tools))

    def may_begin(self, text: str) -> bool:
        """Return True if an answer that begins with `text` may be a block, for a format without `start`."""
        return not text.strip() or text.lstrip().startswith(("{", *self.markers)) or any(
            marker.startswith(text.lstrip()) for marker in self.markers
        )  # fmt: skip


CALL_FORMATS: Registry[CallFormat] = Registry("call_format")


def call_format(
    name: str, start: str, end: str, *, markers: Sequence[str] = (), closings: Sequence[str] = ()
) -> Callable[[ParseBlock], ParseBlock]:
    """Register the parser of a block as a format."""

    def enter(parse: ParseBlock) -> ParseBlock:
        format = CallFormat(name, start, end, parse, markers=tuple(markers), closings=tuple(closings))
        CALL_FORMATS.add(name)(format)
        return parse

    return enter


def call_reader(name: str, start: str, end: str, *, markers: Sequence[str] = ()) -> Callable[[ReadBlock], ReadBlock]:
    """Register the reader of a block as a format, whose calls are returned while they are written."""

    def enter(read: ReadBlock) -> ReadBlock:
        CALL_FORMATS.add(name)(CallFormat(name, start, end, read=read, markers=tuple(markers)))
        return read

    return enter


# -- JSON


@call_reader("hermes", "<tool_call>", "</tool_call>")
def hermes(text: str, index: int, *, partial: bool) -> CallReader:
    """Read `{"name": ..., "arguments": {...}}`, or a list of such objects (Qwen, Hermes, ChatML)."""
    return JsonCallReader(index, partial=partial, end="</tool_call>")


@call_reader("phi", "<|tool_call|>", "<|/tool_call|>")
def phi(text: str, index: int, *, partial: bool) -> CallReader:
    """Read a list of `{"name": ..., "arguments": {...}}` (Phi-4-mini)."""
    return JsonCallReader(index, partial=partial, end="<|/tool_call|>")


@call_reader("granite", "<|tool_call|>", "")
def granite(text: str, index: int, *, partial: bool) -> CallReader:
    """Read a list of `{"name": ..., "arguments": {...}}` up to the end of the answer (Granite 3)."""
    return JsonCallReader(index, partial=partial)


@call_reader("cohere", "<|START_ACTION|>", "<|END_ACTION|>")
def cohere(text: str, index: int, *, partial: bool) -> CallReader:
    """Read a list of `{"tool_name": ..., "parameters": {...}}` (Command R7B and A)."""
    keys = {"name_key": "tool_name", "arguments_key": "parameters"}
    return JsonCallReader(index, partial=partial, end="<|END_ACTION|>", **keys)


@call_reader("mistral", "[TOOL_CALLS]", "", markers=["[ARGS]", "[CALL_ID]"])
def mistral(text: str, index: int, *, partial: bool) -> CallReader:
    """Read a list of `{"name": ..., "arguments": {...}}`, or `name[ARGS]{...}` for each call (Mistral)."""
    reader = JsonCallReader if text.lstrip().startswith(("[", "{")) else MistralReader
    return reader(index, partial=partial)


@call_reader("llama", "", "", markers=["<|python_tag|>"])
def llama(text: str, index: int, *, partial: bool) -> CallReader:
    """Read `{"name": ..., "parameters": {...}}`; several are separated by semicolons (Llama 3)."""
    return JsonCallReader(index, partial=partial, arguments_key="parameters", optional_start="<|python_tag|>")


_DEEPSEEK = ("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>")


@call_reader("deepseek", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", markers=_DEEPSEEK)
def deepseek(text: str, index: int, *, partial: bool) -> CallReader:
    """Read `function<｜tool▁sep｜>name` with a JSON code block (V3, R1), or `name<｜tool▁sep｜>{...}` (V3.1)."""
    return DeepseekReader(index, partial=partial, markers=_DEEPSEEK, end="<｜tool▁calls▁end｜>")


# -- XML


_XML_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>\s*(.*?)\s*</function>\s*", re.DOTALL)
_XML_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_GLM_ARGUMENT = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)


@call_format("qwen_xml", "<tool_call>", "</tool_call>", closings=["\n</parameter>\n"])
def qwen_xml(block: str, tools: Tools) -> list[ToolCall]:
    """Parse `<function=name>` with one `<parameter=...>` per argument (Qwen3-Coder, Qwen3.5, Nemotron)."""
    match = _XML_FUNCTION.fullmatch(block)
    if match is None:
        raise NotACall
    return [_text_call(match.group(1).strip(), _XML_PARAMETER.findall(match.group(2)), tools)]


@call_format("glm", "<tool_call>", "</tool_call>", closings=["</arg_value>"])
def glm(block: str, tools: Tools) -> list[ToolCall]:
    """Parse the name with one `<arg_key>` and `<arg_value>` per argument (GLM-4), on lines or without line breaks."""
    name, mark, rest = block.strip().partition("<arg_key>")
    rest = mark + rest
    if not re.fullmatch(r"[\w.-]+", name.strip()):
        raise NotACall
    return [_text_call(name.strip(), _GLM_ARGUMENT.findall(rest), tools)]


def _text_call(name: str, arguments: Sequence[tuple[str, str]], tools: Tools) -> ToolCall:
    """Return a call whose arguments are texts; those that are no strings in the schema are JSON."""
    properties = _properties(name, tools)
    return _call(name, {key.strip(): _typed(text, properties.get(key.strip())) for key, text in arguments})


def _properties(name: str, tools: Tools) -> Mapping[str, Any]:
    functions = (tool.get("function", {}) for tool in tools)
    function = next((function for function in functions if function.get("name") == name), {})
    schema = object_part(function.get("parameters") or {})
    return (schema.get("properties") if isinstance(schema, Mapping) else None) or {}


def _typed(text: str, schema: Any) -> Any:
    types = schema.get("type") if isinstance(schema, Mapping) else None
    if types == "string" or (isinstance(types, list) and "string" in types):
        return text
    try:
        return parse_exact(text)
    except (ValueError, RecursionError):
        return text


# -- other notations


@call_format("lfm", "<|tool_call_start|>", "<|tool_call_end|>")
def lfm(block: str, tools: Tools) -> list[ToolCall]:
    """Parse a Python list of calls with keyword arguments (LFM2)."""
    try:
        expression = ast.parse(block.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise NotACall from None
    if not isinstance(expression, ast.List):
        raise NotACall
    return [_python_call(part) for part in expression.elts]


def _python_call(node: ast.expr) -> ToolCall:
    if not isinstance(node, ast.Call) or node.args:
        raise NotACall
    try:
        arguments = {str(keyword.arg): _python_value(keyword.value) for keyword in node.keywords}
    except (ValueError, RecursionError):
        raise NotACall from None
    return _call(ast.unparse(node.func), arguments)


def _python_value(node: ast.expr) -> Any:
    """Return the value of a literal; also of the constants of JSON, and of numbers beyond float64."""
    match node:
        case ast.Name(id=("true" | "false" | "null") as name):
            return {"true": True, "false": False, "null": None}[name]
        case ast.Constant(value=float() as value) if value == math.inf:
            return RawNumber("1e999")
        case ast.UnaryOp(op=ast.USub(), operand=operand) if isinstance(
            number := _python_value(operand), RawNumber | int | float
        ):
            return RawNumber(f"-{number.text}") if isinstance(number, RawNumber) else -number
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_python_value(part) for part in parts]
        case ast.Dict(keys=keys, values=values):
            names = [ast.literal_eval(key) if key is not None else None for key in keys]
            if not all(isinstance(name, str) for name in names):
                raise NotACall
            return {name: _python_value(value) for name, value in zip(names, values, strict=True)}
        case _:
            return ast.literal_eval(node)


_GEMMA_QUOTE = '<|"|>'


@call_format("gemma", "<|tool_call>", "<tool_call|>", markers=[_GEMMA_QUOTE], closings=[_GEMMA_QUOTE])
def gemma(block: str, tools: Tools) -> list[ToolCall]:
    """Parse `call:name{key:value,...}`, where strings stand between `<|"|>` (Gemma 4)."""
    match = re.fullmatch(r"\s*call:([\w.-]+)(\{.*\})\s*", block, re.DOTALL)
    if match is None:
        raise NotACall
    parts = match.group(2).split(_GEMMA_QUOTE)
    if len(parts) % 2 == 0:
        raise NotACall
    # The even parts are structure, whose keys have no quotes; the odd parts are strings.
    structure = (re.sub(r"([{,]\s*)([^\s{}\[\],:\"]+)\s*:", r'\1"\2":', part) for part in parts[::2])
    strings = (json.dumps(part, ensure_ascii=False) for part in parts[1::2])
    joined = "".join(piece for pair in zip(structure, [*strings, ""], strict=True) for piece in pair)
    return [_call(match.group(1), _decode(joined))]


# -- calls


def _decode(text: str) -> Any:
    try:
        return parse_exact(text)
    except (ValueError, RecursionError):
        raise NotACall from None


def _call(name: str, arguments: Any) -> ToolCall:
    if isinstance(arguments, str):
        arguments = _decode(arguments)
    if not name or not isinstance(arguments, Mapping):
        raise NotACall
    try:
        return ToolCall(name, dump_exact(arguments))
    except (ValueError, TypeError, RecursionError):  # NaN, or a Python value such as bytes
        raise NotACall from None
