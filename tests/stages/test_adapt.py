"""The stage `adapt`: continued pretraining lowers the loss on the domain, measures forgetting and replays old text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.stages.chat_models import context, notes
from tests.stages.test_pretrain import create_model, file_contents, tokens
from vita.data.tokens.shards import Shards, write_shards
from vita.data.tokens.tokenizer import Tokenizer
from vita.nn import hf
from vita.spine.config import build
from vita.spine.errors import ConfigError, DataError
from vita.spine.stage import read_stage
from vita.stages import adapt
from vita.stages.kinds import Model, Tokens

WORLD = {"things": 40, "documents": 20, "dialogues": 20}
VET = {"world": WORLD, "part": "vet", "limit": 60}
COURT = {"world": WORLD, "part": "court", "limit": 60}


def run(
    model: Model,
    scratch: Path,
    *sources: Any,
    tokens: Tokens | None = None,
    events: list[Any] | None = None,
    **settings: Any,
) -> Any:
    values = {
        "sources": sources or (VET,),
        "precision": "float32",
        "compile": "no",
        "batch_size": 4,
        "eval_fraction": 0.2,
    }
    config = build(adapt.Config, {**values, "steps": 6, "learning_rate": 0.02, **settings}, where="adapt")
    return adapt.run(config, adapt.Inputs(model, tokens), context(scratch, events))


def test_adapt_lowers_the_domain_loss_and_reports_both_texts(tmp_path: Path) -> None:
    events: list[Any] = []
    model, pretraining_tokens = create_model(tmp_path / "model"), tokens(tmp_path / "tokens")
    draft = run(model, tmp_path / "scratch", VET, COURT, tokens=pretraining_tokens, events=events, steps=30)
    facts = draft.facts
    assert facts["domain/bits_per_byte/after"] < facts["domain/bits_per_byte/before"] - 1
    assert facts["domain/bits_per_byte/change"] == pytest.approx(
        facts["domain/bits_per_byte/after"] - facts["domain/bits_per_byte/before"], abs=1e-5
    )
    assert facts["general/bits_per_byte/after"] < facts["general/bits_per_byte/before"]
    assert facts["replayed"] == 0.25 and facts["documents"] + facts["heldout_documents"] == 120
    report = json.loads((draft.folder / "report/report.json").read_text())["figures"]["text"]
    assert report["domain/world:vet"].keys() == report["general"].keys()
    assert report["domain"]["bits_per_byte/after"]["n"] == facts["heldout_documents"]
    curve = [json.loads(line) for line in (draft.folder / "report/metrics.jsonl").read_text().splitlines()]
    assert {"domain_bits_per_byte", "general_bits_per_byte"} <= curve[0].keys() & curve[-1].keys()
    assert "Before and after" in (draft.folder / "report/report.md").read_text()
    assert "domain, held out:" in notes(events)
    assert hf.load(draft.folder).architecture.context == 64
    assert read_stage("adapt", adapt).parallel


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vita.train.trainer import Trainer

    model, pretraining_tokens = create_model(tmp_path / "model"), tokens(tmp_path / "tokens")
    uninterrupted = run(model, tmp_path / "one", tokens=pretraining_tokens, eval_documents=5)
    step = Trainer.step

    def interrupt_after_three_steps(self: Trainer, work: Any) -> Any:
        if self.done == 3:
            raise KeyboardInterrupt
        return step(self, work)

    monkeypatch.setattr(Trainer, "step", interrupt_after_three_steps)
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path / "two", tokens=pretraining_tokens, eval_documents=5, checkpoint_seconds=0.0)
    monkeypatch.setattr(Trainer, "step", step)
    events: list[Any] = []
    resumed = run(
        model, tmp_path / "two", tokens=pretraining_tokens, eval_documents=5, checkpoint_seconds=0.0, events=events
    )
    assert "resumes after step 3 of 6" in notes(events)
    assert file_contents(uninterrupted.folder) == file_contents(resumed.folder) and uninterrupted.facts == resumed.facts


def test_without_pretraining_tokens_nothing_is_replayed_and_a_note_says_so(tmp_path: Path) -> None:
    events: list[Any] = []
    model = create_model(tmp_path / "model")
    facts = run(model, tmp_path / "scratch", events=events, replay=0.0, steps=1).facts
    assert facts["replayed"] == 0 and "general/bits_per_byte/after" not in facts
    assert "forgetting is not measured" in notes(events)
    with pytest.raises(ConfigError, match=r"adapt.replay: needs the pretraining's tokens as an input"):
        run(model, tmp_path / "scratch")


def test_copies_of_held_out_documents_are_not_trained_on_and_empty_documents_are_counted(tmp_path: Path) -> None:
    rows = [{"id": str(n), "text": f"Note {n % 20} of the vet."} for n in range(40)] + [{"id": "e", "text": " "}]
    path = tmp_path / "notes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = run(create_model(tmp_path / "model"), tmp_path / "scratch", str(path), replay=0.0, steps=1).facts
    assert facts["dropped_empty"] == 1 and facts["documents"] % 2 == facts["heldout_documents"] % 2 == 0
    shards = Shards.open(tmp_path / "scratch/domain-0/train")
    ids = {int(span.id) % 20 for span in shards.documents_between(0, shards.tokens)}
    assert len(ids) == facts["documents"] // 2


def test_a_source_with_repeat_is_trained_on_that_many_times(tmp_path: Path) -> None:
    rows = [{"id": str(n), "text": f"Note {n} of the vet."} for n in range(40)]
    path = tmp_path / "notes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = create_model(tmp_path / "model")
    single_facts = run(model, tmp_path / "once", str(path), replay=0.0, steps=1).facts
    repeated_facts = run(model, tmp_path / "thrice", {"path": str(path), "repeat": 3}, replay=0.0, steps=1).facts
    assert repeated_facts["documents"] == 3 * single_facts["documents"]
    assert repeated_facts["heldout_documents"] == single_facts["heldout_documents"]


def test_the_same_document_may_come_from_two_sources(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_text("".join(json.dumps({"id": str(n), "text": f"Note {n}."}) + "\n" for n in range(40)))
    sources = [{"path": str(path), "name": name} for name in "ab"]
    facts = run(create_model(tmp_path / "model"), tmp_path / "run", *sources, replay=0.0, steps=1).facts
    assert facts["heldout_documents"] % 2 == 0


def test_invalid_settings_and_inputs_are_refused(tmp_path: Path) -> None:
    model, pretraining_tokens = create_model(tmp_path / "model"), tokens(tmp_path / "tokens")
    with pytest.raises(ConfigError, match=r"adapt.sequence_length: expected at most 64"):
        run(model, tmp_path / "scratch", tokens=pretraining_tokens, sequence_length=100)
    with pytest.raises(ConfigError, match=r"adapt.replay: expected at least one row of each kind, got 0.1"):
        run(model, tmp_path / "scratch", tokens=pretraining_tokens, replay=0.1)
    path = tmp_path / "one.txt"
    path.write_text("Only one note.")
    with pytest.raises(DataError, match="domain: of its 1 documents none is left to"):
        run(model, tmp_path / "scratch", str(path), tokens=pretraining_tokens)
    tokenizer = Tokenizer.train(["a cat and a cat and a dog"] * 9, vocabulary=262)
    write_shards(tmp_path / "other/train", [], vocabulary=262, document=259, tokenizer=tokenizer.digest)
    with pytest.raises(ConfigError, match=r"adapt.tokens: were written with another tokenizer"):
        run(model, tmp_path / "scratch", tokens=Tokens("4" * 64, tmp_path / "other", {}))


def long_texts(folder: Path) -> str:
    """Write documents of more than 128 tokens, and return their path."""
    folder.mkdir(parents=True, exist_ok=True)
    sentences = [f"The number {number} follows the number {number - 1}." for number in range(1, 400)]
    texts = [" ".join(sentences[start : start + 12]) for start in range(0, 384, 12)]
    path = folder / "long.jsonl"
    path.write_text("".join(json.dumps({"id": str(index), "text": text}) + "\n" for index, text in enumerate(texts)))
    return str(path)


@pytest.mark.parametrize("rule", ["yarn", "llama3", "linear", {"type": "yarn", "factor": 4}])
def test_a_longer_context_reopens_in_transformers_with_equal_logits(rule: Any, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    model, path = create_model(tmp_path / "model"), long_texts(tmp_path)
    settings: dict[str, Any] = {"rope_scaling": rule, **({"longer_context": 128} if isinstance(rule, str) else {})}
    draft = run(model, tmp_path / "run", path, replay=0, steps=2, batch_size=2, **settings)
    length = settings.get("longer_context", 256)
    ours = hf.load(draft.folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(draft.folder, attn_implementation="eager").eval()
    assert theirs.config.max_position_embeddings == ours.architecture.context == length
    ids = torch.randint(3, 200, (1, length), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits, expected = ours(ids), theirs(ids, use_cache=False).logits
    assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max()
    report = json.loads((draft.folder / "report/report.json").read_text())["figures"]
    if length == 128:
        assert list(report["positions"]["before"]) == ["0-31", "32-63", "64-127"] == list(report["positions"]["after"])
        assert "log2(position)" in (draft.folder / "report/report.html").read_text()


def test_a_longer_context_is_refused_where_the_positions_are_learned_or_an_adapter_is_trained(tmp_path: Path) -> None:
    from vita.nn.architecture import Architecture
    from vita.train.longer_context import LongerContextSettings, extended_architecture

    model, path = create_model(tmp_path / "model"), long_texts(tmp_path)
    shape = hf.load(model.path).architecture
    learned = Architecture.model_validate({**shape.model_dump(), "positions": "learned", "family": "gpt2"})
    settings = build(LongerContextSettings, {"longer_context": 128}, where="adapt")
    with pytest.raises(ConfigError, match=r"adapt\.longer_context.*positions are learned"):
        extended_architecture(settings, learned, where="adapt")
    with pytest.raises(ConfigError, match="at least 64"):
        run(model, tmp_path / "a", path, replay=0, longer_context=32)
    with pytest.raises(ConfigError, match="has no factor"):
        run(model, tmp_path / "b", path, replay=0, rope_scaling="yarn")
    with pytest.raises(ConfigError, match="an adapter keeps the context"):
        run(model, tmp_path / "c", path, replay=0, longer_context=128, adapter="lora")
    with pytest.raises(ConfigError, match="rope_scaling"):
        run(model, tmp_path / "d", path, replay=0, longer_context=128, rope_scaling="rotary")
