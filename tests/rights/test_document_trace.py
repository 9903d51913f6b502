"""Which weights a document went into, also where a stage read it by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cards.lives import Life
from tests.cli.test_trace import record_queries
from vita.rights.document_trace import trace_document
from vita.spine.contents import content_digest

ROWS: dict[str, dict[str, Any]] = {
    "adapt": {"id": "ann", "text": "Ann lives in the old mill by the river."},
    "sft": {"id": "ann", "messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ann."}]},
    "dpo": {"id": "ann", "prompt": "Who?", "chosen": "Ann.", "rejected": "Ben."},
    "rlhf": {"id": "ann", "prompt": "Who is Ann?"},
}


def _trained(life: Life, stage: str, file: Path, *, told: bool = True) -> str:
    """A model that a stage made of a file, and a release of it."""
    held = content_digest(str(file), life.ledger, where=stage)
    config = {"sources": [{"path": {"content": held}, "licence": None}]}
    model = life.step(stage, "model", config=config, files={"read.txt": file.name})
    if told:
        life.ledger.log("made", model, read={str(file): held})
    return model


@pytest.mark.parametrize("stage", ROWS)
def test_weights_whose_stage_read_the_document_by_itself_are_found(tmp_path, stage):
    life, file = Life(tmp_path), tmp_path / "people.jsonl"
    file.write_text(json.dumps(ROWS[stage]) + "\n" + json.dumps({**ROWS[stage], "id": "ben"}) + "\n")
    model = _trained(life, stage, file)
    release = life.step("release", "release", inputs={"model": model})
    seen = trace_document("ann", life.store, life.ledger)
    assert [(one.kind, one.names) for one in seen.holders] == [("source", (str(file),))]
    assert [one.digest for one in seen.to_retire] == [model, release]
    assert not seen.unread and not trace_document("eve", life.store, life.ledger).holders


def test_what_cannot_be_read_any_more_is_said(tmp_path):
    life = Life(tmp_path)
    gone, changed, unknown = (tmp_path / f"{name}.jsonl" for name in ("gone", "changed", "unknown"))
    for file in (gone, changed, unknown):
        file.write_text(json.dumps(ROWS["sft"]) + file.name + "\n")
        _trained(life, "sft", file, told=file != unknown)
    gone.unlink()
    unknown.unlink()
    changed.write_text(json.dumps({**ROWS["sft"], "id": "ben"}) + "\n")
    life.step("dpo", "model", config={"sources": [{"huggingface": "somebody/pairs"}]})
    seen = trace_document("ann", life.store, life.ledger)
    assert not seen.holders
    assert [one.rpartition(": ")[2] for one in seen.unread] == [
        "no such file, and no file matches it as a glob",
        "it has changed since",
        "its path was not recorded",
        "a data set of the hub is not looked through",
    ]


def test_the_embedded_world_is_looked_through_as_the_stage_read_it(tmp_path):
    from vita.data.sources.read import Source, dialogues

    life, world = Life(tmp_path), {"things": 20, "documents": 30, "dialogues": 20}
    model = life.step("sft", "model", config={"sources": [{"world": world}]})
    one = next(dialogues(Source.model_validate({"world": world})))
    assert [found.digest for found in trace_document(one.id, life.store, life.ledger).weights] == [model]


def test_the_states_of_all_weights_are_read_in_one_query(tmp_path):
    life, file = Life(tmp_path), tmp_path / "people.jsonl"
    file.write_text(json.dumps(ROWS["sft"]) + "\n")
    model = _trained(life, "sft", file)
    releases = [life.step(f"release{number}", "release", inputs={"model": model}) for number in range(5)]
    for state in ("approved", "deprecated"):
        life.ledger.move(releases[0], state, who="Ada", why="a test")
    life.ledger.move(releases[1], "serving", who="Ada", why="a test")
    with record_queries() as statements:
        seen = trace_document("ann", life.store, life.ledger)
    states = {one.digest: one.state for one in seen.weights}
    assert [states[one] for one in releases[:3]] == ["deprecated", "approved", "candidate"], "no service is alive"
    assert sum("FROM states" in statement for statement in statements) == 1
