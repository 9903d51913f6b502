"""Real releases of tiny models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vita.data.tokens.chat_template import CHATML, ChatTemplate
from vita.nn import hf
from vita.nn.transformer import Transformer
from vita.server.release import create_release
from vita.testing import byte_tokenizer, tiny_model


def model_folder(
    folder: Path, *, template: str | None = CHATML, change: Callable[[Transformer], None] | None = None, **sizes: Any
) -> Path:
    """Save a random model as a Hugging Face folder; `change` edits its weights before they are written."""
    folder.mkdir(parents=True, exist_ok=True)
    model = tiny_model(std=0.3, **{"context": 512, **sizes})
    if change is not None:
        change(model)
    hf.save(model, folder)
    byte_tokenizer().save(folder)
    if template is not None:
        ChatTemplate(template).save(folder)
    return folder


def release_folder(folder: Path, *, version: str = "1", **options: Any) -> Path:
    """Create a release `m` of such a model."""
    model = model_folder(folder / f"model-{version}", **options)
    return create_release(model, folder / f"release-{version}", name="m", version=version)
