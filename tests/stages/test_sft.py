"""Tuning on dialogues: only answers are learnt, what was lost is told, and the model answers and stops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.stages.test_pretrain import everything, tokens
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

WORDS = ("mu", "ba", "ko", "ti", "ra", "ne")
ROWS = [{"instruction": f"{n}: say {word}.", "output": word * 2} for n in range(8) for word in WORDS]


def dialogues(folder: Path, rows: list[dict[str, Any]] | None = None) -> str:
    path = folder / "dialogues.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (ROWS if rows is None else rows)))
    return str(path)


def begun(folder: Path, *, context: int = 128) -> Model:
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
    told: list[Any] | None = None,
    text: Any = None,
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
        scratch, lambda event, **fields: told.append((event, fields)) if told is not None else None, Machine()
    )
    return sft.run(build(sft.Config, values, where="sft"), sft.Inputs(model, text), context)


def notes(told: list[Any]) -> str:
    return "\n".join(fields["text"] for event, fields in told if event == "note")


def test_it_learns_to_answer_and_to_stop(tmp_path: Path) -> None:
    told: list[Any] = []
    draft = run(begun(tmp_path / "model"), tmp_path / "scratch", dialogues(tmp_path), told=told, steps=150)
    assert draft.kind is Model
    facts = draft.facts
    assert facts["heldout_loss"] < 0.3 < facts["heldout_loss_before"]
    assert facts["heldout_accuracy"] > 0.85 > facts["heldout_accuracy_before"]
    engine = Engine.open(draft.folder)
    answers = engine.chat([Message("user", "9: say ko.")], Sampling(temperature=0, max_tokens=12))
    assert answers.text == "koko" and answers.finish == "stop"
    assert hf.load_generation(draft.folder).stop == (256, 258)
    assert (draft.folder / "chat_template.jinja").is_file()
    said = notes(told)
    assert "dialogues in the format `alpaca`" in said
    assert "the first dialogue: <|im_start|>" in said.replace("│", "")
    assert "of the tokens are learned" in said
    assert "held out: heldout_loss_before" in said


def test_only_the_answer_and_its_end_count(tmp_path: Path) -> None:
    draft = run(begun(tmp_path / "model"), tmp_path / "scratch", dialogues(tmp_path), steps=2, eval_fraction=0.0)
    assert draft.facts["dialogues"] == len(ROWS)
    assert draft.facts["targets"] == len(ROWS) * (4 + 1)
    assert "heldout_loss" not in draft.facts


def test_what_is_too_long_is_cut_or_dropped_and_counted(tmp_path: Path) -> None:
    long = [{"prompt": "Tell.", "completion": "long " * 60}] * 3
    short = [{"prompt": "Say a.", "completion": "a"}] * 9
    model, source = begun(tmp_path / "model", context=64), dialogues(tmp_path, long + short)
    told: list[Any] = []
    cut = run(model, tmp_path / "cut", source, steps=1, eval_fraction=0.0, told=told).facts
    assert (cut["truncated"], cut["dropped_too_long"], cut["dialogues"]) == (3, 0, 12)
    assert "3 cut short" in notes(told)
    dropped = run(model, tmp_path / "dropped", source, steps=1, eval_fraction=0.0, on_long="drop").facts
    assert (dropped["truncated"], dropped["dropped_too_long"], dropped["dialogues"]) == (0, 3, 9)


def test_a_source_that_repeats_is_learnt_more_often_and_held_out_once(tmp_path: Path) -> None:
    model, path = begun(tmp_path / "model"), dialogues(tmp_path)
    once = run(model, tmp_path / "once", path, steps=1, eval_fraction=0.3).facts
    twice = run(model, tmp_path / "twice", {"path": path, "repeat": 2}, steps=1, eval_fraction=0.3).facts
    assert twice["dialogues"] == 2 * once["dialogues"] < 2 * len(ROWS)
    assert twice["heldout_loss_before"] == once["heldout_loss_before"]


def test_copies_of_a_dialogue_stand_on_one_side(tmp_path: Path) -> None:
    model, six = begun(tmp_path / "model"), ROWS[:6]
    facts = [
        run(model, tmp_path / f"s{copies}", dialogues(tmp_path, six * copies), steps=1, eval_fraction=0.5).facts
        for copies in (1, 4)
    ]
    assert 0 < facts[0]["dialogues"] < 6 and facts[1]["dialogues"] == 4 * facts[0]["dialogues"]


def test_packed_rows_hold_more_and_the_first_loss_is_the_same(tmp_path: Path) -> None:
    model, source = begun(tmp_path / "model"), dialogues(tmp_path)
    packed = run(model, tmp_path / "packed", source, steps=1, eval_fraction=0.3).facts
    alone = run(model, tmp_path / "alone", source, steps=1, eval_fraction=0.3, packing=False).facts
    assert packed["rows"] < alone["rows"] and packed["filled"] > 1.5 * alone["filled"]
    assert packed["heldout_loss_before"] == pytest.approx(alone["heldout_loss_before"], rel=1e-6)


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    model, source = begun(tmp_path / "model"), dialogues(tmp_path)
    one = run(model, tmp_path / "one", source, steps=6)
    other = run(model, tmp_path / "other", source, steps=6, checkpoint_seconds=0.0)
    assert everything(one.folder) == everything(other.folder) and one.facts == other.facts


def test_replayed_text_shares_the_rows(tmp_path: Path) -> None:
    model, source = begun(tmp_path / "model"), dialogues(tmp_path)
    text = tokens(tmp_path / "tokens")
    plain = run(model, tmp_path / "plain", source, steps=3, text=text)
    mixed = run(model, tmp_path / "mixed", source, steps=3, text=text, replay=0.5)
    losses = [json.loads((one.folder / "report/metrics.jsonl").read_text().splitlines()[1]) for one in (plain, mixed)]
    assert losses[0]["loss"] != losses[1]["loss"]
    with pytest.raises(ConfigError, match=r"sft.replay: needs the pretraining's tokens"):
        run(model, tmp_path / "without", source, steps=3, replay=0.5)


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    model = begun(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"sft.max_length: expected at most 128, the model's context, got 256"):
        run(model, tmp_path / "one", dialogues(tmp_path), max_length=256)
    with pytest.raises(DataError, match="hold no dialogues to learn from"):
        run(model, tmp_path / "two", dialogues(tmp_path, []))


def test_an_epoch_passes_over_the_dialogues_whatever_is_replayed_beside(tmp_path: Path) -> None:
    model, source = begun(tmp_path / "model"), dialogues(tmp_path)
    text = tokens(tmp_path / "tokens")
    plain = run(model, tmp_path / "plain", source, epochs=1, text=text).facts
    mixed = run(model, tmp_path / "mixed", source, epochs=1, text=text, replay=0.5).facts
    assert mixed["steps"] in (2 * plain["steps"], 2 * plain["steps"] - 1)


def test_replay_that_no_step_can_hold_or_of_other_tokens_is_refused(tmp_path: Path) -> None:
    model, source, text = begun(tmp_path / "model"), dialogues(tmp_path), tokens(tmp_path / "tokens")
    for share in (0.05, 0.95):
        with pytest.raises(ConfigError, match=rf"sft.replay: expected at least one row of each kind, got {share}"):
            run(model, tmp_path / "share", source, text=text, replay=share)
    tokenizer = Tokenizer.train(["a cat and a cat and a dog"] * 9, vocabulary=262)
    write_shards(tmp_path / "other/train", [], vocabulary=262, document=259, tokenizer=tokenizer.digest)
    with pytest.raises(ConfigError, match=r"sft.tokens: were written with another tokenizer"):
        run(model, tmp_path / "other run", source, text=Tokens("4" * 64, tmp_path / "other", {}), replay=0.5)


def test_held_out_dialogues_that_are_all_too_long_are_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning_examples, "is_held_out", lambda messages, settings: len(messages[-1].content) > 100)
    source = dialogues(tmp_path, [*ROWS, {"instruction": "Say it.", "output": "x" * 500}])
    facts = run(begun(tmp_path / "model"), tmp_path / "run", source, steps=1, on_long="drop").facts
    assert facts["dialogues"] == len(ROWS) and "heldout_loss" not in facts
