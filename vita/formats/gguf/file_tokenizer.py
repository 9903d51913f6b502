"""The tokenizer in the header of a GGUF file as the files of a Hugging Face folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vita.data.tokens.chat_template import FILE
from vita.formats.gguf.packages import gguf
from vita.formats.gguf.pre_tokenizers import patterns_of
from vita.formats.gguf.reader import GgufFile
from vita.spine.errors import ModelError

_ROLES = {"bos": "bos_token", "eos": "eos_token", "padding": "pad_token", "unknown": "unk_token"}


def write_tokenizer_of_file(file: GgufFile, folder: Path) -> list[int]:
    """Write tokenizer and chat template; return the ids that end an answer."""
    kind = file.get("tokenizer.ggml.model")
    tokens: list[str] = file.get("tokenizer.ggml.tokens") or []
    types: list[int] = file.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    if kind == "gpt2":
        content = _byte_level(file, tokens, types)
    elif kind == "llama":
        content = _sentencepiece(file, tokens, types)
    else:
        hint = "byte-level BPE (`gpt2`) and SentencePiece BPE (`llama`) are read"
        raise ModelError(f"{file.path}: tokenizer.ggml.model", "the tokenizer cannot be read", got=kind, hint=hint)
    names = {role: tokens[i] for key, role in _ROLES.items()
             if (i := file.get(f"tokenizer.ggml.{key}_token_id")) is not None and i < len(tokens)}  # fmt: skip
    adds_bos = bool(file.get("tokenizer.ggml.add_bos_token", kind == "llama"))
    content["post_processor"] = _bos_processor(names, tokens) if adds_bos else None
    settings = {
        **names, "add_bos_token": adds_bos, "add_eos_token": bool(file.get("tokenizer.ggml.add_eos_token", False)),
        "clean_up_tokenization_spaces": False, "tokenizer_class": "PreTrainedTokenizerFast",
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    if template := file.get("tokenizer.chat_template"):
        (folder / FILE).write_text(template, encoding="utf-8")
    stops = [file.get(f"tokenizer.ggml.{role}_token_id") for role in ("eos", "eot", "eom")]
    return list(dict.fromkeys(stop for stop in stops if stop is not None))


def _byte_level(file: GgufFile, tokens: Sequence[str], types: Sequence[int]) -> dict[str, Any]:
    name = str(file.get("tokenizer.ggml.pre", "default"))
    splitting = patterns_of(name)
    if splitting is None:
        hint = "adopt the original model folder instead"
        raise ModelError(f"{file.path}: tokenizer.ggml.pre", f"the pre-tokenizer `{name}` is not known", hint=hint)
    patterns, whole_words = splitting
    splits = [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
              for pattern in patterns]  # fmt: skip
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        **_frame(tokens, types),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, to_bytes]},
        "decoder": to_bytes,
        "model": _bpe(_vocabulary(tokens, types), _merges(file, tokens), ignore_merges=whole_words),
    }


def _sentencepiece(file: GgufFile, tokens: Sequence[str], types: Sequence[int]) -> dict[str, Any]:
    """Return a BPE over characters: a token is merged from two tokens, those with higher scores first."""
    scores: list[float] = file.get("tokenizer.ggml.scores") or [0.0] * len(tokens)
    kinds = gguf().TokenType
    vocabulary = _vocabulary(tokens, types)
    normal = {token: i for i, token in enumerate(tokens) if types[i] == int(kinds.NORMAL)}
    merges = [
        (-scores[i], len(token[:cut]), [token[:cut], token[cut:]])
        for token, i in normal.items()
        for cut in range(1, len(token))
        if token[:cut] in normal and token[cut:] in normal
    ]
    ordered = [pair for _, _, pair in sorted(merges, key=lambda merge: merge[:2])]
    unknown = next((token for i, token in enumerate(tokens) if types[i] == int(kinds.UNKNOWN)), None)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    prefix = [{"type": "Prepend", "prepend": "▁"}] if file.get("tokenizer.ggml.add_space_prefix", True) else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    return {
        **_frame(tokens, types),
        "normalizer": {"type": "Sequence", "normalizers": [*prefix, replace]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, *strip]},
        "model": _bpe(vocabulary, ordered, byte_fallback=True, fuse_unk=True, unk_token=unknown),
    }  # fmt: skip


def _frame(tokens: Sequence[str], types: Sequence[int]) -> dict[str, Any]:
    kinds = gguf().TokenType
    special = {int(kinds.CONTROL): True, int(kinds.UNKNOWN): True, int(kinds.USER_DEFINED): False}
    added = [
        {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": special[types[i]]}
        for i, token in enumerate(tokens) if types[i] in special
    ]  # fmt: skip
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None}


def _vocabulary(tokens: Sequence[str], types: Sequence[int]) -> dict[str, int]:
    """Return all tokens with their ids, the special ones too, whose ids would else follow the others."""
    unused = int(gguf().TokenType.UNUSED)
    return {token: i for i, token in enumerate(tokens) if types[i] != unused}


def _merges(file: GgufFile, tokens: Sequence[str]) -> list[list[str]]:
    known = set(tokens)
    pairs = [merge.split(" ") for merge in file.get("tokenizer.ggml.merges") or []]
    return [pair for pair in pairs if "".join(pair) in known]


def _bpe(vocabulary: Mapping[str, int], merges: list[list[str]], **options: Any) -> dict[str, Any]:
    return {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, **options,
        "vocab": dict(vocabulary), "merges": merges,
    }  # fmt: skip


def _bos_processor(names: Mapping[str, str], tokens: Sequence[str]) -> dict[str, Any] | None:
    bos = names.get("bos_token")
    if bos is None:
        return None
    first = {"SpecialToken": {"id": bos, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [first, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos: {"id": bos, "ids": [tokens.index(bos)], "tokens": [bos]}},
    }
