"""GPT-2, and GPT-NeoX (Pythia): LayerNorm, biases, and a feed-forward network without a gate."""

from __future__ import annotations

from typing import Any

from vita.nn.architecture import Architecture
from vita.nn.families.config_keys import rope_keys, size_keys
from vita.nn.families.config_reader import ConfigReader
from vita.nn.families.family import add_family
from vita.nn.families.weight_map import WeightNames

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")

GPT2_NAMES = WeightNames(
    top={
        "model.embed_tokens": "transformer.wte",
        "model.embed_positions": "transformer.wpe",
        "model.norm": "transformer.ln_f",
    },
    layers="transformer.h",
    layer={
        "input_layernorm": "ln_1",
        "self_attn.o_proj": "attn.c_proj",
        "post_attention_layernorm": "ln_2",
        "mlp.up_proj": "mlp.c_fc",
        "mlp.down_proj": "mlp.c_proj",
    },
    fused={"attn.c_attn": QKV},
    transposed=frozenset({"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}),
    ignored=r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",
    aliases=((r"^(wte|wpe|ln_f|h)\.", r"transformer.\1."),),
)


def _write_gpt2(architecture: Architecture) -> dict[str, Any]:
    return {
        "vocab_size": architecture.vocabulary,
        "n_embd": architecture.width,
        "n_layer": architecture.layers,
        "n_head": architecture.heads,
        "n_inner": architecture.feedforward,
        "n_positions": architecture.context,
        "activation_function": {"gelu": "gelu", "gelu_tanh": "gelu_new", "silu": "silu"}[architecture.activation],
        "layer_norm_epsilon": architecture.norm_eps,
        "tie_word_embeddings": architecture.tied,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "use_cache": True,
    }


@add_family("gpt2", "GPT2", write=_write_gpt2, names=GPT2_NAMES, causal_class="GPT2LMHeadModel")
def read_gpt2(config: ConfigReader) -> dict[str, Any]:
    """GPT-2 (Radford et al. 2019): learned positions and transposed matrices. Dropout is not computed."""
    config.expect("scale_attn_weights", True)
    config.expect("scale_attn_by_inverse_layer_idx", False)
    config.expect("add_cross_attention", False)
    width, heads = config.required("n_embd"), config.required("n_head")
    keys = {"hidden_size": width, "num_attention_heads": heads, "num_hidden_layers": config.required("n_layer")}
    keys |= {"intermediate_size": config.get("n_inner", 4 * width), "model_type": "gpt2"}
    keys |= {"max_position_embeddings": config.required("n_positions"), "vocab_size": config.required("vocab_size")}
    return ConfigReader(keys, config.where).sizes(
        activation=config.activation("activation_function", "gelu_new"),
        norm_eps=config.get("layer_norm_epsilon", 1e-5),
        tied=config.get("tie_word_embeddings", True),
        positions="learned",
        **_gpt(("qkv", "output", "feedforward")),
    )


def _gpt(biases: tuple[str, ...]) -> dict[str, Any]:
    return {"norm": "layer", "gated": False, "biases": biases}


NEOX_NAMES = WeightNames(
    top={
        "model.embed_tokens": "gpt_neox.embed_in",
        "model.norm": "gpt_neox.final_layer_norm",
        "lm_head": "embed_out",
    },
    layers="gpt_neox.layers",
    layer={
        "self_attn.o_proj": "attention.dense",
        "mlp.up_proj": "mlp.dense_h_to_4h",
        "mlp.down_proj": "mlp.dense_4h_to_h",
    },
    fused={"attention.query_key_value": QKV},
    interleaved=frozenset({"attention.query_key_value"}),
    ignored=r"gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",
    aliases=((r"^lm_head\.", "embed_out."),),
)


def _write_neox(architecture: Architecture) -> dict[str, Any]:
    keys = {name: value for name, value in size_keys(architecture).items() if name not in _LLAMA_KEYS}
    rope = rope_keys(architecture)
    partial = architecture.rotated / architecture.head_dim
    rope["rope_parameters"]["partial_rotary_factor"] = partial
    return {
        **keys,
        **rope,
        "rotary_pct": partial,
        "rotary_emb_base": architecture.rope_base,
        "layer_norm_eps": architecture.norm_eps,
        "use_parallel_residual": architecture.parallel,
        "attention_bias": "qkv" in architecture.biases,
    }


_LLAMA_KEYS = ("head_dim", "num_key_value_heads", "rms_norm_eps")


@add_family("gpt_neox", "GPTNeoX", write=_write_neox, names=NEOX_NAMES)
def read_neox(config: ConfigReader) -> dict[str, Any]:
    """GPT-NeoX and Pythia (Black et al. 2022): attention and feed-forward in parallel, a quarter of a head rotated."""
    attention = ("qkv", "output") if config.get("attention_bias", True) else ()
    keys = {**config.config, "num_key_value_heads": None, "head_dim": None}
    keys["rope_theta"] = config.get("rope_theta") or config.get("rotary_emb_base", 10_000)
    reader = ConfigReader(keys, config.where)
    return {
        **reader.sizes(
            activation=config.activation(default="gelu"),
            norm_eps=config.get("layer_norm_eps", 1e-5),
            parallel=config.get("use_parallel_residual", True),
            **_gpt((*attention, "feedforward")),
        ),
        **reader.rope(fraction=config.get("rotary_pct", 0.25)),
    }
