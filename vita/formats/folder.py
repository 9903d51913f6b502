"""Plain model folders for other programs, such as transformers and vLLM."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from vita.nn import hf
from vita.spine.errors import ModelError
from vita.spine.model_files import is_adapter_folder

CARD = "README.md"
_OWN_FILES = {hf.DESCRIPTION, "report"}
"""Files of Vita, which other programs do not read."""


def require_model(folder: Path, *, where: str) -> None:
    """Refuse a folder that is no complete model, such as an adapter."""
    if is_adapter_folder(folder):
        raise ModelError(where, "is an adapter, not a model", hint="merge it into its base model first: `vita merge`")
    if not (folder / hf.CONFIG).is_file():
        raise ModelError(where, f"holds no {hf.CONFIG}")


def write_folder(source: Path, target: Path, *, card: str | None) -> list[str]:
    """Copy the files of a model that other programs read; `card` replaces the model card. Return their names."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.name in _OWN_FILES or path.name.startswith("."):
            continue
        if path.is_dir():
            shutil.copytree(path, target / path.name, dirs_exist_ok=True, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(path, target / path.name)
    if card is not None:
        (target / CARD).write_text(card, encoding="utf-8")
    return sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())


def complete_config(folder: Path, stops: list[int]) -> None:
    """Write all ends of an answer into `config.json` and `generation_config.json`, where each program looks."""
    for name in (hf.CONFIG, hf.GENERATION):
        path = folder / name
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if stops:
            values["eos_token_id"] = stops if len(stops) > 1 else stops[0]
            path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
