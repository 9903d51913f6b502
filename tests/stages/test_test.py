"""The stage `test` on a tiny model: a complete report, scores equal to a plain implementation, and determinism."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
import zstandard
from torch.nn import functional as F

from vita.data.records import Document
from vita.data.tokens.chat_template import ChatTemplate
from vita.evals.multiple_choice import answer
from vita.evals.perplexity import score_documents
from vita.evals.task import MultipleChoice
from vita.infer.engine import Engine
from vita.life import wire
from vita.nn import hf
from vita.spine.config import build
from vita.spine.errors import ConfigError, DataError
from vita.spine.machine import Machine
from vita.spine.plan import Step
from vita.spine.stage import Context, read_stage
from vita.stages import test as stage
from vita.stages.kinds import Corpus, Model, Report
from vita.testing import byte_tokenizer, tiny_model

WORLD = {"things": 20, "documents": 200, "dialogues": 20}
CHOICES = [{"query": f"Question {n}", "choices": ["one", "two", "three"], "gold": n % 3} for n in range(40)]
CLOZES = [{"context": "I saw the", "continuation": "cat"}, {"context": "A" * 100, "continuation": "end"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a tokenizer of bytes and a chat template."""
    path = tmp_path_factory.mktemp("model")
    hf.save(tiny_model(), path)
    byte_tokenizer().save(path)
    ChatTemplate.default().save(path)
    return path


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return str(path)


def run(folder: Path, scratch: Path, values: dict[str, Any], *, corpus: Path | None = None) -> stage.Draft:
    context = Context(scratch, lambda *args, **fields: None, Machine(chosen_device="cpu"))
    inputs = stage.Inputs(Model("m" * 64, folder), Corpus("c" * 64, corpus) if corpus else None)
    return stage.run(build(stage.Config, values, where="test"), inputs, context)


def all_tests(tmp_path: Path) -> dict[str, Any]:
    return {
        "texts": [write_rows(tmp_path / "more.jsonl", [{"id": "1", "text": "long " * 40, "source": "s"}])],
        "tasks": {
            "copa": {"path": write_rows(tmp_path / "copa.jsonl", CHOICES), "task": "multiple_choice"},
            "lambada": write_rows(tmp_path / "lambada.jsonl", CLOZES),
        },
        "world": WORLD,
        "prompts": ["What is a cat?"],
        "sampling": {"max_tokens": 8},
        "limit": 30,
    }


@pytest.mark.slow
def test_the_report_contains_every_figure_with_its_interval_and_every_item(folder: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    texts = [{"id": str(n), "text": f"Some text, number {n}.", "source": f"part {n % 2}"} for n in range(12)]
    write_rows(corpus / "heldout" / "0.jsonl", texts)
    draft = run(folder, tmp_path / "scratch", all_tests(tmp_path), corpus=corpus)
    report = json.loads((draft.folder / "report.json").read_text())
    assert set(report["figures"]["texts"]) == {"heldout", "more"}
    assert set(report["figures"]["sources"]) == {"heldout: part 0", "heldout: part 1", "more: s"}
    bits = report["figures"]["texts"]["heldout"]["bits_per_byte"]
    assert bits["low"] < bits["value"] < bits["high"] and bits["n"] == 12
    assert draft.facts["heldout/bits_per_byte"] == pytest.approx(bits["value"], abs=1e-5)
    assert set(report["figures"]["tasks"]["copa"]) == {"acc", "acc_norm", "acc_bytes"}
    assert set(report["figures"]["tasks"]["lambada"]) == {"acc", "perplexity"}
    assert draft.facts["world/held_out/accuracy"] == 0.0
    rows = [
        orjson.loads(line)
        for line in zstandard.decompress((draft.folder / "items.jsonl.zst").read_bytes()).splitlines()
    ]
    assert sum(row.get("text") == "heldout" for row in rows) == 12
    assert sum(row.get("task") == "copa" for row in rows) == 30
    assert sum(row.get("task") == "world" for row in rows) == 20
    assert [row["cut"] for row in rows if row.get("task") == "lambada"] == [False, True]
    for name in ("report.md", "report.html"):
        text = (draft.folder / name).read_text()
        for word in ("Held-out text", "Likelihood tasks", "The built-in world", "What is a cat?", "greedy"):
            assert word in text


@pytest.mark.slow
def test_the_report_shows_needles_and_the_loss_by_position(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    hf.save(tiny_model(context=128), folder)
    byte_tokenizer().save(folder)
    long = write_rows(tmp_path / "long.jsonl", [{"id": str(n), "text": f"{n} is long " * 40} for n in range(4)])
    values = {"prompts": [], "positions": long, "needle": {"samples": 2, "max_tokens": 4, "lengths": [128]}}
    draft = run(folder, tmp_path / "scratch", values)
    report = json.loads((draft.folder / "report.json").read_text())["figures"]
    assert next(iter(report["positions"]["long"])) == "0-31" and report["positions"]["long"]["0-31"]["n"] == 4
    assert draft.facts["needle/accuracy"] == 0 and report["needle"]["needle"]["accuracy"]["n"] == 5 * 2
    page = (draft.folder / "report.html").read_text()
    assert "Needle in a haystack" in page and "depth of the needle" in page and "Loss by position" in page
    with pytest.raises(DataError, match="no document has"):
        run(folder, tmp_path / "short", {"positions": write_rows(tmp_path / "s.jsonl", [{"id": "1", "text": "s"}])})


@pytest.mark.slow
def test_the_same_settings_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    settings = all_tests(tmp_path) | {"world": None}
    contents = [
        {
            path.name: path.read_bytes()
            for path in run(folder, tmp_path / name, settings).folder.iterdir()
            if path.is_file()
        }
        for name in ("one", "two")
    ]
    assert contents[0] == contents[1]


def test_prompts_use_the_chat_template_with_as_chat(folder: Path, tmp_path: Path) -> None:
    samples = {"prompts": ["Hi"], "sampling": {"max_tokens": 4}}
    plain = run(folder, tmp_path / "plain", samples)
    chat = run(folder, tmp_path / "chat", {**samples, "as_chat": True})
    assert "chat template" in (chat.folder / "report.md").read_text()
    assert (plain.folder / "report.json").read_text() != (chat.folder / "report.json").read_text()


def plain_logprob(engine: Engine, ids: list[int], *, start: int) -> float:
    """Compute the log-probability of one row without batches and windows."""
    with torch.inference_mode():
        logprobs = F.log_softmax(engine.model(torch.tensor([ids[:-1]])).double(), dim=-1)[0]
    return sum(float(logprobs[index - 1, ids[index]]) for index in range(start, len(ids)))


def test_document_scores_equal_a_plain_implementation(folder: Path) -> None:
    engine = Engine.open(folder)
    texts = ["A cat.", "é is two bytes", "x" * 64]
    documents = [Document(str(index), text, "s") for index, text in enumerate(texts)]
    begin = engine.tokenizer.document
    for score, text in zip(
        score_documents(engine, documents, encode=engine.tokenizer.encode, prefix=begin, context=64), texts, strict=True
    ):
        expected = -plain_logprob(engine, [begin, *text.encode()], start=1) / math.log(2)
        assert score.bits == pytest.approx(expected, rel=1e-5)


def test_option_logprobs_equal_a_plain_implementation(folder: Path) -> None:
    engine = Engine.open(folder)
    item = MultipleChoice((("The sky is", " blue"), ("The sky is", " made of cheese")), 0, ("blue", "made of cheese"))
    encode, begin = engine.tokenizer.encode, engine.tokenizer.document
    (outcome,) = answer(engine, [item], encode=encode, prefix=begin, context=64)
    for (context, continuation), logprob in zip(item.options, outcome.logprobs, strict=True):
        ids = [*context.encode(), *continuation.encode()]
        assert logprob == pytest.approx(plain_logprob(engine, ids, start=len(context)), rel=1e-5)


def test_random_weights_score_near_chance(folder: Path, tmp_path: Path) -> None:
    rows = [
        {"query": f"{n}", "choices": [f"{n * 7919 % 89:02d}{k}" for k in range(4)], "gold": n % 4} for n in range(300)
    ]
    tasks = {"tasks": {"multiple_choice": write_rows(tmp_path / "rows.jsonl", rows)}, "prompts": []}
    draft = run(folder, tmp_path / "scratch", tasks)
    figures = json.loads((draft.folder / "report.json").read_text())["figures"]["tasks"]["multiple_choice"]
    for name in ("acc", "acc_norm", "acc_bytes"):
        assert figures[name]["low"] < 0.25 < figures[name]["high"]


IFEVAL = [
    {"key": n, "prompt": f"Say {n}.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]} for n in range(8)
]


@pytest.mark.slow
def test_a_tuned_model_is_compared_with_its_parent(folder: Path, tmp_path: Path) -> None:
    settings = {
        "instructions": {"path": write_rows(tmp_path / "ifeval.jsonl", IFEVAL), "limit": 5, "max_tokens": 8},
        "texts": [write_rows(tmp_path / "texts.jsonl", [{"id": f"{n}", "text": f"Text {n}."} for n in range(5)])],
        "edge_cases": True,
        "as_chat": True,
        "prompts": [],
        "world": WORLD,
    }
    parent = run(folder, tmp_path / "parent", settings)
    context = Context(tmp_path / "child", lambda *args, **fields: None, Machine(chosen_device="cpu"))
    inputs = stage.Inputs(Model("n" * 64, folder), parent=Report("p" * 64, parent.folder))
    draft = stage.run(build(stage.Config, settings, where="test"), inputs, context)
    report = json.loads((draft.folder / "report.json").read_text())
    assert report["details"]["parent"] == "p" * 64 and report["details"]["flips"] == []
    assert report["figures"]["instructions"]["instructions"]["prompt_strict"]["n"] == 5
    assert report["figures"]["edge_cases"]["edge_cases"]["no_crash"]["value"] == 1.0
    changes = report["figures"]["versus"]["versus"]
    assert set(changes) == {"edge_cases/all_passed", "instructions/prompt_strict", "instructions/prompt_loose",
                            "world/accuracy", "texts/bits_per_byte"}  # fmt: skip
    assert all(figure["value"] == 0 and figure["low"] <= 0 <= figure["high"] for figure in changes.values())
    assert draft.facts["edge_cases/refused"] == 1.0 and "instructions/prompt_loose" in draft.facts
    text = (draft.folder / "report.md").read_text()
    assert "\x1b" not in text and r"\\x1b\[31m" in text and "\u202e" not in text
    for word in ("Instructions", "Edge cases", "Comparison with the parent version", "MDE80", "no difference shown"):
        assert word in text


@pytest.mark.slow
def test_a_parent_report_without_common_items_is_refused(folder: Path, tmp_path: Path) -> None:
    other_report = run(folder, tmp_path / "other", {"world": WORLD, "prompts": []})
    context = Context(tmp_path / "child", lambda *args, **fields: None, Machine(chosen_device="cpu"))
    inputs = stage.Inputs(Model("n" * 64, folder), parent=Report("p" * 64, other_report.folder))
    with pytest.raises(DataError, match="has no items in common"):
        stage.run(build(stage.Config, {"edge_cases": True, "prompts": []}, where="test"), inputs, context)


def test_a_parent_is_an_input_only_when_it_is_named() -> None:
    test_stage = read_stage("test", stage)
    tests = [Step(name, test_stage, build(stage.Config, {}, where="test")) for name in ("test_first", "test_base")]
    assert [slot.name for slot in test_stage.slots if slot.explicit_only] == ["tokens", "parent", "initial"]
    assert wire(test_stage, tests, {"model": "@abc"}, where="x") == {"model": "@abc"}
    inputs = {"model": "@abc", "parent": "test_first"}
    assert wire(test_stage, tests, inputs, where="x") == inputs


def test_edge_cases_need_a_chat_model(folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    hf.save(tiny_model(), base)
    byte_tokenizer().save(base)
    with pytest.raises(ConfigError, match="expected a chat model"):
        run(base, tmp_path / "scratch", {"edge_cases": True})


def test_invalid_settings_are_refused_before_the_model_runs(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean `hellaswag`"):
        run(folder, tmp_path, {"tasks": {"helaswag": "x.jsonl"}})
    with pytest.raises(ConfigError, match="test.context: expected at most 64, the model's context, got 65"):
        run(folder, tmp_path, {"context": 65})
    with pytest.raises(DataError, match="contains no text"):
        run(folder, tmp_path, {"texts": [write_rows(tmp_path / "none.jsonl", [{"id": "1", "text": ""}])]})
