"""A release: a folder that pins a model and how it is served, byte for byte.

    release_of(model_folder, target, name="cat", version="1") -> target     # release.json + model/

Its digest is the sha256 of release.json, which names the sha256 of every other file: a replica that was told the
digest can tell by itself that it serves just this. `golden` prompts and a guard are put in by `deploy`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vita.spine.disk import confined, file_sha256
from vita.spine.errors import ModelError
from vita.spine.store import canonical_json

FORMAT = 1
LIMITS: Mapping[str, int] = {"queue": 64, "rows": 16}
NEEDED = ("config.json", "model.safetensors", "tokenizer.json")


@dataclass(frozen=True)
class Pinned:
    """A release as its folder tells it."""

    folder: Path
    digest: str
    name: str
    version: str
    model: str
    limits: Mapping[str, int]
    created: float | None = None

    @property
    def id(self) -> str:
        """How a request names just this version."""
        return f"{self.name}:{self.version}"


def release_of(
    model: Path,
    target: Path,
    *,
    name: str,
    version: str,
    digest: str | None = None,
    guard: Mapping[str, Any] | None = None,
    limits: Mapping[str, int] | None = None,
    sampling: Mapping[str, Any] | None = None,
    golden: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Make the folder `target` a release of a Hugging Face model folder; `digest` is the model's in the store."""
    if not model.is_dir():
        raise ModelError(str(model), "there is no such folder")
    missing = [one for one in NEEDED if not (model / one).is_file()]
    if missing and not _in_shards(model, missing):
        raise ModelError(
            str(model), f"holds no {', '.join(missing)}", hint="a release needs a Hugging Face model folder"
        )
    files: dict[str, str] = {}
    for source in sorted(
        path for path in model.rglob("*") if path.is_file() and not hidden(path.relative_to(model).as_posix())
    ):
        where = f"model/{source.relative_to(model).as_posix()}"
        place = confined(target, where)
        place.parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy(source, place)
        files[where] = file_sha256(place)
    told = {
        "format": FORMAT,
        "name": name,
        "version": version,
        "model": digest or content_digest(files),
        "files": files,
        "guard": dict(guard) if guard is not None else None,
        "limits": {**LIMITS, **(limits or {})},
        "sampling": dict(sampling or {}),
        "golden": [dict(one) for one in golden],
    }
    (target / "release.json").write_bytes(json.dumps(told, indent=1, sort_keys=True, ensure_ascii=False).encode())
    return target


def read_release(folder: Path) -> Pinned:
    """What a release's folder says; its files are verified by the replicas."""
    path = folder / "release.json"
    if not path.is_file():
        raise ModelError(str(folder), "holds no release.json", hint="make a release with `vita deploy`")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        form = told["format"]
        pinned = Pinned(folder, file_sha256(path), str(told["name"]), str(told["version"]), str(told["model"]),
                        told["limits"])  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(str(path), f"is not a release: {type(error).__name__} {error}") from None
    if form != FORMAT:
        raise ModelError(str(path), expected=f"format {FORMAT}", got=form, hint="update vita-lm")
    return pinned


def content_digest(files: Mapping[str, str]) -> str:
    """What identifies a model that is in no store: the sha256 of its files' names and sha256."""
    import hashlib

    return hashlib.sha256(canonical_json(dict(files))).hexdigest()


def _in_shards(model: Path, missing: Sequence[str]) -> bool:
    return list(missing) == ["model.safetensors"] and (model / "model.safetensors.index.json").is_file()


def hidden(name: str) -> bool:
    """Whether a file of a model's folder stays out of its releases."""
    return any(part.startswith(".") for part in name.split("/"))


def _link_or_copy(source: Path, target: Path) -> None:
    """A hard link where the disk allows it: the bytes are the same, and nobody writes them."""
    try:
        target.hardlink_to(source.resolve())
    except OSError:
        shutil.copyfile(source, target)
