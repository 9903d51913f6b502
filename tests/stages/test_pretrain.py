"""The stage `pretrain`: settings from the blueprint, the written model folder, determinism and refusals."""

from __future__ import annotations

import json
from dataclasses import replace
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
    content = {"architecture": shape.model_dump(), "training": plan.as_json(), "prediction": {}}
    (folder / "blueprint.json").write_text(json.dumps(content))
    return Blueprint("0" * 64, folder, {})


def tokens(folder: Path, *, heldout: str = TEXT, sources: tuple[str, ...] = ("test",)) -> Tokens:
    tokenizer = byte_tokenizer()
    tokenizer.save(folder / "tokenizer")
    sentence = TEXT[:56]
    for split, texts in (("heldout", [heldout] if heldout else []), ("train", [sentence] * 120)):
        encoded = tokenizer.encode_batch(texts) if texts else []
        documents = [
            (Document(str(number), sentence, sources[number % len(sources)]), ids) for number, ids in enumerate(encoded)
        ]
        write_shards(folder / split, documents, vocabulary=259, document=tokenizer.document, tokenizer=tokenizer.digest)
    return Tokens("1" * 64, folder, {})


def create_model(folder: Path, **changes: Any) -> Model:
    model = tiny_model(**changes)
    initialize(model, "normal", seed=0)
    hf.save(model, folder)
    byte_tokenizer().save(folder)
    return Model("2" * 64, folder, {})


def inputs(folder: Path, *, heldout: str = TEXT, **changes: Any) -> pretrain.Inputs:
    return pretrain.Inputs(
        create_model(folder / "model"),
        tokens(folder / "tokens", heldout=heldout),
        blueprint(folder / "blueprint", **changes),
    )


def run(pretrain_inputs: pretrain.Inputs, scratch: Path, *, events: list[Any] | None = None, **settings: Any) -> Any:
    scratch.mkdir(exist_ok=True)
    config = build(pretrain.Config, {"precision": "float32", "compile": "no", **settings}, where="pretrain")
    context = Context(
        scratch, lambda event, **fields: events.append((event, fields)) if events is not None else None, Machine()
    )
    draft = pretrain.run(config, pretrain_inputs, context)
    return draft, context.record


@pytest.mark.slow
def test_pretraining_lowers_the_loss_and_writes_a_complete_model_folder(tmp_path: Path) -> None:
    events: list[Any] = []
    draft, record = run(inputs(tmp_path, steps=40), tmp_path / "scratch", events=events, learning_rate=0.04)
    assert draft.kind is Model
    curve = [json.loads(line) for line in (draft.folder / "report" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in curve] == list(range(41))
    assert curve[0]["heldout_loss"] == pytest.approx(5.56, abs=0.1)
    assert draft.facts["heldout_loss"] == curve[-1]["heldout_loss"] < 3.5
    # each token of the byte tokenizer is one byte, except the document token
    assert draft.facts["heldout_bits_per_byte"] == pytest.approx(curve[-1]["heldout_loss"] / 0.6931, rel=0.01)
    assert draft.facts["tokens"] == 40 * 128 and draft.facts["skipped_steps"] == 0
    assert {"tokens_per_second", "training_seconds", "peak_memory_bytes", "mfu"} <= record.keys()
    paths = {path.relative_to(draft.folder).as_posix() for path in draft.folder.rglob("*") if path.is_file()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "vita.json", "report/report.md"} <= paths
    assert "report/figures/loss.svg" in paths
    engine = Engine.open(draft.folder)
    assert engine.generate([engine.text_ids("A cat")], Sampling(max_tokens=4))[0].ids
    assert any(event == "note" and "multiplied in float32" in fields["text"] for event, fields in events)


def file_contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_run_gives_the_same_bytes_without_timestamps(tmp_path: Path) -> None:
    pretrain_inputs = inputs(tmp_path)
    first, _ = run(pretrain_inputs, tmp_path / "one")
    second, _ = run(pretrain_inputs, tmp_path / "other", checkpoint_seconds=0.0)
    assert file_contents(first.folder) == file_contents(second.folder)
    assert first.facts == second.facts


def test_training_settings_come_from_the_blueprint_and_can_be_overridden(tmp_path: Path) -> None:
    plan = json.loads((blueprint(tmp_path, steps=200).path / "blueprint.json").read_text())["training"]
    default_settings = pretrain.training_of(build(pretrain.Config, {}, where="pretrain"), plan)
    assert (default_settings.schedule.steps, default_settings.schedule.warmup, default_settings.schedule.name) == (
        200,
        10,
        "warmup_stable_decay",
    )
    assert default_settings.optimization.matrix_rate == plan["optimization"]["matrix_rate"]
    settings = {"steps": 40, "learning_rate": 0.01, "schedule": "cosine", "weight_decay": 0.3}
    changed_settings = pretrain.training_of(build(pretrain.Config, settings, where="pretrain"), plan)
    assert (changed_settings.schedule.steps, changed_settings.schedule.warmup, changed_settings.schedule.name) == (
        40,
        2,
        "cosine",
    )
    assert changed_settings.optimization.matrix_rate == plan["optimization"]["matrix_rate"] / 2
    assert changed_settings.optimization.weight_decay == 0.3
    assert default_settings.schedule.decay == plan["schedule"]["decay"]
    late_decay = pretrain.training_of(build(pretrain.Config, {"decay_fraction": 0.2}, where="pretrain"), plan)
    assert (late_decay.schedule.decay, late_decay.schedule.steps) == (0.2, 200)
    with pytest.raises(ConfigError, match="and the schedule is cosine"):
        build(pretrain.Config, {"decay_fraction": 0.2, "schedule": "cosine"}, where="pretrain")


def test_the_document_mask_changes_training_and_is_the_default_on_a_cpu(tmp_path: Path) -> None:
    pretrain_inputs = inputs(tmp_path)
    default_weight = hf.load(run(pretrain_inputs, tmp_path / "usual")[0].folder).head_weight
    masked_weight = hf.load(run(pretrain_inputs, tmp_path / "masked", document_mask=True)[0].folder).head_weight
    unmasked_weight = hf.load(run(pretrain_inputs, tmp_path / "plain", document_mask=False)[0].folder).head_weight
    assert torch.equal(default_weight, masked_weight) and not torch.equal(default_weight, unmasked_weight)


def test_the_document_mask_is_off_by_default_on_a_gpu() -> None:
    assert [is_masked(choice, "cuda") for choice in ("auto", True, False)] == [False, True, False]
    assert [is_masked(choice, "cpu") for choice in ("auto", True, False)] == [True, True, False]


def test_without_held_out_text_there_is_no_held_out_loss(tmp_path: Path) -> None:
    draft, _ = run(inputs(tmp_path, heldout=""), tmp_path / "scratch")
    assert "heldout_loss" not in draft.facts and "loss" in draft.facts


def test_a_mixture_sets_the_rows_of_each_source_and_is_reported(tmp_path: Path) -> None:
    # 120 documents of 57 tokens: 40 of books, 80 of wiki; 10 steps of 128 tokens.
    mixed = replace(inputs(tmp_path), tokens=tokens(tmp_path / "mixed", sources=("wiki", "wiki", "books")))
    phases = [{"weights": {"wiki": 1, "books": 0}, "until": 0.5}, {"weights": {"wiki": 1, "books": 4}}]
    draft, _ = run(mixed, tmp_path / "scratch", mixture=phases)
    # wiki: all 640 tokens of the first 5 steps, and a fifth of the others; rows have 64 tokens.
    assert draft.facts["mixture"] == {
        "books": {"tokens": 512, "epochs": round(512 / (40 * 57), 4)},
        "wiki": {"tokens": 768, "epochs": round(768 / (80 * 57), 4)},
    }
    page = (draft.folder / "report" / "report.md").read_text()
    assert "## Mixture" in page and "books" in page
    unmixed, _ = run(mixed, tmp_path / "unmixed")
    assert "mixture" not in unmixed.facts
    with pytest.raises(ConfigError, match=r"pretrain.mixture.weights: `book` is not known here; did you mean `books`?"):
        run(mixed, tmp_path / "other", mixture={"weights": {"wiki": 1, "book": 1}})


def test_inputs_of_different_sizes_are_refused(tmp_path: Path) -> None:
    pretrain_inputs = inputs(tmp_path)
    with pytest.raises(ConfigError, match="the model has a vocabulary of 300, the text one of 259"):
        run(
            pretrain.Inputs(
                create_model(tmp_path / "wide", vocabulary=300), pretrain_inputs.tokens, pretrain_inputs.blueprint
            ),
            tmp_path / "one",
        )
    with pytest.raises(ConfigError, match="rows of 64 tokens exceed the model's 32"):
        run(
            pretrain.Inputs(
                create_model(tmp_path / "short", context=32), pretrain_inputs.tokens, pretrain_inputs.blueprint
            ),
            tmp_path / "two",
        )
    with pytest.raises(ConfigError, match="optimizer: `muonn` is not known here; did you mean `muon`"):
        run(pretrain_inputs, tmp_path / "three", optimizer="muonn")


def test_pretrain_is_a_parallel_stage() -> None:
    assert read_stage("pretrain", pretrain).parallel
