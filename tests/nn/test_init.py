"""Every scheme gives each matrix the size it promises, from the seed and the name alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from vita.nn import attention
from vita.nn.init import SCHEMES, generator, initialize, matrix_of
from vita.nn.inspection import report
from vita.nn.transformer import Transformer
from vita.spine.errors import ConfigError
from vita.testing import tiny_architecture

WIDTH, LAYERS = 128, 3


def container(layers: int = LAYERS, *, tied: bool = False) -> Transformer:
    return Transformer(
        tiny_architecture(width=WIDTH, layers=layers, heads=4, kv_heads=4, head_dim=32, feedforward=256, tied=tied)
    )


def stds(scheme: str, *, tied: bool = False) -> dict[str, float]:
    model = container(tied=tied)
    initialize(model, scheme)
    return {name: parameter.std().item() for name, parameter in model.named_parameters() if parameter.ndim == 2}


@pytest.mark.parametrize("scheme", SCHEMES.names())
@pytest.mark.parametrize("tied", [True, False])
def test_a_scheme_is_finite_seeded_and_begins_norms_at_one(scheme: str, tied: bool) -> None:
    first, again, other = container(tied=tied), container(tied=tied), container(tied=tied)
    initialize(first, scheme, seed=1)
    initialize(again, scheme, seed=1)
    initialize(other, scheme, seed=2)
    for (name, parameter), same, different in zip(
        first.named_parameters(), again.parameters(), other.parameters(), strict=True
    ):
        assert parameter.isfinite().all(), name
        assert torch.equal(parameter, same), name
        if parameter.ndim == 1:
            assert parameter.eq(1).all(), name
        elif parameter.any():
            assert not torch.equal(parameter, different), name


@pytest.mark.parametrize("scheme", sorted(set(SCHEMES.names()) - {"normal", "orthogonal"}))
def test_another_layer_leaves_the_others_as_they_were(scheme: str) -> None:
    shallow, deep = container(2), container(5)
    initialize(shallow, scheme)
    initialize(deep, scheme)
    values = deep.state_dict()
    assert all(torch.equal(value, values[name]) for name, value in shallow.state_dict().items())


def test_the_chance_of_the_caller_is_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    initialize(container(), "llama")
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(
    ("scheme", "name", "expected"),
    [
        ("normal", "model.embed_tokens.weight", 0.02),
        ("normal", "model.layers.0.self_attn.q_proj.weight", 0.02),
        ("normal", "model.layers.2.mlp.down_proj.weight", 0.02 / math.sqrt(2 * LAYERS)),
        ("fan_in", "model.layers.0.mlp.down_proj.weight", 256**-0.5),
        ("fan_in", "model.layers.0.mlp.gate_proj.weight", WIDTH**-0.5),
        # Cutting a normal at three deviations leaves 0.9866 of its deviation.
        ("llama", "model.layers.2.self_attn.o_proj.weight", 0.9866 * 0.02 / math.sqrt(2 * 3)),
        ("llama", "lm_head.weight", 0.9866 * WIDTH**-0.5),
        ("mitchell", "model.layers.1.mlp.down_proj.weight", 0.9866 * 256**-0.5 / math.sqrt(2 * 2)),
        ("mup", "lm_head.weight", 1 / WIDTH),
        ("mup", "model.layers.1.mlp.up_proj.weight", WIDTH**-0.5),
        ("zero_output", "model.layers.1.self_attn.o_proj.weight", 0.0),
        ("zero_output", "model.layers.1.self_attn.v_proj.weight", WIDTH**-0.5),
        ("zero_output", "lm_head.weight", 0.001),
    ],
)
def test_sizes_are_those_of_the_paper(scheme: str, name: str, expected: float) -> None:
    assert stds(scheme)[name] == pytest.approx(expected, rel=0.03)


def test_an_orthogonal_matrix_keeps_lengths() -> None:
    model = container()
    initialize(model, "orthogonal")
    weight = model.get_parameter("model.layers.0.self_attn.q_proj.weight")
    torch.testing.assert_close(weight @ weight.mT, torch.eye(WIDTH), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("scheme", "most"), [("normal", 0.1), ("mup", 0.01), ("zero_output", 0.001)])
def test_a_small_head_begins_at_the_loss_of_knowing_nothing(scheme: str, most: float) -> None:
    model = container()
    initialize(model, scheme)
    found = report(model, torch.randint(259, (4, 33), generator=generator(0, "ids")))
    assert abs(found["loss"] - math.log(259)) < most


def test_places_are_told_by_name() -> None:
    model = container()
    place = matrix_of("model.layers.2.mlp.down_proj.weight", model)
    assert (place.role, place.layer, place.layers, place.fan_in) == ("residual", 2, LAYERS, 256)
    assert matrix_of("model.layers.0.mlp.up_proj.weight", model).role == "inner"
    assert matrix_of("model.embed_tokens.weight", model).role == "embedding"
    assert matrix_of("lm_head.weight", model).role == "head"


def test_an_unknown_scheme_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean `normal`"):
        initialize(container(), "normel")


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2)])
def test_neighbouring_heads_begin_by_looking_so_many_places_back(heads: int, kv_heads: int) -> None:
    shape = tiny_architecture(
        width=256, layers=2, heads=heads, kv_heads=kv_heads, head_dim=64, feedforward=256, context=64, tied=False
    )
    model = Transformer(shape, attention="plain")
    initialize(model, "previous_token_heads")
    seen: list[torch.Tensor] = []
    logits = attention.logits

    def watched(*given: Any) -> torch.Tensor:
        scores = logits(*given)
        seen.append(scores.softmax(-1))
        return scores

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(attention, "logits", watched)
        model(torch.randint(0, shape.vocabulary, (1, 64)))
    group = heads // kv_heads
    for head in range(heads - group):
        back = head // group + 1
        looks = seen[0][0, head].diagonal(-back)[4:]
        assert looks.mean() > 0.45 and (looks > 0.2).float().mean() > 0.95, (head, looks.mean())
    assert seen[0][0, -1].diagonal(-1).mean() < 0.1, "the last head is left to find what it needs"
    assert seen[1][0, 0].diagonal(-1).mean() < 0.1, "and so are further layers"
