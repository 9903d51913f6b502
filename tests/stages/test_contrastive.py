"""The stage `contrastive`: embeddings that find the matching text, in the format of sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.stages.chat_models import WORDS, context, create_chat_model, notes, write_rows
from tests.stages.test_encoders import save_with_tokenizer
from tests.stages.test_pretrain import file_contents
from vita.infer.embedding_format import read_embedding_config
from vita.infer.pretrained import Pretrained
from vita.infer.text_model import TextModel
from vita.nn.pooling import pooled, text_states
from vita.spine.config import build
from vita.spine.errors import ConfigError, DataError
from vita.stages import contrastive
from vita.stages.kinds import Model
from vita.testing import tiny_model
from vita.train.contrastive import ContrastiveLoss

PAIRS = [{"query": f"find {a} {b}", "document": f"{b}{a}{b} is here"} for a in WORDS for b in WORDS if a != b]


def run(model: Model, scratch: Path, *sources: str, events: list[Any] | None = None, **settings: Any) -> Any:
    values = {"sources": sources, "precision": "float32", "batch_size": 16, "learning_rate": 3e-3, **settings}
    config = build(contrastive.Config, values, where="contrastive")
    return contrastive.run(config, contrastive.Inputs(model), context(scratch, events))


def figures(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report/report.json").read_text())["figures"]["embedding"]


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_training_raises_the_recall_on_pairs_that_were_held_out(tmp_path: Path, pooling: str) -> None:
    model, source = create_chat_model(tmp_path / "model"), write_rows(tmp_path, PAIRS)
    draft = run(model, tmp_path / "scratch", source, steps=15, pooling=pooling, eval_fraction=0.2)
    measured = figures(draft.folder)["retrieval"]
    assert measured["recall@1"]["value"] > measured["recall@1/before"]["value"] and measured["mrr/change"]["low"] > 0
    settings = read_embedding_config(draft.folder)
    assert settings is not None and settings.pooling == pooling and settings.normalize
    opened = TextModel.open(draft.folder)
    vectors = opened.embed(["find mu ba", "bamuba is here", "so"])
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(3))
    assert opened.embed(["mu"], dimensions=8).shape == (1, 8) and opened.tasks == ("embedding",)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
def test_sentence_transformers_gives_the_same_embeddings(tmp_path: Path, pooling: str) -> None:
    library = pytest.importorskip("sentence_transformers")
    model, source = create_chat_model(tmp_path / "model"), write_rows(tmp_path, PAIRS)
    draft = run(model, tmp_path / "scratch", source, steps=3, pooling=pooling, max_length=24)
    texts = ["find mu", "a longer text that is cut, because it has more tokens than the maximum", "ba"]
    theirs = library.SentenceTransformer(str(draft.folder), device="cpu")
    expected = torch.tensor(theirs.encode(texts, batch_size=3))
    torch.testing.assert_close(TextModel.open(draft.folder).embed(texts), expected, atol=1e-5, rtol=1e-5)
    theirs.save(str(tmp_path / "theirs"))
    again = TextModel.open(tmp_path / "theirs").embed(texts)
    torch.testing.assert_close(again, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "adapter"), [("bert", "none"), ("modernbert", "none"), ("modernbert-biases", "lora")])
def test_a_masked_language_model_learns_embeddings_and_keeps_its_head(tmp_path: Path, name: str, adapter: str) -> None:
    save_with_tokenizer(name, tmp_path / "model")
    model, source = Model("4" * 64, tmp_path / "model", {}), write_rows(tmp_path, PAIRS)
    draft = run(model, tmp_path / "scratch", source, steps=2, adapter=adapter, max_length=16)
    (draft.folder.parent / model.digest).symlink_to(model.path)  # as in a store
    before, after = (Pretrained.load(folder).model for folder in (model.path, draft.folder))
    weights = dict(after.named_parameters())
    for key, weight in before.named_parameters():
        if not key.startswith("model."):
            assert torch.equal(weight, weights[key]), key
    assert read_embedding_config(draft.folder) is not None
    ids, lengths = torch.tensor([[1, 6, 7, 2]]), torch.tensor([4])
    assert not torch.equal(text_states(before, ids, lengths), text_states(after, ids, lengths))


def test_a_killed_run_ends_in_the_same_bytes(tmp_path: Path) -> None:
    model, source = create_chat_model(tmp_path / "model"), write_rows(tmp_path, PAIRS)
    first = run(model, tmp_path / "one", source, steps=4, checkpoint_seconds=0.0)
    events: list[Any] = []
    resumed = run(model, tmp_path / "one", source, steps=4, checkpoint_seconds=0.0, events=events)
    assert "resumes after step 4" in notes(events)
    other = run(model, tmp_path / "two", source, steps=4)
    assert file_contents(first.folder) == file_contents(resumed.folder) == file_contents(other.folder)


def test_the_loss_is_the_cross_entropy_over_the_other_texts_without_equal_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(3, 3, 8, generator=generator)
    keys = torch.tensor([[1, 11, 21], [2, 12, 22], [3, 11, 0]])  # rows 0 and 2 have the same positive
    present = torch.tensor([[True, True, True], [True, True, True], [True, True, False]])
    loss, correct = ContrastiveLoss("mean", 0.05)._ranking(vectors, {"keys": keys, "present": present})
    unit = F.normalize(vectors, dim=-1)
    allowed = {0: [(0, 1), (1, 1), (0, 2), (1, 2)], 1: [(0, 1), (1, 1), (2, 1), (0, 2), (1, 2)]}
    allowed[2] = [(2, 1), (1, 1), (0, 2), (1, 2)]
    expected = torch.zeros(())
    for row, candidates in allowed.items():
        scores = torch.stack([unit[row, 0] @ unit[at, part] / 0.05 for at, part in candidates])
        expected -= scores.log_softmax(0)[candidates.index((row, 1))]
    torch.testing.assert_close(loss, expected)
    assert 0 <= correct <= 3


@pytest.mark.parametrize(("pooling", "causal"), [("mean", False), ("last", True), ("cls", False)])
def test_groups_of_similar_length_give_the_loss_and_gradients_of_one_padded_tensor(pooling: Any, causal: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([[5, 300], [64, 65], [130, 1], [7, 129]])
    tensors = {"ids": torch.randint(5, 250, (4, 2, 304), generator=generator), "lengths": lengths}
    tensors["ids"][torch.arange(304) >= lengths[..., None]] = 0
    tensors |= {"keys": torch.arange(8).reshape(4, 2), "present": torch.ones(4, 2, dtype=torch.bool)}
    loss = ContrastiveLoss(pooling, 0.05, dimensions=(8,))
    results = []
    for is_grouped in (True, False):
        model = tiny_model(context=512, causal=causal)
        if is_grouped:
            value, correct = loss(model, tensors)
        else:
            ids, flat = tensors["ids"].flatten(0, 1), lengths.flatten()
            vectors = pooled(text_states(model, ids, flat), flat, pooling).unflatten(0, (4, 2))
            losses = [loss._ranking(vectors[..., :size], tensors) for size in (vectors.shape[-1], 8)]
            value, correct = torch.stack([part for part, _ in losses]).mean(), {"accuracy": losses[0][1]}
        value.backward()
        gradients = {name: part.grad for name, part in model.named_parameters() if part.grad is not None}
        results.append((value.detach(), correct["accuracy"], gradients))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_only_similar_pairs_are_learned_and_all_scores_are_correlated(tmp_path: Path) -> None:
    rows = [
        {"sentence1": f"{a} {b}", "sentence2": f"{b} {a}", "score": float(a < b)}
        for a in WORDS
        for b in WORDS
        if a != b
    ]
    model, source = create_chat_model(tmp_path / "model"), write_rows(tmp_path, rows)
    draft = run(model, tmp_path / "scratch", source, steps=2, eval_fraction=0.3, dimensions=[8, 16], symmetric=True)
    assert draft.facts["dropped_not_similar"] > 0 and draft.facts["scored_pairs"] > draft.facts["heldout_pairs"] / 2
    assert "spearman" in figures(draft.folder)["similarity"]
    assert json.loads((draft.folder / "config.json").read_text())["matryoshka_dimensions"] == [8, 16]


def test_mistakes_are_refused_with_the_reason(tmp_path: Path) -> None:
    model, source = create_chat_model(tmp_path / "model"), write_rows(tmp_path, PAIRS)
    with pytest.raises(ConfigError, match=r"contrastive.dimensions: expected numbers from 1 to 31"):
        run(model, tmp_path / "s", source, dimensions=[64])
    with pytest.raises(ConfigError, match=r"contrastive.micro_batch_tokens: has no effect"):
        run(model, tmp_path / "s", source, micro_batch_tokens=512)
    with pytest.raises(DataError, match="name them with `anchor_column`, `positive_column`"):
        run(model, tmp_path / "s", write_rows(tmp_path, [{"a": "x", "b": "y"}], name="odd.jsonl"))
    with pytest.raises(DataError, match="two different matching texts"):
        same = [{"query": f"{word}", "document": "same"} for word in WORDS]
        run(model, tmp_path / "s", write_rows(tmp_path, same, name="same.jsonl"), eval_fraction=0)
