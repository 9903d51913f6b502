"""`vita retest` tests served versions again and reports an alert for each worse version."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_cli import Vita, vita
from vita.server.service.admin import ServiceHandle
from vita.spine.ledger import Ledger

__all__ = ["vita"]

LIFE = """
name: tiny
settings: {seed: 0, vocabulary: 400}
stages:
  design: {depth: 1, width: 32, context: 32, tokens_per_step: 128, steps: 12, timed_steps: 0, text: world}
  curate: {sources: [{world: {things: 20, documents: 200, dialogues: 20}}], filters: [], held_out: 8}
  tokenize: {}
  initialize: {}
  pretrain: {eval_tokens: 256}
  check: {stage: test, documents: 8, prompts: [], texts: [{path: text.txt, cut_at: blank_lines, name: cats}]}
"""


class FakeService:
    """Stand-in for a running service."""

    def __init__(self, *models: str) -> None:
        self.versions = [
            {"version": f"tiny:{number}", "model": model, "release": "r", "share": 1.0}
            for number, model in enumerate(models, 1)
        ]

    def call(self, *_: str) -> Any:
        return self

    def json(self) -> Any:
        return {"versions": [*self.versions, {"version": "old", "model": "gone", "release": "r", "share": 0.0}]}


@pytest.fixture
def ledger(vita: Vita, tmp_path: Path) -> Ledger:
    (tmp_path / "text.txt").write_text("\n\n".join(f"Cat number {number} sleeps on the mat." for number in range(9)))
    (tmp_path / "life.yaml").write_text(LIFE)
    code, _, err = vita("live", "life.yaml")
    assert code == 0, err
    return Ledger(tmp_path / "vita-store" / "ledger.db")


def _serve(monkeypatch: pytest.MonkeyPatch, *models: str | None) -> None:
    monkeypatch.setattr(ServiceHandle, "find", lambda folder, service: FakeService(*map(str, models)))


@pytest.mark.slow
def test_retest_passes_unchanged_weights_and_reports_worse_weights(
    vita: Vita, tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    good_model, bad_model, report = (ledger.named(f"tiny/{name}") for name in ("pretrain", "initialize", "check"))
    _serve(monkeypatch, good_model)
    for _ in range(2):  # a repeated retest measures again
        code, out, err = vita("retest", "tiny", "tiny/check")
        assert code == 0 and "tiny:1 is not worse than before" in out, err
    retest_report = ledger.named(f"retests/tiny.check.{str(good_model)[:8]}")
    assert retest_report is not None and len(ledger.find(artifact=retest_report, state="done")) == 2
    assert ledger.named("tiny/check") == report

    _serve(monkeypatch, good_model, bad_model)
    code, out, err = vita("retest", "tiny", "tiny/check", "--json")
    assert code == 20 and "alert tiny:2: cats/bits_per_byte is worse by" in err
    good_row, bad_row = json.loads(out)
    assert not good_row["worse"] and {row["figure"] for row in bad_row["worse"]} >= {"cats/bits_per_byte"}
    assert len([row for row in ledger.events("tiny tiny/check") if row["event"] == "retested"]) == 3
    assert good_row["proposal"] is None and bad_row["proposal"] == 1
    assert bad_row["figures"]["cats/bits_per_byte"]["low"] > good_row["figures"]["cats/bits_per_byte"]["high"]
    (proposal,) = json.loads(vita("proposals", "list", "--json")[1])
    assert proposal["action"] == "rollback", "the newest of several versions can be rolled back"
    assert proposal["figures"]["worse"][0]["worse_by"]["low"] > 0
    _check_history(vita)

    (tmp_path / "text.txt").write_text("Something else.")
    code, _, err = vita("retest", "tiny", "tiny/check")
    assert code == 3 and "text.txt has changed since" in err
    code, _, err = vita("retest", "tiny", "tiny/pretrain")
    assert code == 4 and "expected a report" in err
    code, _, err = vita("retest", "tiny", "tiny/check", "--every", "soon")
    assert code == 2 and "--every: expected a time such as" in err


def _check_history(vita: Vita) -> None:
    """Check that `vita monitor` shows the re-tests with their figures, and the open proposal."""
    status = json.loads(vita("monitor", "tiny", "--json")[1])
    assert [len(retest["versions"]) for retest in status["retests"]] == [1, 1, 2]
    assert status["retests"][-1]["versions"][1]["figures"]["cats/bits_per_byte"]["value"] > 0
    assert [row["proposal"] for row in status["proposals"]] == [1]
    out = vita("monitor", "tiny")[1]
    assert "cats/bits_per_byte" in out and "proposal 1: rollback tiny:2" in out


@pytest.mark.slow
def test_a_killed_retest_loop_keeps_its_schedule_after_a_restart(
    vita: Vita, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    _serve(monkeypatch, ledger.named("tiny/pretrain"))
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("vita.cli.retest.time.sleep", sleep)
    assert vita("retest", "tiny", "tiny/check", "--every", "6h")[0] == 130
    assert waits[0] == 0 and 6 * 3600 - 60 < waits[1] <= 6 * 3600
    waits.clear()
    restart_time = time.time() + 3600
    monkeypatch.setattr("vita.cli.retest.time.time", lambda: restart_time)
    waits.append(0.0)
    assert vita("retest", "tiny", "tiny/check", "--every", "6h")[0] == 130
    assert 5 * 3600 - 60 < waits[1] <= 5 * 3600
