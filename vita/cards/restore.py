"""The restore check of an archive: verify its signature, load the model, and reproduce its golden answers exactly.

result = restore(archive_folder, target, public=None)       # -> RestoreResult(files=41, golden=5, signed_by="3fa9...")
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vita.infer.engine import Engine
from vita.infer.golden_texts import check_golden_texts
from vita.infer.sampling import Sampling
from vita.infer.text_model import TextModel, model_task
from vita.spine import signing
from vita.spine.errors import ModelError, StoreError

SIGNATURE, PUBLIC = "model.sig", "public-key.pem"
GOLDEN, WEIGHTS = "golden.json", "model"
LOGPROB_TOLERANCE = 0.01
"""Largest difference of a golden answer's log-probability in nats; the order of sums depends on the machine."""


@dataclass(frozen=True)
class RestoreResult:
    """The result of a successful restore."""

    files: int
    golden: int
    signed_by: str
    """The sha256 of the key that signed."""
    model: Path
    """The restored model folder."""


def restore(archive: Path, target: Path, *, public: Any = None) -> RestoreResult:
    """Copy an archive to `target`, verify its signature and files there, and check its golden answers.

    Without `public` the key in the archive is used: this proves that the files are unchanged, but not who signed them.
    """
    if target.exists() and not target.is_dir():
        raise StoreError(str(target), "is a file", hint="restore into a new folder")
    if target.exists() and any(target.iterdir()):
        raise StoreError(str(target), "is not empty", hint="restore into a new folder")
    for name in (SIGNATURE, PUBLIC, GOLDEN):
        if not (archive / name).is_file():
            raise StoreError(str(archive), f"is no complete archive: {name} is missing")
    shutil.copytree(archive, target, dirs_exist_ok=True, symlinks=True)
    bundle = _read(target / SIGNATURE)
    key = public or signing.public_from_text((target / PUBLIC).read_text(encoding="utf-8"), where=str(archive))
    signed = signing.verify(target, bundle, public=key, leave_out=(SIGNATURE,))
    _refuse_unsigned(target, signed, beside=SIGNATURE)
    golden = _read(target / GOLDEN)
    if model_task(target / WEIGHTS) is None:
        check_golden(Engine.open(target / WEIGHTS), golden, where=str(archive))
    else:
        check_golden_texts(TextModel.open(target / WEIGHTS), golden, where=str(archive))
    return RestoreResult(len(signed), len(golden), signing.key_id(key), target / WEIGHTS)


def _refuse_unsigned(folder: Path, signed: list[str], *, beside: str) -> None:
    """Refuse an archive with a file that its signature does not include."""
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if unsigned := sorted(present - {*signed, beside}):
        raise StoreError(str(folder), f"holds {unsigned[0]}, which its signature excludes")


def check_golden(engine: Engine, golden: list[dict[str, Any]], *, where: str) -> None:
    """Refuse a model that does not reproduce the answer to each golden prompt."""
    for number, example in enumerate(golden, 1):
        if not example["greedy"]:
            continue
        answer = engine.generate([example["prompt"]], Sampling(temperature=0, max_tokens=len(example["greedy"])))[0]
        if list(answer.ids) != example["greedy"]:
            raise ModelError(f"{where}: golden prompt {number}", "the restored model gives another answer",
                             expected=engine.tokenizer.decode(example["greedy"]), got=answer.text)  # fmt: skip
        difference = abs(sum(answer.logprobs) - example["logprob"])
        if difference > LOGPROB_TOLERANCE:
            raise ModelError(
                f"{where}: golden prompt {number}", f"its log-probability differs by {difference:.4f} nats"
            )


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(str(path), f"cannot be read: {error}") from None
