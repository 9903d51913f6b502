"""Take a version out of service and store it in a signed archive. A test restore checks the archive.

The archive holds the weights, the recipes of all runs of their lineage, the digests of the data, the model card, the
reports on the model and its ancestors, golden answers, the versions of the packages, and a signature. A restore drill
must reproduce the golden answers before the archive counts. From then on the service refuses the version and names its
successor.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from vita.cards import archive
from vita.gates.weights import index_weights
from vita.infer.sampling import Sampling
from vita.spine import machine, signing
from vita.spine.config import Settings
from vita.spine.disk import write_atomically
from vita.spine.errors import PlanError
from vita.spine.ledger import Ledger
from vita.spine.model_files import BASE, ModelFiles
from vita.spine.plan import Context, Draft
from vita.spine.stage import explicit_only
from vita.spine.store import Store
from vita.stages.kinds import Archive, Blueprint, Corpus, Model, Release, Report, Tokens

VERSION = 3
ADMITS_ALL_INPUTS = True
"""A model is also retired if the approval of its corpus does not count any more."""
LINEAGE = True
"""The archive contains the lineage of the weights."""

LOCK = "constraints.txt"
GOLDEN_PROMPTS = ("What is a cat?", "Hello!", "1 2 3")


class Config(Settings):
    """The reason, the remaining access, and the golden prompts."""

    reason: str = Field(min_length=1)
    """Reason for the retirement; users of the service see it."""
    access: Literal["research", "none"] = "none"
    """Remaining access: keys with the scope `research`, or none."""
    golden_prompts: tuple[str, ...] = Field(GOLDEN_PROMPTS, min_length=1)
    """Prompts of the golden answers, if no release has them."""
    golden_tokens: int = Field(32, ge=1)
    """Maximum tokens of a golden answer."""


@dataclass(frozen=True)
class Inputs:
    model: Model
    release: Release | None = explicit_only()
    successor: Model | None = explicit_only()
    """The version that replaces it."""
    blueprint: Blueprint | None = None
    corpus: Corpus | None = None
    tokens: Tokens | None = None
    report: Report | None = None


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Archive]:
    from vita.cards.restore import GOLDEN, PUBLIC, SIGNATURE, WEIGHTS, restore

    if inputs.successor and inputs.successor.digest == inputs.model.digest:
        raise PlanError("retire.successor", "is the model that is retired", hint="choose another with `inputs:`")
    release = _release(inputs)
    folder = context.draft_folder()
    shutil.copytree(inputs.model.path, folder / WEIGHTS)
    if (base := ModelFiles(inputs.model.path).base) is not None:
        shutil.copytree(base.folder, folder / WEIGHTS / BASE)
    _dump(folder / "recipe.json", list(context.lineage))
    _dump(folder / "tombstone.json", _tombstone(config, inputs, release))
    (folder / LOCK).write_text(archive.constraints(archive.packages()), encoding="utf-8")
    _dump(folder / GOLDEN, release["golden"] if release else _golden(config, inputs.model.path))
    if inputs.release:
        shutil.copyfile(inputs.release.path / "release.json", folder / "release.json")
    for name, artifact in _reports(inputs).items():
        _copy_reports(artifact.path, folder / "reports" / name)
    if context.ledger and context.store:
        index_weights(context.ledger, context.store, inputs.model.digest)
        _add_card_and_reports(inputs, context.ledger, context.store, lineage=context.lineage, folder=folder)
    key = signing.load_or_create_key(machine.signing_key())
    (folder / PUBLIC).write_text(signing.public_to_text(key.public_key()), encoding="ascii")
    bundle = signing.sign(folder, name=f"model {inputs.model.digest}", key=key, leave_out=(SIGNATURE,))
    _dump(folder / SIGNATURE, bundle)
    drill = context.scratch / "drill"
    shutil.rmtree(drill, ignore_errors=True)
    restored = restore(folder, drill)
    shutil.rmtree(drill)
    context.emit(
        "note", text=f"restored from the archive: {restored.files} files, {restored.golden} golden answers reproduced"
    )
    facts = {"model": inputs.model.digest, "reason": config.reason, "access": config.access, "files": restored.files,
             "golden": restored.golden, "signed_by": restored.signed_by}  # fmt: skip
    successor = {"successor": inputs.successor.digest} if inputs.successor else {}
    return Draft(Archive, folder, facts | successor)


def record(artifact: Archive, inputs: Inputs, ledger: Ledger) -> None:
    """Record the retirement of the model and the restore drill in the ledger."""
    facts = artifact.facts
    if ledger.state(facts["model"]) != "retired":
        ledger.move(
            facts["model"], "retired", who="retire", why=facts["reason"], archive=artifact.digest,
            successor=facts.get("successor") or _announced(facts["model"], ledger),
            research=facts["access"] == "research",
        )  # fmt: skip
        ledger.log("restored", artifact.digest, files=facts["files"], golden=facts["golden"])


def _announced(model: str, ledger: Ledger) -> str | None:
    """Return the successor that an earlier deprecation announced."""
    successors = [move.details.get("successor") for move in ledger.moves(model) if move.state == "deprecated"]
    return next((successor for successor in reversed(successors) if successor), None)


def _release(inputs: Inputs) -> dict[str, Any] | None:
    if inputs.release is None:
        return None
    release = json.loads((inputs.release.path / "release.json").read_text(encoding="utf-8"))
    if release["model"] != inputs.model.digest:
        expected, got = inputs.model.digest[:12], release["model"][:12]
        hint = "choose the step with `inputs: {release: ...}`"
        raise PlanError("retire.release", expected=f"a release of the model {expected}", got=f"one of {got}", hint=hint)
    return release if release["golden"] else None


def _golden(config: Config, model: Path) -> list[dict[str, Any]]:
    from vita.infer.text_model import TextModel, model_task

    if model_task(model) is not None:
        from vita.infer.golden_texts import golden_texts

        return golden_texts(TextModel.open(model), config.golden_prompts)
    from vita.infer.engine import Engine

    engine = Engine.open(model)
    answers = []
    for prompt in config.golden_prompts:
        ids = engine.text_ids(prompt)
        answer = engine.generate([ids], Sampling(temperature=0, max_tokens=config.golden_tokens))[0]
        answers.append({"prompt": ids, "greedy": list(answer.ids), "logprob": round(sum(answer.logprobs), 4)})
    return answers


def _tombstone(config: Config, inputs: Inputs, release: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "model": inputs.model.digest,
        "name": f"{release['name']}:{release['version']}" if release else None,
        "reason": config.reason,
        "access": config.access,
        "successor": inputs.successor.digest if inputs.successor else None,
        "inputs": {name: artifact.digest for name, artifact in _reports(inputs).items()},
    }


def _add_card_and_reports(
    inputs: Inputs, ledger: Ledger, store: Store, *, lineage: Sequence[Mapping[str, Any]], folder: Path
) -> None:
    """Write the model card, and copy the reports on the model and its ancestors."""
    archive.write_card(ledger, store, inputs.model.digest, folder / "cards")
    ancestors = [inputs.model.digest, *(run["artifact"] for run in lineage)]
    included = {artifact.digest for artifact in _reports(inputs).values()}
    for name, digest in archive.reports_of(ledger, store, ancestors).items():
        if digest not in included:
            _copy_reports(store.open(digest).path, folder / "reports" / name)


def _reports(inputs: Inputs) -> dict[str, Any]:
    artifacts = {"blueprint": inputs.blueprint, "corpus": inputs.corpus, "tokens": inputs.tokens, "test": inputs.report}
    return {name: artifact for name, artifact in artifacts.items() if artifact is not None}


def _copy_reports(source: Path, target: Path) -> None:
    """Copy the reports of an artifact without its data, whose digests are in the recipe."""
    for path in sorted(source.rglob("*")):
        is_report = path.suffix in (".md", ".html", ".json", ".svg") or path.name == "items.jsonl.zst"
        if path.is_file() and is_report and "tokenizer" not in path.parts:
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def _dump(path: Path, value: Any) -> None:
    write_atomically(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode())
