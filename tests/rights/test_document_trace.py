"""The trace of a document lists the weights that were trained on it, also if a stage read the file directly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cards.lives import Life
from tests.cli.test_trace import record_queries
from vita.rights.artifact_search import trace_records
from vita.rights.document_trace import DocumentTrace
from vita.rights.query import RightsQuery
from vita.spine.contents import content_digest

ROWS: dict[str, dict[str, Any]] = {
    "adapt": {"id": "ann", "text": "Ann lives in the old mill by the river."},
    "sft": {"id": "ann", "messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ann."}]},
    "dpo": {"id": "ann", "prompt": "Who?", "chosen": "Ann.", "rejected": "Ben."},
    "rlhf": {"id": "ann", "prompt": "Who is Ann?"},
}


def _trace(document: str, life: Life) -> DocumentTrace:
    return trace_records(RightsQuery(document), life.store, life.ledger)


def _train_step(life: Life, stage: str, file: Path, *, is_logged: bool = True) -> str:
    """Record a model that a stage trained on a file; `is_logged` also records the path of the file."""
    digest = content_digest(str(file), life.ledger, where=stage)
    config = {"sources": [{"path": {"content": digest}, "licence": None}]}
    model = life.step(stage, "model", config=config, files={"read.txt": file.name})
    if is_logged:
        life.ledger.log("made", model, read={str(file): digest})
    return model


@pytest.mark.parametrize("stage", ROWS)
def test_weights_whose_stage_read_the_document_directly_are_listed(tmp_path, stage):
    life, file = Life(tmp_path), tmp_path / "people.jsonl"
    file.write_text(json.dumps(ROWS[stage]) + "\n" + json.dumps({**ROWS[stage], "id": "ben"}) + "\n")
    model = _train_step(life, stage, file)
    release = life.step("release", "release", inputs={"model": model})
    trace = _trace("ann", life)
    assert [(holder.kind, holder.names) for holder in trace.holders] == [("source", (str(file),))]
    assert [artifact.digest for artifact in trace.to_retire] == [model, release]
    assert not trace.unread and not _trace("eve", life).holders


def test_a_trace_lists_sources_that_cannot_be_read(tmp_path):
    life = Life(tmp_path)
    deleted, edited, unlogged = (tmp_path / f"{name}.jsonl" for name in ("gone", "changed", "unknown"))
    for file in (deleted, edited, unlogged):
        file.write_text(json.dumps(ROWS["sft"]) + file.name + "\n")
        _train_step(life, "sft", file, is_logged=file != unlogged)
    deleted.unlink()
    unlogged.unlink()
    edited.write_text(json.dumps({**ROWS["sft"], "id": "ben"}) + "\n")
    life.step("dpo", "model", config={"sources": [{"huggingface": "somebody/pairs"}]})
    trace = _trace("ann", life)
    assert not trace.holders
    assert [problem.rpartition(": ")[2] for problem in trace.unread] == [
        "no such file, and no file matches it as a glob",
        "it has changed since",
        "its path was not recorded",
        "a data set of the hub is not looked through",
    ]


def test_the_documents_of_the_embedded_world_are_traced(tmp_path):
    from vita.data.sources.read import Source, dialogues

    life, world = Life(tmp_path), {"things": 20, "documents": 30, "dialogues": 20}
    model = life.step("sft", "model", config={"sources": [{"world": world}]})
    dialogue = next(dialogues(Source.model_validate({"world": world})))
    assert [artifact.digest for artifact in _trace(dialogue.id, life).weights] == [model]


def test_the_states_of_all_weights_are_read_in_one_query(tmp_path):
    life, file = Life(tmp_path), tmp_path / "people.jsonl"
    file.write_text(json.dumps(ROWS["sft"]) + "\n")
    model = _train_step(life, "sft", file)
    releases = [life.step(f"release{number}", "release", inputs={"model": model}) for number in range(5)]
    for state in ("approved", "deprecated"):
        life.ledger.move(releases[0], state, who="Ada", why="a test")
    life.ledger.move(releases[1], "serving", who="Ada", why="a test")
    with record_queries() as statements:
        trace = _trace("ann", life)
    states = {artifact.digest: artifact.state for artifact in trace.weights}
    assert [states[release] for release in releases[:3]] == ["deprecated", "approved", "candidate"], (
        "no service is running"
    )
    assert sum("FROM states" in statement for statement in statements) == 1


@pytest.mark.parametrize("query", [RightsQuery("r7"), RightsQuery(source="people"), RightsQuery(licence="mit")])
def test_a_model_that_was_trained_on_affected_preferences_is_rebuilt(tmp_path, query):
    life = Life(tmp_path)
    row = {"id": "p1", "source": "people", "licence": "MIT", "metadata": {"requests": ["r7"]}}
    preferences = life.step("refine", "preferences", files={"preferences.jsonl": json.dumps(row) + "\n"})
    model = life.step("dpo", "model", inputs={"preferences": preferences})
    other = life.step("sft", "model", config={"sources": []})
    trace = trace_records(query, life.store, life.ledger)
    assert [artifact.digest for artifact in trace.to_rebuild] == [preferences, model]
    (affected, unaffected) = (life.ledger.find(artifact=digest)[0].key for digest in (model, other))
    assert affected not in trace.unaffected and unaffected in trace.unaffected
