"""Fixtures of the preference stages: a tiny chat model and preference pairs that it can learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vita.data.tokens.chat_template import ChatTemplate
from vita.nn import hf
from vita.nn.init import initialize
from vita.spine.machine import Machine
from vita.spine.plan import Context
from vita.stages.kinds import Model
from vita.testing import byte_tokenizer, tiny_model

WORDS = ("mu", "ba", "ko", "ti", "ra", "ne", "so", "li", "pa", "du", "fe", "wo")
PAIRS = [{"prompt": f"Say {word}.", "chosen": f"{word} yes", "rejected": f"{word} no"} for word in WORDS] * 2


def write_rows(folder: Path, rows: list[dict[str, Any]] | None = None, *, name: str = "pairs.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in (PAIRS if rows is None else rows)))
    return str(path)


def create_chat_model(folder: Path, *, context: int = 128) -> Model:
    model = tiny_model(context=context)
    initialize(model, "normal", seed=0)
    hf.save(model, folder)
    byte_tokenizer().save(folder)
    ChatTemplate.default().save(folder)
    hf.save_generation(hf.GenerationTokens(start=256, padding=256, stop=(256, 258)), folder)
    return Model("2" * 64, folder, {})


def context(scratch: Path, events: list[Any] | None = None) -> Context:
    scratch.mkdir(exist_ok=True)
    return Context(
        scratch, lambda event, **fields: events.append((event, fields)) if events is not None else None, Machine()
    )


def notes(events: list[Any]) -> str:
    return "\n".join(fields["text"] for event, fields in events if event == "note")
