"""Encoders: BERT, and ModernBERT with rotary positions, local attention and a gate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vita.nn.architecture import Architecture
from vita.nn.families.config_keys import ACTIVATION_KEYS, layer_types, rope_keys_by_type, size_keys
from vita.nn.families.config_reader import ConfigReader
from vita.nn.families.family import add_family
from vita.nn.families.weight_map import WeightNames

MODERNBERT_NAMES = WeightNames(
    top={
        "model.embed_tokens": "model.embeddings.tok_embeddings",
        "model.embed_norm": "model.embeddings.norm",
        "model.norm": "model.final_norm",
        "masked_head.dense": "head.dense",
        "masked_head.norm": "head.norm",
        "lm_head": "decoder",
    },
    layer={
        "input_layernorm": "attn_norm",
        "self_attn.o_proj": "attn.Wo",
        "post_attention_layernorm": "mlp_norm",
        "mlp.down_proj": "mlp.Wo",
    },
    fused={
        "attn.Wqkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "mlp.Wi": ("mlp.gate_proj", "mlp.up_proj"),
    },
    aliases=((r"^(embeddings|layers|final_norm)\.", r"model.\1."),),
)
"""Files of an encoder without a head omit the prefix `model.`."""


MODERNBERT_CLASSIFIER = replace(
    MODERNBERT_NAMES,
    top={
        **{module: name for module, name in MODERNBERT_NAMES.top.items() if module.startswith("model.")},
        "pooler.dense": "head.dense",
        "pooler.norm": "head.norm",
        "score": "classifier",
    },
)


def _write_modernbert(architecture: Architecture) -> dict[str, Any]:
    head = architecture.masked_head
    keys = {name: value for name, value in size_keys(architecture).items() if name not in _LLAMA_KEYS}
    rope = rope_keys_by_type(architecture)
    return {
        **keys,
        "hidden_activation": ACTIVATION_KEYS[architecture.activation],
        "norm_eps": architecture.norm_eps,
        "norm_bias": architecture.norm_bias,
        "attention_bias": "qkv" in architecture.biases,
        "mlp_bias": "feedforward" in architecture.biases,
        "layer_types": layer_types(architecture),
        "local_attention": 128 if architecture.window is None else 2 * (architecture.window - 1),
        **rope,
        # The keys of earlier versions of transformers.
        "global_rope_theta": architecture.rope_base,
        "local_rope_theta": rope["rope_parameters"]["sliding_attention"]["rope_theta"],
        "global_attn_every_n_layers": _period(architecture),
        "decoder_bias": head.output_bias if head else True,
        "classifier_bias": head.bias if head else False,
        "classifier_activation": ACTIVATION_KEYS[head.activation] if head else "gelu",
        "classifier_pooling": "mean",
        **dict.fromkeys(("embedding_dropout", "mlp_dropout", "classifier_dropout"), 0.0),
        **dict.fromkeys(("cls_token_id", "sep_token_id")),
    }


_LLAMA_KEYS = ("head_dim", "num_key_value_heads", "rms_norm_eps", "hidden_act", "use_cache")


def _period(architecture: Architecture) -> int:
    """Return the distance of layers without a window; `layer_types` states the layers exactly."""
    full = [layer for layer in range(architecture.layers) if layer not in architecture.window_layers]
    return full[1] - full[0] if len(full) > 1 else max(architecture.layers, 1)


@add_family(
    "modernbert",
    "ModernBert",
    write=_write_modernbert,
    names=MODERNBERT_NAMES,
    causal_class="ModernBertForMaskedLM",
    classifier_names=MODERNBERT_CLASSIFIER,
    pooler="transform",
)
def read_modernbert(config: ConfigReader) -> dict[str, Any]:
    """ModernBERT (Warner et al. 2024): pre-norm, no biases, windows in two of three layers."""
    config.check_unscaled("sliding_attention")
    if "rope_scaling" in config.config:
        config.expect("rope_scaling", None)
    layers, period = config.required("num_hidden_layers"), config.get("global_attn_every_n_layers", 3)
    keys = {**config.config, "num_key_value_heads": None, "head_dim": None}
    reader = ConfigReader({**keys, "rope_theta": config.get("global_rope_theta")}, config.where)
    values = {
        **reader.sizes(
            activation=config.activation("hidden_activation", "gelu"),
            norm_eps=config.get("norm_eps", 1e-5),
            tied=config.get("tie_word_embeddings", True),
            biases=config.biases(),
            norm="layer",
            norm_bias=config.get("norm_bias", False),
            first_norm=False,
            embedding_norm=True,
            causal=False,
        ),
        **reader.rope(base=160_000.0, layer_type="full_attention"),
        # A query attends to keys at a distance of up to half of `local_attention` on each side.
        **config.windows(
            config.get("local_attention", 128) // 2 + 1, [layer for layer in range(layers) if layer % period]
        ),
    }
    if "window" in values:
        base = config.rope_base(10_000.0, layer_type="sliding_attention", key="local_rope_theta")
        values["window_rope_base"] = base
    if has_masked_head(config):
        values["masked_head"] = {
            "bias": config.get("classifier_bias", False),
            "activation": config.activation("classifier_activation", "gelu"),
            "output_bias": config.get("decoder_bias", True),
        }
    return values


def has_masked_head(config: ConfigReader) -> bool:
    """Return True if a folder holds a masked-language model, by its class; also where it states none."""
    classes = config.get("architectures", [])
    return not classes or any(name.endswith(("ForMaskedLM", "ForPreTraining")) for name in classes)


BERT_NAMES = WeightNames(
    top={
        "model.embed_tokens": "bert.embeddings.word_embeddings",
        "model.embed_positions": "bert.embeddings.position_embeddings",
        "model.embed_types": "bert.embeddings.token_type_embeddings",
        "model.embed_norm": "bert.embeddings.LayerNorm",
        "masked_head.dense": "cls.predictions.transform.dense",
        "masked_head.norm": "cls.predictions.transform.LayerNorm",
        "lm_head": "cls.predictions",
    },
    layers="bert.encoder.layer",
    layer={
        "self_attn.q_proj": "attention.self.query",
        "self_attn.k_proj": "attention.self.key",
        "self_attn.v_proj": "attention.self.value",
        "self_attn.o_proj": "attention.output.dense",
        "attention_output_norm": "attention.output.LayerNorm",
        "mlp.up_proj": "intermediate.dense",
        "mlp.down_proj": "output.dense",
        "mlp_output_norm": "output.LayerNorm",
    },
    # The pooler and the next-sentence head are no part of a masked-language model. The second name of the bias of the
    # logits and the table of positions are copies.
    ignored=r"bert\.pooler\..*|cls\.seq_relationship\..*|cls\.predictions\.decoder\.bias|bert\.embeddings\.position_ids",
    aliases=(
        (r"^(embeddings|encoder|pooler)\.", r"bert.\1."),
        (r"LayerNorm\.gamma$", "LayerNorm.weight"),
        (r"LayerNorm\.beta$", "LayerNorm.bias"),
        (r"^cls\.predictions\.decoder\.weight$", "lm_head.weight"),
    ),
)


BERT_CLASSIFIER = replace(
    BERT_NAMES,
    top={
        **{module: name for module, name in BERT_NAMES.top.items() if module.startswith("model.")},
        "pooler.dense": "bert.pooler.dense",
        "score": "classifier",
    },
    ignored=r"bert\.embeddings\.position_ids",
)


def _write_bert(architecture: Architecture) -> dict[str, Any]:
    keys = {name: value for name, value in size_keys(architecture).items() if name not in _LLAMA_KEYS}
    return {
        **keys,
        "hidden_act": ACTIVATION_KEYS[architecture.activation],
        "layer_norm_eps": architecture.norm_eps,
        "type_vocab_size": architecture.token_types,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
    }


@add_family(
    "bert",
    "Bert",
    write=_write_bert,
    names=BERT_NAMES,
    causal_class="BertForMaskedLM",
    classifier_names=BERT_CLASSIFIER,
    pooler="tanh",
)
def read_bert(config: ConfigReader) -> dict[str, Any]:
    """BERT (Devlin et al. 2019): learned positions, token types, norms after the residual sums. Without dropout."""
    for key, value in (("is_decoder", False), ("add_cross_attention", False), ("position_embedding_type", "absolute")):
        config.expect(key, value)
    config.expect("tie_word_embeddings", True)
    reader = ConfigReader({**config.config, "num_key_value_heads": None, "head_dim": None}, config.where)
    activation = config.activation(default="gelu")
    values = reader.sizes(
        activation=activation,
        norm_eps=config.get("layer_norm_eps", 1e-12),
        tied=True,
        positions="learned",
        token_types=config.get("type_vocab_size", 2),
        norm="layer",
        norm_position="residual",
        embedding_norm=True,
        gated=False,
        biases=("qkv", "output", "feedforward"),
        causal=False,
    )
    if has_masked_head(config):
        values["masked_head"] = {"bias": True, "activation": activation, "output_bias": True}
    return values
