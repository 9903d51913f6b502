"""Initialization schemes give the documented standard deviations, depending only on seed and name."""

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


def create_model(layers: int = LAYERS, *, tied: bool = False) -> Transformer:
    return Transformer(
        tiny_architecture(width=WIDTH, layers=layers, heads=4, kv_heads=4, head_dim=32, feedforward=256, tied=tied)
    )


def stds(scheme: str, *, tied: bool = False) -> dict[str, float]:
    model = create_model(tied=tied)
    initialize(model, scheme)
    return {name: parameter.std().item() for name, parameter in model.named_parameters() if parameter.ndim == 2}


@pytest.mark.parametrize("scheme", SCHEMES.names())
@pytest.mark.parametrize("tied", [True, False])
def test_a_scheme_is_finite_and_seeded_and_sets_norms_to_one(scheme: str, tied: bool) -> None:
    first, second, other_seed = create_model(tied=tied), create_model(tied=tied), create_model(tied=tied)
    initialize(first, scheme, seed=1)
    initialize(second, scheme, seed=1)
    initialize(other_seed, scheme, seed=2)
    for (name, parameter), second_parameter, other_parameter in zip(
        first.named_parameters(), second.parameters(), other_seed.parameters(), strict=True
    ):
        assert parameter.isfinite().all(), name
        assert torch.equal(parameter, second_parameter), name
        if parameter.ndim == 1:
            assert parameter.eq(1).all(), name
        elif parameter.any():
            assert not torch.equal(parameter, other_parameter), name


@pytest.mark.parametrize("scheme", sorted(set(SCHEMES.names()) - {"normal", "orthogonal"}))
def test_the_number_of_layers_does_not_change_the_weights_of_a_layer(scheme: str) -> None:
    shallow, deep = create_model(2), create_model(5)
    initialize(shallow, scheme)
    initialize(deep, scheme)
    values = deep.state_dict()
    assert all(torch.equal(value, values[name]) for name, value in shallow.state_dict().items())


def test_initialization_does_not_change_the_global_random_state() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    initialize(create_model(), "llama")
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(
    ("scheme", "name", "expected"),
    [
        ("normal", "model.embed_tokens.weight", 0.02),
        ("normal", "model.layers.0.self_attn.q_proj.weight", 0.02),
        ("normal", "model.layers.2.mlp.down_proj.weight", 0.02 / math.sqrt(2 * LAYERS)),
        ("fan_in", "model.layers.0.mlp.down_proj.weight", 256**-0.5),
        ("fan_in", "model.layers.0.mlp.gate_proj.weight", WIDTH**-0.5),
        # A normal distribution truncated at three standard deviations has 0.9866 of its standard deviation.
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
def test_standard_deviations_equal_those_of_the_papers(scheme: str, name: str, expected: float) -> None:
    assert stds(scheme)[name] == pytest.approx(expected, rel=0.03)


def test_orthogonal_initialization_gives_orthogonal_matrices() -> None:
    model = create_model()
    initialize(model, "orthogonal")
    weight = model.get_parameter("model.layers.0.self_attn.q_proj.weight")
    torch.testing.assert_close(weight @ weight.mT, torch.eye(WIDTH), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("scheme", "tolerance"), [("normal", 0.1), ("mup", 0.01), ("zero_output", 0.001)])
def test_a_small_head_gives_the_loss_of_a_uniform_prediction(scheme: str, tolerance: float) -> None:
    model = create_model()
    initialize(model, scheme)
    inspection = report(model, torch.randint(259, (4, 33), generator=generator(0, "ids")))
    assert abs(inspection["loss"] - math.log(259)) < tolerance


def test_the_role_of_a_matrix_is_found_by_its_name() -> None:
    model = create_model()
    matrix = matrix_of("model.layers.2.mlp.down_proj.weight", model)
    assert (matrix.role, matrix.layer, matrix.layers, matrix.fan_in) == ("residual", 2, LAYERS, 256)
    assert matrix_of("model.layers.0.mlp.up_proj.weight", model).role == "inner"
    assert matrix_of("model.embed_tokens.weight", model).role == "embedding"
    assert matrix_of("lm_head.weight", model).role == "head"


def test_an_unknown_scheme_is_refused_with_the_closest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean `normal`"):
        initialize(create_model(), "normel")


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2)])
def test_previous_token_heads_attend_to_a_fixed_distance(heads: int, kv_heads: int) -> None:
    shape = tiny_architecture(
        width=256, layers=2, heads=heads, kv_heads=kv_heads, head_dim=64, feedforward=256, context=64, tied=False
    )
    model = Transformer(shape, attention="plain")
    initialize(model, "previous_token_heads")
    attention_weights: list[torch.Tensor] = []
    logits = attention.logits

    def record_logits(*args: Any) -> torch.Tensor:
        scores = logits(*args)
        attention_weights.append(scores.softmax(-1))
        return scores

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(attention, "logits", record_logits)
        model(torch.randint(0, shape.vocabulary, (1, 64)))
    group = heads // kv_heads
    for head in range(heads - group):
        distance = head // group + 1
        weights = attention_weights[0][0, head].diagonal(-distance)[4:]
        assert weights.mean() > 0.45 and (weights > 0.2).float().mean() > 0.95, (head, weights.mean())
    assert attention_weights[0][0, -1].diagonal(-1).mean() < 0.1, "the last head is not changed"
    assert attention_weights[1][0, 0].diagonal(-1).mean() < 0.1, "further layers are not changed"
