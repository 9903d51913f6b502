"""GGUF files against llama.cpp: tokens, log-probabilities and greedy answers of every family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.nn.open_models import DEEPSEEK_EXPERTS, MODELS, ids, rope, save
from vita.data.tokens.tokenizer import Tokenizer
from vita.formats.gguf.llama_cpp import LlamaCpp
from vita.formats.gguf.write import write_gguf
from vita.nn import hf
from vita.spine.errors import ModelError
from vita.testing import tiny_model

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")
pytest.importorskip("transformers")

ROWS = 272
REFUSED = {
    "qwen3-biases": "llama.cpp has no biases",
    "qwen3_moe": "llama.cpp has experts in every layer",
    "qwen2_moe": "llama.cpp has experts in every layer",
    "dots1": "llama.cpp needs as many heads of keys",
    "gpt_neox-serial": "llama.cpp needs biases",
    "deepseek_v3-plain": "llama.cpp has queries without a latent vector only in models with 26 or 27 layers",
    "deepseek_v3-yarn": "llama.cpp needs layers with experts",
}
BY_CONTEXT_SIZE = ("phi3-long", "phi3-short")  # llama.cpp rounds its context up to 256 tokens, beyond these models
YARN = rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, mscale=1.5, mscale_all_dim=1.5)
CHANGES: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"mlp_only_layers": [], "norm_topk_prob": True},
    "qwen2_moe": {"mlp_only_layers": []},
    "dots1": {"num_key_value_heads": 4},
    "deepseek_v3-plain": {"num_hidden_layers": 27, "attention_bias": False},
    "deepseek_v3-yarn": {**DEEPSEEK_EXPERTS, **YARN, "rope_interleave": False, "n_shared_experts": 2},
}
TEXTS = ["Hello, world!", " 12345 + 6,789", "naïve 猫 🙂\r\n\ttab   blanks"]


def tokenizer(digits: int = 3) -> Tokenizer:
    texts = ["the cat and the hat and 123 cats"] * 5
    return Tokenizer.train(texts, vocabulary=264, digits=digits, trainer="tokenizers")


def save_with_tokenizer(name: str, folder: Path, **changes: Any) -> None:
    save(name, folder, vocab_size=ROWS, **changes)
    tokenizer().save(folder)


@torch.no_grad()
def compare(folder: Path, *, prompt: list[int], tokens: int, tolerance: float) -> None:
    """Compare the greedy answer of llama.cpp with the model, and its log-probabilities token by token."""
    model = hf.load(folder)
    with LlamaCpp(folder / "model.gguf") as server:
        answer = server.complete(prompt, tokens=tokens)["tokens"]
        assert answer
        context = list(prompt)
        for token in answer:
            logprobs = model(torch.tensor([context]))[0, -1].log_softmax(-1)
            assert int(logprobs.argmax()) == token
            step = server.complete(context, tokens=1, logprobs=5)
            for entry in step.get("completion_probabilities", [{"top_logprobs": []}])[0]["top_logprobs"]:
                assert abs(entry["logprob"] - logprobs[entry["id"]].item()) < tolerance
            context.append(token)
        for text in TEXTS:
            assert server.tokenize(text) == tokenizer().encode(text)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [*(name for name in MODELS if name not in BY_CONTEXT_SIZE), *(f"{name}-all" for name in CHANGES)]
)
def test_llama_cpp_gives_the_same_answers_for_every_family(name: str, tmp_path: Path) -> None:
    family = name.removesuffix("-all")
    changes = CHANGES[family] if name.endswith("-all") else {}
    save_with_tokenizer(family, tmp_path, **changes)
    if name in REFUSED:
        with pytest.raises(ModelError, match=REFUSED[name]):
            write_gguf(tmp_path, tmp_path / "model.gguf", quantization="f32")
        return
    report = write_gguf(tmp_path, tmp_path / "model.gguf", quantization="f32")
    model = hf.load(tmp_path)
    # llama.cpp computes GELU from a table of 16-bit numbers.
    tolerance = 1e-2 if model.architecture.activation != "silu" else 1e-3
    length = min(12, report.context - 4)
    prompt = ids(length, 1, 250)[0].tolist()
    compare(tmp_path, prompt=prompt, tokens=min(6, report.context - length - 1), tolerance=tolerance)


@pytest.mark.parametrize(("context", "length"), [(512, 20), (1024, 600)])
@torch.no_grad()
def test_long_factors_are_used_where_the_context_of_llama_cpp_is_long(
    context: int, length: int, tmp_path: Path
) -> None:
    sizes = {"max_position_embeddings": 1024, "original_max_position_embeddings": 512, "sliding_window": None}
    save_with_tokenizer("phi3-long", tmp_path, **sizes)
    report = write_gguf(tmp_path, tmp_path / "model.gguf", quantization="f32")
    assert "chooses the rotary factors by the size of its context" in report.notes[0]
    prompt, model = ids(length, 1, 250)[0].tolist(), hf.load(tmp_path)
    with LlamaCpp(tmp_path / "model.gguf", context=context) as server:
        for token in server.complete(prompt, tokens=4)["tokens"]:
            assert int(model(torch.tensor([prompt]))[0, -1].argmax()) == token
            prompt.append(token)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["f16", "bf16", "q8_0", "q5_0", "q4_0", "q6_k", "q5_k_m", "q4_k_m"])
@torch.no_grad()
def test_log_probabilities_of_quantized_files_are_close(quantization: str, tmp_path: Path) -> None:
    model = tiny_model(vocabulary=264, width=256, feedforward=256, head_dim=32, heads=8, kv_heads=4, std=0.05)
    hf.save(model, tmp_path)
    tokenizer().save(tmp_path)
    report = write_gguf(tmp_path, tmp_path / "model.gguf", quantization=quantization)
    name = {"f16": "F16", "bf16": "BF16"}.get(quantization, quantization.removesuffix("_m").upper())
    assert report.types[name] > 4
    prompt = ids(12, 1, 250)[0].tolist()
    expected = model(torch.tensor([prompt]))[0, -1].log_softmax(-1)
    with LlamaCpp(tmp_path / "model.gguf") as server:
        answer = server.complete(prompt, tokens=1, logprobs=20)
    entries = answer["completion_probabilities"][0]["top_logprobs"]
    error = max(abs(entry["logprob"] - expected[entry["id"]].item()) for entry in entries)
    assert error < {"f16": 0.02, "bf16": 0.05, "q8_0": 0.1}.get(quantization, 0.6)


@pytest.mark.parametrize("digits", [1, 3])
def test_a_tokenizer_trained_by_vita_gives_the_same_ids_in_llama_cpp(digits: int, tmp_path: Path) -> None:
    hf.save(tiny_model(vocabulary=264), tmp_path)
    trained = tokenizer(digits)
    trained.save(tmp_path)
    write_gguf(tmp_path, tmp_path / "model.gguf", quantization="f32")  # compares all probe texts
    with LlamaCpp(tmp_path / "model.gguf") as server:
        for text in ("1234567 12 1", "the cat 123<|im_end|>"):
            assert server.tokenize(text) == trained.encode(text)
            assert server.tokenize(text, special=True) == trained.encode_template(text)


def test_a_tokenizer_from_sentencepiece_gives_the_same_ids_in_llama_cpp(tmp_path: Path) -> None:
    hf.save(tiny_model(vocabulary=420), tmp_path)
    save_sentencepiece_like(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    write_gguf(tmp_path, tmp_path / "model.gguf", quantization="f32")  # compares all probe texts
    with LlamaCpp(tmp_path / "model.gguf") as server:
        assert server.tokenize("the cat and the hat", add_bos=True) == [1, *loaded.encode("the cat and the hat")]


def save_sentencepiece_like(folder: Path) -> None:
    """Save a tokenizer like that of Llama 2: BPE over characters with a byte fallback."""
    from tokenizers import Tokenizer as Engine
    from tokenizers import decoders, models, normalizers, processors, trainers

    engine = Engine(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    engine.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=specials, show_progress=False)
    engine.train_from_iterator(["the cat and the hat and the cats of the land"] * 9, trainer)
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    engine.decoder = decoders.Sequence(parts)
    engine.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    content = json.loads(engine.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < 3]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def test_a_tokenizer_unsupported_by_llama_cpp_is_refused_with_the_reason(tmp_path: Path) -> None:
    hf.save(tiny_model(vocabulary=264), tmp_path)
    tokenizer(2).save(tmp_path)
    with pytest.raises(ModelError, match="no pre-tokenizer of llama.cpp splits text as this tokenizer does"):
        write_gguf(tmp_path, tmp_path / "model.gguf", quantization="f32")
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Lowercase"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match="has the normalizer Lowercase, which llama.cpp does not"):
        write_gguf(tmp_path, tmp_path / "model.gguf", quantization="f32")
    assert not (tmp_path / "model.gguf").exists()


@torch.no_grad()
def test_a_file_for_token_ids_needs_no_matching_pre_tokenizer(tmp_path: Path) -> None:
    model = tiny_model(vocabulary=264)
    hf.save(model, tmp_path)
    tokenizer(2).save(tmp_path)
    report = write_gguf(tmp_path, tmp_path / "model.gguf", quantization="f32", reads_text=False)
    assert any("was not compared" in note for note in report.notes)
    prompt = tokenizer(2).encode("the cat 1234 and the hat")
    expected = int(model(torch.tensor([prompt]))[0, -1].argmax())
    with LlamaCpp(tmp_path / "model.gguf") as server:
        answer = server.complete(prompt, tokens=1)
    assert answer["tokens"] == [expected]
