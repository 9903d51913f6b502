"""The inspection of a model does not change it, and its values equal a direct computation."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch.nn import functional as F

from vita.nn.inspection import report
from vita.testing import tiny_model

IDS = torch.randint(259, (2, 17), generator=torch.Generator().manual_seed(1))


def test_the_report_gives_the_loss_and_the_statistics_of_the_model() -> None:
    model = tiny_model(std=0.1)
    inspection = report(model, IDS)
    with torch.no_grad():
        logits = model(IDS[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), IDS[:, 1:].flatten()).item()
        embedded = model.model.embed_tokens(IDS[:, :-1])
    assert inspection["loss"] == pytest.approx(loss, rel=1e-5)
    assert inspection["ln_vocabulary"] == pytest.approx(math.log(259), rel=1e-5)
    assert inspection["embedding_rms"] == pytest.approx(embedded.square().mean().sqrt().item(), rel=1e-5)
    assert inspection["logits"]["std"] == pytest.approx(logits.std().item(), rel=1e-5)
    weight = model.get_parameter("model.layers.1.mlp.up_proj.weight")
    assert inspection["parameters"]["model.layers.1.mlp.up_proj.weight"] == {
        "shape": [48, 32],
        "mean": pytest.approx(weight.mean().item(), rel=1e-4, abs=1e-8),
        "std": pytest.approx(weight.std(correction=0).item(), rel=1e-4),
        "norm": pytest.approx(weight.norm().item(), rel=1e-4),
    }
    assert len(inspection["layers"]) == 2
    json.dumps(inspection, allow_nan=False)


def test_attention_with_zero_queries_is_uniform() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.get_parameter("model.layers.0.self_attn.q_norm.weight").zero_()
    scores = [layer["scores"] for layer in report(model, IDS)["layers"]]
    assert scores[0] == {"std": 0.0, "largest": 0.0, "evenness": 1.0}
    assert scores[1]["evenness"] < 0.99


def test_inspection_does_not_change_the_model() -> None:
    model = tiny_model()
    expected = model(IDS)
    report(model, IDS)
    assert torch.equal(model(IDS), expected)
    assert all(not module._forward_hooks for module in model.modules())
