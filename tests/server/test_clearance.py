"""Beside weights that a gate let out come only such, byte for byte, or against it for a reason that is kept."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.test_cli import Vita, vita
from tests.measure.lives import Life
from vita.measure import gatekeeper
from vita.measure.gate import Policy
from vita.measure.statistics import wilson
from vita.server.admin import Control
from vita.server.clearance import refuse_gone, refuse_ungated
from vita.server.release import Pinned, read_release, release_of
from vita.spine.config import build
from vita.spine.errors import GateError

__all__ = ["vita"]

FILES = ("config.json", "model.safetensors", "tokenizer.json")
BARS: dict[str, Any] = {"model": "sft", "bars": [{"report": "check", "figure": "world/right", "at_least": 0.5}]}


def gated_life(folder: Path) -> tuple[Life, str, str]:
    """A life whose gate let the weights of `sft` out; with those of `draft`, of which it knows nothing."""
    life = Life(folder)
    own, other = (life.step(name, "model", files=dict.fromkeys(FILES, name)) for name in ("sft", "draft"))
    gatekeeper.fix(life.ledger, "cat/release", build(Policy, BARS, where="gate"))
    life.report("check", own, {"world": {"world": {"right": wilson(40, 40)}}})
    assert gatekeeper.decide_by_name(life.ledger, life.store, "cat/release").green
    return life, own, other


def release(life: Life, model: str, *, named: str | None = None, guard: dict[str, Any] | None = None) -> Pinned:
    """A release of a model, which may say that it is of another."""
    made = life.folder / "releases" / str(time.monotonic_ns())
    source = life.store.open(model).path
    return read_release(release_of(source, made, name="cat", version=model[:4], digest=named or model, guard=guard))


def test_beside_gated_weights_come_only_weights_that_a_gate_lets_out_now(tmp_path):
    life, own, other = gated_life(tmp_path)
    refuse_ungated(life.ledger, life.store, release(life, other), beside=[other])
    refuse_ungated(life.ledger, life.store, release(life, own), beside=[own])
    with pytest.raises(GateError, match="which is a candidate"):
        refuse_ungated(life.ledger, life.store, release(life, other), beside=[own])
    life.report("check", own, {"world": {"world": {"right": wilson(0, 40)}}})
    with pytest.raises(GateError, match="check:world/right"):
        refuse_ungated(life.ledger, life.store, release(life, own), beside=[own])


def test_a_release_that_claims_approved_weights_and_holds_others_is_refused(tmp_path):
    life, own, other = gated_life(tmp_path)
    with pytest.raises(GateError, match=r"model/config\.json is not the file of the model .* that was approved"):
        refuse_ungated(life.ledger, life.store, release(life, other, named=own), beside=[own])


def test_weights_that_were_let_out_behind_a_guard_come_in_behind_it(tmp_path):
    life, own, _ = gated_life(tmp_path)
    figures = {"world": {"world": {"right": wilson(40, 40).as_json()}}}
    report = {"model": own, "figures": figures, "settings": {"guard": {"words": ["poison"]}}}
    life.step("check", "report", stage="redteam", files={"report.json": report}, inputs={"model": own})
    with pytest.raises(GateError, match=r"expected what cleared it: the guard .*, got no guard"):
        refuse_ungated(life.ledger, life.store, release(life, own), beside=[own])
    refuse_ungated(life.ledger, life.store, release(life, own, guard={"words": ["poison"]}), beside=[own])


@pytest.mark.parametrize("kept", [True, False])
def test_a_retired_model_is_served_for_research_only_where_it_was_kept_for_it(tmp_path, kept):
    life, own, _ = gated_life(tmp_path)
    life.ledger.move(own, "retired", who="ann", why="old", research=kept)
    with pytest.raises(GateError, match="--research serves it" if kept else "was not kept for research"):
        refuse_gone(life.ledger, release(life, own), research=False)
    if kept:
        refuse_gone(life.ledger, release(life, own), research=True)
        refuse_ungated(life.ledger, life.store, release(life, own), beside=[own])
    else:
        with pytest.raises(GateError, match="was not kept for research"):
            refuse_gone(life.ledger, release(life, own), research=True)


def test_a_model_past_its_sunset_is_not_served(tmp_path):
    life, own, _ = gated_life(tmp_path)
    life.ledger.move(own, "deprecated", who="ann", why="old", sunset=1.0)
    with pytest.raises(GateError, match="answers no more since"):
        refuse_gone(life.ledger, release(life, own), research=True)


# -- from the command line


@dataclass
class Steered:
    """What a running service was told; it serves these versions."""

    versions: list[dict[str, Any]]

    def __post_init__(self) -> None:
        self.told: list[str] = []

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        if method == "POST":
            self.told.append(path)
        if path == "/roll":
            pinned = read_release(Path((body or {})["folder"]))
            self.versions.append(version(pinned.model, release=pinned.digest))
        return httpx.Response(200, json={"service": "cat", "in_flight": 0, "versions": self.versions, "replicas": []})


def version(model: str, *, release: str = "r" * 64) -> dict[str, Any]:
    return {"version": f"cat:{model[:4]}", "share": 1.0, "model": model, "release": release}


@pytest.fixture
def steered(vita: Vita, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Life, str, str, Steered]:
    """A gated service that runs, and the life behind it."""
    life, own, other = gated_life(tmp_path)
    monkeypatch.setenv("VITA_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("VITA_LEDGER", life.ledger.url)
    (tmp_path / "store" / "services").mkdir()
    service = Steered([version(own)])
    monkeypatch.setattr(Control, "find", lambda *_: service)
    return life, own, other, service


def test_ungated_weights_are_rolled_and_promoted_only_for_a_reason_that_is_kept(vita: Vita, steered) -> None:
    life, own, other, service = steered
    code, _, err = vita("fleet", "roll", other)
    assert code == 9 and "which is a candidate" in err and "--ungated REASON" in err and not service.told
    assert vita("fleet", "roll", other, "--ungated", " ")[0] == 9
    code, _, err = vita("fleet", "roll", other, "--ungated", "a fire to put out")
    assert code == 0, err
    (kept,) = [one for one in life.ledger.events(other) if one["event"] == "ungated"]
    assert kept["data"]["reason"] == "a fire to put out" and "candidate" in kept["data"]["refusal"]
    code, _, err = vita("fleet", "promote")
    assert code == 9 and "came in against the gates" in err and service.told == ["/roll"]
    assert vita("fleet", "promote", "--ungated", "it burns")[0] == 0 and service.told == ["/roll", "/promote"]
    service.versions[:] = [version(other), version(own)]
    assert vita("fleet", "promote")[0] == 0, "what the gate lets out needs no reason"


def test_a_canary_whose_gate_is_no_longer_green_is_not_promoted(vita: Vita, steered) -> None:
    life, own, _, service = steered
    service.versions[:] = [version(own), version(own)]
    life.report("check", own, {"world": {"world": {"right": wilson(0, 40)}}})
    code, _, err = vita("fleet", "promote")
    assert code == 9 and "check:world/right" in err and not service.told


def test_a_service_without_gates_takes_any_weights(vita: Vita, steered) -> None:
    life, _, other, service = steered
    service.versions[:] = [version(other)]
    assert vita("fleet", "roll", other)[0] == 0
    assert not [one for one in life.ledger.events(other) if one["event"] == "ungated"]


def test_whether_there_is_anything_to_promote_is_for_the_service_to_say(vita: Vita, steered) -> None:
    service = steered[3]
    service.versions.clear()
    assert vita("fleet", "promote")[0] == 0 and service.told == ["/promote"]


@pytest.mark.parametrize("share", ["nan", "0", "1.5", "-1"])
def test_a_share_that_is_none_is_one_line(vita: Vita, steered, share: str) -> None:
    code, _, err = vita("fleet", "roll", steered[1], "--share", share)
    assert code == 2 and "--share: expected a number above 0, up to 1" in err, json.dumps(err)
