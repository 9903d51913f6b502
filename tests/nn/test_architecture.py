"""Model sizes worked by hand, and validation of config.json."""

from __future__ import annotations

import pytest

from vita.nn.architecture import Architecture
from vita.nn.families import read_architecture, write_config
from vita.nn.transformer import Transformer
from vita.spine.config import build
from vita.spine.errors import ConfigError, ModelError
from vita.testing import tiny_architecture


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_the_parameter_count_equals_that_of_the_model(tied: bool, kv_heads: int) -> None:
    shape = tiny_architecture(tied=tied, kv_heads=kv_heads)
    assert shape.parameters() == sum(parameter.numel() for parameter in Transformer(shape).parameters())


def test_costs_worked_by_hand() -> None:
    shape = Architecture(
        vocabulary=10, width=4, layers=2, heads=2, kv_heads=1, head_dim=2, feedforward=8, context=3, tied=True
    )
    attention, feedforward = 4 * 4 + 2 * (4 * 2) + 4 * 4, 3 * 4 * 8
    matrices = 2 * (attention + feedforward)
    norms = 2 * (4 + 4 + 2 + 2) + 4
    assert shape.parameters() == 10 * 4 + matrices + norms
    assert shape.matrix_parameters() == matrices + 10 * 4
    # A causal query in a text of three tokens sees one, two or three keys: two on average. Scores and mixing cost
    # 2 operations x 4 numbers x 2 keys each, times two layers, times three for forward and backward.
    assert shape.flops_per_token() == 6 * (matrices + 10 * 4) + 3 * 2 * (2 * 2 * 4 * 2)
    assert shape.flops_per_token(5) - shape.flops_per_token(3) == 3 * 2 * 2 * 2 * 4


def test_memory_adds_up_and_grows_with_the_tokens() -> None:
    small, large = (tiny_architecture().memory(tokens=tokens, logits=1000) for tokens in (128, 256))
    assert small["total"] == sum(size for name, size in small.items() if name != "total")
    assert small["weights"] == 4 * tiny_architecture().parameters() == large["weights"]
    assert large["activations"] == 2 * small["activations"]


def test_an_architecture_round_trips_through_config_json() -> None:
    shape = tiny_architecture(tied=False, rope_base=50_000.0, norm_eps=1e-5)
    assert read_architecture(write_config(shape)) == shape


def test_an_older_config_with_a_plain_rope_theta_is_read() -> None:
    config = write_config(tiny_architecture(rope_base=1e6))
    del config["rope_parameters"]
    assert read_architecture({**config, "rope_scaling": None}).rope_base == 1e6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "got 'mamba'"),
        ({"hidden_size": None}, "hidden_size: is required and missing"),
        ({"head_dim": 7}, "rotary positions rotate pairs"),
        ({"num_key_value_heads": 3}, "must be a multiple of `kv_heads`"),
        ({"hidden_act": "relu"}, "got 'relu'"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"rope_parameters": {"rope_type": "other", "rope_theta": 1e4}}, "got 'other'"),
        ({"rope_scaling": {"type": "linear"}, "rope_parameters": None}, "factor: is required and missing"),
        ({"quantization_config": {"bits": 4}}, "quantization_config: expected none, or float8"),
    ],
)
def test_unsupported_settings_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError) as refusal:
        read_architecture({**write_config(tiny_architecture()), **change}, where="folder/config.json")
    assert str(refusal.value).startswith("folder/config.json")
    assert message in str(refusal.value)


def test_heads_not_divisible_by_kv_heads_are_refused_with_the_path() -> None:
    values = {**tiny_architecture().model_dump(), "heads": 4, "kv_heads": 3}
    with pytest.raises(ConfigError, match=r"design.architecture: `heads` \(4\) must be a multiple of `kv_heads` \(3\)"):
        build(Architecture, values, where="design.architecture")
