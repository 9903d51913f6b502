"""The kinds of artifact through which stages meet."""

from __future__ import annotations

from typing import ClassVar

from vita.spine.store import Artifact


class Blueprint(Artifact):
    """A plan of a model, `blueprint.json`: architecture, training and prediction."""

    kind: ClassVar[str] = "blueprint"


class Corpus(Artifact):
    """Training and held-out documents, dropped documents with reasons, and a report."""

    kind: ClassVar[str] = "corpus"


class Tokens(Artifact):
    """A tokenizer and the corpus in its tokens."""

    kind: ClassVar[str] = "tokens"


class Model(Artifact):
    """A Hugging Face model folder."""

    kind: ClassVar[str] = "model"


class Report(Artifact):
    """Measurements of a model, as pages (`report.html`, `report.md`) and as data (`report.json`)."""

    kind: ClassVar[str] = "report"


class Reward(Artifact):
    """A reward model: a Hugging Face folder of a Qwen3 sequence classifier with one output."""

    kind: ClassVar[str] = "reward"


class Release(Artifact):
    """A model ready to be served: `release.json`, which pins every file by sha256, and the model folder `model/`."""

    kind: ClassVar[str] = "release"


class Feedback(Artifact):
    """User feedback on answers at one moment: `feedback.jsonl`."""

    kind: ClassVar[str] = "feedback"


class Preferences(Artifact):
    """Pairs of a chosen and a rejected answer (`preferences.jsonl`), and dialogues for training."""

    kind: ClassVar[str] = "preferences"


class Archive(Artifact):
    """A signed archive of a model: weights, recipe, data digests, reports, cards, packages and golden answers."""

    kind: ClassVar[str] = "archive"
