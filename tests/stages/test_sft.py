"""The stage `sft`: training on answers only, packing, replay, dropped dialogues and determinism."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.stages.test_pretrain import file_contents, tokens
from vita.data.records import Message
from vita.data.tokens import tuning_examples
from vita.data.tokens.shards import write_shards
from vita.data.tokens.tokenizer import Tokenizer
from vita.infer.engine import Engine
from vita.infer.sampling import Sampling
from vita.nn import hf
from vita.nn.init import initialize
from vita.spine.config import build
from vita.spine.errors import ConfigError, DataError
from vita.spine.machine import Machine
from vita.spine.plan import Context
from vita.stages import sft
from vita.stages.kinds import Model, Tokens
from vita.testing import byte_tokenizer, tiny_model
from vita.train.trainer import StepBatch, StepResult, Trainer

WORDS = ("mu", "ba", "ko", "ti", "ra", "ne")
ROWS = [{"instruction": f"{n}: say {word}.", "output": word * 2} for n in range(8) for word in WORDS]


def dialogues(folder: Path, rows: list[dict[str, Any]] | None = None) -> str:
    path = folder / "dialogues.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (ROWS if rows is None else rows)))
    return str(path)


def create_model(folder: Path, *, context: int = 128) -> Model:
    model = tiny_model(context=context)
    initialize(model, "normal", seed=0)
    hf.save(model, folder)
    byte_tokenizer().save(folder)
    hf.save_generation(hf.GenerationTokens(start=256, padding=256, stop=(256,)), folder)
    return Model("2" * 64, folder, {})


def run(
    model: Model,
    scratch: Path,
    source: str | dict[str, Any],
    *,
    events: list[Any] | None = None,
    tokens: Any = None,
    **settings: Any,
) -> Any:
    scratch.mkdir(exist_ok=True)
    values = {
        "sources": [source],
        "precision": "float32",
        "compile": "no",
        "batch_size": 4,
        "learning_rate": 0.02,
        **settings,
    }
    context = Context(
        scratch, lambda event, **fields: events.append((event, fields)) if events is not None else None, Machine()
    )
    return sft.run(build(sft.Config, values, where="sft"), sft.Inputs(model, tokens), context)


def notes(events: list[Any]) -> str:
    return "\n".join(fields["text"] for event, fields in events if event == "note")


@pytest.mark.slow
def test_sft_learns_to_answer_and_stops_at_the_end_token(tmp_path: Path) -> None:
    events: list[Any] = []
    draft = run(create_model(tmp_path / "model"), tmp_path / "scratch", dialogues(tmp_path), events=events, steps=150)
    assert draft.kind is Model
    facts = draft.facts
    assert facts["heldout_loss"] < 0.3 < facts["heldout_loss_before"]
    assert facts["heldout_accuracy"] > 0.85 > facts["heldout_accuracy_before"]
    engine = Engine.open(draft.folder)
    answers = engine.chat([Message("user", "9: say ko.")], Sampling(temperature=0, max_tokens=12))
    assert answers.text == "koko" and answers.finish == "stop"
    assert hf.load_generation(draft.folder).stop == (256, 258)
    assert (draft.folder / "chat_template.jinja").is_file()
    messages = notes(events)
    assert "dialogues in the format `alpaca`" in messages
    assert "the first dialogue: <|im_start|>" in messages.replace("│", "")
    assert "of the tokens are learned" in messages
    assert "held out: heldout_loss_before" in messages


def test_only_the_answer_and_its_end_token_are_targets(tmp_path: Path) -> None:
    draft = run(create_model(tmp_path / "model"), tmp_path / "scratch", dialogues(tmp_path), steps=2, eval_fraction=0.0)
    assert draft.facts["dialogues"] == len(ROWS)
    assert draft.facts["targets"] == len(ROWS) * (4 + 1)
    assert "heldout_loss" not in draft.facts


def test_long_dialogues_are_truncated_or_dropped_and_counted(tmp_path: Path) -> None:
    long = [{"prompt": "Tell.", "completion": "long " * 60}] * 3
    short = [{"prompt": "Say a.", "completion": "a"}] * 9
    model, source = create_model(tmp_path / "model", context=64), dialogues(tmp_path, long + short)
    events: list[Any] = []
    truncated_facts = run(model, tmp_path / "cut", source, steps=1, eval_fraction=0.0, events=events).facts
    assert (truncated_facts["truncated"], truncated_facts["dropped_too_long"], truncated_facts["dialogues"]) == (
        3,
        0,
        12,
    )
    assert "3 cut short" in notes(events)
    dropped_facts = run(model, tmp_path / "dropped", source, steps=1, eval_fraction=0.0, on_long="drop").facts
    assert (dropped_facts["truncated"], dropped_facts["dropped_too_long"], dropped_facts["dialogues"]) == (0, 3, 9)


def test_a_repeated_source_is_trained_on_more_often_and_held_out_once(tmp_path: Path) -> None:
    model, path = create_model(tmp_path / "model"), dialogues(tmp_path)
    single_facts = run(model, tmp_path / "once", path, steps=1, eval_fraction=0.3).facts
    repeated_facts = run(model, tmp_path / "twice", {"path": path, "repeat": 2}, steps=1, eval_fraction=0.3).facts
    assert repeated_facts["dialogues"] == 2 * single_facts["dialogues"] < 2 * len(ROWS)
    assert repeated_facts["heldout_loss_before"] == single_facts["heldout_loss_before"]


def test_copies_of_a_dialogue_are_all_held_out_or_all_in_training(tmp_path: Path) -> None:
    model, rows = create_model(tmp_path / "model"), ROWS[:6]
    facts = [
        run(model, tmp_path / f"s{copies}", dialogues(tmp_path, rows * copies), steps=1, eval_fraction=0.5).facts
        for copies in (1, 4)
    ]
    assert 0 < facts[0]["dialogues"] < 6 and facts[1]["dialogues"] == 4 * facts[0]["dialogues"]


def test_packing_fills_rows_and_keeps_the_initial_loss(tmp_path: Path) -> None:
    model, source = create_model(tmp_path / "model"), dialogues(tmp_path)
    packed = run(model, tmp_path / "packed", source, steps=1, eval_fraction=0.3).facts
    unpacked = run(model, tmp_path / "alone", source, steps=1, eval_fraction=0.3, packing=False).facts
    assert packed["rows"] < unpacked["rows"] and packed["filled"] > 1.5 * unpacked["filled"]
    assert packed["heldout_loss_before"] == pytest.approx(unpacked["heldout_loss_before"], rel=1e-6)


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    model, source = create_model(tmp_path / "model"), dialogues(tmp_path)
    first = run(model, tmp_path / "one", source, steps=6)
    second = run(model, tmp_path / "other", source, steps=6, checkpoint_seconds=0.0)
    assert file_contents(first.folder) == file_contents(second.folder) and first.facts == second.facts


def test_replayed_text_changes_the_batch_and_needs_tokens(tmp_path: Path) -> None:
    model, source = create_model(tmp_path / "model"), dialogues(tmp_path)
    pretraining_tokens = tokens(tmp_path / "tokens")
    plain = run(model, tmp_path / "plain", source, steps=3, tokens=pretraining_tokens)
    mixed = run(model, tmp_path / "mixed", source, steps=3, tokens=pretraining_tokens, replay=0.5)
    losses = [
        json.loads((draft.folder / "report/metrics.jsonl").read_text().splitlines()[1]) for draft in (plain, mixed)
    ]
    assert losses[0]["loss"] != losses[1]["loss"]
    with pytest.raises(ConfigError, match=r"sft.replay: needs the pretraining's tokens"):
        run(model, tmp_path / "without", source, steps=3, replay=0.5)


def test_the_listed_rows_are_those_of_the_batches_with_replayed_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, source, pretraining_tokens = create_model(tmp_path / "model"), dialogues(tmp_path), tokens(tmp_path / "text")
    batches: list[list[list[int]]] = []
    step = Trainer.step

    def recorded(self: Trainer, batch: StepBatch) -> StepResult:
        batches.append(batch.tensors["ids"].tolist())
        return step(self, batch)

    monkeypatch.setattr(Trainer, "step", recorded)
    run(model, tmp_path / "run", source, steps=2, tokens=pretraining_tokens, replay=0.5, batch_size=4)
    config = build(sft.Config, {"sources": [source], "replay": 0.5, "batch_size": 4}, where="sft")
    parts = sft.training_rows(config, sft.Inputs(model, pretraining_tokens), tmp_path).parts
    tokenizer = byte_tokenizer()
    for number, rows in enumerate(batches):
        dialogue_rows, text_rows = (part.documents_by_row(number) for part in parts)
        for row, documents in zip(rows[:2], dialogue_rows, strict=True):
            text = tokenizer.decode(row)
            instructions = [ROWS[int(document.id.rpartition(":")[2]) - 1]["instruction"] for document in documents]
            assert [text.index(instruction) for instruction in instructions] == sorted(
                match.start() for match in re.finditer(r"\d: say", text)
            )
        for row, documents in zip(rows[2:], text_rows, strict=True):
            starts = [at for at, token in enumerate(row[:-1]) if token == tokenizer.document]
            bounds = sorted({0, *starts, len(row) - 1})
            assert [document.tokens for document in documents] == [end - start for start, end in pairwise(bounds)]


def test_invalid_settings_and_inputs_are_refused(tmp_path: Path) -> None:
    model = create_model(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"sft.max_length: expected at most 128, the model's context, got 256"):
        run(model, tmp_path / "one", dialogues(tmp_path), max_length=256)
    with pytest.raises(DataError, match="hold no dialogues to learn from"):
        run(model, tmp_path / "two", dialogues(tmp_path, []))


def test_an_epoch_counts_the_dialogues_without_replayed_text(tmp_path: Path) -> None:
    model, source = create_model(tmp_path / "model"), dialogues(tmp_path)
    pretraining_tokens = tokens(tmp_path / "tokens")
    plain = run(model, tmp_path / "plain", source, epochs=1, tokens=pretraining_tokens).facts
    mixed = run(model, tmp_path / "mixed", source, epochs=1, tokens=pretraining_tokens, replay=0.5).facts
    assert mixed["steps"] in (2 * plain["steps"], 2 * plain["steps"] - 1)


def test_an_impossible_replay_share_and_tokens_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    model, source, pretraining_tokens = (
        create_model(tmp_path / "model"),
        dialogues(tmp_path),
        tokens(tmp_path / "tokens"),
    )
    for share in (0.05, 0.95):
        with pytest.raises(ConfigError, match=rf"sft.replay: expected at least one row of each kind, got {share}"):
            run(model, tmp_path / "share", source, tokens=pretraining_tokens, replay=share)
    tokenizer = Tokenizer.train(["a cat and a cat and a dog"] * 9, vocabulary=262)
    write_shards(tmp_path / "other/train", [], vocabulary=262, document=259, tokenizer=tokenizer.digest)
    with pytest.raises(ConfigError, match=r"sft.tokens: were written with another tokenizer"):
        run(model, tmp_path / "other run", source, tokens=Tokens("4" * 64, tmp_path / "other", {}), replay=0.5)


def test_without_fitting_held_out_dialogues_no_held_out_loss_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning_examples, "is_held_out", lambda messages, settings: len(messages[-1].content) > 100)
    source = dialogues(tmp_path, [*ROWS, {"instruction": "Say it.", "output": "x" * 500}])
    facts = run(create_model(tmp_path / "model"), tmp_path / "run", source, steps=1, on_long="drop").facts
    assert facts["dialogues"] == len(ROWS) and "heldout_loss" not in facts
