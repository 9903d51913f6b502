"""Hugging Face model folders: parity with transformers in both directions, and refusal of incomplete folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vita.nn import hf
from vita.nn.families import write_config
from vita.nn.transformer import Transformer
from vita.spine.errors import ModelError
from vita.testing import tiny_model

SHAPES = [
    pytest.param({"tied": tied, "kv_heads": kv_heads, "rope_base": base}, id=f"{name}-{kind}")
    for tied, name in ((True, "tied"), (False, "untied"))
    for kv_heads, kind, base in ((2, "grouped", 10_000.0), (4, "multihead", 1e6), (1, "multiquery", 500.0))
]


def ids() -> Tensor:
    return torch.randint(259, (2, 40), generator=torch.Generator().manual_seed(5))


def relative_error(actual: Tensor, expected: Tensor) -> float:
    assert expected.abs().max() > 0.1  # equal zeros would prove nothing
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_gives_the_same_logits_for_a_saved_model(shape: dict[str, Any], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = tiny_model(**shape)
    hf.save(model, tmp_path)
    hf_model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(hf_model).__name__ == "Qwen3ForCausalLM"
    assert hf_model.dtype == torch.float32
    with torch.no_grad():
        assert relative_error(model(ids()), hf_model(ids()).logits) < 1e-5


@pytest.mark.parametrize("shape", SHAPES)
def test_a_folder_of_transformers_gives_the_same_logits(shape: dict[str, Any], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    architecture = tiny_model(**shape).architecture
    hf_model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**write_config(architecture)))
    hf_model.load_state_dict(tiny_model(**shape).state_dict(), strict=False)
    hf_model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert (tmp_path / hf.INDEX).exists()  # several shards
    model = hf.load(tmp_path)
    assert model.architecture == architecture
    with torch.no_grad():
        assert relative_error(model(ids()), hf_model(ids()).logits) < 1e-5


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_model_is_loaded_bit_by_bit(tied: bool, tmp_path: Path) -> None:
    model = tiny_model(tied=tied)
    hf.save(model, tmp_path)
    loaded = hf.load(tmp_path)
    assert loaded.architecture == model.architecture
    assert_same(loaded, model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    hf.save(tiny_model(), tmp_path / "a")
    hf.save(hf.load(tmp_path / "a"), tmp_path / "b")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_model_may_be_saved_and_loaded_in_bfloat16(tmp_path: Path) -> None:
    model = tiny_model()
    hf.save(model, tmp_path, dtype=torch.bfloat16)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert all(tensor.dtype == torch.bfloat16 for tensor in load_file(tmp_path / hf.WEIGHTS).values())
    assert hf.load(tmp_path).head_weight.dtype == torch.float32
    rounded = hf.load(tmp_path, dtype=torch.bfloat16)
    assert_same(rounded, tiny_model().bfloat16())


def test_parameter_names_equal_those_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = tiny_model(tied=False)
    hf_model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**write_config(model.architecture)))
    assert set(model.state_dict()) == set(hf_model.state_dict())


def test_generation_settings_and_tokenizer_files_are_copied(tmp_path: Path) -> None:
    generation = hf.GenerationTokens(start=256, padding=256, stop=(258, 256))
    hf.save(tiny_model(), tmp_path / "a")
    hf.save_generation(generation, tmp_path / "a")
    (tmp_path / "a" / "tokenizer.json").write_text("{}")
    hf.copy_tokenizer_files(tmp_path / "a", tmp_path / "b")
    assert hf.load_generation(tmp_path / "b") == generation
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["generation_config.json", "tokenizer.json"]


def test_stop_tokens_are_read_from_the_config_without_a_generation_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"eos_token_id": 7, "bos_token_id": 3}')
    assert hf.load_generation(tmp_path) == hf.GenerationTokens(start=3, padding=None, stop=(7,))


# -- refusals


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    hf.save(tiny_model(), tmp_path / "model")
    return tmp_path / "model"


def rewrite(folder: Path, change: Any) -> None:
    tensors = load_file(folder / hf.WEIGHTS)
    change(tensors)
    save_file(tensors, folder / hf.WEIGHTS, metadata={"format": "pt"})


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as error:
        hf.load(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    assert refusal(folder) == f"{folder}: model.layers.1.mlp.up_proj.weight: missing from the weights"
    rewrite(folder, lambda tensors: tensors.pop("model.norm.weight"))
    assert "and 1 more tensors: missing" in refusal(folder)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(31)}))
    assert refusal(folder) == f"{folder}/model.safetensors: model.norm.weight: expected shape (32,), got (31,)"


def test_an_unknown_tensor_is_named(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(32)}))
    assert "model.layers.0.self_attn.q_proj.bias: is not a parameter of this architecture" in refusal(folder)


def test_weights_that_are_not_floating_point_are_refused(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(32, dtype=torch.int8)}))
    assert "expected floating-point numbers" in refusal(folder)


def test_a_stored_tied_head_must_be_the_embedding(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}))
    hf.load(folder)
    rewrite(folder, lambda tensors: tensors["lm_head.weight"].add_(1))
    assert "lm_head.weight: differs from the embedding" in refusal(folder)


@pytest.mark.parametrize("size", [0, 4, 100, 20_000])
def test_a_truncated_file_is_named(folder: Path, size: int) -> None:
    path = folder / hf.WEIGHTS
    path.write_bytes(path.read_bytes()[:size])
    assert refusal(folder).startswith(f"{path}: cannot be read, possibly truncated")


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / hf.INDEX).write_text(
        json.dumps({"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}})
    )
    assert "model-00002-of-00002.safetensors: is listed in model.safetensors.index.json" in refusal(folder)


def test_pickles_are_not_read(folder: Path) -> None:
    (folder / hf.WEIGHTS).rename(folder / "pytorch_model.bin")
    message = refusal(folder)
    assert "got 'pytorch_model.bin'; pickles can run code and are not read" in message


def test_an_empty_or_absent_folder_is_named(tmp_path: Path) -> None:
    assert "config.json: no such file" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "config.json: is not JSON" in refusal(tmp_path)


def test_a_missing_setting_is_named(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["num_hidden_layers"]
    (folder / "config.json").write_text(json.dumps(config))
    assert refusal(folder) == f"{folder}/config.json: num_hidden_layers: is required and missing"


def test_a_folder_of_an_unsupported_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    assert "got 'mamba'" in refusal(tmp_path)


def test_an_interrupted_save_keeps_the_old_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old_weights = (folder / hf.WEIGHTS).read_bytes()

    def write_partial_file(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(old_weights[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hf, "save_file", write_partial_file)
    with pytest.raises(ModelError, match="cannot be written: .*No space left"):
        hf.save(tiny_model(seed=1), folder)
    assert (folder / hf.WEIGHTS).read_bytes() == old_weights
    assert not list(folder.glob(".*"))


def assert_same(first: Transformer, second: Transformer) -> None:
    first_state, second_state = first.state_dict(), second.state_dict()
    assert first_state.keys() == second_state.keys()
    assert all(torch.equal(first_state[name], second_state[name]) for name in first_state)
