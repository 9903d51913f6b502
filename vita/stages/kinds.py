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
