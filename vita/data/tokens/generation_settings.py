"""Sampling settings of a model folder from `generation_config.json`, the defaults of serving and chat."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from vita.data.tokens.tokenizer import read_settings

FILE = "generation_config.json"
NEUTRAL = {
    "repetition_penalty": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
}
"""Further settings of transformers that are not applied here, with the values that have no effect."""


def sampling_defaults(folder: str | Path) -> dict[str, Any]:
    """Return `temperature`, `top_k` and `top_p` if the folder sets them; temperature 0 for `do_sample: false`."""
    settings = read_settings(folder, FILE)
    if settings.get("do_sample") is False:
        return {"temperature": 0.0}
    values = {name: settings.get(name) for name in ("temperature", "top_k", "top_p")}
    return {name: value for name, value in values.items() if _is_valid(name, value)}


def ignored_settings(folder: str | Path) -> list[str]:
    """Return the settings of the folder that affect transformers but are not applied here, as `name value`."""
    settings = read_settings(folder, FILE)
    return [
        f"{name} {settings[name]}" for name, neutral in NEUTRAL.items() if settings.get(name) not in (None, neutral)
    ]


def _is_valid(name: str, value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        return False
    return {"temperature": True, "top_k": isinstance(value, int), "top_p": 0 < value <= 1}[name]
