"""Model families: the formats of `config.json` and weight files that the decoder reads and writes.

    architecture = read_architecture(config, where="folder/config.json")
    config = write_config(architecture)
    weights = weight_map(architecture)

A family is a function that reads its configuration, one that writes it, and a table of weight names. Other packages
add families under the entry-point group `vita.model_families`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from vita.nn.architecture import Architecture
from vita.nn.block_scaled import check_quantization
from vita.nn.families import bert, deepseek, dots, gemma, gpt, llama, olmo, phi, qwen  # noqa: F401 - register them
from vita.nn.families.config_reader import ConfigReader
from vita.nn.families.family import FAMILIES, Family
from vita.nn.families.weight_map import WeightMap
from vita.spine.errors import ModelError


def read_architecture(config: Mapping[str, Any], *, where: str = "config.json") -> Architecture:
    """Read the architecture from a `config.json`; raise `ModelError` for unsupported models and settings."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        supported = ", ".join(FAMILIES.names())
        hint = "choose a model of one of these families; see docs/families.md"
        raise ModelError(f"{where}: model_type", expected=f"one of {supported}", got=model_type, hint=hint)
    reader = ConfigReader(config, where)
    check_quantization(config, where)
    values = FAMILIES[model_type].read(reader)
    try:
        return Architecture.model_validate(values)
    except ValidationError as error:
        reason = error.errors()[0]
        spot = [_KEYS.get(str(part), str(part)) for part in reason["loc"]]
        raise ModelError(": ".join([where, *spot]), reason["msg"], got=reason["input"] if spot else None) from None


def write_config(architecture: Architecture) -> dict[str, Any]:
    """Return the `config.json` of an architecture, in the format of its family."""
    family = FAMILIES[architecture.family]
    return {
        "architectures": [family.model_class(architecture)],
        "model_type": architecture.family,
        # The tokenizer is not known here, and default ids of a class may exceed the vocabulary.
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
        **family.write(architecture),
    }


def family_of(architecture: Architecture) -> Family:
    """Return the family of an architecture."""
    return FAMILIES[architecture.family]


def weight_map(architecture: Architecture, *, classifier: bool = False) -> WeightMap:
    """Return the translation between the weight files of the family and the decoder, or a classifier of the family."""
    family = family_of(architecture)
    return WeightMap(architecture, (family.classifier_names if classifier else None) or family.names)


_KEYS = {
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "feedforward": "intermediate_size",
    "context": "max_position_embeddings",
}
