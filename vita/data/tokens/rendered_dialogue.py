"""A rendered dialogue, in which the text of every message and the learned answers are located."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from vita.data.tokens.answer_spans import (
    Content,
    Render,
    TextSpan,
    assign_marked,
    check_marked,
    find_answers,
    locate_contents,
)
from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.template_messages import TemplateInputs, content_of, has_calls, reasoning_of
from vita.data.tokens.tokenizer import Tokenizer


class LearnedAnswer(NamedTuple):
    """The learned span of one message."""

    message: int
    span: TextSpan
    written: str
    """The message's text as the template wrote it."""
    has_end: bool
    """True if the span ends with a special token."""


@dataclass(frozen=True)
class RenderedDialogue:
    """A rendered dialogue with the means to locate its answers."""

    tokenizer: Tokenizer
    render: Render
    messages: Sequence[Content]
    text: str
    probes: list[str]

    @classmethod
    def of(
        cls,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        inputs: TemplateInputs,
        text: str,
        *,
        add_generation_prompt: bool,
    ) -> RenderedDialogue:
        """Return the dialogue that the template wrote as `text`."""

        def render(messages: Sequence[Content], prompt: bool | None) -> str:
            asks = add_generation_prompt if prompt is None else prompt
            values = [dict(message) for message in messages]
            return template.render_inputs(values, inputs.variables, add_generation_prompt=asks)

        probes = inputs.unused_characters(template.source, len(inputs.messages) + 1)
        return cls(tokenizer, render, inputs.messages, text, probes)

    def find_answers(self) -> list[LearnedAnswer]:
        """Return the answers of a template without `{% generation %}`."""
        stops = {name for name, token in self.tokenizer.specials.items() if token in self.tokenizer.stops}
        answers = find_answers(
            self.render,
            self.messages,
            self.text,
            self.located,
            markers=self._markers,
            stops=stops,
            probes=self.probes,
        )
        return [
            LearnedAnswer(
                number,
                answer.span,
                self.text[slice(*answer.content)],
                answer.end is not None and bool(self._markers(self.text[slice(*answer.end)])),
            )
            for number, answer in answers.items()
        ]

    def marked_answers(self, spans: Sequence[TextSpan]) -> list[LearnedAnswer]:
        """Return the answers that the template marks; marks around the text of another role are refused."""
        check_marked(spans, self.messages, self.located)
        owners = assign_marked(spans, self.messages, self.located)
        return [
            LearnedAnswer(number, span, self.text[slice(*content)], self._has_end(span))
            for span, (number, content) in zip(spans, owners, strict=True)
        ]

    @cached_property
    def located(self) -> list[list[TextSpan]]:
        """Return the spans of the text of each message."""
        return locate_contents(self.render, self.messages, self.text, probes=self.probes)

    def omitted(self) -> tuple[str, ...]:
        """Return the roles of messages whose text the template omits."""
        pairs = zip(self.messages, self.located, strict=True)
        return tuple(sorted({message["role"] for message, spans in pairs if _has_text(message) and not spans}))

    def is_altered(self, answer: LearnedAnswer) -> bool:
        """Return True if the template changes the text of an answer."""
        written = self.text[slice(*answer.span)]
        return any(part not in written for part in _parts(self.messages[answer.message]))

    def rewritten(self, answers: Sequence[LearnedAnswer], learned: Collection[int]) -> tuple[int, ...]:
        """Return the answers that the template writes in full only if they are the last message."""
        numbers = (answer.message for answer in answers if answer.message in learned and self._is_rewritten(answer))
        return tuple(dict.fromkeys(numbers))

    def _is_rewritten(self, answer: LearnedAnswer) -> bool:
        written = self.text[slice(*answer.span)]
        parts = _parts(self.messages[answer.message])
        missing = [part for part in parts if part not in written and part not in answer.written]
        if not missing or answer.message == len(self.messages) - 1:
            return False
        alone = self.render(self.messages[: answer.message + 1], False)
        return any(part in alone for part in missing)

    def _has_end(self, span: TextSpan) -> bool:
        """Return True if a span contains a token that stops generation, or ends with a special token."""
        text = self.text[slice(*span)]
        markers = self._markers(text)
        stops = any(self.tokenizer.specials[text[slice(*marker)]] in self.tokenizer.stops for marker in markers)
        return stops or (bool(markers) and not text[markers[-1].end :].strip())

    def _markers(self, text: str) -> list[TextSpan]:
        return [TextSpan(*match.span()) for match in self.tokenizer.special_pattern.finditer(text)]


def _parts(message: Mapping[str, Any]) -> list[str]:
    """Return the texts that an answer must contain: its content and its reasoning."""
    parts = (content_of(message).strip(), reasoning_of(message).strip())
    return [part for part in parts if part]


def _has_text(message: Mapping[str, Any]) -> bool:
    return has_calls(message) or bool(content_of(message).strip())
