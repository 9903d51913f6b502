"""The stages `pilot` and `canary`: real processes serve a release to simulated users, beside a second version."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.stages.chat_models import write_rows
from tests.stages.test_release_and_retirement import context, model, release
from vita.data.feedback import read_feedback
from vita.spine.config import build
from vita.spine.errors import GateError, PlanError, VitaError
from vita.spine.ledger import Ledger
from vita.spine.stage import Context
from vita.spine.store import Store
from vita.stages import canary, pilot

WORLD = {"things": 20}


def run_pilot(folder: Path, inputs: pilot.Inputs, **settings: Any) -> Any:
    values = {"world": WORLD, "sessions": 6, "replicas": 1, "max_tokens": 4, "ungated": "a test", **settings}
    return pilot.run(build(pilot.Config, values, where="pilot"), inputs, serving_context(folder))


def serving_context(folder: Path) -> Context:
    """Return a stage context with an empty ledger and store."""
    ledger, store = Ledger(folder.parent / "ledger.db"), Store(folder.parent / "store")
    return replace(context(folder), ledger=ledger, store=store)


@pytest.mark.slow
def test_an_unapproved_release_needs_a_reason_to_be_served(tmp_path):
    inputs = pilot.Inputs(release(tmp_path / "release", model(tmp_path / "model"), name="cat"))
    with pytest.raises(GateError, match="which no gate has approved"):
        run_pilot(tmp_path / "scratch", inputs, ungated=None)


@pytest.mark.slow
def test_visitor_feedback_is_deterministic(tmp_path):
    inputs = pilot.Inputs(release(tmp_path / "release", model(tmp_path / "model"), name="cat"))
    first, second = (run_pilot(tmp_path / name, inputs) for name in ("first", "second"))
    assert first.facts == second.facts and first.facts["sessions"] == 6
    records = list(read_feedback(first.folder))
    assert records == list(read_feedback(second.folder))
    assert all(record.consent and len(record.model) == 64 and record.request.startswith("visit/") for record in records)


@pytest.mark.slow
def test_a_canary_is_promoted_without_a_failed_request(tmp_path):
    old = release(tmp_path / "old", model(tmp_path / "model"), name="cat")
    new = release(tmp_path / "new", model(tmp_path / "other"), name="cat", version="2")
    values = {"world": WORLD, "sessions": 24, "replicas": 2, "max_tokens": 4, "share": 0.5, "ungated": "a test"}
    config = build(canary.Config, values, where="canary")
    draft = canary.run(config, canary.Inputs(new, serving=old), serving_context(tmp_path / "scratch"))
    assert draft.facts["canary/failed_requests"] == 0 and draft.facts["promoted"]
    report = json.loads((draft.folder / "report.json").read_text())
    assert report["figures"]["service"]["canary"]["complaint_rate/after"]["n"] > 0


@pytest.mark.slow
def test_two_releases_with_equal_name_and_version_are_refused(tmp_path):
    old = release(tmp_path / "old", model(tmp_path / "model"), name="cat")
    config = build(canary.Config, {"world": WORLD}, where="canary")
    with pytest.raises(PlanError, match="both releases are called cat:1"):
        canary.run(config, canary.Inputs(old, serving=old), context(tmp_path / "scratch"))


@pytest.mark.slow
def test_a_pilot_takes_exactly_one_source_of_feedback(tmp_path):
    inputs = pilot.Inputs(release(tmp_path / "release", model(tmp_path / "model")))
    prompts = write_rows(tmp_path, [{"prompt": "Say mu."}])
    complaint_reward = {"use": "matches", "options": {"pattern": "mu"}}
    for settings, message in (
        ({"world": None}, "expected `world`, or `sources` with `complaint_reward`"),
        ({"world": None, "sources": [prompts]}, "with `complaint_reward`"),
        ({"sources": [prompts], "complaint_reward": complaint_reward}, "expected one of `world` and `sources`"),
        ({"recorded_feedback": str(tmp_path)}, "expected one of `world`, `sources` and `recorded_feedback`"),
        ({"world": None, "sources": [prompts], "complaint_reward": "reward"}, "expected a reward that needs no model"),
        (
            {"world": None, "sources": [prompts], "complaint_reward": complaint_reward, "max_tokens": 120},
            "expected prompts of at most 8 token",
        ),
    ):
        with pytest.raises(VitaError, match=message):
            run_pilot(tmp_path / "scratch", inputs, **settings)


@pytest.mark.slow
def test_visitors_ask_prompts_of_a_file_and_complain_by_a_reward(tmp_path):
    inputs = pilot.Inputs(release(tmp_path / "release", model(tmp_path / "model"), name="mu"))
    prompts = write_rows(tmp_path, [{"prompt": f"Say {word}."} for word in ("mu", "ba", "ko")])
    settings = {"sources": [prompts], "complaint_reward": {"use": "matches", "options": {"pattern": "[a-m]"}}}
    draft = run_pilot(tmp_path / "scratch", inputs, world=None, sessions=12, **settings)
    records = list(read_feedback(draft.folder))
    assert {record.prompt[-1].content for record in records} <= {"Say mu.", "Say ba.", "Say ko."} and records
    assert draft.facts["sessions"] == 12 and 0 <= draft.facts["complaint_rate"] <= 1
