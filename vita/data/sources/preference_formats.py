"""The shapes in which people keep what they think of answers: pairs of a better and a worse one, or one with a verdict.

A row's fields tell its format, as with dialogues; the format that needs most of them wins. A new one is one decorated
function, which gives every `Pair` or `Verdict` of a row, or the `Flaw` for which there is none.

    detect({"prompt": "Hi.", "chosen": "Good day!", "rejected": "What?"}).name   # "pair"
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from vita.data.records import Message
from vita.data.sources.dialogue_formats import Format, entered
from vita.data.sources.fields import Misfit
from vita.data.sources.flaws import Flaw, answer_flaw
from vita.data.sources.messages import Messages, Row, first, instruction, side, string, system, text, turn, turns
from vita.spine.parts import Parts


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt, the better one first."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    margin: float | None = None


@dataclass(frozen=True)
class Verdict:
    """An answer to a prompt that was found good or bad."""

    prompt: tuple[Message, ...]
    answer: tuple[Message, ...]
    good: bool


Opinion = Pair | Verdict | Flaw

FORMATS: Parts[Format[list[Opinion]]] = Parts("preference_format")


VERDICTS = ("verdict", "chat_verdict", "instruction_verdict")
"""Formats whose rows hold one answer with a verdict."""


def detect(row: Row) -> Format[list[Opinion]] | None:
    """The format that needs most of the row's fields, if any."""
    fitting = [FORMATS[name] for name in FORMATS if FORMATS[name].fits(row)]
    return max(fitting, key=lambda format: len(format.needs), default=None)


def examined(opinion: Opinion) -> Opinion:
    """The opinion, or the flaw that makes it useless."""
    if isinstance(opinion, Flaw):
        return opinion
    answers = (opinion.chosen, opinion.rejected) if isinstance(opinion, Pair) else (opinion.answer,)
    if not opinion.prompt:
        return Flaw("no_prompt", "nothing stands before the answers that both share")
    flaw = next((flaw for answer in answers if (flaw := answer_flaw(answer, ends=True))), None)
    if flaw:
        return flaw
    if len(set(answers)) < len(answers):
        return Flaw("same", "both answers are the same")
    return opinion


def preference_format(
    name: str, *needs: str, reads: Iterable[str] = ()
) -> Callable[[Callable[[Row], list[Opinion]]], Callable[[Row], list[Opinion]]]:
    """Enter a conversion in the table. A needed field with several names is written `output|response`."""
    return entered(FORMATS, name, needs, reads)


# -- pairs


@preference_format("pair", "prompt", "chosen", "rejected", reads=["system", "margin"])
def pair(row: Row) -> list[Opinion]:
    """`prompt`, `chosen` and `rejected`; each a text, a message or a list of messages."""
    return [_paired(row, [*system(row), *_prompt(row, "prompt")])]


@preference_format("chat_pair", "conversations|conversation|messages", "chosen", "rejected", reads=["system", "margin"])
def chat_pair(row: Row) -> list[Opinion]:
    """A list of messages that the answers follow: ShareGPT rows of LLaMA-Factory, and `messages`."""
    field = first(row, "messages", "conversations", "conversation")
    return [_paired(row, [*system(row), *turns(row, field)])]


@preference_format(
    "instruction_pair", "instruction|question", "chosen", "rejected", reads=["input", "context", "system", "margin"]
)
def instruction_pair(row: Row) -> list[Opinion]:
    """`instruction`, perhaps with `input`, or `question`, and the answers."""
    asked = instruction(row) if "instruction" in row else text(row, "question")
    return [_paired(row, [*system(row), Message("user", asked)])]


@preference_format("implicit_pair", "chosen", "rejected", reads=["system", "margin"])
def implicit_pair(row: Row) -> list[Opinion]:
    """Answers that hold the prompt themselves: transcripts with `Human:` and `Assistant:`, messages, or plain texts.

    The prompt is what both begin with: whole messages, or the words of plain texts.
    """
    if all(isinstance(row[name], str) and not _is_transcript(row[name]) for name in ("chosen", "rejected")):
        prompt, chosen, rejected = _split_texts(row["chosen"], row["rejected"])
        return [Pair((*system(row), Message("user", prompt)) if prompt else (), chosen, rejected, _margin(row))]
    return [_paired(row, system(row))]


@preference_format("two_outputs", "instruction|prompt", "output_1", "output_2", "preference", reads=["input"])
def two_outputs(row: Row) -> list[Opinion]:
    """`output_1` and `output_2` with `preference`: 1 for the first, 2 for the second, as AlpacaEval writes it."""
    said = row["preference"]
    asked = instruction(row) if "instruction" in row else text(row, "prompt")
    outputs = [_answer(text(row, name)) for name in ("output_1", "output_2")]
    if not isinstance(said, (int, float)) or not 1 <= said <= 2 or said == 1.5:
        return [Flaw("tie", f"`preference` is {said}")]
    chosen, rejected = outputs if said < 1.5 else outputs[::-1]
    return [Pair((Message("user", asked),), chosen, rejected)]


@preference_format("predictions", "question", "prediction 1", "prediction 2", "preference", reads=["passages"])
def predictions(row: Row) -> list[Opinion]:
    """`prediction 1`, `prediction 2`, ... and for each two of them, in order, 1 or 2 for the better one, 0 for a tie.

    The `passages` that the answers rest on stand before the question (Fine-Grained RLHF).
    """
    answers = [text(row, name) for name in sorted(name for name in row if re.fullmatch(r"prediction \d+", name))]
    said, pairs = row["preference"], list(combinations(answers, 2))
    if not isinstance(said, (list, tuple)) or len(said) != len(pairs):
        raise Misfit(f"`preference` is not a list of {len(pairs)} values, one for each two predictions")
    passages = ["\n".join(string(line, "passages") for line in passage) for passage in row.get("passages") or []]
    prompt = (Message("user", "\n\n".join([*passages, text(row, "question")])),)
    found: list[Opinion] = []
    for (one, other), better in zip(pairs, said, strict=True):
        if better not in (1, 2):
            found.append(Flaw("tie", f"`preference` is {better}"))
        else:
            chosen, rejected = (one, other) if better == 1 else (other, one)
            found.append(Pair(prompt, _answer(chosen), _answer(rejected)))
    return found


@preference_format("responses", "prompt", "response_0", "response_1", "better_response_id")
def responses(row: Row) -> list[Opinion]:
    """`response_0` and `response_1` with `better_response_id` (PKU-SafeRLHF)."""
    better, answers = row["better_response_id"], [_answer(text(row, f"response_{number}")) for number in (0, 1)]
    if better not in (0, 1):
        raise Misfit(f"`better_response_id` is {better!r}, not 0 or 1")
    return [Pair(tuple(_prompt(row, "prompt")), answers[better], answers[1 - better])]


# -- answers with a verdict


@preference_format("verdict", "prompt", "completion|response", "label|kto_tag", reads=["system"])
def verdict(row: Row) -> list[Opinion]:
    """`prompt`, `completion` and `label` (true or false)."""
    answer = _messages(row[first(row, "completion", "response")], "completion")
    return [Verdict((*system(row), *_prompt(row, "prompt")), tuple(answer), _label(row))]


@preference_format("chat_verdict", "messages|conversations|conversation", "label|kto_tag", reads=["system"])
def chat_verdict(row: Row) -> list[Opinion]:
    """A list of messages whose last one, the assistant's, is judged by `label` or `kto_tag`."""
    told = [*system(row), *turns(row, first(row, "messages", "conversations", "conversation"))]
    return [Verdict(tuple(told[:-1]), tuple(told[-1:]), _label(row))]


@preference_format("instruction_verdict", "instruction", "output|response", "label|kto_tag", reads=["input", "system"])
def instruction_verdict(row: Row) -> list[Opinion]:
    """`instruction`, perhaps `input`, `output`, and `label` or `kto_tag`."""
    prompt = (*system(row), Message("user", instruction(row)))
    return [Verdict(prompt, _answer(text(row, first(row, "output", "response"))), _label(row))]


def _label(row: Row) -> bool:
    said = row[first(row, "label", "kto_tag")]
    if said in (True, False):  # also 1 and 0
        return bool(said)
    raise Misfit(f"the label is {said!r}, not true or false")


# -- reading prompts and answers

_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")


def _is_transcript(value: str) -> bool:
    return re.match(r"\s*Human:", value) is not None and "\n\nAssistant:" in value


def _transcript(value: str) -> Messages:
    """The turns of `\\n\\nHuman: ... \\n\\nAssistant: ...`, as Anthropic's HH-RLHF writes dialogues."""
    _, *parts = _SPEAKER.split(value)
    said = zip(parts[::2], parts[1::2], strict=True)
    return [Message("user" if who == "Human" else "assistant", words.strip()) for who, words in said]


def _prompt(row: Row, field: str) -> Messages:
    value = row[field]
    if isinstance(value, str) and _is_transcript(value):
        told = _transcript(value)
        return told[:-1] if told[-1].role == "assistant" and not told[-1].content else told
    return side(row, field, "user")


def _answer(words: str) -> tuple[Message, ...]:
    return (Message("assistant", words),)


def _messages(value: Any, field: str) -> Messages:
    """An answer: a text, a message, a list of messages, or a whole transcript."""
    if isinstance(value, str):
        return _transcript(value) if _is_transcript(value) else [*_answer(value)]
    if isinstance(value, (list, tuple)):
        return turns({field: value}, field) if value else []
    return [turn(value, field)]


def _paired(row: Row, prompt: Sequence[Message]) -> Pair:
    """The pair, with what both answers begin with moved to the prompt.

    Length-normalised losses would otherwise count the shared words among the answers'.
    """
    chosen, rejected = _messages(row["chosen"], "chosen"), _messages(row["rejected"], "rejected")
    if chosen and rejected and chosen[0].role != "assistant" and rejected[0].role != "assistant":
        shared = _shared(chosen, rejected)
        chosen, rejected, whole = chosen[len(shared) :], rejected[len(shared) :], shared
        prompt = whole if whole[: len(prompt)] == list(prompt) else [*prompt, *whole]
    return Pair(tuple(prompt), tuple(chosen), tuple(rejected), _margin(row))


def _shared(one: Messages, other: Messages) -> Messages:
    count = _common(one, other)
    if count and one[count - 1].role == "assistant" and count in (len(one), len(other)):
        count -= 1  # the shorter one's answer stays an answer
    return one[:count]


def _split_texts(chosen: str, rejected: str) -> tuple[str, tuple[Message, ...], tuple[Message, ...]]:
    """Plain texts cut at the last space of what both begin with."""
    at = max(0, chosen.rfind(" ", 0, _common(chosen, rejected)))
    return chosen[:at], _answer(chosen[at:].lstrip()), _answer(rejected[at:].lstrip())


def _common(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How long the beginning is that both share."""
    differing = (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))


def _margin(row: Row) -> float | None:
    said = row.get("margin")
    if said is None:
        return None
    if isinstance(said, bool) or not isinstance(said, (int, float)):
        raise Misfit(f"`margin` is {said!r}, not a number")
    return float(said)
