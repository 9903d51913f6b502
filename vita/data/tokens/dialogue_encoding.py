"""Dialogues as tokens, with a mask of the tokens that the model learns.

    encode(tokenizer, template, messages)                  # EncodedDialogue(ids, learn)
    encode_prompt(tokenizer, template, messages)           # only the ids, for generation

The learned tokens are those that the assistant writes: its reasoning, its content, its calls and the end of its turn.
Text between `{% generation %}` and `{% endgeneration %}` is learned, and no such block may contain the text of another
role. For a template without these tags, `answer_spans` locates each answer by rendering the dialogue with and without
it. Names of special tokens inside a message stay plain text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vita.data.records import NO_VARIABLES, Message, TemplateVariables
from vita.data.tokens.answer_spans import TextSpan
from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.jinja_environment import remove_marks
from vita.data.tokens.rendered_dialogue import LearnedAnswer, RenderedDialogue
from vita.data.tokens.template_messages import TemplateInputs
from vita.data.tokens.tokenizer import Tokenizer, TokenSpans
from vita.spine.errors import DataError


@dataclass(frozen=True)
class EncodedDialogue:
    """A dialogue in tokens; `learn` marks the tokens that the model learns."""

    ids: list[int]
    learn: list[bool]
    rewritten: tuple[int, ...] = ()
    """Message numbers of answers that are not learned because the template changes them if other turns follow."""
    omitted: tuple[str, ...] = ()
    """Roles of messages whose text the template omits."""
    altered: bool = False
    """True if the text of a learned answer differs from the row because the template changes it."""


def encode(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Message],
    variables: TemplateVariables = NO_VARIABLES,
    *,
    add_generation_prompt: bool = False,
    learn_from: int = 0,
) -> EncodedDialogue:
    """Encode a dialogue, with the assistant's answers and ends of turn marked as learned.

    Ids equal those of transformers' `apply_chat_template`, except that names of special tokens in a message remain
    plain text. Answers before message `learn_from`, and answers that the row masks, are context only.
    """
    template = template.for_tools if variables.tools else template
    inputs = _protected(tokenizer, template, messages, variables)
    marks = ("", "")
    if template.marks_answers:
        first, second = inputs.unused_characters(template.source, 2)
        marks = (first, second)
    marked_text = template.render_inputs(
        inputs.messages, inputs.variables, add_generation_prompt=add_generation_prompt, marks=marks
    )
    text, marked = remove_marks(marked_text, *marks)
    learned = {number for number, message in enumerate(messages) if message.learned and number >= learn_from}
    layout = RenderedDialogue.of(tokenizer, template, inputs, text, add_generation_prompt=add_generation_prompt)
    answers = layout.marked_answers(marked) if template.marks_answers else layout.find_answers()
    rewritten = layout.rewritten(answers, learned)
    spans = tokenizer.template_spans(text, restore=inputs.restore)
    ids = spans.ids.tolist()
    _check_start(tokenizer, ids)
    _check_end(tokenizer, answers, last=len(messages) - 1)
    _check_last_answer(tokenizer, template, messages, variables, answers)
    learned_answers = [answer for answer in answers if answer.message in learned - set(rewritten)]
    learn = _overlaps(spans, [answer.span for answer in learned_answers])
    altered = any(layout.is_altered(answer) for answer in learned_answers)
    return EncodedDialogue(ids, learn.tolist(), rewritten, layout.omitted(), altered)


def encode_training(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Message],
    variables: TemplateVariables = NO_VARIABLES,
) -> list[EncodedDialogue]:
    """Return the sequences from which all answers of a dialogue are learned.

    This is one sequence, unless the template changes an answer if other turns follow it (for example, it removes the
    reasoning). Such an answer is learned from a separate sequence that ends with it, as it is generated later.
    """
    full = encode(tokenizer, template, messages, variables)
    separate = [encode(tokenizer, template, messages[: n + 1], variables, learn_from=n) for n in full.rewritten]
    return [full, *separate] if any(full.learn) or not separate else separate


def turn_ends(tokenizer: Tokenizer, template: ChatTemplate) -> frozenset[int]:
    """Return the special tokens with which the template ends an answer, inside and at the end of a dialogue.

    Generation must stop at them. The result is empty for a template that refuses a plain dialogue of four turns.
    """
    messages = [Message("user", "a"), Message("assistant", "b"), Message("user", "c"), Message("assistant", "d")]
    try:
        encoded = encode(tokenizer, template, messages)
    except DataError:
        return frozenset()
    last_positions = (
        position
        for position, learn in enumerate(encoded.learn)
        if learn and not any(encoded.learn[position + 1 : position + 2])
    )
    return frozenset(encoded.ids[position] for position in last_positions) & tokenizer.special_ids


def encode_prompt(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Message],
    variables: TemplateVariables = NO_VARIABLES,
    *,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
) -> list[int]:
    """Encode a dialogue that the model is to answer.

    With `continue_final_message` the prompt ends with the content of the last message, which the model continues. No
    learned tokens are computed: a template that changes or drops earlier answers, for example to remove their
    reasoning, can be served although it cannot be used for training.
    """
    template = template.for_tools if variables.tools else template
    inputs = _protected(tokenizer, template, messages, variables)
    if continue_final_message:
        text = _open_text(template, inputs)
    else:
        text = template.render_inputs(inputs.messages, inputs.variables, add_generation_prompt=add_generation_prompt)
    return tokenizer.template_spans(text, restore=inputs.restore).ids.tolist()


def omitted_roles(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Message],
    variables: TemplateVariables = NO_VARIABLES,
) -> tuple[str, ...]:
    """Return the roles of the prompt messages whose text the template omits.

    The result is empty if the text of a message cannot be located in the rendering.
    """
    template = template.for_tools if variables.tools else template
    inputs = _protected(tokenizer, template, messages, variables)
    text = template.render_inputs(inputs.messages, inputs.variables, add_generation_prompt=True)
    try:
        return RenderedDialogue.of(tokenizer, template, inputs, text, add_generation_prompt=True).omitted()
    except DataError:
        return ()


def _protected(
    tokenizer: Tokenizer, template: ChatTemplate, messages: Sequence[Message], variables: TemplateVariables
) -> TemplateInputs:
    """Return the inputs of the template, in which the names of special tokens are replaced by stand-ins."""
    inputs = template.inputs(messages, variables)
    return inputs.protected(tokenizer.specials, pattern=tokenizer.special_pattern, source=template.source)


def _open_text(template: ChatTemplate, inputs: TemplateInputs) -> str:
    """Return the dialogue up to the end of the content of its last message, as transformers does it."""
    last = inputs.messages[-1] if inputs.messages else {}
    if last.get("role") != "assistant" or last.get("tool_calls") or not isinstance(last.get("content"), str):
        expected = "a last message of the assistant with a text and without calls"
        raise DataError("continue_final_message", expected=expected, got="another last message")
    (end,) = inputs.unused_characters(template.source, 1)
    opened = [*inputs.messages[:-1], {**last, "content": f"{last['content']}{end} "}]
    text = template.render_inputs(opened, inputs.variables, add_generation_prompt=False)
    position = text.rfind(end)
    if position < 0:
        raise DataError("chat template", "does not write the last message, which is to be continued")
    keeps_space = text[position + 1 : position + 2] == " "
    return text[:position] if keeps_space else text[:position].rstrip()


# -- learned tokens


def _overlaps(spans: TokenSpans, answers: Iterable[TextSpan]) -> np.ndarray:
    """Return a mask of the tokens that contain a character of an answer."""
    learn = np.zeros(len(spans.ids), dtype=bool)
    for start, end in answers:
        learn |= (spans.starts < end) & (spans.stops > start)
    return learn


def _check_start(tokenizer: Tokenizer, ids: Sequence[int]) -> None:
    """Raise an error if the sequence begins with the BOS token twice."""
    if len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos:
        name = tokenizer.name_of("bos_token")
        raise DataError("chat template", f"begins with {name} twice", hint="remove it from the template or the message")


def _check_last_answer(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Message],
    variables: TemplateVariables,
    answers: Sequence[LearnedAnswer],
) -> None:
    """Raise an error for a template that never ends an answer, also if the dialogue ends with another message.

    An answer may have no end because the template writes the end only after the last message. Therefore the dialogue up
    to this answer is checked.
    """
    if any(answer.has_end for answer in answers) or not answers:
        return
    last = max(answer.message for answer in answers)
    if last == len(messages) - 1:
        return
    try:
        template.render(messages[: last + 1], variables)
    except DataError:  # the template does not write a dialogue that ends here
        return
    encode(tokenizer, template, messages[: last + 1], variables)


def _check_end(tokenizer: Tokenizer, answers: Sequence[LearnedAnswer], *, last: int) -> None:
    """Raise an error if the last answer has no end, because the model would not learn to stop."""
    spans = [answer for answer in answers if answer.message == last]
    if not spans or any(answer.has_end for answer in spans):
        return
    name = tokenizer.decode([tokenizer.end_of_turn], special=True)
    hint = f"put {name} before {{% endgeneration %}}, or right after the answer, so that the model learns to stop"
    raise DataError("chat template", f"leaves {name} out of what is learned of answer {last + 1}", hint=hint)
