"""The format of a model's answers, found by what its chat template writes.

format = AnswerFormat.of(template)
format.parse("<think>Hm.</think>4", tools)      # ParsedAnswer(content="4", reasoning="Hm.")
format.visible_ids(tokenizer)                   # special tokens that the parser must see
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vita.data.records import ToolCall
from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.template_features import SAMPLE_KEY, SAMPLE_NAME, SAMPLE_REASONING, SAMPLE_TEXT, SAMPLE_VALUE
from vita.data.tokens.tokenizer import Tokenizer
from vita.infer.answer_formats.call_formats import CALL_FORMATS, CallFormat
from vita.infer.answer_formats.deltas import CallDelta, TextDelta
from vita.infer.answer_formats.harmony import CHANNEL, HARMONY, HarmonyParser
from vita.infer.answer_formats.parser import AnswerParser, DeltaParser

Tools = Sequence[Mapping[str, Any]]


_KNOWN_REASONING = (("<think>", "</think>"), ("<|channel>thought", "<channel|>"))
"""Markers of templates that remove the reasoning of every answer, or begin it in the prompt."""


@dataclass(frozen=True)
class ParsedAnswer:
    """The parts of an answer."""

    content: str
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class AnswerFormat:
    """The markers of reasoning and the format of calls in the answers of a model."""

    reasoning: tuple[str, str] | None = None
    calls: CallFormat | None = None
    short_call_ids: bool = False
    """True if the template accepts only ids of nine letters and digits."""

    @classmethod
    def of(cls, template: ChatTemplate) -> AnswerFormat:
        """Return the format of the answers that a template writes."""
        features = template.for_tools.features
        calls = None if features.call_sample is None else _format_of(features.call_sample)
        reasoning = None
        if calls is not HARMONY:
            reasoning = _reasoning_markers(template, features.reasoning_sample)
        return cls(reasoning, calls, features.short_call_ids)

    def parser(self, tools: Tools = (), *, prompt_end: str = "", partial: bool = False) -> DeltaParser:
        """Return a parser for one answer. Without tools, the text of calls is content.

        `prompt_end` is the end of the rendered prompt, which may begin the reasoning. With `partial`, calls are
        returned while they are written, otherwise when they are complete.
        """
        if self.calls is HARMONY:
            return HarmonyParser(parse_calls=bool(tools), partial=partial)
        calls, in_reasoning = self.calls if tools else None, self.begins_in_reasoning(prompt_end)
        return AnswerParser(
            reasoning=self.reasoning, in_reasoning=in_reasoning, calls=calls, tools=tools, partial=partial
        )

    def begins_in_reasoning(self, prompt_end: str) -> bool:
        """Return True if the prompt has begun the reasoning of the answer."""
        return self.reasoning is not None and prompt_end.rstrip().endswith(self.reasoning[0])

    @property
    def closings(self) -> tuple[str, ...]:
        """The texts with which a constrained answer is completed."""
        return (*(self.reasoning[1:] if self.reasoning else ()), *(self.calls.closings if self.calls else ()))

    def parse(self, text: str, tools: Tools = (), *, prompt_end: str = "") -> ParsedAnswer:
        """Parse a complete answer."""
        parser = self.parser(tools, prompt_end=prompt_end)
        deltas = [*parser.push(text), *parser.finish()]
        texts = {
            kind: "".join(delta.text for delta in deltas if isinstance(delta, TextDelta) and delta.kind == kind)
            for kind in ("content", "reasoning")
        }
        calls = tuple(delta.call for delta in deltas if isinstance(delta, CallDelta))
        return ParsedAnswer(texts["content"], texts["reasoning"], calls)

    def visible_ids(self, tokenizer: Tokenizer) -> frozenset[int]:
        """Return the special tokens of the format, which the text of an answer must contain."""
        names = (*(self.reasoning or ()), *(self.calls.visible if self.calls else ()))
        # A marker such as `<|channel>thought` begins with a special token.
        ids = {token for name, token in tokenizer.specials.items() if any(part.startswith(name) for part in names)}
        return frozenset(ids)


def _format_of(sample: str) -> CallFormat | None:
    """Return the format that finds the sample call in the text of a template.

    A format with a text that ends the block is preferred: another would take it for a part of the block.
    """
    expected = [(SAMPLE_NAME, {SAMPLE_KEY: f"{SAMPLE_VALUE}0"})]
    if CHANNEL in sample:
        return HARMONY
    formats = []
    for name in CALL_FORMATS:
        format = CALL_FORMATS[name]
        parser = AnswerParser(calls=format)
        deltas = [*parser.push(sample), *parser.finish()]
        calls = [delta.call for delta in deltas if isinstance(delta, CallDelta)]
        if [(call.name, call.values) for call in calls] == expected:
            formats.append(format)
    return max(formats, key=lambda format: len(format.end), default=None)


def _reasoning_markers(template: ChatTemplate, sample: str | None) -> tuple[str, str] | None:
    """Return the texts before and after the reasoning; a template may also know them without a field for it."""
    if sample is not None and SAMPLE_REASONING in sample:
        start, _, rest = sample.partition(SAMPLE_REASONING)
        end = rest.partition(SAMPLE_TEXT)[0]
        if re.fullmatch(r"\S+", start.strip()) and re.fullmatch(r"\S+", end.strip()):
            return start.strip(), end.strip()
    return next(((start, end) for start, end in _KNOWN_REASONING if end in template.source), None)
