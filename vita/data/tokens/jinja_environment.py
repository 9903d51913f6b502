"""The Jinja environment of chat templates, with the settings, extensions and functions of transformers.

    environment = template_environment(clock)
    environment.from_string(source).render(messages=messages, _generation_marks=("", ""))

Templates give the same text as in transformers: blocks are trimmed, `{% break %}` and `{% continue %}` are known,
`tojson` does not escape HTML, and `raise_exception` and `strftime_now` are functions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vita.data.tokens.answer_spans import TextSpan


def template_environment(clock: Callable[[], datetime]) -> ImmutableSandboxedEnvironment:
    """Return an environment in which `strftime_now` formats the time of `clock`."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda pattern: clock().strftime(pattern)
    return environment


class Generation(Extension):
    """The extension for `{% generation %}`, which encloses its text in the two marks of the rendering."""

    tags = {"generation"}

    def parse(self, parser: Any) -> nodes.Node:
        """Parse a block up to `{% endgeneration %}`."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_mark", [nodes.ContextReference()])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    @staticmethod
    def _mark(context: Any, caller: Any) -> str:
        start, end = context.get("_generation_marks", ("", ""))
        return start + caller() + end


def has_generation_block(syntax_tree: nodes.Template) -> bool:
    """Return True if a template contains `{% generation %}`."""
    blocks = syntax_tree.find_all(nodes.CallBlock)
    return any(isinstance(block.call.node, nodes.ExtensionAttribute) for block in blocks)


def remove_marks(text: str, start: str, end: str) -> tuple[str, list[TextSpan]]:
    """Return the text without marks, and the spans between the marks that are not empty."""
    if not start:
        return text, []
    texts: list[str] = []
    spans: list[TextSpan] = []
    position = start_position = 0
    for part in re.split(f"([{start}{end}])", text):
        if part == start:
            start_position = position
        elif part == end:
            spans += [TextSpan(start_position, position)] if position > start_position else []
        else:
            texts.append(part)
            position += len(part)
    return "".join(texts), spans


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None,
            sort_keys: bool = False) -> str:  # fmt: skip
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise TemplateError(message)
