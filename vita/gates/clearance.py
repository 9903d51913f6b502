"""Clearance: the permission of a service to load files, based on hashes that the caller has just computed.

    clearance = clear(ledger, store, files, guard=None, label="cat:1")
    clearance.model                                           # the digest of the model, computed from its files

For an approval, all files must be those of a model that a gate approves now, with the same guard. Retirement and
rejection apply to every folder with the same weight files or tensors; retirement also applies to the weights that are
loaded with a model: the base model of an adapter and the draft model of speculative decoding. Without an approval an
operator may give a reason (`--ungated REASON`), which is recorded in the ledger. Only `--research` overrides
retirement, for a model that was kept for research.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from vita.gates import decisions
from vita.gates.model_state import ModelState, model_state
from vita.gates.weights import Files, ModelMatch, match_model
from vita.spine.errors import GateError
from vita.spine.ledger import Ledger
from vita.spine.store import Store


class RetiredModelError(GateError):
    """Weights were refused because a model with these weights is retired."""


UNGATED = "ungated"
"""The event of a model that is served without the approval of a gate; its subject is the model's digest."""


@dataclass(frozen=True)
class ServingRequest:
    """The request of an operator to serve a model."""

    ungated: str | None = None
    """The reason for serving the model without the approval of a gate."""
    research: bool = False
    """Permit serving a retired model for research."""


@dataclass(frozen=True)
class CompanionModel:
    """A model whose weights are loaded together with those of the cleared model."""

    role: str
    """Its role in errors, for example `base model`."""
    files: Files
    tensors: str | None = None
    """The digest of the tensors in the files."""


@dataclass(frozen=True)
class Clearance:
    """The permission to serve verified files."""

    model: str
    """The digest of the model, computed from its files."""
    status: Literal["approved", "ungated", "research"]
    gate: str | None = None
    """The gate that approves the model now."""
    reason: str | None = None
    """The reason for serving the model without an approval."""
    refusal: str | None = None
    """The reason why no gate approves the model."""
    weights: tuple[ModelMatch, ...] = ()
    """The weights of the model and of each companion; the retirement of a model with the same weights ends the
    permission, also if that model enters the store later."""

    def as_json(self) -> dict[str, Any]:
        """Return the `gate` object of `/v1/models`."""
        fields = {"gate": self.gate, "reason": self.reason, "refusal": self.refusal}
        return {"status": self.status, **{name: value for name, value in fields.items() if value is not None}}


def clear(
    ledger: Ledger,
    store: Store,
    files: Files,
    *,
    guard: Mapping[str, Any] | None,
    label: str,
    tensors: str | None = None,
    claim: str | None = None,
    terms: ServingRequest | None = None,
    companions: Sequence[CompanionModel] = (),
    record: bool = True,
    purpose: str = "serving",
) -> Clearance:
    """Return the permission to serve these files; raise `GateError` with the reason otherwise.

    `purpose` names the use in errors. `tensors` is the digest of the tensors in the files, `claim` the model that a
    release says it holds, and `companions` are the models that are loaded with it, of which none may be retired. With
    `record`, serving without an approval enters the ledger.
    """
    terms = terms or ServingRequest()
    match = match_model(ledger, store, files, tensors=tensors)
    _refuse_false_claim(store, match, claim, label=label)
    weights, research = [match], None
    for companion in companions:
        companion_match = match_model(ledger, store, companion.files, tensors=companion.tensors)
        weights.append(companion_match)
        research = _clear_retired(ledger, companion_match, terms=terms, role=companion.role) or research
    research = _clear_retired(ledger, match, terms=terms) or research
    if research is not None:
        return Clearance(match.digest, "research", reason=research, weights=tuple(weights))
    try:
        gate = _approving_gate(ledger, store, match, guard=guard, label=label)
        clearance = Clearance(match.digest, "approved", gate=gate)
    except GateError as refusal:
        clearance = _clear_ungated(ledger, match, terms, refusal=refusal, label=f"{purpose} {label}", record=record)
    return replace(clearance, weights=tuple(weights))


def clear_export(
    ledger: Ledger,
    store: Store,
    model: str,
    *,
    files: Files,
    label: str,
    purpose: str,
    ungated: str | None,
    companions: Sequence[CompanionModel] = (),
) -> Clearance:
    """Return the permission to give a model of the store away: to export it or to push it to the Hub.

    A model of a life with gates needs an approval, as for serving, or a reason. A retired model and a model with the
    weights of a rejected one are refused as for serving. Other models have no gate that could approve them.
    """
    names = [name for name, digest in ledger.all_names().items() if digest == model]
    lives = {name.partition("/")[0] for name in names}
    has_gate = decisions.has_gate(ledger, lives) or decisions.rejections(ledger, [model])
    reason = ungated if ungated is not None or has_gate else "no gate is declared for its life"
    return clear(
        ledger, store, files, guard=None, label=label, terms=ServingRequest(ungated=reason), companions=companions,
        record=ungated is not None, purpose=purpose,
    )  # fmt: skip


def require_approval(
    ledger: Ledger, store: Store, model: str, *, where: str, guard: Mapping[str, Any] | None, deprecated: bool = False
) -> str:
    """Return the gate that approves a model of the store now, behind this guard; raise `GateError` if none does.

    The stage `release` calls this before it pins a model, and `clear` before it serves one. With `deprecated`, a
    deprecated model counts as approved until its sunset.
    """
    states = decisions.SERVABLE if deprecated else decisions.APPROVED_STATES
    return decisions.require_approved_release(ledger, store, model, where=where, guard=guard, states=states)


def is_approved(ledger: Ledger, model: str) -> bool:
    """Return True if a model has been approved and is neither deprecated nor retired."""
    return ledger.state(model) in decisions.APPROVED_STATES


def _refuse_false_claim(store: Store, match: ModelMatch, claim: str | None, *, label: str) -> None:
    """Raise if a release names a model of this store and has other files than that model."""
    if claim is None or claim in (match.digest, *match.exact) or not store.has(claim):
        return
    raise GateError(
        f"release {label}",
        expected=f"the files of the model {claim[:12]}, which it says it holds",
        got=f"those of {match.digest[:12]}",
        hint="make a new release with `vita release`",
    )


def retirement(match: ModelMatch, state_of: Callable[[str], ModelState]) -> tuple[str, ModelState] | None:
    """Return the digest and the state of the first retired model of a match, or None.

    The state permits research only if that model has exactly the files of the match.
    """
    states = ((digest, state_of(digest)) for digest in match.digests)
    retired = next(((digest, state) for digest, state in states if state.state == "retired"), None)
    if retired is None or retired[0] in (match.digest, *match.exact):
        return retired
    return retired[0], replace(retired[1], for_research=False)


def _clear_retired(ledger: Ledger, match: ModelMatch, *, terms: ServingRequest, role: str = "model") -> str | None:
    """Return None if no model with these weights is retired, or the reason for serving a retired one for research.

    Raises `RetiredModelError` for a retired model that may not be served for research.
    """
    now = time.time()
    retired = retirement(match, lambda digest: model_state(ledger.moves(digest)).at(now))
    if retired is None:
        return None
    digest, state = retired
    day = datetime.fromtimestamp(state.since, UTC).date()
    if terms.research and state.for_research:
        reason = f"retired on {day}, kept for research"
        return reason if role == "model" else f"the {role} {digest[:12]} was {reason}"
    if state.for_research:
        hint = "--research serves it to keys with the scope `research`"
    else:
        successor = f"; `{_name(ledger, state.successor)}` replaces it" if state.successor else ""
        hint = f"these files are not kept for research{successor}"
    raise RetiredModelError(f"{role} {digest[:12]}", f"has been retired since {day} ({state.why})", hint=hint)


def _approving_gate(
    ledger: Ledger, store: Store, match: ModelMatch, *, guard: Mapping[str, Any] | None, label: str
) -> str:
    """Return the gate that approves a model with exactly these files now; raise if there is none."""
    refusal: GateError | None = None
    for digest in match.exact:
        if ledger.state(digest) == "candidate" and decisions.rejections(ledger, match.same_weights):
            continue
        try:
            return require_approval(ledger, store, digest, where=f"release {label}", guard=guard, deprecated=True)
        except GateError as error:
            refusal = refusal or error
    if refusal is not None:
        raise refusal
    raise GateError(f"release {label}", _why_unknown(ledger, match), hint="see `vita gate` and `vita waive`")


def _why_unknown(ledger: Ledger, match: ModelMatch) -> str:
    if rejected := decisions.rejections(ledger, match.same_weights):
        return f"holds weights that the gate {rejected[0].gate} rejected"
    if approved := [digest for digest in match.same_weights if is_approved(ledger, digest)]:
        return f"holds the weights of the approved model {approved[0][:12]}, but other files"
    return f"holds the model {match.digest[:12]}, which no gate has approved"


def _clear_ungated(
    ledger: Ledger, match: ModelMatch, terms: ServingRequest, *, refusal: GateError, label: str, record: bool
) -> Clearance:
    if terms.ungated is None:
        raise GateError(label, f"{refusal}; to do it all the same, give --ungated REASON") from None
    reason = " ".join(terms.ungated.split())
    if not reason:
        raise GateError("--ungated", "needs a reason, which the ledger keeps")
    if record:
        use, _, release = label.partition(" ")
        ledger.log(UNGATED, match.digest, release=release, use=use, reason=reason, refusal=str(refusal))
    return Clearance(match.digest, "ungated", reason=reason, refusal=str(refusal))


def _name(ledger: Ledger, digest: str) -> str:
    """Return a name of a model, or the beginning of its digest if it has none."""
    return next((name for name, artifact in ledger.all_names().items() if artifact == digest), digest[:12])
