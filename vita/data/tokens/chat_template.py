"""Chat templates: dialogues as tokens, with a mask of the tokens that the model learns.

    template = ChatTemplate.load(model_folder)             # or ChatTemplate.default(): ChatML
    encode(tokenizer, template, messages)                  # EncodedDialogue(ids, learn)
    encode_prompt(tokenizer, template, messages)           # only the ids, for generation

The template is the one in the model's folder, so training, testing and serving see the same tokens. Text between
`{% generation %}` and `{% endgeneration %}` is learned, and no such block may contain the text of another role.
For a template without these tags, `answers` locates each answer by rendering the dialogue with and without it. Names
of special tokens inside a message stay plain text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vita.data.records import Message
from vita.data.tokens.answer_spans import (
    Content,
    Render,
    TextSpan,
    assign_marked,
    check_marked,
    find_answers,
    locate_contents,
)
from vita.data.tokens.tokenizer import Tokenizer, TokenSpans, read_settings
from vita.spine.errors import DataError, ModelError
from vita.spine.model_files import ModelFiles, ModelFolder

CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}
    {%- else %}
        {{- message['content'] + '<|im_end|>' }}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
"""The default template: `<|im_start|>role`, the content, `<|im_end|>`."""

FILE = "chat_template.jinja"

TRAINING_DATE = datetime(2024, 7, 26)
"""The date for templates in training and testing, so that results do not depend on the day.

It is the date that the templates of Llama 3 use if no clock is available.
"""


def training_clock() -> datetime:
    """Return `TRAINING_DATE`."""
    return TRAINING_DATE


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


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template with the names of the special tokens that it may use (`bos_token`, ...)."""

    source: str
    names: Mapping[str, str] = field(default_factory=dict)
    clock: Callable[[], datetime] = training_clock
    """Clock of `strftime_now`; a server uses the real time (`with_clock`)."""

    @classmethod
    def default(cls) -> ChatTemplate:
        """Return the ChatML template."""
        return cls(CHATML)

    @classmethod
    def load(cls, folder: ModelFolder) -> ChatTemplate:
        """Load the template of a model's folder: `chat_template.jinja`, else the one in `tokenizer_config.json`."""
        files = ModelFiles.of(folder)
        config = read_settings(files, "tokenizer_config.json")
        source = config.get("chat_template")
        if isinstance(source, list):  # several named templates
            source = {template["name"]: template["template"] for template in source}.get("default")
        if files.exists(FILE):
            source = files.text(FILE)
        if not source:
            hint = "tune it with `vita sft` first, or put a chat_template.jinja there"
            raise ModelError(
                str(folder), "holds no chat template: a base model continues text, it does not chat", hint=hint
            )
        return cls(source, _special_names({**read_settings(files, "special_tokens_map.json"), **config}))

    def with_clock(self, clock: Callable[[], datetime]) -> ChatTemplate:
        """Return the same template with another clock."""
        return replace(self, clock=clock)

    def save(self, folder: str | Path) -> None:
        """Write `chat_template.jinja`."""
        (Path(folder) / FILE).write_text(self.source, encoding="utf-8")

    def save_where_missing(self, folder: str | Path) -> None:
        """Write `chat_template.jinja` unless the folder contains a template, which is not changed."""
        try:
            ChatTemplate.load(folder)
        except ModelError:
            self.save(folder)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """Return the dialogue as text, equal to transformers' `apply_chat_template(tokenize=False)`."""
        return self._render(_plain(messages), add_generation_prompt=add_generation_prompt, marks=("", ""))

    @cached_property
    def marks_answers(self) -> bool:
        """Return True if the template marks the learned text with `{% generation %}`."""
        _ = self._compiled  # raises an error if the source is not Jinja
        blocks = self._environment.parse(self.source).find_all(nodes.CallBlock)
        return any(isinstance(block.call.node, nodes.ExtensionAttribute) for block in blocks)

    def _render(self, messages: list[dict[str, str]], *, add_generation_prompt: bool, marks: tuple[str, str]) -> str:
        if not messages:
            raise DataError("chat", "a dialogue needs at least one message")
        values = {"tools": None, "documents": None, **self.names, "_generation_marks": marks}
        compiled = self._compiled
        try:
            return compiled.render(messages=messages, add_generation_prompt=add_generation_prompt, **values)
        except TemplateError as error:
            raise DataError("chat template", f"refuses the dialogue ({error})") from None
        except Exception as error:  # noqa: BLE001 - a template is a program and may raise anything
            raise DataError("chat template", f"cannot write the dialogue ({type(error).__name__}: {error})") from None

    @cached_property
    def _environment(self) -> ImmutableSandboxedEnvironment:
        # Settings, extensions and functions equal those of transformers, so that templates give the same text in both.
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda pattern: self.clock().strftime(pattern)
        return environment

    @cached_property
    def _compiled(self) -> Any:
        try:
            return self._environment.from_string(self.source)
        except TemplateSyntaxError as error:
            raise ModelError("chat template", f"is not Jinja: {error.message} (line {error.lineno})") from None


def encode(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = False,
    learn_from: int = 0,
) -> EncodedDialogue:
    """Encode a dialogue, with the assistant's answers and ends of turn marked as learned.

    Ids equal those of transformers' `apply_chat_template`, except that names of special tokens in a message remain
    plain text. Answers before message `learn_from`, and answers that the row masks, are context only.
    """
    contents, restore = _with_stand_ins(messages, tokenizer, template)
    marks = ("", "")
    if template.marks_answers:
        first, second = _unused(template.source, contents, restore, count=2)
        marks = (first, second)
    text, marked = _unmarked(
        template._render(contents, add_generation_prompt=add_generation_prompt, marks=marks), *marks
    )
    learned = {number for number, message in enumerate(messages) if message.learned and number >= learn_from}
    layout = _RenderedDialogue.of(
        tokenizer, template, contents, restore, text, add_generation_prompt=add_generation_prompt
    )
    answers = layout.marked_answers(marked) if template.marks_answers else layout.find_answers()
    rewritten = layout.rewritten(answers, learned)
    spans = tokenizer.template_spans(text, restore=restore)
    ids = spans.ids.tolist()
    _check_start(tokenizer, ids)
    _check_end(tokenizer, answers, last=len(messages) - 1)
    _check_last_answer(tokenizer, template, messages, answers)
    learn = _overlaps(spans, [answer.span for answer in answers if answer.message in learned - set(rewritten)])
    altered = any(layout.is_altered(answer) for answer in answers if answer.message in learned - set(rewritten))
    return EncodedDialogue(ids, learn.tolist(), rewritten, layout.omitted(), altered)


def encode_training(tokenizer: Tokenizer, template: ChatTemplate, messages: Sequence[Message]) -> list[EncodedDialogue]:
    """Return the sequences from which all answers of a dialogue are learned.

    This is one sequence, unless the template changes an answer if other turns follow it (for example, it removes the
    reasoning). Such an answer is learned from a separate sequence that ends with it, as it is generated later.
    """
    full = encode(tokenizer, template, messages)
    separate = [encode(tokenizer, template, messages[: n + 1], learn_from=n) for n in full.rewritten]
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
    tokenizer: Tokenizer, template: ChatTemplate, messages: Sequence[Message], *, add_generation_prompt: bool = True
) -> list[int]:
    """Encode a dialogue that the model is to answer.

    No learned tokens are computed: a template that changes or drops earlier answers, for example to remove their
    reasoning, can be served although it cannot be used for training.
    """
    contents, restore = _with_stand_ins(messages, tokenizer, template)
    text = template._render(contents, add_generation_prompt=add_generation_prompt, marks=("", ""))
    return tokenizer.template_spans(text, restore=restore).ids.tolist()


def omitted_roles(tokenizer: Tokenizer, template: ChatTemplate, messages: Sequence[Message]) -> tuple[str, ...]:
    """Return the roles of the prompt messages whose text the template omits.

    The result is empty if the text of a message cannot be located in the rendering.
    """
    contents, restore = _with_stand_ins(messages, tokenizer, template)
    text = template._render(contents, add_generation_prompt=True, marks=("", ""))
    try:
        return _RenderedDialogue.of(tokenizer, template, contents, restore, text, add_generation_prompt=True).omitted()
    except DataError:
        return ()


# -- names of special tokens inside messages


def _with_stand_ins(
    messages: Sequence[Message], tokenizer: Tokenizer, template: ChatTemplate
) -> tuple[list[dict[str, str]], dict[int, str]]:
    """Replace the first character of every special token's name in the messages by an unused character.

    In the rendered text, the only special tokens are then those of the template. The second value is the inverse map.
    """
    contents = _plain(messages)
    pattern = tokenizer.special_pattern
    if not any(pattern.search(message["content"]) for message in contents):
        return contents, {}
    firsts = sorted({name[0] for name in tokenizer.specials})
    stand_ins = dict(zip(firsts, _unused(template.source, contents, {}, count=len(firsts)), strict=True))
    for message in contents:
        while pattern.search(message["content"]):  # repeated, since names may overlap
            message["content"] = pattern.sub(lambda m: stand_ins[m.group()[0]] + m.group()[1:], message["content"])
    return contents, {ord(stand_in): first for first, stand_in in stand_ins.items()}


def _unused(source: str, contents: list[dict[str, str]], restore: Mapping[int, str], *, count: int) -> list[str]:
    """Return private-use characters that occur neither in the template nor in the messages."""
    used = set(source).union(*(message["content"] for message in contents), map(chr, restore))
    characters: list[str] = []
    for code in range(0x10FFFD, 0xF0000, -1):
        if chr(code) not in used:
            characters.append(chr(code))
        if len(characters) == count:
            return characters
    raise DataError("chat", "the messages use every private-use character")


# -- learned tokens


class _Generation(Extension):
    """The Jinja extension for `{% generation %}`, which encloses its text in the two marks of the rendering."""

    tags = {"generation"}

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_mark", [nodes.ContextReference()])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    @staticmethod
    def _mark(context: Any, caller: Any) -> str:
        start, end = context.get("_generation_marks", ("", ""))
        return start + caller() + end


def _unmarked(text: str, start: str, end: str) -> tuple[str, list[TextSpan]]:
    """Return the text without marks, and the spans between the marks."""
    if not start:
        return text, []
    parts = re.split(f"([{start}{end}])", text)
    texts: list[str] = []
    answers: list[TextSpan] = []
    position = start_position = 0
    for part in parts:
        if part == start:
            start_position = position
        elif part == end:
            answers.append(TextSpan(start_position, position))
        else:
            texts.append(part)
            position += len(part)
    return "".join(texts), answers


class _Answer(NamedTuple):
    """The learned span of one message."""

    message: int
    span: TextSpan
    written: str
    """The message's text as the template wrote it."""
    has_end: bool
    """True if the span ends with a special token."""


@dataclass(frozen=True)
class _RenderedDialogue:
    """A rendered dialogue, in which the answers are located."""

    tokenizer: Tokenizer
    render: Render
    contents: list[dict[str, str]]
    text: str
    probes: list[str]

    @classmethod
    def of(
        cls,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        contents: list[dict[str, str]],
        restore: Mapping[int, str],
        text: str,
        *,
        add_generation_prompt: bool,
    ) -> _RenderedDialogue:
        def render(messages: Sequence[Content], prompt: bool | None) -> str:
            asks = add_generation_prompt if prompt is None else prompt
            return template._render([dict(message) for message in messages], add_generation_prompt=asks, marks=("", ""))

        return cls(tokenizer, render, contents, text, _unused(template.source, contents, restore, count=len(contents)))

    def find_answers(self) -> list[_Answer]:
        """Return the answers of a template without `{% generation %}`."""
        stops = {name for name, token in self.tokenizer.specials.items() if token in self.tokenizer.stops}
        answers = find_answers(
            self.render,
            self.contents,
            self.text,
            self.located,
            markers=self._markers,
            stops=stops,
            probes=self.probes,
        )
        return [
            _Answer(
                number,
                answer.span,
                self.text[slice(*answer.content)],
                answer.end is not None and bool(self._markers(self.text[slice(*answer.end)])),
            )
            for number, answer in answers.items()
        ]

    def marked_answers(self, spans: Sequence[TextSpan]) -> list[_Answer]:
        """Return the answers that the template marks; marks around the text of another role are refused."""
        check_marked(spans, self.contents, self.located)
        owners = assign_marked(spans, self.contents, self.located)
        return [
            _Answer(number, span, self.text[slice(*content)], self._has_end(span))
            for span, (number, content) in zip(spans, owners, strict=True)
        ]

    @cached_property
    def located(self) -> list[list[TextSpan]]:
        """Return the spans of the text of each message."""
        return locate_contents(self.render, self.contents, self.text, probes=self.probes)

    def omitted(self) -> tuple[str, ...]:
        """Return the roles of messages whose text the template omits."""
        pairs = zip(self.contents, self.located, strict=True)
        return tuple(sorted({message["role"] for message, spans in pairs if message["content"].strip() and not spans}))

    def is_altered(self, answer: _Answer) -> bool:
        """Return True if the template changes the text of an answer."""
        return self.contents[answer.message]["content"].strip() not in self.text[slice(*answer.span)]

    def rewritten(self, answers: Sequence[_Answer], learned: Collection[int]) -> tuple[int, ...]:
        """Return the answers that the template writes in full only if they are the last message."""
        return tuple(answer.message for answer in answers if answer.message in learned and self._is_rewritten(answer))

    def _is_rewritten(self, answer: _Answer) -> bool:
        content = self.contents[answer.message]["content"].strip()
        written = self.text[slice(*answer.span)]
        if content in written or content in answer.written or answer.message == len(self.contents) - 1:
            return False
        return content in self.render(self.contents[: answer.message + 1], False)

    def _has_end(self, span: TextSpan) -> bool:
        """Return True if a span contains a token that stops generation, or ends with a special token."""
        text = self.text[slice(*span)]
        markers = self._markers(text)
        stops = any(self.tokenizer.specials[text[slice(*marker)]] in self.tokenizer.stops for marker in markers)
        return stops or (bool(markers) and not text[markers[-1].end :].strip())

    def _markers(self, text: str) -> list[TextSpan]:
        return [TextSpan(*match.span()) for match in self.tokenizer.special_pattern.finditer(text)]


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
    tokenizer: Tokenizer, template: ChatTemplate, messages: Sequence[Message], answers: Sequence[_Answer]
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
        template.render(messages[: last + 1])
    except DataError:  # the template does not write a dialogue that ends here
        return
    encode(tokenizer, template, messages[: last + 1])


def _check_end(tokenizer: Tokenizer, answers: Sequence[_Answer], *, last: int) -> None:
    """Raise an error if the last answer has no end, because the model would not learn to stop."""
    final = next((answer for answer in reversed(answers) if answer.message == last), None)
    if final is None or final.has_end:
        return
    name = tokenizer.decode([tokenizer.end_of_turn], special=True)
    hint = f"put {name} before {{% endgeneration %}}, or right after the answer, so that the model learns to stop"
    raise DataError("chat template", f"leaves {name} out of what is learned of answer {last + 1}", hint=hint)


# -- plain values for the template


def _plain(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _special_names(settings: Mapping[str, Any]) -> dict[str, str]:
    names = {}
    for role in ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"):
        value = settings.get(role)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            names[role] = value
    return names


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None,
            sort_keys: bool = False) -> str:  # fmt: skip
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise TemplateError(message)
