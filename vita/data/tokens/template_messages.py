"""Messages and variables in the form in which a chat template reads them.

    form = MessageForm(reasoning_key="reasoning_content", arguments_as_text=False)
    inputs = TemplateInputs.of(messages, variables, form)
    inputs.protected(tokenizer.specials, pattern=tokenizer.special_pattern, source=template.source)

Messages are dictionaries as in transformers. The names of special tokens in their texts are replaced by stand-ins, so
that the only special tokens in the rendered text are those of the template.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from vita.data.records import NO_VARIABLES, Message, TemplateVariables, ToolCall
from vita.spine.errors import DataError

TemplateMessage = dict[str, Any]

REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
"""Names under which templates read the reasoning of a message, the most common first."""


@dataclass(frozen=True)
class MessageForm:
    """The form of the messages for one template."""

    reasoning_key: str = REASONING_KEYS[0]
    empty_content: Literal["null", "text", "absent"] = "null"
    """The form of an empty content beside calls. Templates may omit the calls, or fail, for the other forms."""
    arguments_as_text: bool = False
    """True for a template that concatenates the arguments of a call as text instead of converting an object."""


@dataclass(frozen=True)
class TemplateInputs:
    """The messages and variables of one rendering, as values for Jinja."""

    messages: list[TemplateMessage]
    variables: dict[str, Any]
    restore: dict[int, str] = field(default_factory=dict)
    """Map from the code of each stand-in character to its original."""

    @classmethod
    def of(
        cls, messages: Sequence[Message], variables: TemplateVariables = NO_VARIABLES, form: MessageForm | None = None
    ) -> TemplateInputs:
        """Return the inputs for messages and variables."""
        form = form or MessageForm()
        values = {"tools": list(variables.tools) or None, "documents": list(variables.documents) or None}
        return cls([_template_message(message, form) for message in messages], {**values, **variables.settings})

    def protected(self, specials: Iterable[str], *, pattern: re.Pattern[str], source: str) -> TemplateInputs:
        """Replace the first character of every special token's name in the texts by an unused character."""
        if not any(pattern.search(text) for text in self.texts()):
            return self
        firsts = sorted({name[0] for name in specials})
        stand_ins = dict(zip(firsts, self.unused_characters(source, len(firsts)), strict=True))

        def protect(text: str) -> str:
            while pattern.search(text):  # repeated, since names may overlap
                text = pattern.sub(lambda match: stand_ins[match.group()[0]] + match.group()[1:], text)
            return text

        restore = {ord(stand_in): first for first, stand_in in stand_ins.items()}
        messages = [
            {name: value if name == "role" else map_texts(value, protect) for name, value in message.items()}
            for message in self.messages
        ]
        return TemplateInputs(messages, map_texts(self.variables, protect), restore)

    def unused_characters(self, source: str, count: int) -> list[str]:
        """Return private-use characters that occur neither in the template nor in the inputs."""
        used = set(source).union(*self.texts(), map(chr, self.restore))
        characters: list[str] = []
        for code in range(0x10FFFD, 0xF0000, -1):
            if chr(code) not in used:
                characters.append(chr(code))
            if len(characters) == count:
                return characters
        raise DataError("chat", "the messages use every private-use character")

    def texts(self) -> Iterator[str]:
        """Yield all texts of the messages and variables."""
        for message in self.messages:
            yield from _texts({name: value for name, value in message.items() if name != "role"})
        yield from _texts(self.variables)


def content_of(message: Mapping[str, Any]) -> str:
    """Return the content of a message; the empty text if it is null or absent."""
    return message.get("content") or ""


def reasoning_of(message: Mapping[str, Any]) -> str:
    """Return the reasoning of a message; the empty text if it has none."""
    return next((message[key] for key in REASONING_KEYS if message.get(key)), "")


def has_calls(message: Mapping[str, Any]) -> bool:
    """Return True if a message contains calls."""
    return bool(message.get("tool_calls"))


def is_structured(message: Mapping[str, Any]) -> bool:
    """Return True if a message has more text than its content: calls or reasoning."""
    return has_calls(message) or bool(reasoning_of(message).strip())


def with_probe(message: Mapping[str, Any], probe: str, name_probe: str | None = None) -> TemplateMessage:
    """Return a message of the same structure whose texts are a probe character.

    `name_probe` replaces the names of functions, which otherwise remain.
    """
    if not is_structured(message):
        return {**message, "content": probe}
    probed = dict(message)
    for key in ("content", *REASONING_KEYS):
        if isinstance(message.get(key), str) and message[key].strip():
            probed[key] = probe
    if has_calls(message):
        probed["tool_calls"] = [_probed_call(call, probe, name_probe) for call in message["tool_calls"]]
    return probed


def map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return a nested value with a changed copy of each text."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {map_texts(name, change): map_texts(part, change) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [map_texts(part, change) for part in value]
    return value


def _probed_call(call: Mapping[str, Any], probe: str, name_probe: str | None) -> dict[str, Any]:
    arguments: Any = {probe: probe}
    if isinstance(call["function"]["arguments"], str):
        arguments = f'{{"{probe}": "{probe}"}}'
    return {**call, "function": {"name": name_probe or call["function"]["name"], "arguments": arguments}}


def _template_message(message: Message, form: MessageForm) -> TemplateMessage:
    values: TemplateMessage = {"role": message.role}
    if not message.tool_calls or message.content.strip():
        values["content"] = message.content
    elif form.empty_content != "absent":
        values["content"] = None if form.empty_content == "null" else ""
    if message.reasoning:
        values[form.reasoning_key] = message.reasoning
    if message.tool_calls:
        values["tool_calls"] = [_template_call(call, form) for call in message.tool_calls]
    optional = {"tool_call_id": message.tool_call_id, "name": message.name}
    return values | {name: value for name, value in optional.items() if value is not None}


def _template_call(call: ToolCall, form: MessageForm) -> dict[str, Any]:
    arguments = call.values if call.is_complete and not form.arguments_as_text else call.arguments
    values = {"type": "function", "function": {"name": call.name, "arguments": arguments}}
    return values if call.id is None else {"id": call.id, **values}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _texts(name)
            yield from _texts(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _texts(part)
