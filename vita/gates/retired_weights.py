"""The weights of retired models, compared with the weights that a service has loaded.

    retired = RetiredWeights()
    retired.add(retired.read(ledger, moves))
    retired.complete(match).digests                       # with the retired models that have the same weights

A clearance finds the models that are in the store at that time. A copy of the weights that is added and retired later
is found here, by the hashes in the ledger's indexes; no weight file is read. Models with a sunset date are included,
since they are retired at that date without another change of state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import sqlalchemy as sa

from vita.gates.weights import ModelMatch, WeightsIdentity, model_files, model_tensors
from vita.spine.ledger import Ledger, StateTransition

ENDED = ("deprecated", "retired")
"""States in which the weights of a model leave service, at once or at a sunset date."""
MODELS_PER_QUERY = 500
"""Models per query: databases limit the number of parameters."""


class RetiredWeights:
    """The weights of the models that are retired or have a sunset date, as of the last `add`.

    `read` may run in another thread than the other methods.
    """

    def __init__(self) -> None:
        self._missing: frozenset[str] = frozenset()
        """Models whose tensors were not in the index at the last `read`, which is the only user of this set."""
        self._identities: dict[str, WeightsIdentity] = {}
        self._matches: dict[ModelMatch, ModelMatch] = {}

    def read(self, ledger: Ledger, moves: Iterable[StateTransition]) -> dict[str, WeightsIdentity]:
        """Read the indexes for models with new changes of state, and for those that were missing before.

        Returns the digest of each of these models -> its weights.
        """
        models = sorted(self._missing | {move.artifact for move in moves if move.state in ENDED})
        identities: dict[str, WeightsIdentity] = {}
        missing = set(models)
        for start in range(0, len(models), MODELS_PER_QUERY):
            part = models[start : start + MODELS_PER_QUERY]
            with ledger.transaction() as database:
                file_rows = database.execute(sa.select(model_files).where(model_files.c.artifact.in_(part))).all()
                query = sa.select(model_tensors).where(model_tensors.c.artifact.in_(part))
                tensors = {row.artifact: row.digest for row in database.execute(query)}
            files: dict[str, dict[str, str]] = {}
            for row in file_rows:
                files.setdefault(row.artifact, {})[row.name] = row.sha256
            missing -= tensors.keys()
            for model, hashes in files.items():
                identities[model] = WeightsIdentity.of(hashes, tensors=tensors.get(model))
        self._missing = frozenset(missing)
        return identities

    def add(self, identities: Mapping[str, WeightsIdentity]) -> None:
        """Add the weights that `read` returned."""
        if any(self._identities.get(model) != identity for model, identity in identities.items()):
            self._identities |= identities
            self._matches.clear()

    def complete(self, match: ModelMatch) -> ModelMatch:
        """Return a match with the models that have the same weights and are retired or have a sunset date."""
        if match not in self._matches:
            same = {model: weights for model, weights in self._identities.items() if match.identity.holds(weights)}
            exact = [model for model, weights in same.items() if weights.files == match.identity.files]
            self._matches[match] = replace(
                match,
                exact=tuple(dict.fromkeys([*match.exact, *exact])),
                same_weights=tuple(dict.fromkeys([*match.same_weights, *same])),
            )
        return self._matches[match]
