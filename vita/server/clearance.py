"""Which weights a service may be given: none that are gone, and beside those that a gate let out only such.

A service is gated as long as it serves weights that a gate approved once. What comes in beside them is judged again at
that moment, behind the guard that it bears, and must be the very bytes that were approved. Whoever overrules that gives
a reason, which is kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from vita.measure.gatekeeper import LET_OUT, refuse_stale, refuse_stale_release
from vita.server.lifecycle import Catalog, iso
from vita.server.release import Pinned, hidden
from vita.spine.errors import GateError, StoreError
from vita.spine.ledger import Ledger
from vita.spine.store import Store

OVERRULED = "ungated"
"""The event of weights that came in against the gates."""


def refuse_gone(ledger: Ledger, release: Pinned, *, research: bool) -> None:
    """Raises when the model is retired or past its sunset, unless it was kept for research and that is meant."""
    catalog = Catalog(ledger, release.name)
    catalog.refresh()
    standing = catalog.standing(release.model)
    if standing.state != "retired" or (research and standing.for_research):
        return
    where, day = f"model {release.model[:12]}", iso(standing.since)[:10]
    if standing.for_research:
        hint = "--research serves it to keys with the scope `research`"
    else:
        hint = "it was not kept for research" + (f"; `{standing.successor}` comes after it" * bool(standing.successor))
    raise GateError(where, f"answers no more since {day} ({standing.why})", hint=hint)


def gated(ledger: Ledger, models: Iterable[str]) -> bool:
    """Whether a gate let any of these models out."""
    return any(move.state in LET_OUT for model in models for move in ledger.moves(model))


def refuse_ungated(ledger: Ledger, store: Store, release: Pinned, *, beside: Iterable[str]) -> None:
    """Raises when a gate let out a model of `beside` and does not let this release out now.

    A retired model that `refuse_gone` lets pass is asked for its bytes only: it answers nobody but research.
    """
    if gated(ledger, beside):
        where, told = f"release {release.id}", json.loads((release.folder / "release.json").read_text(encoding="utf-8"))
        if ledger.state(release.model) != "retired":
            refuse_stale_release(ledger, store, release.model, where=where, guard=told.get("guard"))
        _refuse_other_bytes(store, release.model, told["files"], where=where)


def refuse_ungated_to_stay(ledger: Ledger, store: Store, model: str, release: str, *, beside: Iterable[str]) -> None:
    """The same of what came in already and is to have all of the traffic: `model` as the release with this digest."""
    if not gated(ledger, beside):
        return
    if any(one["event"] == OVERRULED and one["data"].get("release") == release for one in ledger.events(model)):
        raise GateError(f"model {model[:12]}", "came in against the gates")
    refuse_stale(ledger, store, model, where=f"model {model[:12]}")


def overrule(ledger: Ledger, model: str, release: str, *, reason: str, refusal: GateError) -> None:
    """Keep who was let in although the gates refused, and why."""
    if not reason.strip():
        raise GateError("--ungated", "needs a reason, which is kept")
    ledger.log(OVERRULED, model, release=release, reason=reason, refusal=str(refusal))


def _refuse_other_bytes(store: Store, model: str, files: Mapping[str, str], *, where: str) -> None:
    """A release says itself whose weights it holds; what a gate approved lies in the store."""
    try:
        known = {f"model/{name}": sha for name, (sha, _) in store.manifest(model).files.items() if not hidden(name)}
    except StoreError:
        raise GateError(where, f"the model {model[:12]} that it names is not in this store") from None
    if other := sorted(name for name in {*files, *known} if files.get(name) != known.get(name)):
        raise GateError(where, f"{other[0]} is not the file of the model {model[:12]} that was approved")
