"""The models that requests can name: selects the version for a request, and describes models at `/v1/models`.

    directory = ModelDirectory(router, catalog)
    version, pinned = directory.select("cat", identity=None, key=key)     # pinned: the request names this version

A retired model receives no requests, except from a key with the scope `research` where the service allows it. The
same applies to a version with other retired weights: those of the base model of an adapter, or of a draft model. The
weights of a retired model are recognized in other files also.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from starlette.responses import Response

from vita.gates.model_state import ModelState
from vita.server.decoding_options import switch
from vita.server.errors import invalid
from vita.server.gateway.keys import Key
from vita.server.gateway.model_states import Catalog, iso, lifecycle_headers, retired, unknown_model
from vita.server.gateway.proxy import no_replica
from vita.server.gateway.routing import Router, ServedVersion
from vita.server.json_response import json_response


class ModelDirectory:
    """The versions that the router serves, combined with the names and states in the ledger."""

    def __init__(self, router: Router, catalog: Catalog, *, research: bool = False) -> None:
        """With `research`, keys with the scope `research` can use retired models that are kept for research."""
        self._router, self._catalog, self._research = router, catalog, research

    def select(self, name: Any, *, identity: str | None, key: Key, required: bool = True) -> tuple[ServedVersion, bool]:
        """Return the version for the `model` of a request, and True if the request names exactly this version.

        Without a name, an `ApiError` is raised if it is `required`; otherwise the service selects the version.
        """
        if name is None and not required:
            name = self._router.service
        if not isinstance(name, str) or not name:
            raise invalid("`model` is required and must be a string; GET /v1/models lists the models", "model")
        if name == self._router.service:
            return self._by_share(identity), False
        version = self.find(name)
        digest = version.model if version else self._catalog.digest(name)
        state = self._state_of(version, digest)
        if state and state.state == "retired" and not (version and self._allows_research(key, state)):
            raise retired(name, state)
        if version is None:
            raise unknown_model(name, self._names())
        return version, True

    def _by_share(self, identity: str | None) -> ServedVersion:
        """Choose a version by the traffic shares."""
        retired_ids = self.retired_ids()
        if version := self._router.choose(identity, exclude=retired_ids):
            return version
        if retired_ids:
            newest = max((self._router.versions[retired_id] for retired_id in retired_ids), key=_created)
            raise retired(self._router.service, self.state(newest))
        raise no_replica()

    def find(self, name: str) -> ServedVersion | None:
        """Return the running version with this name, digest or ledger name."""
        if version := self._router.find(name):
            return version
        digest = self._catalog.digest(name)
        served = [*self._router.versions.values(), *self._router.adapters.values()]
        matches = [version for version in served if version.model == digest] if digest else []
        return max(matches, key=_share, default=None)

    def addressed(self, name: Any) -> ServedVersion | None:
        """Return the version a request counts for if no replica responds: the one it names, or the main one."""
        version = self.find(name) if isinstance(name, str) and name != self._router.service else None
        return version or max(self._router.versions.values(), key=_share, default=None)

    def state(self, version: ServedVersion) -> ModelState:
        """Return the lifecycle state of a version: that of its model, or a retirement of other weights that it uses.

        An adapter uses the weights of its base version. Among several retirements, one that does not permit research
        prevails.
        """
        catalog = self._catalog
        model_state = catalog.model_state(version.model)
        retirements = [model_state] if model_state.state == "retired" else []
        base = self._router.versions.get(version.base) if version.base is not None else None
        for number, match in enumerate((*version.weights, *(base.weights if base else ()))):
            retirement = catalog.retirement(match)
            if retirement is None or (number == 0 and retirements):
                continue
            digest, state = retirement
            if digest != version.model:
                why = f"its weights include those of the model {digest[:12]}, which was retired: {state.why}"
                state = replace(state, why=why, successor=state.successor if number == 0 else None)
            retirements.append(state)
        return min(retirements, key=lambda state: state.for_research, default=model_state)

    def _state_of(self, version: ServedVersion | None, digest: str | None) -> ModelState:
        """Return the state of a version, or of a model that is not served."""
        if version is not None:
            return self.state(version)
        return self._catalog.model_state(digest) if digest else ModelState()

    def retired_ids(self) -> frozenset[str]:
        """Return the ids of the retired versions, which only a request that names them can reach."""
        versions = self._router.versions.values()
        return frozenset(version.id for version in versions if self.state(version).state == "retired")

    def is_ended(self, version: ServedVersion) -> bool:
        """Return True if a version is retired and no key may use it for research."""
        state = self.state(version)
        return state.state == "retired" and not (self._research and state.for_research)

    def list_models(self) -> Response:
        """Respond with the list of the available models."""
        retired_ids = self.retired_ids()
        available = [version for version in self._router.versions.values() if version.id not in retired_ids]
        adapters = self._router.adapters.values()
        available_adapters = [adapter for adapter in adapters if self.state(adapter).state != "retired"]
        models = [self._description(version.id, version) for version in [*available, *available_adapters]]
        if available:
            models.insert(0, self._description(self._router.service, max(available, key=_share)))
        return json_response({"object": "list", "data": models})

    def describe(self, name: str) -> Response:
        """Respond with the description of a model; a retired one has a tombstone with status 410."""
        version = self.find(name)
        if version is None and name == self._router.service:
            version = max(self._router.versions.values(), key=_share, default=None)
        digest = version.model if version else self._catalog.digest(name)
        state = self._state_of(version, digest)
        if digest and state.state == "retired":
            tombstone = {"id": name, "object": "model", "model": digest, "state": "retired"}
            tombstone |= {"retired_at": iso(state.since), "reason": state.why, "replacement": state.successor}
            return json_response({**tombstone, **retired(name, state).body()}, 410)
        if version is None:
            raise unknown_model(name, self._names())
        return json_response(self._description(name, version), headers=lifecycle_headers(state))

    def _names(self) -> list[str]:
        """Return the model names that a request can use."""
        retired_ids = self.retired_ids()
        versions = [name for name in self._router.versions if name not in retired_ids]
        adapters = [name for name, adapter in self._router.adapters.items() if self.state(adapter).state != "retired"]
        return [self._router.service, *versions, *adapters]

    def _allows_research(self, key: Key, state: ModelState) -> bool:
        """Return True if the service, the key and the retirement allow research access."""
        return self._research and key.allows("research") and state.for_research

    def _description(self, name: str, version: ServedVersion) -> dict[str, Any]:
        state = self.state(version)
        details = {
            "version": version.id,
            "model": version.model,
            "release": version.release,
            "state": "serving" if state.state == "approved" else state.state,
            "gate": dict(version.gate),
        }
        if version.base is not None:
            base = self._router.versions.get(version.base)
            details["base"] = base.model if base else None
        if state.state == "deprecated":
            details["deprecated_at"] = iso(state.since)
            details["sunset"] = None if state.sunset is None else iso(state.sunset)
            details["replacement"] = state.successor
        details |= {"bitwise_reproducible": version.reproducible, "warnings": list(version.warnings)}
        details["batch_invariance"] = switch(version.batch_invariance and version.backend == "vita")
        details["backend"] = version.backend
        if version.backend_details.keys() > {"program"}:
            details["backend_details"] = dict(version.backend_details)
        if version.speculation is not None:
            details["speculation"] = dict(version.speculation)
        details["share"] = round(version.share, 6)
        model = {"id": name, "object": "model", "created": int(version.created), "owned_by": "vita"}
        lengths = {"max_model_len": version.context, "context_length": version.context}
        return {**model, **lengths, "vita": details}


def _share(version: ServedVersion) -> float:
    return version.share


def _created(version: ServedVersion) -> float:
    return version.created
