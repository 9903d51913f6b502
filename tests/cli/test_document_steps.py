"""`vita data documents` and `vita data steps`: the rows of a listing are those that the training loop read.

Each record has a text with its own marker, which is decoded from the tensors that the trainer received.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from tests.cli.corpora import write
from tests.cli.models import save_chat_model
from tests.cli.test_cli import Vita, vita
from tests.stages.chat_models import context
from vita import life
from vita.spine.config import build
from vita.stages import classify
from vita.stages.kinds import Model
from vita.testing import byte_tokenizer
from vita.train.trainer import StepBatch, Trainer

__all__ = ["vita"]

Tensors = dict[str, Tensor]
STEPS = 4


def _prompt(number: int) -> str:
    return f"Say d{number}" + "!" * number


@dataclass(frozen=True)
class Case:
    """A training command, the rows of its data, and the tokens of the rows of a batch."""

    stage: str
    row: Callable[[int], dict[str, Any]]
    tokens: Callable[[Tensors], Tensor]
    options: tuple[str, ...] = ("--batch-size", "2", "--eval-fraction", "0")
    documents_of_a_row: int = 1

    @property
    def name(self) -> str:
        return "kto" if "{kto: 1}" in self.options else self.stage


def _answer_tokens(tensors: Tensors) -> Tensor:
    return (tensors["last"] + 1).sum(1)


PAIRS = Case("dpo", lambda n: {"prompt": _prompt(n), "chosen": f"yes d{n}", "rejected": f"no d{n}"}, _answer_tokens)
CASES = (
    PAIRS,
    replace(PAIRS, stage="reward"),
    Case(
        "dpo",
        lambda n: {"prompt": _prompt(n), "completion": f"yes d{n}", "label": n % 2 == 0},
        _answer_tokens,
        ("--losses", "{kto: 1}", "--batch-size", "2", "--eval-fraction", "0"),
        documents_of_a_row=2,
    ),
    Case("classify", lambda n: {"text": _prompt(n), "label": n % 2}, lambda tensors: tensors["lengths"]),
    Case(
        "contrastive",
        lambda n: {"query": _prompt(n), "document": f"it is d{n}"},
        lambda tensors: tensors["lengths"].sum(1),
    ),
    Case(
        "rlhf",
        lambda n: {"prompt": _prompt(n)},
        lambda tensors: tensors["mask"].int().argmax(1) + 1,
        ("--rewards", "[{use: matches, options: {pattern: a}}]", "--prompts-per-step", "3", "--num-generations", "2",
         "--minibatches", "2", "--max-tokens", "4", "--eval-prompts", "1", "--eval-samples", "1"),
    ),
)  # fmt: skip


def _records(case: Case) -> list[dict[str, Any]]:
    rights = [{"license": "MIT"}, {"license": "CC0-1.0", "consent": "yes"}, {}]
    return [{"id": f"d{number}", **case.row(number), **rights[number % 3]} for number in range(5)]


def _train(vita: Vita, case: Case, monkeypatch: pytest.MonkeyPatch) -> list[Tensors]:
    """Train with the command of the stage, and return the tensors of each step."""
    batches: list[Tensors] = []
    step = Trainer.step

    def recorded(self: Trainer, batch: StepBatch) -> Any:
        batches.append(dict(batch.tensors))
        return step(self, batch)

    monkeypatch.setattr(Trainer, "step", recorded)
    steps = STEPS // 2 if case.stage == "rlhf" else STEPS  # two optimizer steps in each round
    code, _, errors = vita(case.stage, "data.jsonl", "--model", "base", "--steps", str(steps), "--life", "x",
                           "--allow-no-improvement", "true", *case.options)  # fmt: skip
    assert code == 0, errors
    return batches


def _json(vita: Vita, *words: str) -> Any:
    code, out, errors = vita(*words, "--json")
    assert code == 0, errors
    return json.loads(out)


def _markers(row: Tensor) -> set[str]:
    text = byte_tokenizer().decode(row.flatten().tolist())
    return set(re.findall(r"d\d", text))


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.stage in ("reward", "rlhf") else [])
        for case in CASES
    ],
)
def test_the_listed_documents_are_those_of_the_batches(
    vita: Vita, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    save_chat_model(tmp_path / "base")
    records = {record["id"]: record for record in _records(case)}
    write(tmp_path / "data.jsonl", *records.values())
    batches = _train(vita, case, monkeypatch)
    assert len(batches) == STEPS
    uses: dict[str, list[dict[str, int]]] = {}
    for step, tensors in enumerate(batches, 1):
        parts = _json(vita, "data", "documents", f"x/{case.stage}", "--step", str(step))
        rows = [[part for part in parts if part["row"] == row] for row in range(1, len(tensors["ids"]) + 1)]
        assert [{part["document"] for part in row} for row in rows] == [_markers(row) for row in tensors["ids"]]
        assert [sum(part["tokens"] for part in row) for row in rows] == case.tokens(tensors).tolist()
        assert {len(row) for row in rows} == {case.documents_of_a_row}
        for part in parts:
            record = records[part["document"]]
            assert (part["licence"], part["consent"]) == (
                record.get("license"),
                "given" if "consent" in record else None,
            )
            assert part["source"] == "data"
            uses.setdefault(part["document"], []).append({"step": step, "row": part["row"], "tokens": part["tokens"]})
    assert len(uses) > 2, "the batches differ"
    for document, expected in list(uses.items())[:2]:
        assert _json(vita, "data", "steps", f"x/{case.stage}", document) == expected
    document = next(iter(uses))
    [weights] = _json(vita, "trace-document", document)["weights"]
    read = len({use["step"] for use in uses[document]})
    assert (weights["use"], weights["explanation"]) == ("trained on", f"trained on it in {read} of {STEPS} steps")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["dpo", "sft"])
def test_a_document_that_no_step_read_is_not_trained_on(vita: Vita, tmp_path: Path, stage: str) -> None:
    save_chat_model(tmp_path / "base")
    rows: list[dict[str, Any]] = []
    for number in range(5):
        turns = [{"role": "user", "content": f"Who is {number}?"}, {"role": "assistant", "content": "It is me. " * 6}]
        pair = {"prompt": f"Who is {number}?", "chosen": "Me.", "rejected": "You."}
        rows.append({"id": f"d{number}", **({"messages": turns} if stage == "sft" else pair)})
    write(tmp_path / "data.jsonl", *rows)
    options = ("--steps", "1", "--batch-size", "1", "--eval-fraction", "0", "--allow-no-improvement", "true")
    code, _, errors = vita(stage, "data.jsonl", "--model", "base", "--life", "x", *options)
    assert code == 0, errors
    read = {part["document"] for part in _json(vita, "data", "documents", f"x/{stage}", "--step", "1")}
    unread = sorted({f"d{number}" for number in range(5)} - read)
    assert read and unread
    [weights] = _json(vita, "trace-document", min(read))["weights"]
    assert (weights["use"], weights["explanation"]) == ("trained on", "trained on it in 1 of 1 step")
    [weights] = _json(vita, "trace-document", unread[0])["weights"]
    assert (weights["use"], weights["explanation"]) == ("not reached", "not trained on it: none of 1 step read it")
    plan = _json(vita, "forget", unread[0], "--plan")
    assert not plan["retire"], "no model must be retired for it"
    assert _json(vita, "forget", min(read), "--plan")["retire"]

    write(tmp_path / "data.jsonl", *rows[:4])
    [weights] = _json(vita, "trace-document", "d1")["weights"]
    assert weights["use"] == "trained on" and "the steps that read it are not known" in weights["explanation"]


@pytest.mark.slow
def test_models_without_recorded_rows_are_refused(vita: Vita, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_chat_model(tmp_path / "base")
    case = next(case for case in CASES if case.stage == "classify")
    write(tmp_path / "data.jsonl", *_records(case))
    _train(vita, case, monkeypatch)
    command = ("data", "documents", "x/classify", "--step", "1")
    for words, message in (
        (
            ("data", "documents", "base", "--step", "1"),
            "expected a model of a training stage, got an artifact of adopt",
        ),
        ((*command[:-1], "5"), "expected at most 4, the last step, got 5"),
        (("data", "steps", "x/classify", "d9"), "the training data of this model does not contain it"),
    ):
        code, _, errors = vita(*words)
        assert code != 0 and message in " ".join(errors.replace('"', "").split()), errors

    declaration = life.stage
    monkeypatch.setattr(life, "stage", lambda name: replace(declaration(name), version=99))
    code, _, errors = vita(*command)
    assert code == 3 and "another version can order the rows differently" in errors and "version 99" in errors
    monkeypatch.setattr(life, "stage", declaration)
    write(tmp_path / "data.jsonl", *_records(case)[1:])
    code, _, errors = vita(*command)
    assert code == 3 and "data.jsonl has changed since" in errors


@pytest.mark.slow
def test_the_steps_before_a_checkpoint_of_another_run_are_not_listed(
    vita: Vita, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_chat_model(tmp_path / "base")
    case = next(case for case in CASES if case.stage == "classify")
    source = write(tmp_path / "data.jsonl", *_records(case))
    values = {"sources": [str(source)], "steps": 2, "batch_size": 2, "eval_fraction": 0.0, "allow_no_improvement": True}
    config = build(classify.Config, values, where="classify")
    classify.run(config, classify.Inputs(Model("2" * 64, folder, {})), context(tmp_path / "scratch"))
    [checkpoint] = (tmp_path / "scratch/checkpoints").iterdir()
    batches = _train(vita, replace(case, options=(*case.options, "--start-from", str(checkpoint))), monkeypatch)
    assert len(batches) == 2
    for step, tensors in ((3, batches[0]), (4, batches[1])):
        parts = _json(vita, "data", "documents", "x/classify", "--step", str(step))
        assert [{part["document"]} for part in parts] == [_markers(row) for row in tensors["ids"]]
    code, _, errors = vita("data", "documents", "x/classify", "--step", "2")
    assert code == 2 and "expected at least 3, the first step after the checkpoint in `start_from`" in errors
    for document in _markers(batches[0]["ids"]):
        uses = _json(vita, "data", "steps", "x/classify", document)
        assert uses and all(use["step"] > 2 for use in uses)


def test_the_use_of_an_optional_token_set_follows_from_the_replay(vita: Vita, tmp_path: Path) -> None:
    """A token set is an input of `sft` by default; only its replayed documents are trained on."""
    save_chat_model(tmp_path / "base")
    write(tmp_path / "mail.jsonl", *({"id": f"m{n}", "text": f"Letter {n} to the miller. " * 3} for n in range(4)))
    write(tmp_path / "data.jsonl", *({"id": f"d{n}", "prompt": _prompt(n), "completion": "Yes."} for n in range(5)))
    train = ("--batch-size", "2", "--steps", "2", "--eval-fraction", "0", "--allow-no-improvement", "true")
    for words in (
        ("curate", "mail.jsonl", "--set", "filters=[]", "--held-out", "0", "--life", "x"),
        ("tokenize", "base", "--corpus", "x/curate", "--life", "x"),
        ("sft", "data.jsonl", "--model", "base", "--tokens", "x/tokenize", "--life", "x", *train),
        ("sft", "data.jsonl", "--model", "base", "--tokens", "x/tokenize", "--replay", "0.5", "--life", "y", *train),
        ("test", "y/sft", "--corpus", "x/curate", "--life", "y"),
    ):
        code, _, errors = vita(*words)
        assert code == 0, (words, errors)
    parts = _json(vita, "data", "documents", "y/sft", "--step", "1")
    document = next(part["document"] for part in parts if part["document"].startswith("m"))
    steps = {use["step"] for use in _json(vita, "data", "steps", "y/sft", document)}
    trace = _json(vita, "trace-document", document)
    uses = {name: weights for weights in trace["weights"] for name in weights["names"]}
    assert uses["y/sft"]["use"] == "trained on"
    assert uses["y/sft"]["explanation"] == f"trained on it in {len(steps)} of 2 steps"
    assert uses["x/sft"]["use"] == "not used" and "do not use these tokens" in uses["x/sft"]["explanation"]
    plan = _json(vita, "forget", document, "--plan")
    assert [entry["names"] for entry in plan["retire"]] == [["y/sft"]]
