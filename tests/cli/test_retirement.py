"""A gated life from its release to its retirement, and the trace of a document."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.cli.test_cli import LIFE, Vita, vita
from vita.spine.ledger import Ledger

__all__ = ["vita"]

GATED = (
    LIFE.replace("filters: []", "filters: [], held_out: 8")
    + """
gates:
  release:
    model: sft
    bars:
      - {report: check, figure: heldout/bits_per_byte, at_most: LIMIT}
"""
).replace(
    "ask:",
    """  check: {stage: test, documents: 8, prompts: []}
  release: {name: tiny, gate: release, golden_prompts: ["hi"], golden_tokens: 4}
  retire: {reason: too small, inputs: {release: release}}
ask:""",
)


@pytest.fixture
def live(vita: Vita, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VITA_SIGNING_KEY", str(tmp_path / "key.pem"))

    def run(limit: float, *words: str) -> tuple[int, str, str]:
        (tmp_path / "life.yaml").write_text(GATED.replace("LIMIT", str(limit)))
        return vita("live", "life.yaml", *words)

    return run


@pytest.mark.slow
def test_a_version_passes_its_gate_is_released_and_retired(live, vita: Vita, tmp_path: Path) -> None:
    code, out, err = live(100)
    assert code == 0, err
    ledger = Ledger(tmp_path / "vita-store" / "ledger.db")
    digest = ledger.named("tiny/sft")
    assert digest is not None
    assert [move.state for move in ledger.moves(digest)] == ["approved", "approved", "retired"]
    assert vita("live", "life.yaml")[0] == 0, "a retired release needs no new approval"
    code, out, _ = vita("gate", "tiny/release", "--json")
    assert code == 0 and json.loads(out)["verdict"] == "pass"
    code, out, err = vita("restore", "tiny/retire", "again")
    assert code == 0, err
    assert "sft" in (tmp_path / "again/cards/README.md").read_text()
    assert (tmp_path / "again/reports/test/report.json").is_file()
    assert "golden answers are identical" in out
    (tmp_path / "file").write_bytes(b"\x30\x2a\xff\xfe")
    for words, message in (
        (("restore", "tiny/retire", "file"), "file: is a file; restore into a new folder"),
        (("restore", "tiny/retire", "new", "--public-key", "file"), "file: expected a public key in PEM form"),
        (("report", "tiny", "--output", "again"), "again: cannot be written: is a directory"),
        (("card", "tiny/sft", "--output", "file"), "file: cannot be written: "),
    ):
        code, _, err = vita(*words)
        assert code == 4 and message in err and "Traceback" not in err, err
    assert vita("deprecate", "tiny/sft", "--sunset", "30d", "--by", "Ada")[0] == 9

    code, _, err = vita("deprecate", "tiny/check", "--sunset", "30d", "--by", "Ada")
    assert code == 4 and "expected a model or a release, got a report" in err.replace("\n", " ")

    code, out, _ = vita("trace-document", "world/nothing")
    assert code == 0 and "no artifact contains" in out
    code, out, _ = vita("trace-document", _first_document(tmp_path), "--json")
    trace = json.loads(out)
    assert {artifact["kind"] for artifact in trace["holders"]} == {"corpus", "tokens"}
    assert {"model", "release", "archive"} <= {artifact["kind"] for artifact in trace["weights"]}


@pytest.mark.slow
def test_a_model_that_fails_its_gate_is_released_only_with_a_waiver(live, vita: Vita, tmp_path: Path) -> None:
    code, _, err = live(0.01)
    assert code == 9
    assert "gate tiny/release: check:heldout/bits_per_byte at most 0.01: fail" in err
    assert vita("gate", "tiny/release")[0] == 10
    code, _, err = vita("release", "tiny/sft", "--name", "tiny")
    assert code == 9 and "expected a model that a gate has approved" in err and "in the state candidate" in err
    assert vita("people", "add", "Ada")[0] == 0
    code, _, err = vita("approve", "tiny/sft", "--gate", "tiny/release", "--by", "Ada")
    assert code == 9 and "has not passed its criteria" in err
    code, out, err = vita(
        *("waive", "tiny/sft", "--gate", "tiny/release", "--by", "Ada", "--reason", "a drill", "--expires", "2d")
    )
    assert code == 0, err
    assert "is approved" in out
    assert vita("live", "life.yaml")[0] == 0


@pytest.mark.slow
def test_an_expired_waiver_or_an_older_report_does_not_release_a_model(
    live, vita: Vita, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A waiver expires. Then the step gives other weights, and a release of the earlier weights is requested."""
    assert live(0.01, "--until", "check")[0] == 0
    waive_command = (
        "waive",
        "tiny/sft",
        "--gate",
        "tiny/release",
        "--by",
        "Ada",
        "--reason",
        "a drill",
        "--expires",
        "2d",
    )
    assert vita("people", "add", "Ada")[0] == 0
    assert vita(*waive_command)[0] == 0
    ledger = Ledger(tmp_path / "vita-store" / "ledger.db")
    digest = ledger.named("tiny/sft")
    assert digest is not None and ledger.state(digest) == "approved"
    now = time.time
    with monkeypatch.context() as clock_patch:
        clock_patch.setattr(time, "time", lambda: now() + 3 * 86400)
        code, _, err = vita("release", "tiny/sft", "--name", "tiny")
    assert code == 9 and "at most 0.01: fail" in err
    assert ledger.state(digest) == "candidate"
    assert vita(*waive_command)[0] == 0 and ledger.state(digest) == "approved"
    assert live(0.01, "--until", "check", "--set", "sft.steps=2")[0] == 0
    code, _, err = vita("release", digest[:12], "--name", "tiny", "--version", "1", "--set", "golden_tokens=4")
    assert code == 0, f"older weights are judged by the reports on themselves: {err}"
    assert ledger.state(digest) == "approved" and ledger.named("release/tiny:1") == ledger.named("tiny/release")

    new_digest = ledger.named("tiny/sft")
    assert new_digest is not None and new_digest != digest
    assert vita(*waive_command)[0] == 0 and ledger.state(new_digest) == "approved"
    code, _, err = vita("release", "tiny/sft", "--name", "tiny", "--version", "1")
    assert code == 9 and f"release tiny:1: already names the weights {digest[:12]}" in err
    code, _, err = vita("release", "tiny/sft", "--name", "tiny", "--version", "2", "--life", "other")
    assert code == 0 and ledger.named("release/tiny:2") == ledger.named("other/release"), err

    code, out, _ = vita("deprecate", "tiny/release", "--sunset", "30d", "--by", "Ada", "--successor", "tiny:2")
    assert code == 0 and f"{digest[:12]} is deprecated" in out and f"its successor is {new_digest[:12]}" in out
    last_move = ledger.moves(digest)[-1]
    assert (last_move.state, last_move.details["successor"]) == ("deprecated", new_digest)
    code, _, err = vita("deprecate", "tiny:2", "--sunset", "2020-01-01", "--by", "Ada")
    assert code == 2 and "--sunset: expected a date in the future" in err


@pytest.mark.slow
def test_a_limit_lowered_after_the_measurement_does_not_pass_the_gate(live, vita: Vita) -> None:
    assert live(0.01)[0] == 9
    code, _, err = live(100)
    assert code == 9 and "set or changed after these weights were first measured" in err.replace("\n", " ")
    assert live(100, "--rerun", "check")[0] == 9, "new measurements do not make the same weights new"
    code, _, err = live(100, "--set", "sft.steps=2")
    assert code == 0, err


@pytest.mark.slow
def test_a_gate_with_an_unknown_report_or_name_is_refused(live, vita: Vita, tmp_path: Path) -> None:
    (tmp_path / "life.yaml").write_text(GATED.replace("LIMIT", "1").replace("report: check", "report: chekc"))
    code, _, err = vita("plan", "life.yaml")
    assert code == 2 and "gates.release.bars.0.report" in err and "did you mean `check`" in err
    (tmp_path / "life.yaml").write_text(GATED.replace("LIMIT", "1").replace("gate: release", "gate: relase"))
    code, _, err = vita("plan", "life.yaml")
    assert code == 2 and "did you mean `release`" in err


def _first_document(folder: Path) -> str:
    from vita.data.curation.corpus import read_corpus
    from vita.spine.store import Store

    ledger, store = Ledger(folder / "vita-store" / "ledger.db"), Store(folder / "vita-store")
    digest = ledger.named("tiny/curate")
    assert digest is not None
    return next(read_corpus(store.open(digest).path, "train")).id
