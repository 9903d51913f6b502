"""GGUF files as a source of models: weights, architecture and tokenizer equal the exported ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.formats.runner import LocalVita
from tests.formats.test_gguf import (
    BY_CONTEXT_SIZE,
    CHANGES,
    REFUSED,
    save_sentencepiece_like,
    save_with_tokenizer,
    tokenizer,
)
from tests.nn.open_models import MODELS, ids
from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.tokenizer import Tokenizer
from vita.formats.gguf.probe_texts import probe_texts
from vita.formats.gguf.to_folder import convert_to_folder
from vita.formats.gguf.write import write_gguf
from vita.nn import hf
from vita.spine.errors import ModelError
from vita.testing import tiny_model

pytest.importorskip("gguf")
pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def _no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the comparison with llama.cpp, which other tests cover."""
    monkeypatch.setattr("vita.formats.gguf.write.check_with_llama_cpp", lambda *_: None)


NAMES = [*(name for name in MODELS if name not in REFUSED), *(f"{name}-all" for name in CHANGES)]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("deepseek")])
@torch.no_grad()
def test_a_model_of_every_family_is_read_with_equal_logits(name: str, tmp_path: Path) -> None:
    family = name.removesuffix("-all")
    save_with_tokenizer(family, tmp_path / "source", **(CHANGES[family] if name.endswith("-all") else {}))
    write_gguf(tmp_path / "source", tmp_path / "model.gguf", quantization="f32")
    assert convert_to_folder(tmp_path / "model.gguf", tmp_path / "back") == []
    before, after = hf.load(tmp_path / "source"), hf.load(tmp_path / "back")
    window = before.architecture.window if not after.architecture.window else None
    length = min(12, before.architecture.context, window or 12)
    if name in BY_CONTEXT_SIZE:
        length = 7
    tokens = ids(length, 1, 250)
    assert torch.allclose(before(tokens), after(tokens), atol=2e-4)


def test_files_of_latent_attention_are_refused_by_their_graph(tmp_path: Path) -> None:
    save_with_tokenizer("deepseek_v3", tmp_path / "source")
    write_gguf(tmp_path / "source", tmp_path / "model.gguf", quantization="f32")
    with pytest.raises(ModelError, match=r"general.architecture: expected one of .*, got 'deepseek2'"):
        convert_to_folder(tmp_path / "model.gguf", tmp_path / "back")


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["bf16", "q8_0", "q4_k_m"])
@torch.no_grad()
def test_a_quantized_file_is_adopted_and_generates(quantization: str, tmp_path: Path, local: LocalVita) -> None:
    source = tmp_path / "source"
    model = tiny_model(vocabulary=264, width=256, feedforward=256, head_dim=32, heads=8, kv_heads=4, std=0.05)
    hf.save(model, source)
    tokenizer().save(source)
    ChatTemplate.default().save(source)
    path = tmp_path / "tiny.gguf"
    write_gguf(source, path, quantization=quantization, general={"sampling.top_k": 7})
    artifact = json.loads(local("adopt", str(path), "--json"))
    record = artifact["run"]["record"]
    assert (record["format"], record["origin"]) == ("gguf", "tiny.gguf") and len(record["sha256"]) == 64
    assert bool(record["notes"]) == (quantization != "bf16")
    folder = Path(artifact["folder"])
    tokens = ids(12, 1, 250)
    difference = (hf.load(folder)(tokens).log_softmax(-1) - model(tokens).log_softmax(-1)).abs().max()
    assert difference < {"bf16": 0.05, "q8_0": 0.1}.get(quantization, 1.2)
    assert json.loads((folder / "generation_config.json").read_text())["top_k"] == 7
    assert local("generate", str(path), "the cat", "--chat", "--max-tokens", "4") is not None  # the same reference
    assert "adopted from the GGUF file tiny.gguf" in local("trace", "my/adopt")


def test_tokenizers_are_read_with_equal_ids(tmp_path: Path) -> None:
    for name in ("bytes", "sentencepiece"):
        source, target = tmp_path / name, tmp_path / f"{name}-back"
        hf.save(tiny_model(vocabulary=420), source)
        if name == "bytes":
            tokenizer().save(source)
        else:
            save_sentencepiece_like(source)
        write_gguf(source, tmp_path / f"{name}.gguf", quantization="f32")
        convert_to_folder(tmp_path / f"{name}.gguf", target)
        before, after = Tokenizer.load(source), Tokenizer.load(target)
        for text in probe_texts():
            assert after.encode(text) == before.encode(text)
            assert after.decode(after.encode(text)) == before.decode(before.encode(text))
        assert (after.bos, after.stops) == (before.bos, before.stops)


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"not a model")
    with pytest.raises(ModelError, match="is not a GGUF file that can be read"):
        convert_to_folder(tmp_path / "no.gguf", tmp_path / "back")
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "mamba.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match="expected one of llama, granite"):
        convert_to_folder(tmp_path / "mamba.gguf", tmp_path / "back")
