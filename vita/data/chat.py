"""Dialogues as tokens: a Jinja template writes them, and says which tokens the model is to learn.

    template = ChatTemplate.load(model_folder)             # or ChatTemplate.default(): ChatML
    encode(tokenizer, template, messages)                  # Encoded(ids, learn)
    encode_prompt(tokenizer, template, messages)           # the ids alone, for answering

The template is the one in the model's folder, so training, testing and serving see the same tokens. What it writes
between `{% generation %}` and `{% endgeneration %}` is learnt; for a template without these tags, the same is found
by rendering the dialogue up to each answer. Names of special tokens inside a message stay plain text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vita.data.records import Message
from vita.data.tokenizer import Spans, Tokenizer, read_settings
from vita.spine.errors import DataError, ModelError

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
    def load(cls, folder: str | Path) -> ChatTemplate:
        """The template in a model's folder: `chat_template.jinja`, else the one in `tokenizer_config.json`."""
        folder = Path(folder)
        config = read_settings(folder / "tokenizer_config.json")
        source = config.get("chat_template")
        if isinstance(source, list):  # several named ones
            source = {one["name"]: one["template"] for one in source}.get("default")
        if (folder / FILE).is_file():
            source = (folder / FILE).read_text(encoding="utf-8")
        if not source:
            hint = "tune it with `vita sft` first, or put a chat_template.jinja there"
            raise ModelError(
                str(folder), "holds no chat template: a base model continues text, it does not chat", hint=hint
            )
        return cls(source, _special_names({**read_settings(folder / "special_tokens_map.json"), **config}))

    def with_clock(self, clock: Callable[[], datetime]) -> ChatTemplate:
        """The same template with another clock."""
        return replace(self, clock=clock)

    def save(self, folder: str | Path) -> None:
        """Write `chat_template.jinja`."""
        (Path(folder) / FILE).write_text(self.source, encoding="utf-8")

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """The dialogue as text, as transformers' `apply_chat_template(tokenize=False)` gives it."""
        return self._render(_plain(messages), add_generation_prompt=add_generation_prompt, marks=("", ""))

    @cached_property
    def marks_answers(self) -> bool:
        """Whether the template itself says what is learnt."""
        return re.search(r"{%-?\s*generation\b", self.source) is not None

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
    def _compiled(self) -> Any:
        # Settings, extensions and functions are those of transformers, so that a template gives the same text in both.
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda pattern: self.clock().strftime(pattern)
        try:
            return environment.from_string(self.source)
        except TemplateSyntaxError as error:
            raise ModelError("chat template", f"is not Jinja: {error.message} (line {error.lineno})") from None


def encode(
    tokenizer: Tokenizer, template: ChatTemplate, messages: Sequence[Message], *, add_generation_prompt: bool = False
) -> Encoded:
    """The dialogue in tokens, with the assistant's contents and ends of turn marked as learnt.

    Ids are those of transformers' `apply_chat_template`, except that names of special tokens inside a message stay
    plain text.
    """
    contents, restore = _with_stand_ins(messages, tokenizer, template)
    if template.marks_answers:
        marks = _unused(template.source, contents, restore, count=2)
        marked = template._render(contents, add_generation_prompt=add_generation_prompt, marks=(marks[0], marks[1]))
        text, answers = _unmarked(marked, marks[0], marks[1])
    else:
        text = template._render(contents, add_generation_prompt=add_generation_prompt, marks=("", ""))
        answers = _answers_by_prefix(text, contents, template, tokenizer)
    spans = tokenizer.template_spans(text, restore=restore)
    learn = _overlaps(spans, answers)
    ids = spans.ids.tolist()
    _check(tokenizer, ids, learn, spans, answers)
    return Encoded(ids, learn.tolist())


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


def _unmarked(text: str, start: str, end: str) -> tuple[str, list[tuple[int, int]]]:
    """The text without marks, and the characters [start, end) that stood between them."""
    parts = re.split(f"([{start}{end}])", text)
    kept: list[str] = []
    answers: list[tuple[int, int]] = []
    at = opened = 0
    for part in parts:
        if part == start:
            opened = at
        elif part == end:
            answers.append((opened, at))
        else:
            kept.append(part)
            at += len(part)
    return "".join(kept), answers


def _answers_by_prefix(
    text: str, contents: list[dict[str, str]], template: ChatTemplate, tokenizer: Tokenizer
) -> list[tuple[int, int]]:
    """Each answer's characters: from where the text goes on after the prompt for it, to its end of turn."""
    answers: list[tuple[int, int]] = []
    for i, message in enumerate(contents):
        if message["role"] != "assistant":
            continue
        if i:
            prompt = template._render(contents[:i], add_generation_prompt=True, marks=("", ""))
            start = _common_prefix(prompt, text)
        else:
            start = _opening(contents, template)
        stop = next(_stops(text, start, tokenizer), -1)
        if text.find(message["content"].strip(), start, max(stop, 0)) < 0:
            hint = "put {% generation %} and {% endgeneration %} around what the assistant writes"
            raise DataError("chat template", f"does not show where answer {i + 1} begins and ends", hint=hint)
        answers.append((start, stop))
    return answers


def _opening(contents: list[dict[str, str]], template: ChatTemplate) -> int:
    """Where the first message's content begins: nothing can be rendered before it, so a probe takes its place."""
    probe = _unused(template.source, contents, {}, count=1)[0]
    probed = [{**contents[0], "content": probe}, *contents[1:]]
    return template._render(probed, add_generation_prompt=False, marks=("", "")).find(probe)


def _stops(text: str, start: int, tokenizer: Tokenizer) -> Iterator[int]:
    """Where each token that ends an answer ends, from `start` on."""
    for match in tokenizer.special_pattern.finditer(text, start):
        if tokenizer.specials[match.group()] in tokenizer.stops:
            yield match.end()


def _common_prefix(left: str, right: str) -> int:
    if right.startswith(left):
        return len(left)
    return next(i for i in range(len(left)) if left[: i + 1] != right[: i + 1])


def _overlaps(spans: Spans, answers: Iterable[tuple[int, int]]) -> np.ndarray:
    """Which tokens hold a character of an answer."""
    learn = np.zeros(len(spans.ids), dtype=bool)
    for start, end in answers:
        learn |= (spans.starts < end) & (spans.ends > start)
    return learn


def _check(
    tokenizer: Tokenizer, ids: Sequence[int], learn: np.ndarray, spans: Spans, answers: Sequence[tuple[int, int]]
) -> None:
    """Refuse what would train a model that does not stop, or that sees its first token twice."""
    if len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos:
        name = tokenizer.name_of("bos_token")
        raise DataError(
            "chat template", f"begins with {name} twice", hint="leave it out of the template or the message"
        )
    if not answers:
        return
    last = learn & (spans.ends > answers[-1][0])
    if not any(token in tokenizer.stops for token in np.asarray(ids)[last].tolist()):
        name = tokenizer.decode([tokenizer.end_of_turn], special=True)
        hint = f"put {name} before {{% endgeneration %}}, so that the model learns to stop"
        raise DataError("chat template", f"leaves {name} out of what is learnt", hint=hint)


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
