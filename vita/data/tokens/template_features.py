"""The parts of messages that a chat template writes, found by rendering sample dialogues.

    features = TemplateFeatures.of(template.source, template.render_inputs)
    features.check(messages, variables)       # DataError with the name of a field that the template does not write

A template is a program, which may ignore calls, reasoning or tools without an error. What it ignores would be missing
in training and serving, so it is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from vita.data.records import Message, TemplateVariables, ToolCall
from vita.data.tokens.template_messages import REASONING_KEYS, MessageForm, TemplateInputs
from vita.spine.errors import DataError

EmptyContent = Literal["null", "text", "absent"]
RenderInputs = Callable[..., str]
"""(messages, variables, add_generation_prompt=...) -> text."""

SAMPLE_NAME, SAMPLE_KEY, SAMPLE_VALUE, SAMPLE_TEXT = "sample_function", "sample_key", "samplevalue", "Sampletext"
SAMPLE_REASONING = "Samplereasoning"
SAMPLE_TOOL = {
    "type": "function",
    "function": {
        "name": SAMPLE_NAME,
        "description": "",
        "parameters": {"type": "object", "properties": {SAMPLE_KEY: {"type": "string", "description": ""}}},
    },
}
_LONG_ID, _SHORT_ID = "call_0123456789abcdef01234567", "callid001"
RESERVED = ("messages", "tools", "documents", "add_generation_prompt", "continue_final_message")
"""Variables that have fields of their own and cannot be set by `chat_template_kwargs`."""


class UnwrittenField(DataError):
    """An error for a field that a template does not write; `field` is its path in a request."""

    def __init__(self, where: str, problem: str, *, field: str, hint: str) -> None:
        super().__init__(where, problem, hint=hint)
        self.field = field


@dataclass(frozen=True)
class TemplateFeatures:
    """The parts of messages with calls and reasoning that a chat template writes."""

    form: MessageForm
    reads_reasoning: bool
    """True if the template reads the reasoning of a message."""
    calls: Literal["none", "one", "many"]
    """Number of calls of a message that the template writes."""
    content_with_calls: bool
    """True if the template writes both the content and the calls of a message."""
    names: bool
    """True if the template writes the name of an author."""
    text_arguments: bool
    """True if the template writes arguments that are no JSON object, such as those of an answer that was cut off."""
    short_call_ids: bool
    """True if the template accepts only ids of nine letters and digits, as Mistral's."""
    call_sample: str | None
    """The answer with a sample call as the template writes it, after its prompt."""
    reasoning_sample: str | None
    """The answer with a sample reasoning and a content, after its prompt."""

    @classmethod
    def of(cls, source: str, render: RenderInputs) -> TemplateFeatures:
        """Measure the features of a template."""
        key = next((key for key in REASONING_KEYS if _reads_key(source, key)), None)
        sampler = _Sampler(render, key or REASONING_KEYS[0])
        sample, form, short = sampler.find_form()
        reasoning = sampler.reasoned_answer() if key else None
        if sample is None:
            return cls(form, key is not None, "none", False, sampler.writes_names(), False, short, None, reasoning)
        many = sampler.answer(form, short, calls=2)
        beside = sampler.answer(form, short, content=SAMPLE_TEXT)
        writes_many = many is not None and all(f"{SAMPLE_VALUE}{number}" in many for number in (0, 1))
        writes_both = beside is not None and SAMPLE_TEXT in beside and f"{SAMPLE_VALUE}0" in beside
        cut_off = sampler.answer(form, short, is_complete=False)
        writes_text = cut_off is not None and f"{SAMPLE_VALUE}0" in cut_off
        calls, names = "many" if writes_many else "one", sampler.writes_names()
        return cls(form, key is not None, calls, writes_both, names, writes_text, short, sample, reasoning)

    def check(self, messages: Sequence[Message]) -> None:
        """Raise an error with the name of a field of a message that the template does not write."""
        for number, message in enumerate(messages, 1):
            problem = self._problem(message)
            if problem:
                field, rest = problem
                hint = f"use a model whose template writes it, or remove `{field}`"
                text = f"does not write `{field}` of message {number}{rest}"
                raise UnwrittenField("chat template", text, field=f"messages[{number - 1}].{field}", hint=hint)
            self._check_arguments(message, number)

    def _check_arguments(self, message: Message, number: int) -> None:
        """Raise an error for arguments that are no JSON object if the template writes only objects."""
        if self.text_arguments:
            return
        for index, call in enumerate(message.tool_calls):
            if not call.is_complete:
                field = f"tool_calls[{index}].function.arguments"
                text = f"writes only JSON objects as arguments of calls, but `{field}` of message {number} is none"
                hint = "send a JSON object, such as `{}`, or the call as text in `content`"
                raise UnwrittenField("chat template", text, field=f"messages[{number - 1}].{field}", hint=hint)

    def _problem(self, message: Message) -> tuple[str, str] | None:
        if message.reasoning and not self.reads_reasoning:
            return "reasoning_content", ""
        if message.name and message.role != "tool" and not self.names:
            return "name", ""
        if not message.tool_calls:
            return None
        if self.calls == "none":
            return "tool_calls", ""
        if self.calls == "one" and len(message.tool_calls) > 1:
            return "tool_calls", ": it writes only one call of a message"
        if message.content.strip() and not self.content_with_calls:
            return "tool_calls", ": it writes no calls beside a text in `content`"
        return None


def check_variables(
    variables: TemplateVariables, names: frozenset[str], *, assigned: frozenset[str] = frozenset()
) -> None:
    """Raise an error with the name of a variable that a template, which reads `names`, does not read.

    `assigned` are the names that the template sets itself, which the hint of the error does not list.
    """
    for field in ("tools", "documents"):
        if getattr(variables, field) and field not in names:
            hint = f"use a model whose template writes {field}, or remove `{field}`"
            raise UnwrittenField("chat template", f"does not write `{field}`", field=field, hint=hint)
    for name in variables.settings:
        if name in RESERVED:
            hint = "use the field of this name"
            raise UnwrittenField(
                "chat_template_kwargs", f"cannot set `{name}`", field=f"chat_template_kwargs.{name}", hint=hint
            )
        if name not in names:
            known = sorted(names - assigned - {*RESERVED, "bos_token", "eos_token", "strftime_now", "raise_exception"})
            hint = f"it reads {', '.join(known)}" if known else "it reads no further variables"
            problem = f"does not read `chat_template_kwargs.{name}`"
            raise UnwrittenField("chat template", problem, field=f"chat_template_kwargs.{name}", hint=hint)


@dataclass(frozen=True)
class _Sampler:
    render: RenderInputs
    reasoning_key: str

    def find_form(self) -> tuple[str | None, MessageForm, bool]:
        """Return the answer with a call, the form in which the template accepts it, and True for short ids."""
        forms: Iterable[tuple[EmptyContent, bool, bool]] = product(
            ("absent", "null", "text"), (False, True), (False, True)
        )
        for empty_content, as_text, short in forms:
            form = MessageForm(self.reasoning_key, empty_content, as_text)
            sample = self.answer(form, short)
            if sample is not None and f"{SAMPLE_VALUE}0" in sample and "None" not in sample:
                return sample, form, short
        return None, MessageForm(self.reasoning_key), False

    def answer(
        self, form: MessageForm, short: bool, *, calls: int = 1, content: str = "", is_complete: bool = True
    ) -> str | None:
        """Return the text of an answer with sample calls; None if the template refuses it."""
        id = _SHORT_ID if short else _LONG_ID
        end = '"}' if is_complete else ""
        arguments = [f'{{"{SAMPLE_KEY}": "{SAMPLE_VALUE}{number}{end}' for number in range(calls)]
        sample_calls = tuple(ToolCall(SAMPLE_NAME, text, id[:-1] + str(n)) for n, text in enumerate(arguments))
        return self._answer(Message("assistant", content, tool_calls=sample_calls), form, {"tools": [SAMPLE_TOOL]})

    def reasoned_answer(self) -> str | None:
        """Return the text of an answer with reasoning; None if the template refuses it."""
        message = Message("assistant", SAMPLE_TEXT, reasoning=SAMPLE_REASONING)
        return self._answer(message, MessageForm(self.reasoning_key), {})

    def _answer(self, message: Message, form: MessageForm, variables: dict[str, Any]) -> str | None:
        inputs = TemplateInputs.of([Message("user", "Question"), message], form=form)
        try:
            text = self.render(inputs.messages, variables, add_generation_prompt=False)
            prompt = self.render(inputs.messages[:1], variables, add_generation_prompt=True)
        except DataError:
            return None
        pairs = enumerate(zip(text, prompt, strict=False))
        shared = next((index for index, (a, b) in pairs if a != b), min(len(text), len(prompt)))
        if shared < len(prompt):  # the prompt may begin the reasoning; no marker is divided
            shared = max(text.rfind(">", 0, shared), text.rfind("\n", 0, shared), -1) + 1
        return text[shared:]

    def writes_names(self) -> bool:
        """Return True if the name of a user is in the text."""
        message = {"role": "user", "content": "Question", "name": SAMPLE_NAME}
        try:
            return SAMPLE_NAME in self.render([message], {}, add_generation_prompt=False)
        except DataError:
            return False


def _reads_key(source: str, key: str) -> bool:
    """Return True if a template reads this key of a message."""
    return re.search(rf"""\.{key}\b|\[\s*['"]{key}['"]\s*\]|get\(\s*['"]{key}['"]""", source) is not None
