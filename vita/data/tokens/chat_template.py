"""Dialogues as tokens: a Jinja template writes them, and says which tokens the model is to learn.

    template = ChatTemplate.load(model_folder)             # or ChatTemplate.default(): ChatML
    encode(tokenizer, template, messages)                  # Encoded(ids, learn)
    encode_prompt(tokenizer, template, messages)           # the ids alone, for answering

The template is the one in the model's folder, so training, testing and serving see the same tokens. What it writes
between `{% generation %}` and `{% endgeneration %}` is learned, and no such block may hold the text of another role.
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
    Span,
    assign_marked,
    check_marked,
    find_answers,
    locate_contents,
)
from vita.data.tokens.tokenizer import Spans, Tokenizer, read_settings
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
"""The template of our own: `<|im_start|>role`, the content, `<|im_end|>`."""

FILE = "chat_template.jinja"

TRAINING_DATE = datetime(2024, 7, 26)
"""The date that templates see in training and testing, so that results do not depend on the day.

It is the date that the templates of Llama 3 name themselves where no clock is available.
"""


def training_clock() -> datetime:
    """Return `TRAINING_DATE`."""
    return TRAINING_DATE


@dataclass(frozen=True)
class Encoded:
    """A dialogue in tokens; `learn` marks those that the model is to learn to give."""

    ids: list[int]
    learn: list[bool]
    rewritten: tuple[int, ...] = ()
    """Answers, by message, that are not learned because the template changes them once other turns follow."""
    omitted: tuple[str, ...] = ()
    """Roles of messages whose text the template leaves out."""
    altered: bool = False
    """Whether an answer is learned in other words than the row has, because the template changes it."""


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template, with the names of special tokens that it may refer to (`bos_token`, ...)."""

    source: str
    names: Mapping[str, str] = field(default_factory=dict)
    clock: Callable[[], datetime] = training_clock
    """The time that `strftime_now` formats; a server uses the real one (`with_clock`)."""

    @classmethod
    def default(cls) -> ChatTemplate:
        """ChatML."""
        return cls(CHATML)

    @classmethod
    def load(cls, folder: ModelFolder) -> ChatTemplate:
        """Load the template of a model's folder: `chat_template.jinja`, else the one in `tokenizer_config.json`."""
        files = ModelFiles.of(folder)
        config = read_settings(files, "tokenizer_config.json")
        source = config.get("chat_template")
        if isinstance(source, list):  # several named ones
            source = {one["name"]: one["template"] for one in source}.get("default")
        if files.exists(FILE):
            source = files.text(FILE)
        if not source:
            hint = "tune it with `vita sft` first, or put a chat_template.jinja there"
            raise ModelError(
                str(folder), "holds no chat template: a base model continues text, it does not chat", hint=hint
            )
        return cls(source, _special_names({**read_settings(files, "special_tokens_map.json"), **config}))

    def with_clock(self, clock: Callable[[], datetime]) -> ChatTemplate:
        """The same template with another clock."""
        return replace(self, clock=clock)

    def save(self, folder: str | Path) -> None:
        """Write `chat_template.jinja`."""
        (Path(folder) / FILE).write_text(self.source, encoding="utf-8")

    def save_where_missing(self, folder: str | Path) -> None:
        """Write `chat_template.jinja` unless the folder holds a template already, which stays byte for byte."""
        try:
            ChatTemplate.load(folder)
        except ModelError:
            self.save(folder)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """The dialogue as text, as transformers' `apply_chat_template(tokenize=False)` gives it."""
        return self._render(_plain(messages), add_generation_prompt=add_generation_prompt, marks=("", ""))

    @cached_property
    def marks_answers(self) -> bool:
        """Whether the template itself says what is learnt."""
        _ = self._compiled  # refuses what is not Jinja
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
        # Settings, extensions and functions are those of transformers, so that a template gives the same text in both.
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
) -> Encoded:
    """The dialogue in tokens, with the assistant's answers and ends of turn marked as learned.

    Ids are those of transformers' `apply_chat_template`, except that names of special tokens inside a message stay
    plain text. Answers before message `learn_from`, and those that their row masks, are context only.
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
    layout = _Layout.of(tokenizer, template, contents, restore, text, add_generation_prompt=add_generation_prompt)
    answers = layout.marked(marked) if template.marks_answers else layout.found()
    rewritten = layout.rewritten(answers, learned)
    spans = tokenizer.template_spans(text, restore=restore)
    ids = spans.ids.tolist()
    _check_start(tokenizer, ids)
    _check_end(tokenizer, answers, last=len(messages) - 1)
    _check_last_answer(tokenizer, template, messages, answers)
    learn = _overlaps(spans, [answer.span for answer in answers if answer.message in learned - set(rewritten)])
    altered = any(layout.is_altered(answer) for answer in answers if answer.message in learned - set(rewritten))
    return Encoded(ids, learn.tolist(), rewritten, layout.omitted(), altered)


def encode_training(tokenizer: Tokenizer, template: ChatTemplate, messages: Sequence[Message]) -> list[Encoded]:
    """The sequences from which all answers of a dialogue are learned.

    This is one sequence, unless the template changes an answer once other turns follow it (it removes the reasoning,
    for instance). Such an answer is learned from a sequence of its own that ends with it, as it is generated later.
    """
    whole = encode(tokenizer, template, messages)
    alone = [encode(tokenizer, template, messages[: n + 1], learn_from=n) for n in whole.rewritten]
    return [whole, *alone] if any(whole.learn) or not alone else alone


def turn_ends(tokenizer: Tokenizer, template: ChatTemplate) -> frozenset[int]:
    """The special tokens with which the template ends an answer, in the middle and at the end of a dialogue.

    Generation has to stop at them. None are returned for a template that refuses a plain dialogue of four turns.
    """
    messages = [Message("user", "a"), Message("assistant", "b"), Message("user", "c"), Message("assistant", "d")]
    try:
        encoded = encode(tokenizer, template, messages)
    except DataError:
        return frozenset()
    lasts = (at for at, learn in enumerate(encoded.learn) if learn and not any(encoded.learn[at + 1 : at + 2]))
    return frozenset(encoded.ids[at] for at in lasts) & tokenizer.special_ids


def encode_prompt(
    tokenizer: Tokenizer, template: ChatTemplate, messages: Sequence[Message], *, add_generation_prompt: bool = True
) -> list[int]:
    """Ids of a dialogue that the model is to answer.

    Nothing is computed about what would be learnt: a template that changes or drops earlier answers, such as one that
    removes their reasoning, can be served although it could not be trained on.
    """
    contents, restore = _with_stand_ins(messages, tokenizer, template)
    text = template._render(contents, add_generation_prompt=add_generation_prompt, marks=("", ""))
    return tokenizer.template_spans(text, restore=restore).ids.tolist()


def omitted_roles(tokenizer: Tokenizer, template: ChatTemplate, messages: Sequence[Message]) -> tuple[str, ...]:
    """The roles of a prompt's messages whose text the template leaves out.

    None are returned where the template does not show which text belongs to which message.
    """
    contents, restore = _with_stand_ins(messages, tokenizer, template)
    text = template._render(contents, add_generation_prompt=True, marks=("", ""))
    try:
        return _Layout.of(tokenizer, template, contents, restore, text, add_generation_prompt=True).omitted()
    except DataError:
        return ()


# -- names of special tokens inside messages


def _with_stand_ins(
    messages: Sequence[Message], tokenizer: Tokenizer, template: ChatTemplate
) -> tuple[list[dict[str, str]], dict[int, str]]:
    """The messages with the first character of every special token's name replaced by an unused one.

    Rendered like this, the only special tokens in the text are the template's; the second value undoes it.
    """
    contents = _plain(messages)
    pattern = tokenizer.special_pattern
    if not any(pattern.search(message["content"]) for message in contents):
        return contents, {}
    firsts = sorted({name[0] for name in tokenizer.specials})
    stand_ins = dict(zip(firsts, _unused(template.source, contents, {}, count=len(firsts)), strict=True))
    for message in contents:
        while pattern.search(message["content"]):  # again, since names may overlap
            message["content"] = pattern.sub(lambda m: stand_ins[m.group()[0]] + m.group()[1:], message["content"])
    return contents, {ord(stand_in): first for first, stand_in in stand_ins.items()}


def _unused(source: str, contents: list[dict[str, str]], restore: Mapping[int, str], *, count: int) -> list[str]:
    """Private-use characters that occur nowhere in what is rendered."""
    used = set(source).union(*(message["content"] for message in contents), map(chr, restore))
    found: list[str] = []
    for code in range(0x10FFFD, 0xF0000, -1):
        if chr(code) not in used:
            found.append(chr(code))
        if len(found) == count:
            return found
    raise DataError("chat", "the messages use every private-use character")


# -- what is learnt


class _Generation(Extension):
    """`{% generation %}`: what it encloses is put between the two marks of the rendering."""

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


def _unmarked(text: str, start: str, end: str) -> tuple[str, list[Span]]:
    """The text without marks, and the characters that stood between them."""
    if not start:
        return text, []
    parts = re.split(f"([{start}{end}])", text)
    kept: list[str] = []
    answers: list[Span] = []
    at = opened = 0
    for part in parts:
        if part == start:
            opened = at
        elif part == end:
            answers.append(Span(opened, at))
        else:
            kept.append(part)
            at += len(part)
    return "".join(kept), answers


class _Answer(NamedTuple):
    """What is learned of one message."""

    message: int
    span: Span
    written: str
    """The message's text as the template wrote it."""
    ends: bool
    """Whether the span ends with a special token."""


@dataclass(frozen=True)
class _Layout:
    """A rendered dialogue, of which the places of the answers are wanted."""

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
    ) -> _Layout:
        def render(messages: Sequence[Content], prompt: bool | None) -> str:
            asks = add_generation_prompt if prompt is None else prompt
            return template._render([dict(one) for one in messages], add_generation_prompt=asks, marks=("", ""))

        return cls(tokenizer, render, contents, text, _unused(template.source, contents, restore, count=len(contents)))

    def found(self) -> list[_Answer]:
        """The answers of a template without `{% generation %}`."""
        stops = {name for name, token in self.tokenizer.specials.items() if token in self.tokenizer.stops}
        found = find_answers(
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
            for number, answer in found.items()
        ]

    def marked(self, spans: Sequence[Span]) -> list[_Answer]:
        """The answers that the template marks; a mark around the text of another role is refused."""
        check_marked(spans, self.contents, self.located)
        owners = assign_marked(spans, self.contents, self.located)
        return [
            _Answer(number, span, self.text[slice(*place)], self._ends(span))
            for span, (number, place) in zip(spans, owners, strict=True)
        ]

    @cached_property
    def located(self) -> list[list[Span]]:
        """The places of each message's text."""
        return locate_contents(self.render, self.contents, self.text, probes=self.probes)

    def omitted(self) -> tuple[str, ...]:
        """The roles of messages whose text the template leaves out."""
        pairs = zip(self.contents, self.located, strict=True)
        return tuple(
            sorted({message["role"] for message, places in pairs if message["content"].strip() and not places})
        )

    def is_altered(self, answer: _Answer) -> bool:
        """Whether the template writes an answer in other words than the row has."""
        return self.contents[answer.message]["content"].strip() not in self.text[slice(*answer.span)]

    def rewritten(self, answers: Sequence[_Answer], learned: Collection[int]) -> tuple[int, ...]:
        """The answers that the template writes in full only while they are the last message."""
        return tuple(answer.message for answer in answers if answer.message in learned and self._is_rewritten(answer))

    def _is_rewritten(self, answer: _Answer) -> bool:
        content = self.contents[answer.message]["content"].strip()
        written = self.text[slice(*answer.span)]
        if content in written or content in answer.written or answer.message == len(self.contents) - 1:
            return False
        return content in self.render(self.contents[: answer.message + 1], False)

    def _ends(self, span: Span) -> bool:
        """Whether a span contains a token that stops generation, or ends with a special token."""
        text = self.text[slice(*span)]
        markers = self._markers(text)
        stops = any(self.tokenizer.specials[text[slice(*one)]] in self.tokenizer.stops for one in markers)
        return stops or (bool(markers) and not text[markers[-1].end :].strip())

    def _markers(self, text: str) -> list[Span]:
        return [Span(*match.span()) for match in self.tokenizer.special_pattern.finditer(text)]


def _overlaps(spans: Spans, answers: Iterable[Span]) -> np.ndarray:
    """Which tokens hold a character of an answer."""
    learn = np.zeros(len(spans.ids), dtype=bool)
    for start, end in answers:
        learn |= (spans.starts < end) & (spans.ends > start)
    return learn


def _check_start(tokenizer: Tokenizer, ids: Sequence[int]) -> None:
    """Refuse what would show the model its first token twice."""
    if len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos:
        name = tokenizer.name_of("bos_token")
        raise DataError(
            "chat template", f"begins with {name} twice", hint="leave it out of the template or the message"
        )


def _check_last_answer(
    tokenizer: Tokenizer, template: ChatTemplate, messages: Sequence[Message], answers: Sequence[_Answer]
) -> None:
    """Refuse a template that never ends an answer, also for a dialogue that ends with another message.

    An answer may be without an end because the template writes it after the last message alone. The dialogue up to
    this answer decides.
    """
    if any(answer.ends for answer in answers) or not answers:
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
    """Refuse what would train a model that does not stop."""
    final = next((answer for answer in reversed(answers) if answer.message == last), None)
    if final is None or final.ends:
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
