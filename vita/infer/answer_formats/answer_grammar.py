"""The grammar of a whole answer: reasoning that the prompt has begun, then a text of a required form or calls.

grammar = answer_grammar(format, prompt_end="<think>\\n", content=json_grammar(schema))
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vita.infer.answer_formats.answer_format import AnswerFormat
from vita.infer.answer_formats.call_grammars import calls_rules
from vita.infer.answer_formats.call_source import text_until, text_without
from vita.infer.answer_formats.harmony import HARMONY, analysis_rules, final_head
from vita.infer.grammars import GrammarError

Tools = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class CallConstraint:
    """The calls of an answer."""

    tools: Tools
    """The functions that may be called."""
    required: bool
    """True if the answer must be a call; otherwise it may be a text."""
    parallel: bool = True
    sample: str = ""
    """A call as the chat template writes it."""


def answer_grammar(
    format: AnswerFormat,
    *,
    specials: Mapping[str, int],
    prompt_end: str = "",
    content: str | None = None,
    calls: CallConstraint | None = None,
) -> str:
    """Return the grammar of an answer with content of a grammar, with calls, or with either of both.

    `content` is a grammar of `vita.infer.grammars`. `prompt_end` is the end of the rendered prompt, which may begin the
    reasoning. Raises `GrammarError` for a format of calls that cannot be constrained.
    """
    in_reasoning = format.begins_in_reasoning(prompt_end)
    if content is not None and calls is None and not in_reasoning and format.calls is not HARMONY:
        return content
    rules, alternatives, grammars = "", [], []
    if content is not None:
        alternatives.append(f"{final_head(specials)} @content" if format.calls is HARMONY else "@content")
        grammars = [{**grammar, "name": "content"} for grammar in json.loads(content)["grammars"]]
    if calls is not None:
        alternatives.append("calls")
        rules += _calls(format, calls, specials)
        if content is None and not calls.required:
            if format.calls is HARMONY:
                alternatives.append(f"{final_head(specials)} text")
            else:
                alternatives += ["text", "text calls"]
            rules += _text_before_calls(format)
    answer = " | ".join(alternatives)
    if format.calls is HARMONY:
        rules = f"start: ({answer}) | analysis ({answer})\n{rules}{analysis_rules(specials)}"
    elif in_reasoning:
        assert format.reasoning is not None
        reasoning, definition = text_until("REASONING", format.reasoning[1], specials)
        rules = f"start: {reasoning} LINES ({answer})\n{rules}{definition}LINES: /\\n{{0,2}}/\n"
    else:
        rules = f"start: {answer}\n{rules}"
    return json.dumps({"grammars": [{"lark_grammar": rules}, *grammars]})


def _calls(format: AnswerFormat, calls: CallConstraint, specials: Mapping[str, int]) -> str:
    rules = None
    if format.calls is not None:
        rules = calls_rules(format.calls, calls.tools, specials=specials, sample=calls.sample, parallel=calls.parallel)
    if rules is None:
        name = format.calls.name if format.calls else "none"
        raise GrammarError("tools", f"the call format of the model ({name}) cannot be constrained to schemas")
    return rules


def _text_before_calls(format: AnswerFormat) -> str:
    """Return the rule of a text that contains no start of a call."""
    assert format.calls is not None
    if format.calls.start or format.calls is HARMONY:
        return "text: TEXT\n" + text_without("TEXT", format.calls.start or "<|end|>")
    return "text: TEXT\nTEXT: /[^{\\s](.|\\n)*/\n"
