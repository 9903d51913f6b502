"""The use of a document by a run, from the use of an input of the run that contains or was built from the document.

uses = InputUses(store, ledger, find_stage=stage)
uses.by(run, token_set, "trained on", fits=fits)        # StepUse("not reached", "not trained on it: none of ...")
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from vita.data.tokens.shards import DocumentSpan
from vita.rights.document_trace import TOKENIZER_ONLY
from vita.rights.step_use import RunSteps, StepUse
from vita.spine.errors import ConfigError
from vita.spine.ledger import Ledger, Run
from vita.spine.stage import Stage
from vita.spine.store import Store

WEIGHTS = ("model", "reward", "release", "archive")
"""Kinds of artifacts with weights."""
_EVALUATIONS = ("report", "archive", "release")
"""Kinds of artifacts that data enters through evaluations and reports alone."""
_INITIALIZE = "initialize"
"""The stage whose models have random weights: they depend on the text only through the tokenizer."""
_RANDOM = {
    TOKENIZER_ONLY: "its weights are random; only its tokenizer was trained on the text",
    "not used": "its weights are random, and its tokenizer was not trained on it",
}
Fits = Callable[[DocumentSpan], bool]


class InputUses:
    """The uses of a document by runs; computes the rows of training runs again."""

    def __init__(self, store: Store, ledger: Ledger, *, find_stage: Callable[[str], Stage] | None) -> None:
        """`find_stage` returns the declaration of a stage by its name; without it, only `pretrain` has known steps."""
        self._store, self._ledger = store, ledger
        self.steps = RunSteps(store, ledger, find_stage=find_stage or _unknown_stage)

    def by(
        self, run: Run, digest: str, reached: str, *, fits: Fits | None, records: Collection[tuple[str, str]] = ()
    ) -> StepUse:
        """Return the use by a run whose input `digest` has the use `reached`; the explanation may be empty.

        `fits` selects the documents in token sets. `records` are (source, id) of the records in `digest`, if training
        stages read them from it.
        """
        input_kind, output_kind = (self._store.manifest(name).kind for name in (digest, run.artifact or ""))
        if run.stage == _INITIALIZE:
            is_trained = reached == "trained on" and self._has_trained_tokenizer(run, digest)
            use = TOKENIZER_ONLY if is_trained else "not used"
            return StepUse(use, _RANDOM[use])
        if input_kind in WEIGHTS or reached not in ("trained on", "held out"):
            return StepUse(reached, "")
        if output_kind == "blueprint":  # the numbers of tokens and of the vocabulary
            return StepUse("not used", "")
        if output_kind in _EVALUATIONS:
            return StepUse("held out", "")
        exact = None
        if reached == "trained on" and records:
            exact = self.steps.use(run, records)
        elif reached == "trained on" and fits and input_kind == "tokens":
            exact = self.steps.use_of_tokens(run, digest, fits)
        return exact or StepUse(reached, "")

    def _has_trained_tokenizer(self, run: Run, token_set: str) -> bool:
        """Return True if the tokenizer of an initialized model was trained on the corpus of this token set."""
        if self._ledger.inputs(run.id).get("tokens") != token_set:
            return False
        runs = self._ledger.find(artifact=token_set, stage="tokenize", state="done")
        return any("model" not in self._ledger.inputs(tokenize.id) for tokenize in runs)


def _unknown_stage(name: str) -> Stage:
    raise ConfigError(name, "the declarations of stages are not available")
