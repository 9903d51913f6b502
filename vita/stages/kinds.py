"""The kinds of artifact through which stages meet."""

from __future__ import annotations

from typing import ClassVar

from vita.spine.store import Artifact


class Blueprint(Artifact):
    """`blueprint.json`: architecture, training plan and what both are expected to give."""

    kind: ClassVar[str] = "blueprint"


class Corpus(Artifact):
    """Documents kept for training and held out, the drops with their reasons, and a report."""

    kind: ClassVar[str] = "corpus"


class Tokens(Artifact):
    """A tokenizer and the corpus in its tokens."""

    kind: ClassVar[str] = "tokens"


class Model(Artifact):
    """A Hugging Face model folder."""

    kind: ClassVar[str] = "model"


class Report(Artifact):
    """What was measured of a model, for people (`report.html`, `report.md`) and programs (`report.json`)."""

    kind: ClassVar[str] = "report"


class Reward(Artifact):
    """A reward model: a Hugging Face folder of a Qwen3 sequence classifier with one output."""

    kind: ClassVar[str] = "reward"


class Release(Artifact):
    """What replicas serve: `release.json`, which pins every file, and the model's folder `model/`."""

    kind: ClassVar[str] = "release"


class Feedback(Artifact):
    """What users said of answers, frozen at one moment: `feedback.jsonl`."""

    kind: ClassVar[str] = "feedback"


class Preferences(Artifact):
    """Cleaned pairs of a better and a worse answer (`preferences.jsonl`), and dialogues to learn from."""

    kind: ClassVar[str] = "preferences"


class Archive(Artifact):
    """A sealed model: weights, recipe, data digests, reports, cards, packages, golden prompts and a signature."""

    kind: ClassVar[str] = "archive"
