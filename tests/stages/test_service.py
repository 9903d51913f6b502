"""A release before users: served for real, by processes of its own, with a second version coming in beside it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.stages.preferring import written
from tests.stages.test_farewell import context, model, release
from vita.data.feedback import read_feedback
from vita.spine.config import build
from vita.spine.errors import GateError, PlanError, VitaError
from vita.spine.ledger import Ledger
from vita.spine.stage import Context
from vita.spine.store import Store
from vita.stages import canary, pilot

WORLD = {"things": 20}


def pilot_of(folder: Path, given: pilot.Inputs, **settings: Any) -> Any:
    values = {"world": WORLD, "sessions": 6, "replicas": 1, "max_tokens": 4, "ungated": "a test", **settings}
    return pilot.run(build(pilot.Config, values, where="pilot"), given, serving_context(folder))


def serving_context(folder: Path) -> Context:
    """A stage's context with the ledger and store of its life, which know of no gate."""
    ledger, store = Ledger(folder.parent / "ledger.db"), Store(folder.parent / "store")
    return replace(context(folder), ledger=ledger, store=store)


@pytest.mark.slow
def test_a_release_that_no_gate_approves_is_served_in_a_life_only_for_a_reason(tmp_path):
    given = pilot.Inputs(release(tmp_path / "release", model(tmp_path / "model"), name="cat"))
    with pytest.raises(GateError, match="which no gate has approved"):
        pilot_of(tmp_path / "scratch", given, ungated=None)


@pytest.mark.slow
def test_what_visitors_say_is_frozen_and_the_same_each_time(tmp_path):
    given = pilot.Inputs(release(tmp_path / "release", model(tmp_path / "model"), name="cat"))
    first, second = (pilot_of(tmp_path / name, given) for name in ("first", "second"))
    assert first.facts == second.facts and first.facts["sessions"] == 6
    said = list(read_feedback(first.folder))
    assert said == list(read_feedback(second.folder))
    assert all(one.consent and len(one.model) == 64 and one.request.startswith("visit/") for one in said)


@pytest.mark.slow
def test_a_second_version_comes_in_without_a_failed_request(tmp_path):
    old = release(tmp_path / "old", model(tmp_path / "model"), name="cat")
    new = release(tmp_path / "new", model(tmp_path / "other"), name="cat", version="2")
    values = {"world": WORLD, "sessions": 24, "replicas": 2, "max_tokens": 4, "share": 0.5, "ungated": "a test"}
    config = build(canary.Config, values, where="canary")
    draft = canary.run(config, canary.Inputs(new, serving=old), serving_context(tmp_path / "scratch"))
    assert draft.facts["canary/failed_requests"] == 0 and draft.facts["promoted"]
    told = json.loads((draft.folder / "report.json").read_text())
    assert told["figures"]["service"]["canary"]["complaint_rate/after"]["n"] > 0


def test_two_releases_of_one_name_and_version_are_refused(tmp_path):
    old = release(tmp_path / "old", model(tmp_path / "model"), name="cat")
    config = build(canary.Config, {"world": WORLD}, where="canary")
    with pytest.raises(PlanError, match="both releases are called cat:1"):
        canary.run(config, canary.Inputs(old, serving=old), context(tmp_path / "scratch"))


def test_a_pilot_takes_visitors_of_one_kind_or_what_was_recorded(tmp_path):
    given = pilot.Inputs(release(tmp_path / "release", model(tmp_path / "model")))
    asked = written(tmp_path, [{"prompt": "Say mu."}])
    short = {"use": "matches", "options": {"pattern": "mu"}}
    for settings, message in (
        ({"world": None}, "expected `world`, or `sources` with `complaint_reward`"),
        ({"world": None, "sources": [asked]}, "with `complaint_reward`"),
        ({"sources": [asked], "complaint_reward": short}, "expected one of `world` and `sources`"),
        ({"recorded_feedback": str(tmp_path)}, "expected one of `world`, `sources` and `recorded_feedback`"),
        ({"world": None, "sources": [asked], "complaint_reward": "reward"}, "expected a reward that needs no model"),
        (
            {"world": None, "sources": [asked], "complaint_reward": short, "max_tokens": 120},
            "expected prompts of at most 8 token",
        ),
    ):
        with pytest.raises(VitaError, match=message):
            pilot_of(tmp_path / "scratch", given, **settings)


@pytest.mark.slow
def test_people_with_prompts_of_a_file_ask_these_and_mind_what_a_reward_says(tmp_path):
    given = pilot.Inputs(release(tmp_path / "release", model(tmp_path / "model"), name="mu"))
    asked = written(tmp_path, [{"prompt": f"Say {word}."} for word in ("mu", "ba", "ko")])
    settings = {"sources": [asked], "complaint_reward": {"use": "matches", "options": {"pattern": "[a-m]"}}}
    made = pilot_of(tmp_path / "scratch", given, world=None, sessions=12, **settings)
    said = list(read_feedback(made.folder))
    assert {one.prompt[-1].content for one in said} <= {"Say mu.", "Say ba.", "Say ko."} and said
    assert made.facts["sessions"] == 12 and 0 <= made.facts["complaint_rate"] <= 1
