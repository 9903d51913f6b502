"""The proof that llama.cpp tokenizes like the model: both tokenize texts of all kinds, and the ids are compared.

llama.cpp reads a small file with the tokenizer and one layer of zeros, before the model itself is written.
"""

from __future__ import annotations

import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np

from vita.data.tokens.tokenizer import Tokenizer
from vita.formats.gguf.llama_cpp import LlamaCpp, is_installed
from vita.formats.gguf.metadata import add_values
from vita.formats.gguf.packages import gguf
from vita.formats.gguf.probe_texts import probe_texts
from vita.formats.gguf.tokenizer import GgufTokenizer
from vita.spine.errors import ModelError

_WIDTH = 32


def check_with_llama_cpp(folder: Path, description: GgufTokenizer) -> str | None:
    """Compare the ids of all probe texts; raise `ModelError` with the first difference.

    Return a note for the user where llama.cpp is not installed.
    """
    if not is_installed():
        return "llama.cpp is not installed here, so its tokenization was not compared: pip install 'vita-lm[llama-cpp]'"
    tokenizer = Tokenizer.load(folder)
    with tempfile.TemporaryDirectory(prefix="vita-gguf-") as temporary:
        path = Path(temporary) / "vocabulary.gguf"
        _write_vocabulary(path, description)
        with LlamaCpp(path, context=64) as server:
            for text in probe_texts():
                if description.is_normalized and not unicodedata.is_normalized("NFC", text):
                    continue
                _compare(server, tokenizer, text)
    return None


def _compare(server: LlamaCpp, tokenizer: Tokenizer, text: str) -> None:
    expected, actual = tokenizer.encode(text), server.tokenize(text)
    if actual == expected:
        return
    at = next((i for i, (a, b) in enumerate(zip(expected, actual, strict=False)) if a != b), len(expected))
    near = tokenizer.decode(expected[max(0, at - 2) : at + 3])
    raise ModelError(
        "export of the tokenizer to GGUF",
        f"llama.cpp tokenizes {near!r} differently",
        expected=f"ids {expected[at : at + 5]}",
        got=str(actual[at : at + 5]),
        hint="`--to hf` exports any tokenizer",
    )


def _write_vocabulary(path: Path, description: GgufTokenizer) -> None:
    """Write a model of one layer of zeros with this tokenizer."""
    rows = len(description.metadata["ggml.tokens"])
    writer = gguf().GGUFWriter(path, "llama")
    sizes: dict[str, Any] = {
        "context_length": 64, "embedding_length": _WIDTH, "block_count": 1, "feed_forward_length": _WIDTH,
        "vocab_size": rows, "attention.head_count": 1, "attention.head_count_kv": 1, "rope.dimension_count": _WIDTH,
        "attention.layer_norm_rms_epsilon": 1e-6,
    }  # fmt: skip
    add_values(writer, "llama", sizes)
    add_values(writer, "tokenizer", description.metadata)
    matrices = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    writer.add_tensor("token_embd.weight", np.zeros((rows, _WIDTH), dtype=np.float16))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(_WIDTH, dtype=np.float32))
    for name in matrices:
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros((_WIDTH, _WIDTH), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
