"""A small model that has memorized a few dialogues with calls and reasoning."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from vita.data.records import Message, TemplateVariables, ToolCall
from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.dialogue_encoding import EncodedDialogue, encode
from vita.data.tokens.tokenizer import Tokenizer
from vita.nn import hf
from vita.nn.transformer import Transformer
from vita.testing import tiny_architecture

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TOOLS = TemplateVariables(tools=(WEATHER,))


def call(city: str) -> ToolCall:
    return ToolCall("weather", f'{{"city": "{city}"}}')


CALL_DIALOGUE = [Message("user", "Weather in Köln?"), Message("assistant", "", tool_calls=(call("Köln"),))]
RESULT_DIALOGUE = [*CALL_DIALOGUE, Message("tool", "10"), Message("assistant", "It is 10 degrees.")]
TWO_CALLS_DIALOGUE = [
    Message("user", "Köln and Bern?"),
    Message("assistant", "I look.", reasoning="Two cities.", tool_calls=(call("Köln"), call("Bern"))),
]
REASONING_DIALOGUE = [Message("user", "2+2?"), Message("assistant", "4", reasoning="Two and two.")]
GREETING = [Message("user", "Hi"), Message("assistant", "Good day to you!")]
DIALOGUES = [
    (RESULT_DIALOGUE, TOOLS),
    (TWO_CALLS_DIALOGUE, TOOLS),
    (REASONING_DIALOGUE, TemplateVariables()),
    (GREETING, TemplateVariables()),
]


def memorizing_model(folder: Path, *, template: ChatTemplate | None = None) -> Path:
    """Save a model that reproduces the answers of the dialogues."""
    template = template or ChatTemplate.default()
    texts = [template.render(messages, variables) for messages, variables in DIALOGUES]
    tokenizer = Tokenizer.train(texts * 4, vocabulary=400)
    rows = [encode(tokenizer, template, messages, variables) for messages, variables in DIALOGUES]
    torch.manual_seed(0)
    architecture = tiny_architecture(vocabulary=tokenizer.vocabulary, width=64, feedforward=128, context=512)
    model = Transformer(architecture)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    _memorize(model, rows)
    folder.mkdir(parents=True, exist_ok=True)
    hf.save(model, folder)
    tokenizer.save(folder)
    template.save(folder)
    return folder


def _memorize(model: Transformer, rows: list[EncodedDialogue]) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [0] * (width - len(row.ids)) for row in rows])
    learn_mask = torch.tensor([row.learn + [False] * (width - len(row.ids)) for row in rows])
    loss = torch.tensor(math.inf)
    for _ in range(300):
        logits = model(ids[:, :-1])[learn_mask[:, 1:]]
        loss = F.cross_entropy(logits, ids[:, 1:][learn_mask[:, 1:]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.02:
            return
    raise AssertionError(f"the dialogues were not memorized: loss {loss.item():.3f}")
