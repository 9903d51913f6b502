"""Mixtures of experts: grouped products against the plain loop, routers against transformers, stacked weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.nn.open_models import ids, save
from vita.nn import hf
from vita.nn.architecture import Architecture, Experts
from vita.nn.experts import ExpertRouter, MixtureOfExperts, observed
from vita.nn.grouped import (
    Groups,
    group_by_expert,
    grouped_linear,
    grouped_linear_kernel,
    grouped_linear_reference,
)
from vita.nn.init import initialize
from vita.nn.transformer import Transformer
from vita.spine.errors import ModelError

COUNT, ACTIVE, WIDTH, INNER = 5, 2, 32, 48


def mixture(**experts: object) -> Architecture:
    """Return a small architecture with a mixture of experts."""
    settings = Experts.model_validate({"count": COUNT, "active": ACTIVE, "feedforward": INNER, **experts})
    return Architecture(
        family="qwen3_moe", vocabulary=64, width=WIDTH, layers=2, heads=2, kv_heads=1, head_dim=16, feedforward=64,
        context=64, experts=settings,
    )  # fmt: skip


def router_of(model: Transformer) -> ExpertRouter:
    router = model.get_submodule("model.layers.0.mlp.router")
    assert isinstance(router, ExpertRouter)
    return router


def groups_of(chosen: Tensor) -> Groups:
    return group_by_expert(chosen, count=COUNT)


@pytest.mark.parametrize("implementation", [grouped_linear, grouped_linear_kernel])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grouped_products_have_the_values_and_gradients_of_the_loop_over_experts(
    implementation: Callable[[Tensor, Tensor, Groups], Tensor], dtype: torch.dtype
) -> None:
    """Also where an expert gets no token (3) and where one gets a single token."""
    chosen = torch.tensor([[0, 1], [0, 2], [4, 0], [0, 1], [1, 0], [2, 0]])
    results = []
    for function in (grouped_linear_reference, implementation):
        torch.manual_seed(0)
        tokens = torch.randn(6, WIDTH, dtype=dtype, requires_grad=True)
        weight = torch.randn(COUNT, INNER, WIDTH, dtype=dtype, requires_grad=True)
        groups = groups_of(chosen)
        outputs = groups.collect(function(groups.dispatch(tokens), weight, groups))
        (outputs.float() * torch.linspace(-1, 1, outputs.numel()).view_as(outputs)).sum().backward()
        assert tokens.grad is not None and weight.grad is not None
        results.append([outputs.detach(), tokens.grad, weight.grad])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5 if dtype == torch.float32 else 2e-2, atol=1e-5)
    assert not results[1][2][3].any()


def test_dispatch_sorts_pairs_by_expert_and_collect_restores_their_order() -> None:
    chosen = torch.tensor([[4, 0], [0, 2], [2, 4]])
    groups, tokens = groups_of(chosen), torch.arange(3.0)[:, None]
    assert groups.sizes == [2, 0, 2, 0, 2]
    assert groups.dispatch(tokens)[:, 0].tolist() == [0, 1, 1, 2, 0, 2]
    assert torch.equal(groups.collect(groups.dispatch(tokens))[..., 0], tokens.expand(3, 2))


@pytest.mark.parametrize("router", ["softmax", "topk_softmax", "sigmoid"])
def test_a_mixture_is_the_weighted_sum_of_its_experts_for_each_token(router: str) -> None:
    architecture = mixture(router=router, shared=16, shared_gate=True, scale=1.5)
    assert architecture.experts is not None
    layer = MixtureOfExperts(architecture, architecture.experts)
    for index, parameter in enumerate(layer.parameters()):
        torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(index))
    states = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(9))
    tokens, experts = states.flatten(0, 1), layer.experts
    scores = layer.router.route(tokens).logits
    weights, chosen = (scores.sigmoid() if router == "sigmoid" else scores.softmax(-1)).topk(ACTIVE)
    weights = 1.5 * weights / weights.sum(-1, keepdim=True)
    for row, token in enumerate(tokens):
        expected = layer.shared_experts(token) * layer.shared_expert_gate(token).sigmoid()
        for weight, expert in zip(weights[row], chosen[row].tolist(), strict=True):
            gate, up = (getattr(experts, name).weight[expert] @ token for name in ("gate_proj", "up_proj"))
            expected = expected + weight * (experts.down_proj.weight[expert] @ (torch.nn.functional.silu(gate) * up))
        torch.testing.assert_close(layer(states).flatten(0, 1)[row], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer(states), layer(states, invariant=True), rtol=1e-5, atol=1e-5)


def test_the_correction_changes_the_choice_of_experts_and_not_their_weights() -> None:
    architecture = mixture(router="sigmoid", normalized=False)
    model = Transformer(architecture)
    initialize(model, "normal")
    router = router_of(model)
    assert router.e_score_correction_bias is not None
    tokens = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(1))
    router.e_score_correction_bias[3] = 10.0
    routing = router.route(tokens)
    assert (routing.chosen == 3).any(-1).all()
    torch.testing.assert_close(routing.weights, routing.logits.sigmoid().gather(-1, routing.chosen))
    assert "model.layers.0.mlp.router.e_score_correction_bias" in model.state_dict()
    assert not any("correction" in name for name, _ in model.named_parameters())
    half = router_of(model.bfloat16()).e_score_correction_bias
    assert half is not None and half.dtype == torch.float32 and half[3] == 10.0


@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral"])
def test_files_with_stacked_experts_open_like_files_with_one_matrix_per_expert(name: str, tmp_path: Path) -> None:
    """`save_original_format=False` of transformers writes the names that it has in memory."""
    theirs = save(name, tmp_path / "split")
    theirs.save_pretrained(tmp_path / "stacked", save_original_format=False)
    assert any("experts.gate_up_proj" in key for key in load_file(tmp_path / "stacked" / hf.WEIGHTS))
    split, stacked = hf.load(tmp_path / "split"), hf.load(tmp_path / "stacked")
    assert torch.equal(split(ids()), stacked(ids()))


def test_a_missing_matrix_of_one_expert_is_refused_with_its_name_in_the_file(tmp_path: Path) -> None:
    save("qwen3_moe", tmp_path)
    weights = load_file(tmp_path / hf.WEIGHTS)
    del weights["model.layers.2.mlp.experts.3.up_proj.weight"]
    save_file(weights, tmp_path / hf.WEIGHTS)
    with pytest.raises(ModelError, match=r"model\.layers\.2\.mlp\.experts\.3\.up_proj\.weight"):
        hf.load(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"active": 6}, "6 active experts of 5"),
        ({"groups": 5}, "needs the router `sigmoid`"),
        ({"router": "sigmoid", "groups": 2}, "cannot form 2 groups"),
        ({"router": "sigmoid", "groups": 5, "active_groups": 1}, "exceed those of 1 groups"),
        ({"shared_gate": True}, "`shared_gate` needs `shared`"),
    ],
)
def test_impossible_mixtures_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixture(**settings)


def test_new_routers_choose_all_experts_about_equally_often() -> None:
    model = Transformer(mixture())
    initialize(model, "previous_token_heads")
    with observed(model) as routings, torch.no_grad():
        model(torch.arange(64)[None])
    (routing,) = routings["model.layers.1.mlp"]
    loads = routing.chosen.flatten().bincount(minlength=COUNT)
    assert loads.min() > 0 and routing.logits.softmax(-1).max() < 0.6
    gate = model.get_parameter("model.layers.0.mlp.experts.gate_proj.weight")
    assert gate.shape == (COUNT, INNER, WIDTH) and not torch.equal(gate[0], gate[1])
