"""The tokens that end an answer, from every file of a model folder that names some."""

from __future__ import annotations

from pathlib import Path

from vita.data.tokens.tokenizer import Tokenizer, read_settings
from vita.nn import hf


def stop_ids(folder: Path, tokenizer: Tokenizer) -> list[int]:
    """Return all ids that end an answer: of `generation_config.json`, `config.json` and the tokenizer."""
    stops = [*hf.load_generation(folder).stop]
    configured = read_settings(folder, "config.json").get("eos_token_id")
    stops += [configured] if isinstance(configured, int) else configured or []
    named = (tokenizer.id_of(tokenizer.name_of("eos_token")), tokenizer.end_of_turn)
    return list(dict.fromkeys([*stops, *(i for i in named if i is not None)]))
