"""Tools of a chat in the terminal: built-in ones that run, or a file of definitions whose results the user writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vita.data.records import TemplateVariables, ToolCall
from vita.spine.errors import ConfigError, DataError

if TYPE_CHECKING:
    from vita.data.world.tools import WorldTool

MAX_ROUNDS = 8
"""Largest number of answers with calls in one turn."""


@dataclass(frozen=True)
class ChatTools:
    """The tools of a chat."""

    variables: TemplateVariables = field(default_factory=TemplateVariables)
    built_in: Mapping[str, WorldTool] = field(default_factory=dict)

    @classmethod
    def of(cls, names: Sequence[str]) -> ChatTools:
        """Return built-in tools by name, and those of JSON files with a list of definitions."""
        from vita.data.world.tools import WORLD_TOOLS

        definitions: list[Mapping[str, Any]] = []
        built_in = {}
        for name in names:
            if name in WORLD_TOOLS:
                built_in[name] = WORLD_TOOLS[name]
                definitions.append(WORLD_TOOLS[name].definition)
            else:
                definitions += _definitions(name, known=WORLD_TOOLS.names())
        return cls(TemplateVariables(tools=tuple(definitions)), built_in)

    def run(self, call: ToolCall) -> str | None:
        """Return the result of a built-in tool; None for a tool of a file."""
        tool = self.built_in.get(call.name)
        return tool.run(call.values) if tool else None


def _definitions(name: str, *, known: Sequence[str]) -> Sequence[Mapping[str, Any]]:
    """Read a file with a list of tools in the format of the OpenAI API."""
    from vita.data.sources.fields import FormatMismatch
    from vita.data.sources.tool_fields import parse_tools

    path = Path(name)
    if not path.is_file():
        hint = "give a JSON file with a list of tools in the format of the OpenAI API"
        raise ConfigError("--tools", expected=f"a file, or one of {', '.join(known)}", got=name, hint=hint)
    try:
        return parse_tools(path.read_text(encoding="utf-8"), path.name)
    except (FormatMismatch, UnicodeDecodeError) as error:
        raise DataError(str(path), f"is not a list of tools: {error}") from None


def describe(call: ToolCall) -> str:
    """Return a call as a line for the terminal."""
    arguments = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in call.values.items())
    return f"[call] {call.name}({arguments})"
