"""Adopt an open-weight model: from the Hugging Face Hub, a model folder or a GGUF file.

The output is a model folder whose identity is its bytes. The run records the origin, the commit, the sha256 of every
file, the licence and the base models of the card, so that `vita trace` and the model cards of all later models begin
with it. Only safetensors, JSON, templates, tokenizers, cards and licences are taken; code of a repository is never run.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import model_validator

from vita.formats.hub_reference import HubReference, hub_reference
from vita.formats.model_source import ModelSource, pinned_commits
from vita.spine.config import Settings
from vita.spine.disk import file_sha256
from vita.spine.errors import ModelError
from vita.spine.ledger import Ledger
from vita.spine.model_files import (
    BASE,
    ModelFiles,
    base_reference,
    description,
    is_adapter_folder,
    write_description,
)
from vita.spine.stage import Context, explicit_only
from vita.spine.store import REQUIRES, Draft, Traits
from vita.stages.kinds import Model, folder_traits

VERSION = 1
CARD = "README.md"


class Config(Settings):
    model: ModelSource
    """The model: an id of the Hugging Face Hub (`Qwen/Qwen3-0.6B`), a model folder, or a GGUF file."""
    revision: str | None = None
    """Branch, tag or commit of the model on the Hub; the default is `main`. The run records the commit."""

    @model_validator(mode="before")
    @classmethod
    def _join_revision(cls, values: Any) -> Any:
        """Write the revision into the reference, whose content identifies the run."""
        if isinstance(values, Mapping) and isinstance(values.get("model"), str) and values.get("revision"):
            model, revision = str(values["model"]), str(values["revision"])
            reference = hub_reference(model)
            if reference is None:
                raise ValueError(f"`revision` is for models of the Hub, and `{model}` is none")
            if reference.revision not in (None, revision):
                raise ValueError(f"`revision` is {revision}, and `model` names the revision {reference.revision}")
            return {**values, "model": model if reference.revision else f"{model}@{revision}"}
        return values

    def identity_of(self, field: str, value: Any) -> Any:
        """Return the identity of a field; the revision is a part of the model's content."""
        return None if field == "revision" else value


@dataclass(frozen=True)
class Inputs:
    """A full model has no inputs: it begins a lineage."""

    base: Model | None = explicit_only()
    """The base model of an adapter in peft's format."""


def traits(config: Config, inputs: Mapping[str, Traits | None]) -> Traits | None:
    """Return the traits of a model folder; those of other sources are known after the adoption."""
    source = config.model
    if source.hub is not None or source.is_gguf or not source.path.is_dir():
        return None
    return inputs.get("base") if is_adapter_folder(source.path) else folder_traits(source.path)


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Model]:
    folder = context.draft_folder()
    try:
        return _adopt(config, inputs, context, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # an adoption is not resumed, and a copy may be large
        raise


def _adopt(config: Config, inputs: Inputs, context: Context, folder: Path) -> Draft[Model]:
    origin = _fetch(config.model, folder, context)
    base = _refer_to_base(folder, inputs.base, where=str(config.model))
    for note in _check_model(ModelFiles(folder, base=base), where=str(config.model)):
        context.emit("note", text=note)
    files = {path.relative_to(folder).as_posix(): file_sha256(path) for path in sorted(_files(folder))}
    context.record |= {**origin, **_card_facts(folder), "files": files}
    return Draft(Model, folder, {REQUIRES: [inputs.base.digest]} if inputs.base else {})


def _refer_to_base(folder: Path, base: Model | None, *, where: str) -> ModelFiles | None:
    """Write the digest of the base model into the folder of an adapter, and return the files of the base."""
    if not is_adapter_folder(folder):
        if base is not None:
            raise ModelError(where, "is a full model, and `base` is the base model of an adapter")
        return None
    if base is None:
        hint = "name the base model as the input `base` of the step"
        raise ModelError(where, f"is an adapter of {base_reference(folder)}", hint=hint)
    write_description(folder, {**description(folder), BASE: base.digest})
    return ModelFiles(base.path)


def record(artifact: Model, inputs: Inputs, ledger: Ledger) -> None:
    """Name the artifact by its id on the Hub, so that the same reference finds it later without a network."""
    origin = _newest_record(artifact, ledger)
    if model := origin.get("hub"):
        ledger.name(f"{model}/{origin['file']}" if origin.get("file") else str(model), artifact.digest)


def _newest_record(artifact: Model, ledger: Ledger) -> Mapping[str, Any]:
    runs = ledger.find(stage="adopt", artifact=artifact.digest, state="done")
    return (runs[-1].record or {}) if runs else {}


def _fetch(source: ModelSource, folder: Path, context: Context) -> dict[str, Any]:
    """Put the files of a model into `folder` and return the record of their origin."""
    if (reference := source.hub) is not None:
        return _fetch_from_hub(source, reference, folder, context)
    if source.is_gguf:
        return {"origin": source.path.name, "format": "gguf", **_convert(source.path, folder, context)}
    if not source.path.is_dir():
        hint = "give an id of the Hub (owner/name), a model folder or a GGUF file"
        raise ModelError(str(source), "there is no such model folder or file", hint=hint)
    shutil.copytree(source.path, folder, ignore=shutil.ignore_patterns(".*"), dirs_exist_ok=True)
    return {"origin": source.path.name, "format": "folder"}


def _convert(file: Path, folder: Path, context: Context) -> dict[str, Any]:
    """Write the model of a GGUF file to `folder` and return the record of the file."""
    from vita.formats.gguf.to_folder import convert_to_folder

    notes = convert_to_folder(file, folder)
    for note in notes:
        context.emit("note", text=note)
    return {"sha256": file_sha256(file), "notes": notes}


def _fetch_from_hub(source: ModelSource, reference: HubReference, folder: Path, context: Context) -> dict[str, Any]:
    from vita.formats.hub import download_model, resolve_commit

    commit = pinned_commits.get(str(source)) or resolve_commit(reference)
    context.emit("note", text=f"{reference.id} at commit {commit[:12]}")
    files = download_model(reference, commit)
    origin = {"origin": reference.id, "format": "hub", "hub": reference.id, "revision": commit,
              "requested": reference.revision or "main"}  # fmt: skip
    if reference.file:
        return {**origin, "file": reference.file, **_convert(files[reference.file], folder, context)}
    for name, path in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy(path.resolve(), target)
    return origin


def _link_or_copy(source: Path, target: Path) -> None:
    """Link a file of the cache, which is never rewritten, or copy it from another disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _check_model(files: ModelFiles, *, where: str) -> list[str]:
    """Refuse a model whose family, tokenizer or weight files cannot be used, before it enters the store.

    Return notes about parts of the files that are not used.
    """
    from vita.infer.pretrained import PretrainedText
    from vita.nn import hf
    from vita.nn.families import weight_map

    folder = files.folder
    try:
        text = PretrainedText.load(files)
        hf.check_tokens(text.files, text.architecture, text.tokenizer.vocabulary)
        names = weight_map(text.architecture)
        skipped = [name for name in hf.stored_dtypes(files) if names.is_further_layer(name)]
    except ModelError as error:
        message = str(error).replace(f"{folder}/", "").replace(str(folder), where)
        raise ModelError(where, message.removeprefix(f"{where}: "), hint=_remote_code_hint(folder)) from None
    if not skipped:
        return []
    purpose = names.names.further_layers
    return [f"{len(skipped)} tensors of layers for {purpose} are not used, and a tuned model does not have them"]


def _remote_code_hint(folder: Path) -> str | None:
    """Return a hint where the model needs code of its repository."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if isinstance(config, dict) and config.get("auto_map"):
        return "the model contains custom code (auto_map), which Vita does not run"
    return None


def _card_facts(folder: Path) -> dict[str, Any]:
    """Return the licence and the base models of the card, and whether the folder has a licence file."""
    from vita.formats.hub import card_metadata

    card = folder / CARD
    metadata = card_metadata(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else {}
    base = metadata.get("base_model")
    return {
        "license": _plain_text(metadata.get("license")),
        "license_name": _plain_text(metadata.get("license_name")),
        "license_link": _plain_text(metadata.get("license_link")),
        "base_models": [str(name) for name in base] if isinstance(base, list) else [str(base)] if base else [],
        "card": card.is_file(),
    }


def _plain_text(value: Any) -> str | None:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or None
    return str(value) if value is not None else None


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
