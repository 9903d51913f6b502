"""Dialogues with calls and reasoning, and tokenizers for the templates that TRL ships."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from vita.data.records import Message, TemplateVariables, ToolCall

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'The weather <now> & "here".',
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Name"},
                "days": {"type": "integer", "description": "Days"},
            },
            "required": ["city"],
        },
    },
}
TOOLS = TemplateVariables(tools=(TOOL,))


def call(arguments: str = '{"city": "Zürich", "days": 2}', id: str = "callid001") -> ToolCall:
    return ToolCall("get_weather", arguments, id)


QUESTION = Message("user", "Weather in Zürich?")
RESULT = Message("tool", '{"t": 10}', tool_call_id="callid001", name="get_weather")
SECOND_RESULT = Message("tool", "12", tool_call_id="callid002", name="get_weather")

DIALOGUES: dict[str, list[Message]] = {
    "plain": [
        Message("user", "What is a <b>cat</b>?"), Message("assistant", "A mammal."),
        Message("user", "Sure?"), Message("assistant", "Yes."),
    ],
    "call": [QUESTION, Message("assistant", "", tool_calls=(call(),)), RESULT, Message("assistant", "It is 10.")],
    "last call": [QUESTION, Message("assistant", "", tool_calls=(call(),))],
    "two calls": [
        Message("system", "Be brief."), QUESTION,
        Message("assistant", "", tool_calls=(call(), call('{"city": "Bern"}', "callid002"))), RESULT, SECOND_RESULT,
        Message("assistant", "10 and 12."), Message("user", "Thanks"), Message("assistant", "Welcome."),
    ],
    "text and call": [
        QUESTION, Message("assistant", "I look.", tool_calls=(call(),)), RESULT, Message("assistant", "It is 10."),
    ],
    "reasoning": [
        Message("user", "2+2?"), Message("assistant", "4", reasoning="Two and two."),
        Message("user", "3+3?"), Message("assistant", "6", reasoning="Three."),
    ],
    "reasoning and call": [
        QUESTION, Message("assistant", "", reasoning="I need it.", tool_calls=(call(),)), RESULT,
        Message("assistant", "It is 10.", reasoning="Ten then."),
    ],
}  # fmt: skip

_SPECIAL = re.compile(
    r"<\|[^\s'\"<>{}]+?\|>|<｜[^\s'\"<>{}]+?｜>|<(?:start|end)_of_turn>|\[/?[A-Z_]{3,}\]|<[|/]?[a-z_]+\|>|<\|[a-z_]+>"
)
_ENDS = (
    "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<turn|>", "<|end|>", "<｜end▁of▁sentence｜>",
    "<|END_OF_TURN_TOKEN|>", "<|return|>",
)  # fmt: skip


def template_source(name: str) -> str:
    """Return the source of a template that TRL ships."""
    trl = pytest.importorskip("trl")
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def save_tokenizer(source: str, folder: Path) -> Any:
    """Save a byte tokenizer with the special tokens of a template; return its transformers object."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    names = {*_SPECIAL.findall(source), "<bos>", "<eos>"}
    vocabulary = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    engine = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    engine.decoder = decoders.ByteLevel()
    engine.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in sorted(names)])
    end = next((name for name in _ENDS if name in names), "<eos>")
    peer = transformers.PreTrainedTokenizerFast(tokenizer_object=engine, bos_token="<bos>", eos_token=end)
    peer.chat_template = source
    peer.save_pretrained(folder)
    return peer
