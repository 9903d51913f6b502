"""Encoders against transformers: logits, gradients, padding, packed documents, files in both directions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.nn.encoder_models import ENCODERS, encoder, save
from tests.nn.open_models import ids
from vita.nn import hf
from vita.nn.architecture import Architecture
from vita.nn.attention import AttentionOptions, plain, sdpa
from vita.nn.blocked import blocked
from vita.nn.cache import KVCache
from vita.nn.families import read_architecture, weight_map, write_config
from vita.nn.transformer import Transformer
from vita.spine.errors import ModelError

pytest.importorskip("transformers")

LENGTHS = (1, 3, 4, 5, 6, 9, 24)


def close(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.abs().max() > 0.1
    assert ((ours - theirs).abs().max() / theirs.abs().max()).item() < 1e-4


@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_logits_equal_those_of_transformers_on_both_sides_of_the_window(name: str, tmp_path: Path) -> None:
    theirs = save(name, tmp_path)
    model = hf.load(tmp_path)
    for length in LENGTHS:
        close(model(ids(length)), theirs(ids(length)).logits)
    changed = ids(24).clone()
    changed[:, -1] = (changed[:, -1] + 1) % 64
    assert not torch.allclose(model(changed)[:, 0], model(ids(24))[:, 0])  # the first token attends to the last


@pytest.mark.parametrize("name", ["modernbert", "bert"])
@torch.no_grad()
def test_padded_rows_and_token_types_give_the_logits_of_transformers(name: str, tmp_path: Path) -> None:
    theirs = save(name, tmp_path)
    model, tokens = hf.load(tmp_path), ids(20, rows=3)
    lengths = torch.tensor([20, 13, 5])
    real = torch.arange(20) < lengths[:, None]
    types = (torch.arange(20) >= lengths[:, None] // 2).long() * real
    pair = {"token_type_ids": types} if name == "bert" else {}
    expected = theirs(tokens.masked_fill(~real, 0), attention_mask=real.long(), **pair).logits
    logits = model(tokens.masked_fill(~real, 0), documents=real.long(), types=types if pair else None)
    close(logits[real], expected[real])


@pytest.mark.parametrize("name", ["modernbert", "bert"])
@pytest.mark.parametrize("attention", ["sdpa", "plain", "blocked"])
@torch.no_grad()
def test_packed_documents_of_an_encoder_have_the_logits_of_each_alone(
    name: str, attention: str, tmp_path: Path
) -> None:
    theirs = save(name, tmp_path)
    model, tokens = hf.load(tmp_path, attention=attention), ids(24, rows=1)
    packed = model(tokens, documents=torch.tensor([[0] * 9 + [1] * 7 + [2] * 8]))
    for start, stop in ((0, 9), (9, 16), (16, 24)):
        close(packed[:, start:stop], theirs(tokens[:, start:stop]).logits)


@pytest.mark.parametrize("name", ENCODERS)
def test_gradients_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    theirs, tokens = save(name, tmp_path), ids(24)
    model = hf.load(tmp_path)
    for logits in (model(tokens), theirs(tokens).logits):
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="sum").backward()
    in_files = weight_map(model.architecture).to_file(
        {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    )
    for parameter, tensor in theirs.named_parameters():
        gradient = tensor.grad
        assert gradient is not None
        assert (in_files[parameter] - gradient).abs().max() <= 2e-4 * gradient.abs().max() + 1e-4, parameter


@pytest.mark.parametrize("name", ENCODERS)
def test_a_saved_encoder_reopens_in_transformers_with_equal_logits(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = save(name, tmp_path / "theirs")
    model = hf.load(tmp_path / "theirs")
    hf.save(model, tmp_path / "plain")
    hf.save_successor(model, tmp_path / "successor", source=tmp_path / "theirs")
    for folder in ("plain", "successor"):
        reopened, report = transformers.AutoModelForMaskedLM.from_pretrained(
            tmp_path / folder, output_loading_info=True, attn_implementation="eager"
        )
        assert not report["missing_keys"] and not report["unexpected_keys"], report
        close(reopened.eval()(ids()).logits.detach(), theirs(ids()).logits.detach())
    assert hf.read_config(tmp_path / "plain")["architectures"] == [type(theirs).__name__]


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("auto", ["AutoModelForMaskedLM", "AutoModel"])
def test_parameters_and_names_are_those_of_the_encoder(name: str, auto: str, tmp_path: Path) -> None:
    save(name, tmp_path, auto=auto)
    architecture = hf.load(tmp_path).architecture
    with torch.device("meta"):
        model = Transformer(architecture)
    assert architecture.parameters() == sum(parameter.numel() for parameter in model.parameters())
    module_names = [name for module in weight_map(architecture).modules.values() for name in module.parts]
    assert sorted(module_names) == sorted({parameter.rpartition(".")[0] for parameter, _ in model.named_parameters()})
    assert read_architecture(write_config(architecture)) == architecture


@pytest.mark.parametrize("name", ["modernbert", "bert"])
@torch.no_grad()
def test_an_encoder_without_a_head_gives_the_states_of_transformers_and_predicts_no_tokens(
    name: str, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = save(name, tmp_path / "theirs", auto="AutoModel")
    model = hf.load(tmp_path / "theirs")
    close(model.hidden(ids()), theirs(ids()).last_hidden_state)
    with pytest.raises(ModelError, match="encoder without a masked-language head"):
        model(ids())
    hf.save_successor(model, tmp_path / "saved", source=tmp_path / "theirs")
    reopened = transformers.AutoModel.from_pretrained(tmp_path / "saved").eval()
    close(reopened(ids()).last_hidden_state, theirs(ids()).last_hidden_state)


@torch.no_grad()
def test_bert_for_pretraining_and_names_of_old_files_are_read(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    theirs = save("bert", tmp_path, auto="AutoModelForPreTraining")
    weights = load_file(tmp_path / hf.WEIGHTS)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in weights.items()
    }
    old["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"].clone()
    save_file(old, tmp_path / hf.WEIGHTS)
    model = hf.load(tmp_path)
    close(model(ids()), theirs(ids()).prediction_logits)
    hf.save_successor(model, tmp_path / "saved", source=tmp_path)
    assert hf.read_config(tmp_path / "saved")["architectures"] == ["BertForMaskedLM"]


def test_old_keys_of_modernbert_are_read() -> None:
    config = encoder("modernbert").config.to_dict()
    expected = read_architecture(config)
    del config["rope_parameters"], config["layer_types"]
    old = {**config, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0, "global_attn_every_n_layers": 3}
    assert read_architecture(old) == expected
    assert expected.window == 5 and expected.window_layers == (1, 2)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("bert", {"is_decoder": True}),
        ("bert", {"position_embedding_type": "relative_key"}),
        ("bert", {"tie_word_embeddings": False}),
        ("modernbert", {"hidden_activation": "relu"}),
        ("modernbert", {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}}),
    ],
)
def test_settings_that_the_encoder_does_not_compute_are_refused(name: str, change: dict[str, object]) -> None:
    with pytest.raises(ModelError, match=next(iter(change))):
        read_architecture({**encoder(name).config.to_dict(), **change})


def test_an_encoder_has_no_cache(tmp_path: Path) -> None:
    save("modernbert", tmp_path)
    model = hf.load(tmp_path)
    with pytest.raises(ModelError, match="no cache"):
        model(ids(), cache=KVCache(model.architecture, rows=2))


def test_attention_backends_agree_without_a_causal_mask() -> None:
    generator = torch.Generator().manual_seed(0)
    results = []
    for backend in (plain, sdpa, blocked):
        inputs = [
            torch.randn(2, heads, 11, 8, generator=generator.manual_seed(heads), requires_grad=True)
            for heads in (4, 2, 2)
        ]
        mixed = backend(inputs[0], inputs[1], inputs[2], None, AttentionOptions(causal=False))
        mixed.square().sum().backward()
        results.append([mixed, *(tensor.grad for tensor in inputs)])
    for other in results[1:]:
        for ours, expected in zip(other, results[0], strict=True):
            assert torch.allclose(ours, expected, atol=1e-4)


def test_flops_of_an_encoder_count_the_keys_on_both_sides() -> None:
    encoder = Architecture(
        vocabulary=64, width=32, layers=2, heads=4, kv_heads=4, head_dim=8, feedforward=48, context=16,
        causal=False, window=3, window_layers=(1,),
    )  # fmt: skip
    # Full: 16 keys. Windowed: 5 keys, but 3 and 4 at both ends.
    attention = 12 * 32 * (16 + (12 * 5 + 2 * (3 + 4)) / 16)
    assert encoder.flops_per_token() == 6 * encoder.matrix_parameters() + round(attention)
    assert json.loads(json.dumps(encoder.as_json()))["causal"] is False
