"""Pretraining: what it takes from the blueprint, what it writes, and that it is always the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from vita.data.records import Document
from vita.data.tokens.shards import write_shards
from vita.design.scaling_rules import training_plan
from vita.infer.engine import Engine
from vita.infer.sampling import Sampling
from vita.nn import hf
from vita.nn.init import initialize
from vita.spine.config import build
from vita.spine.errors import ConfigError
from vita.spine.machine import Machine
from vita.spine.plan import Context
from vita.spine.stage import read_stage
from vita.stages import pretrain
from vita.stages.kinds import Blueprint, Model, Tokens
from vita.testing import byte_tokenizer, tiny_architecture, tiny_model
from vita.train.text import is_masked

TEXT = "A cat is a furry mammal. It purrs when it is content. " * 12


def blueprint(folder: Path, *, steps: int = 10, **changes: Any) -> Blueprint:
    folder.mkdir(parents=True, exist_ok=True)
    shape = tiny_architecture(**changes)
    plan = training_plan(shape, tokens=steps * 128, tokens_per_step=128, steps=steps)
    written = {"architecture": shape.model_dump(), "training": plan.as_json(), "prediction": {}}
    (folder / "blueprint.json").write_text(json.dumps(written))
    return Blueprint("0" * 64, folder, {})


def tokens(folder: Path, *, heldout: str = TEXT) -> Tokens:
    tokenizer = byte_tokenizer()
    tokenizer.save(folder / "tokenizer")
    sentence = TEXT[:56]
    for split, texts in (("heldout", [heldout] if heldout else []), ("train", [sentence] * 120)):
        encoded = tokenizer.encode_batch(texts) if texts else []
        documents = [(Document(str(number), sentence, "test"), ids) for number, ids in enumerate(encoded)]
        write_shards(folder / split, documents, vocabulary=259, document=tokenizer.document, tokenizer=tokenizer.digest)
    return Tokens("1" * 64, folder, {})


def begun(folder: Path, **changes: Any) -> Model:
    model = tiny_model(**changes)
    initialize(model, "normal", seed=0)
    hf.save(model, folder)
    byte_tokenizer().save(folder)
    return Model("2" * 64, folder, {})


def inputs(folder: Path, *, heldout: str = TEXT, **changes: Any) -> pretrain.Inputs:
    return pretrain.Inputs(
        begun(folder / "model"), tokens(folder / "tokens", heldout=heldout), blueprint(folder / "blueprint", **changes)
    )


def run(given: pretrain.Inputs, scratch: Path, *, told: list[Any] | None = None, **settings: Any) -> Any:
    scratch.mkdir(exist_ok=True)
    config = build(pretrain.Config, {"precision": "float32", "compile": "no", **settings}, where="pretrain")
    context = Context(
        scratch, lambda event, **fields: told.append((event, fields)) if told is not None else None, Machine()
    )
    draft = pretrain.run(config, given, context)
    return draft, context.record


def test_the_loss_falls_and_the_folder_is_a_whole_model(tmp_path: Path) -> None:
    told: list[Any] = []
    draft, record = run(inputs(tmp_path, steps=40), tmp_path / "scratch", told=told, learning_rate=0.04)
    assert draft.kind is Model
    curve = [json.loads(line) for line in (draft.folder / "report" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in curve] == list(range(41))
    assert curve[0]["heldout_loss"] == pytest.approx(5.56, abs=0.1)
    assert draft.facts["heldout_loss"] == curve[-1]["heldout_loss"] < 3.5
    # every token of the byte tokenizer but the document's is one byte
    assert draft.facts["heldout_bits_per_byte"] == pytest.approx(curve[-1]["heldout_loss"] / 0.6931, rel=0.01)
    assert draft.facts["tokens"] == 40 * 128 and draft.facts["skipped_steps"] == 0
    assert {"tokens_per_second", "training_seconds", "peak_memory_bytes", "mfu"} <= record.keys()
    written = {path.relative_to(draft.folder).as_posix() for path in draft.folder.rglob("*") if path.is_file()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "vita.json", "report/report.md"} <= written
    assert "report/figures/loss.svg" in written
    engine = Engine.open(draft.folder)
    assert engine.generate([engine.text_ids("A cat")], Sampling(max_tokens=4))[0].ids
    assert any(event == "note" and "multiplied in float32" in fields["text"] for event, fields in told)


def everything(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_run_gives_the_same_bytes_and_holds_no_clock(tmp_path: Path) -> None:
    given = inputs(tmp_path)
    one, _ = run(given, tmp_path / "one")
    other, _ = run(given, tmp_path / "other", checkpoint_seconds=0.0)
    assert everything(one.folder) == everything(other.folder)
    assert one.facts == other.facts


def test_the_blueprint_s_numbers_are_taken_and_overridden(tmp_path: Path) -> None:
    plan = json.loads((blueprint(tmp_path, steps=200).path / "blueprint.json").read_text())["training"]
    plain = pretrain.training_of(build(pretrain.Config, {}, where="pretrain"), plan)
    assert (plain.schedule.steps, plain.schedule.warmup, plain.schedule.name) == (200, 10, "warmup_stable_decay")
    assert plain.optimization.matrix_rate == plan["optimization"]["matrix_rate"]
    settings = {"steps": 40, "learning_rate": 0.01, "schedule": "cosine", "weight_decay": 0.3}
    changed = pretrain.training_of(build(pretrain.Config, settings, where="pretrain"), plan)
    assert (changed.schedule.steps, changed.schedule.warmup, changed.schedule.name) == (40, 2, "cosine")
    assert changed.optimization.matrix_rate == plan["optimization"]["matrix_rate"] / 2
    assert changed.optimization.weight_decay == 0.3
    assert plain.schedule.decay == plan["schedule"]["decay"]
    later = pretrain.training_of(build(pretrain.Config, {"decay_fraction": 0.2}, where="pretrain"), plan)
    assert (later.schedule.decay, later.schedule.steps) == (0.2, 200)
    with pytest.raises(ConfigError, match="and the schedule is cosine"):
        build(pretrain.Config, {"decay_fraction": 0.2, "schedule": "cosine"}, where="pretrain")


def test_a_document_mask_changes_what_is_learnt_and_is_there_unless_told_otherwise(tmp_path: Path) -> None:
    given = inputs(tmp_path)
    usual = hf.load(run(given, tmp_path / "usual")[0].folder).head_weight
    masked = hf.load(run(given, tmp_path / "masked", document_mask=True)[0].folder).head_weight
    plain = hf.load(run(given, tmp_path / "plain", document_mask=False)[0].folder).head_weight
    assert torch.equal(usual, masked) and not torch.equal(usual, plain)


def test_a_gpu_s_rows_are_masked_only_on_request() -> None:
    assert [is_masked(choice, "cuda") for choice in ("auto", True, False)] == [False, True, False]
    assert [is_masked(choice, "cpu") for choice in ("auto", True, False)] == [True, True, False]


def test_without_held_out_text_there_is_no_held_out_loss(tmp_path: Path) -> None:
    draft, _ = run(inputs(tmp_path, heldout=""), tmp_path / "scratch")
    assert "heldout_loss" not in draft.facts and "loss" in draft.facts


def test_what_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    given = inputs(tmp_path)
    with pytest.raises(ConfigError, match="the model has a vocabulary of 300, the text one of 259"):
        run(pretrain.Inputs(begun(tmp_path / "wide", vocabulary=300), given.tokens, given.blueprint), tmp_path / "one")
    with pytest.raises(ConfigError, match="rows of 64 tokens exceed the model's 32"):
        run(pretrain.Inputs(begun(tmp_path / "short", context=32), given.tokens, given.blueprint), tmp_path / "two")
    with pytest.raises(ConfigError, match="optimizer: `muonn` is not known here; did you mean `muon`"):
        run(given, tmp_path / "three", optimizer="muonn")


def test_all_processes_carry_it_out() -> None:
    assert read_stage("pretrain", pretrain).parallel
