"""Sequence classifiers of encoders: the logits of transformers, in both directions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from vita.nn import classifier, hf
from vita.nn.classifier import ClassifierSpec, SequenceClassifier

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "num_labels": 3,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "modernbert-cls": ("ModernBert", {"classifier_pooling": "cls", "local_attention": 6, "cls_token_id": 1}),
    "modernbert-mean": ("ModernBert", {"classifier_pooling": "mean", "local_attention": 6, "classifier_bias": True}),
    "bert": ("Bert", {}),
}


def reference(name: str) -> Any:
    """Return the classifier of transformers with random weights."""
    transformers = pytest.importorskip("transformers")
    prefix, extra = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{prefix}Config")(**SIZES, **extra)
    model = getattr(transformers, f"{prefix}ForSequenceClassification")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("name", MODELS)
def test_the_classifier_of_an_encoder_has_the_logits_of_transformers(name: str, tmp_path: Path) -> None:
    theirs = reference(name)
    theirs.save_pretrained(tmp_path / "theirs")
    model = classifier.load(tmp_path / "theirs")
    lengths = torch.tensor([9, 5, 3])
    mask = (torch.arange(9)[None] < lengths[:, None]).long()
    ids = torch.randint(3, 60, (3, 9), generator=torch.Generator().manual_seed(0)) * mask
    types = (torch.arange(9)[None] >= 2).long() * mask
    token_types = {"token_type_ids": types} if model.reads_types else {}
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask, **token_types).logits
        logits = model.logits(ids, lengths, types=types)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    spec = classifier.read_spec(tmp_path / "theirs")
    classifier.save(model, tmp_path / "saved", spec, padding=0, source=tmp_path / "theirs")
    again = type(theirs).from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids, attention_mask=mask, **token_types).logits, expected)


def test_a_new_classifier_continues_the_head_of_a_masked_language_model(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {name: value for name, value in SIZES.items() if name != "num_labels"}
    transformers.ModernBertForMaskedLM(transformers.ModernBertConfig(**sizes)).save_pretrained(tmp_path / "masked")
    masked = hf.load(tmp_path / "masked")
    model = SequenceClassifier.of(masked, outputs=2, pooling="mean")
    continued = dict(model.named_parameters())["pooler.dense.weight"]
    assert torch.equal(continued, dict(masked.named_parameters())["masked_head.dense.weight"])
    spec = ClassifierSpec(("no", "yes"), pooling="mean", transform=model.transform)
    classifier.save(model, tmp_path / "saved", spec, padding=0, source=tmp_path / "masked")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        expected = theirs(input_ids=ids).logits
        torch.testing.assert_close(model.logits(ids, torch.tensor([3])), expected, atol=1e-5, rtol=1e-5)
    assert theirs.config.classifier_pooling == "mean"
