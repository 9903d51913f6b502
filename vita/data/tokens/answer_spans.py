"""Location of the assistant's answers in a rendered dialogue, for templates with and without `{% generation %}`.

    text = render(messages, False)
    located = locate_contents(render, messages, text, probes=probes)
    answers = find_answers(render, messages, text, located, markers=markers, stops=stops, probes=probes)

A message is located by rendering the dialogue again with an unused character in place of its content. The difference
between the two renderings is the text of the message. An answer begins after the template's prompt for it, and ends
with the special token that the template writes for this turn. Text that the template writes only after the last turn is
detected by rendering the dialogue up to the answer. A span that reaches another message is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from vita.data.tokens.template_messages import content_of, has_calls, is_structured, with_probe
from vita.spine.errors import DataError

Content = Mapping[str, Any]
"""A message as the template reads it."""
Render = Callable[[Sequence[Content], bool | None], str]
"""(messages, add_generation_prompt) -> text; None stands for the value of the original rendering."""
Markers = Callable[[str], "Sequence[TextSpan]"]
"""text -> the spans of the special tokens in a text that a template wrote."""

HINT = "put {% generation %} and {% endgeneration %} around what the assistant writes, or correct the template"


class TextSpan(NamedTuple):
    """Characters [start, end) of a text."""

    start: int
    end: int

    def overlaps(self, other: TextSpan) -> bool:
        """Return True if both spans have a character in common."""
        return self.start < other.end and other.start < self.end

    def contains(self, other: TextSpan) -> bool:
        """Return True if this span contains all characters of `other`."""
        return self.start <= other.start and other.end <= self.end


@dataclass(frozen=True)
class AnswerSpan:
    """An assistant's answer in a rendered dialogue."""

    span: TextSpan
    """The text that the model is to generate, with the end of the turn if the template writes one."""
    content: TextSpan
    """The message's own text."""
    end: TextSpan | None
    """The text that ends the turn: a special token, or text such as `<|end|>` that the template writes in any case."""


def locate_contents(
    render: Render, messages: Sequence[Content], text: str, *, probes: Sequence[str]
) -> list[list[TextSpan]]:
    """Locate the text of each message in `text`; the list is empty if the template omits the message.

    The text of a message with reasoning or calls is one span from its first to its last part. `probes` are characters
    that neither the messages nor the template contain: one for each message, and one for the names of functions.
    """
    if not any(map(is_structured, messages)):
        probed = [with_probe(message, probe) for message, probe in zip(messages, probes, strict=False)]
        located = _align(_try(render, probed, None), text, messages, probes[: len(messages)])
        if located is not None:
            return located
    return [_locate(render, messages, text, number=number, probes=probes) for number in range(len(messages))]


def find_answers(
    render: Render,
    messages: Sequence[Content],
    text: str,
    located: Sequence[Sequence[TextSpan]],
    *,
    markers: Markers,
    stops: Collection[str],
    probes: Sequence[str],
) -> dict[int, AnswerSpan]:
    """Locate the answers of a template without `{% generation %}`; return them by message number.

    `stops` are the special tokens at which generation ends.
    """
    finder = _AnswerFinder(render, messages, text, located, markers, stops, probes)
    answers = {number: finder.find(number) for number, message in enumerate(messages) if message["role"] == "assistant"}
    _refuse_overlaps(answers, located)
    return answers


def check_marked(spans: Sequence[TextSpan], messages: Sequence[Content], located: Sequence[Sequence[TextSpan]]) -> None:
    """Raise an error if a `{% generation %}` block contains the text of another role."""
    for message, contents in zip(messages, located, strict=True):
        if message["role"] == "assistant":
            continue
        if any(span.overlaps(content) for span in spans for content in contents):
            raise DataError(
                "chat template",
                f"has a {{% generation %}} block around the text of a {message['role']} message",
                hint="put the block around what the assistant writes alone",
            )


def assign_marked(
    spans: Sequence[TextSpan], messages: Sequence[Content], located: Sequence[Sequence[TextSpan]]
) -> list[tuple[int, TextSpan]]:
    """Return the message number and the content span of each `{% generation %}` block.

    A block without content, such as one around the end of the turn, belongs to the answer before it.
    """
    contents = [
        (number, content)
        for number, message in enumerate(messages)
        if message["role"] == "assistant"
        for content in located[number]
    ]
    owners: list[tuple[int, TextSpan]] = []
    for span in spans:
        inside = [(number, content) for number, content in contents if _belongs(span, content, messages[number])]
        if not inside and owners and _is_adjacent(owners[-1], span, located):
            inside = owners[-1:]
        if len({number for number, _ in inside}) > 1 or not inside:
            raise DataError(
                "chat template",
                "has a {% generation %} block that does not hold exactly one answer",
                hint="put one block around what the assistant writes in each of its turns",
            )
        owners.append(inside[0])
    return owners


def _belongs(span: TextSpan, content: TextSpan, message: Content) -> bool:
    """Return True if a block contains the content of a message, or a part of the text of a structured message."""
    return span.contains(content) or (is_structured(message) and span.overlaps(content))


def _is_adjacent(owner: tuple[int, TextSpan], span: TextSpan, located: Sequence[Sequence[TextSpan]]) -> bool:
    """Return True if no message is written between an answer and a block."""
    gap = TextSpan(owner[1].end, span.end)
    return owner[1].end <= span.start and not any(gap.overlaps(content) for contents in located for content in contents)


@dataclass(frozen=True)
class _AnswerFinder:
    render: Render
    messages: Sequence[Content]
    text: str
    located: Sequence[Sequence[TextSpan]]
    markers: Markers
    stops: Collection[str]
    probes: Sequence[str]

    def find(self, number: int) -> AnswerSpan:
        """Locate the answer of message `number`."""
        if len(self.located[number]) != 1:
            raise _unclear(number)
        content = self.located[number][0]
        if not self.text[content.start : content.end].strip() and content_of(self.messages[number]).strip():
            raise _unclear(number)
        neighbours = [span for index, spans in enumerate(self.located) if index != number for span in spans]
        before = max((span.end for span in neighbours if span.end <= content.start), default=0)
        after = min((span.start for span in neighbours if span.start >= content.end), default=len(self.text))
        start = self._start(number, TextSpan(before, content.start))
        end = self._end(number, TextSpan(content.end, after))
        return AnswerSpan(TextSpan(start, end.end if end else content.end), content, end)

    def _start(self, number: int, gap: TextSpan) -> int:
        """Return the start of the answer, after its prompt; `gap` is the template's text before the content."""
        header = self._header(number)
        if header is None:
            return gap.end
        before = self.text[gap.start : gap.end]
        shared = common_prefix(header, before)
        if shared < len(header):  # the template writes another beginning here, for example without `<think>`
            shared = max((index + 1 for index in range(shared) if before[index].isspace()), default=shared)
        start = gap.start + shared
        if self.messages[number - 1]["role"] == "assistant":
            start = max(start, gap.end - self._prefix_length(before))
        inside = (marker.start for marker in self.markers(self.text) if marker.start < start < marker.end)
        return next(inside, start)

    def _prefix_length(self, before: str) -> int:
        """Return the length of the text before an answer that belongs to it, for an answer that follows another answer.

        A template may write no prompt after an answer, although it writes the header of the next one. The header is
        therefore taken from an answer to a user: it is what the prompt for this answer holds too.
        """
        first, second = self.probes[:2]
        turns: list[Content] = [{"role": "user", "content": first}, {"role": "assistant", "content": second}]
        prompt, dialogue = _try(self.render, turns[:1], True), _try(self.render, turns, False)
        if prompt is None or dialogue is None or first not in prompt or first not in dialogue or second not in dialogue:
            return len(before)
        gap = dialogue[dialogue.rfind(first) + 1 : dialogue.rfind(second)]
        prefix = gap[common_prefix(prompt[prompt.rfind(first) + 1 :], gap) :]
        return len(prefix) if before.endswith(prefix) else len(before)

    def _end(self, number: int, gap: TextSpan) -> TextSpan | None:
        """Return the end of the turn; `gap` is the template's text after the answer.

        The end is the first special token that belongs to the turn. If there is none and other turns follow, the end is
        the text that the template always writes after the answer, such as `<|end|>` as plain text.
        """
        trailer = self.text[gap.start : gap.end]
        if number + 1 == len(self.messages) and gap.end == len(self.text):
            final, shared = trailer, len(trailer)
        else:
            final = self._text_after(number, prompt=False) or ""
            shared = common_prefix(trailer, final)
        marker = self._end_marker(number, trailer[:shared])
        if marker is None or self._begins_a_turn(number, trailer[marker.start : marker.end]):
            length = self._plain_end(trailer, final, shared) if shared < len(trailer) else 0
            return TextSpan(gap.start, gap.start + length) if length else None
        return TextSpan(gap.start, gap.start + marker.end)

    def _end_marker(self, number: int, trailer: str) -> TextSpan | None:
        """Return the special token that ends the turn; `trailer` is the text that always follows the content.

        Others may come first: one that ends the content, as in Cohere's templates, or those that end a call.
        """
        markers = list(self.markers(trailer))
        if not has_calls(self.messages[number]):
            markers = _adjacent(markers)
            stop = (marker for marker in markers if trailer[marker.start : marker.end] in self.stops)
            return next(stop, markers[0] if markers else None)
        stops = (marker for marker in markers if trailer[marker.start : marker.end] in self.stops)
        return next(stops, markers[-1] if markers else None)

    def _plain_end(self, trailer: str, final: str, shared: int) -> int:
        """Return the length of the plain text that always ends an answer, without special tokens and partial words.

        `trailer` and `final` are the texts after the answer with and without the messages that follow it.
        """
        first = min((span.start for text in (trailer, final) for span in self.markers(text)), default=shared + 1)
        if first <= shared:
            return len(trailer[:first].rstrip())
        if shared < len(final) and not trailer[shared].isspace() and not final[shared].isspace():
            while shared and not trailer[shared - 1].isspace():
                shared -= 1
        return len(trailer[:shared].rstrip())

    def _header(self, number: int) -> str | None:
        """Return the prompt text between the previous message and an answer; None if there is no such prompt."""
        return self._text_after(number - 1, prompt=True) if number else None

    def _text_after(self, number: int, *, prompt: bool) -> str | None:
        """Return the text after message `number` in the dialogue that ends with it, with or without a prompt.

        Return None if the template refuses the dialogue or omits the message.
        """
        messages = self.messages[: number + 1]
        if has_calls(messages[-1]):  # the end of the calls depends on their arguments, so they cannot be probes
            text = _try(self.render, messages, prompt)
            if text is None:
                return None
            render = self.render

            def render_alike(other: Sequence[Content], _: bool | None) -> str:
                return render(other, prompt)

            spans = _locate(render_alike, messages, text, number=number, probes=self.probes)
            return text[spans[-1].end :] if spans else None
        name_probe = self.probes[len(self.messages)]
        probed = [with_probe(message, probe, name_probe) for message, probe in zip(messages, self.probes, strict=False)]
        text = _try(self.render, probed, prompt)
        if text is None:
            return None
        if prompt:
            return text[max(map(text.rfind, self.probes[: number + 1])) + 1 :]
        position = text.rfind(self.probes[number])
        return text[position + 1 :] if position >= 0 else None

    def _begins_a_turn(self, number: int, marker: str) -> bool:
        """Return True if a token that does not stop generation is the last special token of the answer's prompt."""
        header = "" if marker in self.stops else self._header(number) or ""
        markers = self.markers(header)
        return bool(markers) and header[markers[-1].start : markers[-1].end] == marker


def _adjacent(markers: Sequence[TextSpan]) -> list[TextSpan]:
    """Return the first special tokens with no text between them."""
    run = list(markers[:1])
    for marker in markers[1:]:
        if marker.start != run[-1].end:
            break
        run.append(marker)
    return run


def common_prefix(left: str, right: str) -> int:
    """Return the length of the common prefix."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(left), len(right)))


def _refuse_overlaps(answers: Mapping[int, AnswerSpan], located: Sequence[Sequence[TextSpan]]) -> None:
    for number, answer in answers.items():
        for other, contents in enumerate(located):
            if other != number and any(answer.span.overlaps(content) for content in contents):
                raise DataError(
                    "chat template",
                    f"mixes the text of message {other + 1} with answer {number + 1}, which would be learned too",
                    hint=HINT,
                )


def _unclear(number: int) -> DataError:
    return DataError("chat template", f"does not show where answer {number + 1} begins and ends", hint=HINT)


def _try(render: Render, messages: Sequence[Content], add_generation_prompt: bool | None) -> str | None:
    """Return the rendered text, or None if the template refuses the dialogue."""
    try:
        return render(messages, add_generation_prompt)
    except DataError:
        return None


# -- contents


def _align(
    probed: str | None, text: str, messages: Sequence[Content], probes: Sequence[str]
) -> list[list[TextSpan]] | None:
    """Locate all contents from one rendering with probes, if `text` is equal apart from the contents.

    Return None if it is not, because the text of the template depends on the contents.
    """
    if probed is None:
        return None
    numbers = {probe: number for number, probe in enumerate(probes)}
    positions = [index for index, character in enumerate(probed) if character in numbers]
    located: list[list[TextSpan]] = [[] for _ in messages]
    if not positions:
        return located if text == probed else None
    start = positions[0]
    if not text.startswith(probed[:start]):
        return None
    for position, following in zip(positions, [*positions[1:], len(probed)], strict=True):
        literal = probed[position + 1 : following]
        number = numbers[probed[position]]
        written = _written(text, start, content_of(messages[number]), literal, last=following == len(probed))
        if written is None:
            return None
        located[number].append(TextSpan(start, start + len(written)))
        start += len(written) + len(literal)
    return located if start == len(text) else None


def _written(text: str, start: int, content: str, literal: str, *, last: bool) -> str | None:
    """Return the content as the template wrote it at `start`, with or without surrounding white space."""
    for form in (content, content.strip(), content.rstrip(), content.lstrip()):
        end = start + len(form)
        if (
            text.startswith(form, start)
            and text.startswith(literal, end)
            and (not last or end + len(literal) == len(text))
        ):
            return form
    return None


def _locate(
    render: Render, messages: Sequence[Content], text: str, *, number: int, probes: Sequence[str]
) -> list[TextSpan]:
    """Locate one message by the difference to a rendering in which only this message is a probe."""
    if is_structured(messages[number]):
        return _locate_structured(render, messages, text, number=number, probes=probes)
    probe = probes[number]
    rendered = _render_with_probe(render, messages, number, probe)
    count = rendered.count(probe)
    if not count:
        return []
    aligned = _align(rendered, text, [messages[number]], [probe])
    if aligned is not None:
        return aligned[0]
    start = common_prefix(text, rendered[: rendered.find(probe)])
    suffix = rendered[rendered.rfind(probe) + 1 :]
    shared = common_prefix(text[start:][::-1], suffix[::-1])
    return [TextSpan(start, len(text) - shared)] * count


def _locate_structured(
    render: Render, messages: Sequence[Content], text: str, *, number: int, probes: Sequence[str]
) -> list[TextSpan]:
    """Return the span from the first to the last part of a message with reasoning or calls.

    The names of its functions can begin the span. They are not probes in the rendering that gives the end, because a
    template may repeat them in later messages.
    """
    probe, name_probe = probes[number], probes[-1]
    rendered = _render_with_probe(render, messages, number, probe, name_probe)
    starts = [position for position in (rendered.find(probe), rendered.find(name_probe)) if position >= 0]
    named = _render_with_probe(render, messages, number, probe, None)
    last = named.rfind(probe)
    if not starts or last < 0:
        return []
    start = common_prefix(text, rendered[: min(starts)])
    suffix = named[last + 1 :]
    shared = common_prefix(text[start:][::-1], suffix[::-1])
    return [TextSpan(start, len(text) - shared)]


def _render_with_probe(
    render: Render, messages: Sequence[Content], number: int, probe: str, name_probe: str | None = None
) -> str:
    """Return the dialogue in which the texts of one message are a probe."""
    probed = with_probe(messages[number], probe, name_probe)
    rendered = _try(render, [*messages[:number], probed, *messages[number + 1 :]], None)
    if rendered is None:
        raise DataError("chat template", f"does not show which text is message {number + 1}'s", hint=HINT)
    return rendered
