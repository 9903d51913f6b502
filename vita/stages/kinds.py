"""The kinds of artifact through which stages meet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

from vita.gates.corpus_approvals import require_valid_approvals
from vita.spine.errors import VitaError
from vita.spine.ledger import Ledger
from vita.spine.model_files import ModelFiles, description
from vita.spine.store import Artifact, Store, Traits


def folder_traits(folder: Path) -> Traits | None:
    """Return the traits of a model folder; None if it cannot be read, which the step that uses it reports."""
    from vita.nn.families import family_of, read_architecture
    from vita.nn.requirements import CLASSIFIER, model_traits

    try:
        files = ModelFiles.of(folder)
        values = json.loads(files.text("config.json"))
        architecture = read_architecture(values)
        is_classifier = values.get("architectures") == [family_of(architecture).classifier_class]
        has_classifier = is_classifier or CLASSIFIER in description(folder)
        return model_traits(architecture, classifier=has_classifier)
    except (VitaError, OSError, ValueError):
        return None


class Blueprint(Artifact):
    """A plan of a model, `blueprint.json`: architecture, training and prediction."""

    kind: ClassVar[str] = "blueprint"

    @property
    def traits(self) -> Traits | None:
        from vita.nn.architecture import Architecture
        from vita.nn.requirements import model_traits

        try:
            plan = json.loads((self.path / "blueprint.json").read_text(encoding="utf-8"))
            return model_traits(Architecture.model_validate(plan["architecture"]))
        except (OSError, ValueError, KeyError):
            return None


class Corpus(Artifact):
    """Training and held-out documents, dropped documents with reasons, and a report."""

    kind: ClassVar[str] = "corpus"

    @classmethod
    def admit(cls, digest: str, slot: str, ledger: Ledger, store: Store) -> None:
        require_valid_approvals(digest, slot, ledger, store)


class Tokens(Artifact):
    """A tokenizer and the corpus in its tokens."""

    kind: ClassVar[str] = "tokens"

    @classmethod
    def admit(cls, digest: str, slot: str, ledger: Ledger, store: Store) -> None:
        require_valid_approvals(digest, slot, ledger, store)


class Model(Artifact):
    """A Hugging Face model folder."""

    kind: ClassVar[str] = "model"

    @property
    def traits(self) -> Traits | None:
        return folder_traits(self.path)


class Report(Artifact):
    """Measurements of a model, as pages (`report.html`, `report.md`) and as data (`report.json`)."""

    kind: ClassVar[str] = "report"


class Reward(Artifact):
    """A reward model: a Hugging Face folder of a Qwen3 sequence classifier with one output."""

    kind: ClassVar[str] = "reward"


class Release(Artifact):
    """A model ready to be served: `release.json`, which pins every file by sha256, and the model folder `model/`."""

    kind: ClassVar[str] = "release"

    @property
    def traits(self) -> Traits | None:
        return folder_traits(self.path / "model")


class DeploymentFiles(Artifact):
    """The files of a deployment, without its release: a compose file, manifests or the description of a service."""

    kind: ClassVar[str] = "deployment"


class Feedback(Artifact):
    """User feedback on answers at one moment: `feedback.jsonl`."""

    kind: ClassVar[str] = "feedback"


class Reference(Artifact):
    """Features of the prompts that a model is meant for, against which drift is measured."""

    kind: ClassVar[str] = "reference"


class Preferences(Artifact):
    """Pairs of a chosen and a rejected answer (`preferences.jsonl`), and dialogues for training."""

    kind: ClassVar[str] = "preferences"


class Archive(Artifact):
    """A signed archive of a model: weights, recipe, data digests, reports, cards, packages and golden answers."""

    kind: ClassVar[str] = "archive"
