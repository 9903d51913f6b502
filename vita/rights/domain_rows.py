"""The rows of text on which `adapt` trained, computed again from its recorded settings and its sources.

rows = domain_rows(run, store, ledger)
rows.loader.documents_by_row(step), rows.replayed
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from vita.data.tokens.domain_corpus import Domain
from vita.data.tokens.loader import Loader
from vita.data.tokens.replay import replayed_rows
from vita.data.tokens.shards import Shards
from vita.data.tokens.truncation import ROW_TOKENS
from vita.rights.recorded_settings import reading_sources
from vita.spine.errors import DataError
from vita.spine.ledger import Ledger, Run
from vita.spine.renamed_settings import recorded_value
from vita.spine.store import Store


class DomainRows(NamedTuple):
    """The tokens of the domain, their loader, and the number of replayed rows of a step."""

    shards: Shards
    loader: Loader
    replayed: int


def domain_rows(run: Run, store: Store, ledger: Ledger, *, folder: Path) -> DomainRows:
    """Return the rows of a run of `adapt`, whose tokens are written to `folder`.

    Raise a `DataError` if a file of its sources is missing or has changed.
    """
    from vita.infer.pretrained import PretrainedText

    text = PretrainedText.load(store.open(ledger.inputs(run.id)["model"]).path)
    facts, seed = store.manifest(run.artifact or "").facts, int(run.config.get("seed", 0))
    tuned = PretrainedText.load(store.open(run.artifact or "").path).architecture.context
    context = tuned if tuned != text.architecture.context else min(tuned, ROW_TOKENS)
    length = int(recorded_value(run.config, "sequence_length") or context)
    rows, rest = divmod(int(facts["tokens"]), int(facts["steps"]) * length)
    if rest or not rows:
        raise DataError(f"{run.life}/{run.step}", f"its batch size cannot be computed from rows of {length} tokens")
    with reading_sources(run, ledger) as sources:
        held_out = float(recorded_value(run.config, "eval_fraction"))
        domain = Domain.read(sources, text.tokenizer, folder, held_out=held_out, sample=1, seed=seed)
    replayed = replayed_rows(float(run.config.get("replay", 0.0)), rows=rows, where="adapt")
    loader = Loader(domain.train, context=length, rows=rows - replayed, seed=seed)
    return DomainRows(domain.train, loader, replayed)
