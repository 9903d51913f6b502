"""The tokenizer of a model folder as the metadata of a GGUF file.

Byte-level tokenizers become the tokenizer `gpt2` of llama.cpp with the pre-tokenizer that splits text alike.
Tokenizers from SentencePiece (BPE with byte fallback) become the tokenizer `llama`, with scores from the order of the
merges. Other kinds are refused. A file for a program that exchanges only token ids needs no pre-tokenizer that matches.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vita.data.tokens.tokenizer import Tokenizer, read_settings
from vita.formats.gguf.packages import gguf
from vita.formats.gguf.pre_tokenizers import matching_name
from vita.formats.gguf.probe_texts import probe_texts
from vita.formats.stops import stop_ids
from vita.spine.errors import ModelError

WHERE = "export of the tokenizer to GGUF"


_ANY_PRE_TOKENIZER = "gpt-2"
"""Pre-tokenizer where none matches and llama.cpp reads no text, since llama.cpp needs a name that it knows."""
_NO_MERGES = ["\u0100 \u0100"]
"""Merges of a tokenizer without merges, since llama.cpp needs some: of two zero bytes, whose union is no token."""


@dataclass(frozen=True)
class GgufTokenizer:
    """Metadata of a tokenizer, and notes for the user."""

    metadata: dict[str, Any]
    """Key without `tokenizer.` -> value."""
    is_normalized: bool = False
    """The tokenizer normalizes text to NFC, which llama.cpp does not."""
    notes: tuple[str, ...] = ()


def describe_tokenizer(folder: Path, *, rows: int, reads_text: bool = True) -> GgufTokenizer:
    """Return the metadata of the tokenizer in a folder, for an embedding with `rows` rows.

    Without `reads_text`, llama.cpp may split text differently. Raises `ModelError` for a tokenizer that llama.cpp does
    not have.
    """
    tokenizer = Tokenizer.load(folder)
    content: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    kind = content["model"].get("type", "BPE")
    if kind != "BPE":
        hint = "byte-level BPE and SentencePiece BPE tokenizers can be exported"
        raise ModelError(WHERE, f"the tokenizer is of the kind {kind}", hint=hint)
    metadata: dict[str, Any] = _token_list(content, rows)
    notes: list[str] = []
    normalizer = content.get("normalizer")
    if _is_byte_level(content):
        metadata |= _byte_level(content, notes, reads_text=reads_text)
    else:
        metadata |= _sentencepiece(content, metadata["ggml.tokens"])
    metadata |= _special_tokens(folder, tokenizer, notes)
    template = _template(folder)
    if template:
        metadata["chat_template"] = template
    return GgufTokenizer(metadata, _is_byte_level(content) and _normalizes(normalizer), tuple(notes))


# -- tokens


def _token_list(content: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """Return all tokens with their types; rows of the embedding without a token are unused."""
    kinds = gguf().TokenType
    tokens = [f"[PAD{i}]" for i in range(rows)]
    types = [int(kinds.UNUSED)] * rows
    for token, i in content["model"]["vocab"].items():
        tokens[i], types[i] = token, int(kinds.BYTE if _is_byte(token, content) else kinds.NORMAL)
    for added in content.get("added_tokens") or ():
        tokens[added["id"]] = added["content"]
        types[added["id"]] = int(kinds.CONTROL if added["special"] else kinds.USER_DEFINED)
    unknown = content["model"].get("unk_token")
    if unknown is not None and unknown in content["model"]["vocab"]:
        types[content["model"]["vocab"][unknown]] = int(kinds.UNKNOWN)
    return {"ggml.tokens": tokens, "ggml.token_type": types}


def _is_byte(token: str, content: Mapping[str, Any]) -> bool:
    return bool(content["model"].get("byte_fallback") and re.fullmatch(r"<0x[0-9A-F]{2}>", token))


def _is_byte_level(content: Mapping[str, Any]) -> bool:
    return "ByteLevel" in json.dumps([content.get("pre_tokenizer"), content.get("decoder")])


def _byte_level(content: Mapping[str, Any], notes: list[str], *, reads_text: bool) -> dict[str, Any]:
    """Return the keys of a byte-level tokenizer; raise `ModelError` if llama.cpp cannot encode text alike."""
    model = content["model"]
    for affix in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(affix):
            raise ModelError(WHERE, f"the tokenizer has `{affix}`, which llama.cpp does not")
    name = _pre_tokenizer_name(content)
    if reads_text:
        _check_text(content, name, notes)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return {"ggml.model": "gpt2", "ggml.pre": name or _ANY_PRE_TOKENIZER, "ggml.merges": merges or _NO_MERGES}


def _pre_tokenizer_name(content: Mapping[str, Any]) -> str | None:
    """Return the name under which llama.cpp splits text alike; None if there is none."""
    from tokenizers import Tokenizer as Engine

    pre_tokenizer = Engine.from_str(json.dumps(content)).pre_tokenizer
    return matching_name(pre_tokenizer, probe_texts(), whole_words=bool(content["model"].get("ignore_merges")))


def _check_text(content: Mapping[str, Any], name: str | None, notes: list[str]) -> None:
    """Raise `ModelError` if llama.cpp normalizes or splits text differently; `name` is that of the pre-tokenizer."""
    if content["model"].get("dropout"):
        raise ModelError(WHERE, "the tokenizer has `dropout`, which llama.cpp does not")
    normalizer = content.get("normalizer")
    if normalizer and not _normalizes(normalizer):
        raise ModelError(WHERE, f"the tokenizer has the normalizer {_kind(normalizer)}, which llama.cpp does not")
    if normalizer:
        notes.append("the tokenizer normalizes text to NFC, which llama.cpp does not: give it text in NFC")
    if name is None:
        hint = "train the tokenizer with `digits: 1` or `digits: 3`; `--to hf` exports any tokenizer"
        raise ModelError(WHERE, "no pre-tokenizer of llama.cpp splits text as this tokenizer does", hint=hint)


def _normalizes(normalizer: Mapping[str, Any] | None) -> bool:
    """Return True for a normalizer that only composes characters (NFC)."""
    return bool(normalizer) and _kind(normalizer or {}) == "NFC"


def _kind(part: Mapping[str, Any]) -> str:
    if part.get("type") == "Sequence":
        parts = part.get("normalizers") or part.get("pretokenizers") or []
        return "+".join(_kind(inner) for inner in parts)
    return str(part.get("type"))


def _sentencepiece(content: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any]:
    """Return the keys of a tokenizer from SentencePiece: the score of a token is minus the rank of its merge."""
    model = content["model"]
    if not model.get("byte_fallback"):
        raise ModelError(WHERE, "the tokenizer is neither byte-level nor from SentencePiece with byte fallback")
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(model["merges"]):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        ranks.setdefault("".join(pair), rank)
    scores = [-float(ranks[token]) if token in ranks else -1e6 for token in tokens]
    return {"ggml.model": "llama", "ggml.pre": "default", "ggml.scores": scores,
            "ggml.add_space_prefix": _adds_space(content)}  # fmt: skip


def _adds_space(content: Mapping[str, Any]) -> bool:
    """Return True if the tokenizer puts a space before the text."""
    parts = json.dumps([content.get("normalizer"), content.get("pre_tokenizer")])
    return '"Prepend"' in parts or re.search(r'"prepend_scheme": "(always|first)"', parts) is not None


# -- special tokens and the template


def _special_tokens(folder: Path, tokenizer: Tokenizer, notes: list[str]) -> dict[str, Any]:
    """Return the ids of the special tokens; llama.cpp knows three ends of an answer."""
    ids = {"bos": tokenizer.bos, "eos": tokenizer.id_of(tokenizer.name_of("eos_token")),
           "padding": tokenizer.id_of(tokenizer.name_of("pad_token")),
           "unknown": tokenizer.id_of(tokenizer.name_of("unk_token"))}  # fmt: skip
    stops = stop_ids(folder, tokenizer)
    if ids["eos"] is None and stops:
        ids["eos"] = stops[0]
    more_stops = [stop for stop in stops if stop != ids["eos"]]
    for role, stop in zip(("eot", "eom"), more_stops, strict=False):
        ids[role] = stop
    if len(more_stops) > 2:
        names = ", ".join(tokenizer.decode([stop], special=True) for stop in more_stops[2:])
        notes.append(f"a GGUF file names three ends of an answer; give llama.cpp these stops as well: {names}")
    metadata: dict[str, Any] = {f"ggml.{role}_token_id": i for role, i in ids.items() if i is not None}
    return metadata | {
        "ggml.add_bos_token": adds_bos(folder, tokenizer),
        "ggml.add_eos_token": bool(tokenizer.settings.get("add_eos_token")),
    }


def adds_bos(folder: Path, tokenizer: Tokenizer) -> bool:
    """Return True if text begins with the BOS token: the tokenizer adds it, or a base model expects it."""
    if tokenizer.bos is None:
        return False
    content: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    processor = json.dumps(content.get("post_processor") or {})
    name = tokenizer.name_of("bos_token")
    if f'"SpecialToken": {{"id": {json.dumps(name)}' in processor:
        return True
    if tokenizer.settings.get("add_bos_token") and content.get("post_processor") is None:
        return True
    return not _template(folder) and tokenizer.document == tokenizer.bos


def _template(folder: Path) -> str | None:
    """Return the chat template in the language of llama.cpp, which has no `generation` blocks."""
    from vita.data.tokens.chat_template import FILE, ChatTemplate

    if not (folder / FILE).is_file() and not read_settings(folder, "tokenizer_config.json").get("chat_template"):
        return None
    source = ChatTemplate.load(folder).source
    source = re.sub(r"\{%(-?)\s*generation\s*(-?)%\}", r"{%\1 if true \2%}", source)
    return re.sub(r"\{%(-?)\s*endgeneration\s*(-?)%\}", r"{%\1 endif \2%}", source)
