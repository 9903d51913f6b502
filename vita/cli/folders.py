"""Folders of the user that become artifacts: the check of their content, and their paths in later messages."""

from __future__ import annotations

import re
from pathlib import Path

from vita.reporting import REPORT_FILE
from vita.spine.errors import DataError, ModelError, StoreError, VitaError
from vita.spine.model_files import is_adapter_folder
from vita.spine.store import Artifact

_ADOPTED: dict[str, tuple[str, str]] = {}
"""Digest -> (folder in the store, path of the user) of the artifacts that this process adopted."""


def with_user_paths(message: str) -> str:
    """Replace paths of adopted copies in the store by the folders that the user named."""
    for digest, (copy, folder) in _ADOPTED.items():
        mention = rf"\b(?:[a-z]+ )?{digest[:12]}[0-9a-f]*"  # `model 1a2b3c4d5e6f`
        message = re.sub(mention, folder.replace("\\", r"\\"), message.replace(copy, folder))
    return message


def remember_user_path(artifact: Artifact, path: Path | str) -> None:
    """Let later messages name an adopted artifact by the path that the user gave."""
    _ADOPTED[artifact.digest] = (str(artifact.path), str(path))


_REQUIRED_FILES: dict[str, tuple[str, type[VitaError], str]] = {
    "blueprint": ("blueprint.json", StoreError, "make one with `vita design`"),
    "corpus": ("train/*.jsonl.zst", DataError, "make a corpus with `vita curate`"),
    "tokens": ("tokenizer/tokenizer.json", StoreError, "make tokens with `vita tokenize`"),
    "model": ("config.json", ModelError, "a model is a Hugging Face model folder"),
    "reward": ("config.json", ModelError, "a reward model is a Hugging Face model folder"),
    "report": (REPORT_FILE, StoreError, "make a report with `vita test`"),
    "release": ("release.json", ModelError, "make a release with `vita release`"),
    "feedback": ("feedback.jsonl", DataError, "collect feedback with `vita feedback collect`"),
    "preferences": ("preferences.jsonl", DataError, "make preferences with `vita refine`"),
}
"""Kind -> a file that each of its folders holds, and the error if it is missing."""


def check_folder(folder: Path, kind: str) -> None:
    """Refuse a folder of another kind before it is copied into the store."""
    if kind in ("model", "reward") and is_adapter_folder(folder):
        return
    pattern, family, hint = _REQUIRED_FILES.get(kind, ("*", StoreError, "the folder is empty"))
    if not any(folder.glob(pattern)):
        if kind == "corpus" and any(folder.glob("train/*.parquet")):
            raise family(
                str(folder), expected="a corpus with shards in JSON Lines", got="shards in Parquet",
                hint="write it with `vita curate DATA --out FOLDER --shards jsonl`",
            )  # fmt: skip
        raise family(str(folder), "holds no file" if pattern == "*" else f"holds no {pattern}", hint=hint)
