"""The Modelfile of Ollama beside a GGUF file: the chat template in Ollama's language, stops and sampling settings.

Ollama does not run Jinja templates. The template of a model is translated by its output: the text around a message of
each role is read from rendered dialogues, and the translation is used only if it gives the same text for other
dialogues. A template with further rules is left out, with a note.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vita.data.records import Message
from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.generation_settings import sampling_defaults
from vita.data.tokens.tokenizer import Tokenizer
from vita.formats.gguf.tokenizer import adds_bos
from vita.formats.stops import stop_ids
from vita.spine.errors import VitaError

_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class MessageFormat:
    """The text around the content of a message of each role, and before an answer."""

    around: Mapping[str, tuple[str, str]]
    opening: str
    """Text before the first message."""
    answer: str
    """Text before the answer of the model."""

    def render(self, messages: Sequence[Message]) -> str:
        """Return a dialogue as text, with the beginning of an answer."""
        texts = [
            f"{self.around[message.role][0]}{message.content}{self.around[message.role][1]}" for message in messages
        ]
        return self.opening + "".join(texts) + self.answer

    def to_ollama(self) -> str:
        """Return the template in the language of Ollama (Go)."""
        cases = []
        for role, (before, after) in self.around.items():
            keyword = "if" if not cases else "else if"
            cases.append(f'{{{{ {keyword} eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}')
        body = "".join(cases) + "{{ end }}"
        return f"{self.opening}{{{{ range .Messages }}}}{body}{{{{ end }}}}{self.answer}"


def write_modelfile(folder: Path, gguf: Path, *, context: int) -> tuple[Path, list[str]]:
    """Write `Modelfile` beside a GGUF file of the model in `folder`; return its path and notes."""
    tokenizer, notes = Tokenizer.load(folder), list[str]()
    lines = [f"FROM ./{gguf.name}"]
    form = message_format(folder, tokenizer)
    if form is not None:
        lines.append(f'TEMPLATE """{form.to_ollama()}"""')
    elif _template(folder) is not None:
        notes.append("the chat template has rules that Ollama cannot express, so the Modelfile has no TEMPLATE")
    lines += [f'PARAMETER stop "{_quoted(name)}"' for name in _stop_names(folder, tokenizer)]
    lines += [f"PARAMETER {name} {value}" for name, value in sampling_defaults(folder).items()]
    lines.append(f"PARAMETER num_ctx {context}")
    path = gguf.with_name("Modelfile")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path, notes


def message_format(folder: Path, tokenizer: Tokenizer) -> MessageFormat | None:
    """Return the text around messages in the model's chat template; None if it has rules beyond that."""
    template = _template(folder)
    if template is None:
        return None
    try:
        form = _read_format(template)
        if form is None or not _agrees(form, template):
            return None
    except (VitaError, KeyError):
        return None
    bos = tokenizer.name_of("bos_token")
    if bos and adds_bos(folder, tokenizer):  # llama.cpp adds it
        if not form.opening.startswith(bos):
            return None
        form = MessageFormat(form.around, form.opening.removeprefix(bos), form.answer)
    return form if '"""' not in form.to_ollama() else None


def _read_format(template: ChatTemplate) -> MessageFormat | None:
    """Return the text between the contents of a rendered dialogue, divided between the messages around it."""
    first, second, third = "FIRST\u2402CONTENT", "SECOND\u2402CONTENT", "THIRD\u2402CONTENT"
    user, answer = Message("user", first), Message("assistant", second)
    prompt = template.render([user], add_generation_prompt=True)
    plain = template.render([user])
    dialogue = template.render([user, answer, Message("user", third)], add_generation_prompt=True)
    if first not in prompt or not prompt.startswith(plain):
        return None
    head, tail = prompt.split(first)[0], plain.split(first)[1]
    start = prompt[len(plain) :]
    between = dialogue.split(second)[0].split(first)[1]
    if not between.startswith(tail):
        return None
    before_answer = between.removeprefix(tail)
    after = dialogue.split(second)[1].split(third)[0]
    before_user = _common_end(head, after)
    opening, after_answer = head.removesuffix(before_user), after.removesuffix(before_user)
    around = {"user": (before_user, tail), "assistant": (before_answer, after_answer)}
    try:
        system = template.render([Message("system", third), user], add_generation_prompt=True)
    except VitaError:
        return MessageFormat(around, opening, start)
    head, rest = system.split(third)
    before_system = head.removeprefix(opening)
    after_system = rest.split(first)[0].removesuffix(before_user)
    return MessageFormat({"system": (before_system, after_system), **around}, opening, start)


def _agrees(form: MessageFormat, template: ChatTemplate) -> bool:
    """Return True if the format gives the text of the template for other dialogues."""
    turns = [Message(role, f"text {i}\nof {role}") for i, role in enumerate(("user", "assistant") * 3)]
    dialogues = [turns[:1], turns[:3], turns[:5]]
    if "system" in form.around:
        dialogues += [[Message("system", "Be brief."), *turns[:1]], [Message("system", "Be brief."), *turns[:3]]]
    return all(form.render(turns) == template.render(turns, add_generation_prompt=True) for turns in dialogues)


def _common_end(first: str, second: str) -> str:
    size = 0
    while size < min(len(first), len(second)) and first[-1 - size] == second[-1 - size]:
        size += 1
    return first[len(first) - size :]


def _template(folder: Path) -> ChatTemplate | None:
    try:
        return ChatTemplate.load(folder)
    except VitaError:
        return None


def _stop_names(folder: Path, tokenizer: Tokenizer) -> list[str]:
    """Return the texts of all ends of an answer."""
    names = [tokenizer.decode([token], special=True) for token in stop_ids(folder, tokenizer)]
    return [name for name in names if name.strip()]


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
