"""The digest of tensors depends on their values, not on the format of their files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vita.gates.tensor_digest import tensor_digest


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return {name: torch.randn(5, 3).to(torch.bfloat16) for name in ("model.embed_tokens.weight", "b")}


def digest(folder: Path, tensors: dict[str, torch.Tensor]) -> str | None:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    return tensor_digest(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_wider_number_type_holds_the_same_weights(tmp_path: Path, tensors: dict[str, torch.Tensor], dtype) -> None:
    wide_tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    assert digest(tmp_path, tensors) == digest(tmp_path, wide_tensors) is not None


def test_an_output_layer_that_repeats_the_embedding_does_not_change_the_digest(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    head = tensors["model.embed_tokens.weight"].clone()
    digest_before = digest(tmp_path, tensors)
    assert digest(tmp_path, {**tensors, "lm_head.weight": head}) == digest_before
    assert digest(tmp_path, {**tensors, "lm_head.weight": head + 1}) != digest_before


def test_another_value_name_or_shape_is_another_model(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    changed_tensor = tensors["b"].clone()
    changed_tensor[4, 2] += 1
    variants = [{**tensors, "b": changed_tensor}, {**tensors, "b": tensors["b"].reshape(3, 5)},
                {"model.embed_tokens.weight": tensors["b"], "b": tensors["model.embed_tokens.weight"]}]  # fmt: skip
    digests = {digest(tmp_path, tensors), *(digest(tmp_path, variant) for variant in variants)}
    assert len(digests) == 4


@pytest.mark.parametrize("content", [b"", b"weights", b"\xff" * 40])
def test_weights_that_cannot_be_read_have_no_digest(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert tensor_digest(tmp_path) is None
