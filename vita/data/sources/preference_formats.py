"""Preference formats: rows with pairs of a chosen and a rejected answer, or with one rated answer.

Formats are detected by the fields of a row, as for dialogues; the format with the most required fields is chosen. A new
format is one decorated function that returns every `PreferenceRow` or `UnpairedPreferenceRow` of a row, or the `Flaw`
that makes it unusable.

    detect({"prompt": "Hi.", "chosen": "Good day!", "rejected": "What?"}).name   # "pair"
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from vita.data.records import Message
from vita.data.sources.dialogue_formats import RowFormat, register_format
from vita.data.sources.fields import FormatMismatch
from vita.data.sources.flaws import Flaw, answer_flaw
from vita.data.sources.messages import (
    Messages,
    Row,
    first_field,
    instruction_text,
    parse_field,
    parse_message,
    parse_messages,
    parse_text,
    parse_text_or_messages,
    system_messages,
)
from vita.spine.registry import Registry


@dataclass(frozen=True)
class PreferenceRow:
    """A prompt with a chosen and a rejected answer."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    margin: float | None = None


@dataclass(frozen=True)
class UnpairedPreferenceRow:
    """A prompt with an answer that was rated good or bad."""

    prompt: tuple[Message, ...]
    answer: tuple[Message, ...]
    good: bool


Opinion = PreferenceRow | UnpairedPreferenceRow | Flaw

FORMATS: Registry[RowFormat[list[Opinion]]] = Registry("preference_format")


VERDICTS = ("verdict", "chat_verdict", "instruction_verdict")
"""Formats whose rows contain one rated answer."""


def detect(row: Row) -> RowFormat[list[Opinion]] | None:
    """Return the matching format with the most required fields, or None."""
    fitting = [FORMATS[name] for name in FORMATS if FORMATS[name].fits(row)]
    return max(fitting, key=lambda format: len(format.needs), default=None)


def check_opinion(opinion: Opinion) -> Opinion:
    """Return the opinion, or the flaw that makes it unusable."""
    if isinstance(opinion, Flaw):
        return opinion
    answers = (opinion.chosen, opinion.rejected) if isinstance(opinion, PreferenceRow) else (opinion.answer,)
    if not opinion.prompt:
        return Flaw("no_prompt", "there is no prompt before the answers")
    flaw = next((flaw for answer in answers if (flaw := answer_flaw(answer, at_end=True))), None)
    if flaw:
        return flaw
    if len(set(answers)) < len(answers):
        return Flaw("same", "both answers are the same")
    return opinion


def preference_format(
    name: str, *needs: str, reads: Iterable[str] = ()
) -> Callable[[Callable[[Row], list[Opinion]]], Callable[[Row], list[Opinion]]]:
    """Register a conversion. A required field with alternative names is written `output|response`."""
    return register_format(FORMATS, name, needs, reads)


# -- pairs


@preference_format("pair", "prompt", "chosen", "rejected", reads=["system", "margin"])
def pair(row: Row) -> list[Opinion]:
    """Convert `prompt`, `chosen` and `rejected`; each a text, a message or a list of messages."""
    return [_pair_of(row, [*system_messages(row), *_parse_prompt(row, "prompt")])]


@preference_format("chat_pair", "conversations|conversation|messages", "chosen", "rejected", reads=["system", "margin"])
def chat_pair(row: Row) -> list[Opinion]:
    """Convert a list of messages with two answers: ShareGPT rows of LLaMA-Factory, and `messages`."""
    field = first_field(row, "messages", "conversations", "conversation")
    return [_pair_of(row, [*system_messages(row), *parse_messages(row, field)])]


@preference_format(
    "instruction_pair", "instruction|question", "chosen", "rejected", reads=["input", "context", "system", "margin"]
)
def instruction_pair(row: Row) -> list[Opinion]:
    """Convert `instruction` with optional `input`, or `question`, and the answers."""
    question = instruction_text(row) if "instruction" in row else parse_field(row, "question")
    return [_pair_of(row, [*system_messages(row), Message("user", question)])]


@preference_format("implicit_pair", "chosen", "rejected", reads=["system", "margin"])
def implicit_pair(row: Row) -> list[Opinion]:
    """Convert answers that contain the prompt: transcripts with `Human:` and `Assistant:`, messages, or plain texts.

    The prompt is the common prefix of both: whole messages, or words of plain texts.
    """
    if all(isinstance(row[name], str) and not _is_transcript(row[name]) for name in ("chosen", "rejected")):
        prompt, chosen, rejected = _split_texts(row["chosen"], row["rejected"])
        return [
            PreferenceRow(
                (*system_messages(row), Message("user", prompt)) if prompt else (), chosen, rejected, _parse_margin(row)
            )
        ]
    return [_pair_of(row, system_messages(row))]


@preference_format("two_outputs", "instruction|prompt", "output_1", "output_2", "preference", reads=["input"])
def two_outputs(row: Row) -> list[Opinion]:
    """Convert `output_1` and `output_2` with `preference`: 1 for the first, 2 for the second, as in AlpacaEval."""
    preference = row["preference"]
    question = instruction_text(row) if "instruction" in row else parse_field(row, "prompt")
    outputs = [_answer_message(parse_field(row, name)) for name in ("output_1", "output_2")]
    if not isinstance(preference, (int, float)) or not 1 <= preference <= 2 or preference == 1.5:
        return [Flaw("tie", f"`preference` is {preference}")]
    chosen, rejected = outputs if preference < 1.5 else outputs[::-1]
    return [PreferenceRow((Message("user", question),), chosen, rejected)]


@preference_format("predictions", "question", "prediction 1", "prediction 2", "preference", reads=["passages"])
def predictions(row: Row) -> list[Opinion]:
    """Convert `prediction 1`, `prediction 2`, ... with 1 or 2 for the better one of each pair in order, 0 for a tie.

    The `passages` on which the answers are based come before the question (Fine-Grained RLHF).
    """
    answers = [parse_field(row, name) for name in sorted(name for name in row if re.fullmatch(r"prediction \d+", name))]
    preferences, pairs = row["preference"], list(combinations(answers, 2))
    if not isinstance(preferences, (list, tuple)) or len(preferences) != len(pairs):
        raise FormatMismatch(f"`preference` is not a list of {len(pairs)} values, one for each pair of predictions")
    passages = ["\n".join(parse_text(line, "passages") for line in passage) for passage in row.get("passages") or []]
    prompt = (Message("user", "\n\n".join([*passages, parse_field(row, "question")])),)
    opinions: list[Opinion] = []
    for (left, right), better in zip(pairs, preferences, strict=True):
        if better not in (1, 2):
            opinions.append(Flaw("tie", f"`preference` is {better}"))
        else:
            chosen, rejected = (left, right) if better == 1 else (right, left)
            opinions.append(PreferenceRow(prompt, _answer_message(chosen), _answer_message(rejected)))
    return opinions


@preference_format("responses", "prompt", "response_0", "response_1", "better_response_id")
def responses(row: Row) -> list[Opinion]:
    """Convert `response_0` and `response_1` with `better_response_id` (PKU-SafeRLHF)."""
    better, answers = (
        row["better_response_id"],
        [_answer_message(parse_field(row, f"response_{number}")) for number in (0, 1)],
    )
    if better not in (0, 1):
        raise FormatMismatch(f"`better_response_id` is {better!r}, not 0 or 1")
    return [PreferenceRow(tuple(_parse_prompt(row, "prompt")), answers[better], answers[1 - better])]


# -- rated answers


@preference_format("verdict", "prompt", "completion|response", "label|kto_tag", reads=["system"])
def verdict(row: Row) -> list[Opinion]:
    """Convert `prompt`, `completion` and `label` (true or false)."""
    answer = _parse_answer(row[first_field(row, "completion", "response")], "completion")
    return [
        UnpairedPreferenceRow((*system_messages(row), *_parse_prompt(row, "prompt")), tuple(answer), _parse_label(row))
    ]


@preference_format("chat_verdict", "messages|conversations|conversation", "label|kto_tag", reads=["system"])
def chat_verdict(row: Row) -> list[Opinion]:
    """Convert a list of messages whose last one, the assistant's, is rated by `label` or `kto_tag`."""
    messages = [
        *system_messages(row),
        *parse_messages(row, first_field(row, "messages", "conversations", "conversation")),
    ]
    return [UnpairedPreferenceRow(tuple(messages[:-1]), tuple(messages[-1:]), _parse_label(row))]


@preference_format("instruction_verdict", "instruction", "output|response", "label|kto_tag", reads=["input", "system"])
def instruction_verdict(row: Row) -> list[Opinion]:
    """Convert `instruction`, optional `input`, `output`, and `label` or `kto_tag`."""
    prompt = (*system_messages(row), Message("user", instruction_text(row)))
    return [
        UnpairedPreferenceRow(
            prompt, _answer_message(parse_field(row, first_field(row, "output", "response"))), _parse_label(row)
        )
    ]


def _parse_label(row: Row) -> bool:
    label = row[first_field(row, "label", "kto_tag")]
    if label in (True, False):  # also 1 and 0
        return bool(label)
    raise FormatMismatch(f"the label is {label!r}, not true or false")


# -- reading prompts and answers

_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")


def _is_transcript(value: str) -> bool:
    return re.match(r"\s*Human:", value) is not None and "\n\nAssistant:" in value


def _parse_transcript(value: str) -> Messages:
    """Parse the turns of `\\n\\nHuman: ... \\n\\nAssistant: ...`, the format of Anthropic's HH-RLHF."""
    _, *parts = _SPEAKER.split(value)
    parse_messages = zip(parts[::2], parts[1::2], strict=True)
    return [
        Message("user" if speaker == "Human" else "assistant", content.strip()) for speaker, content in parse_messages
    ]


def _parse_prompt(row: Row, field: str) -> Messages:
    value = row[field]
    if isinstance(value, str) and _is_transcript(value):
        messages = _parse_transcript(value)
        return messages[:-1] if messages[-1].role == "assistant" and not messages[-1].content else messages
    return parse_text_or_messages(row, field, "user")


def _answer_message(content: str) -> tuple[Message, ...]:
    return (Message("assistant", content),)


def _parse_answer(value: Any, field: str) -> Messages:
    """Parse an answer: a text, a message, a list of messages, or a transcript."""
    if isinstance(value, str):
        return _parse_transcript(value) if _is_transcript(value) else [*_answer_message(value)]
    if isinstance(value, (list, tuple)):
        return parse_messages({field: value}, field) if value else []
    return [parse_message(value, field)]


def _pair_of(row: Row, prompt: Sequence[Message]) -> PreferenceRow:
    """Return the pair, with the messages that both answers begin with moved to the prompt.

    Length-normalized losses would otherwise count the shared words as part of the answers.
    """
    chosen, rejected = _parse_answer(row["chosen"], "chosen"), _parse_answer(row["rejected"], "rejected")
    if chosen and rejected and chosen[0].role != "assistant" and rejected[0].role != "assistant":
        shared = _shared_messages(chosen, rejected)
        chosen, rejected = chosen[len(shared) :], rejected[len(shared) :]
        prompt = shared if shared[: len(prompt)] == list(prompt) else [*prompt, *shared]
    return PreferenceRow(tuple(prompt), tuple(chosen), tuple(rejected), _parse_margin(row))


def _shared_messages(left: Messages, right: Messages) -> Messages:
    count = _common_prefix_length(left, right)
    if count and left[count - 1].role == "assistant" and count in (len(left), len(right)):
        count -= 1  # the last message of the shorter side remains an answer
    return left[:count]


def _split_texts(chosen: str, rejected: str) -> tuple[str, tuple[Message, ...], tuple[Message, ...]]:
    """Split plain texts at the last space of their common prefix."""
    cut = max(0, chosen.rfind(" ", 0, _common_prefix_length(chosen, rejected)))
    return chosen[:cut], _answer_message(chosen[cut:].lstrip()), _answer_message(rejected[cut:].lstrip())


def _common_prefix_length(left: Sequence[Any], right: Sequence[Any]) -> int:
    """Return the length of the common prefix."""
    differences = (index for index, (a, b) in enumerate(zip(left, right, strict=False)) if a != b)
    return next(differences, min(len(left), len(right)))


def _parse_margin(row: Row) -> float | None:
    margin = row.get("margin")
    if margin is None:
        return None
    if isinstance(margin, bool) or not isinstance(margin, (int, float)):
        raise FormatMismatch(f"`margin` is {margin!r}, not a number")
    return float(margin)
