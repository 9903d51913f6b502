"""Byte-level byte-pair encoding: training, the definition for `tokenizer.json`, and the ranks for tiktoken.

Text is split into words by a pattern (GPT-4's, with up to one, two or three digits per token); inside a word, the most
frequent pair of adjacent tokens is merged repeatedly (Sennrich et al. 2016, on bytes). The merges are ordered, so
rustbpe, `tokenizers` and tiktoken produce the same tokens from the same file.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from vita.spine.config import unknown_name
from vita.spine.errors import DataError

DIGITS = 1
"""Digits per token by default."""


def pattern(digits: int = DIGITS) -> str:
    """Return the pattern that splits text into words, with numbers in groups of up to `digits` digits.

    Contractions are listed in both cases, since engines fold case differently. llama.cpp has the patterns for one digit
    (`qwen2`) and for three digits (`dbrx`, `llama-bpe`).
    """
    return (
        r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+"
        rf"|\p{{N}}{{1,{digits}}}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


PATTERN = pattern()

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""Default pattern of a `ByteLevel` pre-tokenizer."""

_VERIFIED_PATTERNS = (*map(pattern, (1, 2, 3)), GPT2_PATTERN)
"""Patterns that match every character and that all engines interpret equally (a test compares them)."""

_MAX_CHARACTERS = 100_000
"""Maximum number of characters per text for a trainer: its regex engine fails on a run of a million spaces."""

TRAINERS = ("rustbpe", "tokenizers")


def learn(texts: Iterable[str], *, size: int, trainer: str | None = None, digits: int = DIGITS) -> list[bytes]:
    """Learn `size` tokens from `texts`, in merge order, in addition to the 256 single bytes.

    `trainer` is rustbpe if it is installed, else `tokenizers`; both are exact and differ only in ties.
    """
    if size == 0:
        return []
    if trainer is None:
        trainer = "rustbpe" if installed("rustbpe") else "tokenizers"
    if trainer not in TRAINERS:
        raise unknown_name("tokenizer trainer", trainer, TRAINERS)
    learn_tokens = _learn_with_rustbpe if trainer == "rustbpe" else _learn_with_tokenizers
    tokens = learn_tokens(_bounded(texts), size, pattern(digits))
    if len(tokens) < size:
        raise DataError(
            "tokenizer",
            expected=f"text that supports {size} tokens",
            got=f"text whose words are all spelled with {len(tokens)}",
            hint=f"lower `vocabulary` by at least {size - len(tokens)}, or give more text",
        )
    return tokens


def definition(
    tokens: Sequence[bytes], *, specials: Sequence[str], digits: int = DIGITS, template: Sequence[str] = (),
    mask: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return the content of `tokenizer.json`: token `i` of `tokens` has id 256 + i, special tokens the last ids.

    `template` are the special tokens at the start and at the end of a text, which other programs add. `mask` is the
    token for a word to predict; it includes the space before it, as tokens of words do.
    """
    all_tokens = [bytes([value]) for value in range(256)] + list(tokens)
    ids = {token: i for i, token in enumerate(all_tokens)}
    merges = [f"{spell(left)} {spell(right)}" for left, right in (_parts(token, ids) for token in tokens)]
    split = {"type": "Split", "pattern": {"Regex": pattern(digits)}, "behavior": "Isolated", "invert": False}
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    added = [
        {"id": len(all_tokens) + i, "content": name, "single_word": False, "lstrip": name == mask, "rstrip": False,
         "normalized": False, "special": True}
        for i, name in enumerate(specials)
    ]  # fmt: skip
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, to_bytes]},
        "post_processor": _template(template, all_tokens, specials) if template else None,
        "decoder": to_bytes,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {spell(token): i for token, i in ids.items()},
            "merges": merges,
        },
    }


def _template(template: Sequence[str], tokens: Sequence[bytes], specials: Sequence[str]) -> dict[str, Any]:
    """Return the post-processor of texts and pairs: `start A end`, `start A end B end`."""
    start, end = template

    def part(kind: str, name: str, type_id: int = 0) -> dict[str, Any]:
        return {kind: {"id": name, "type_id": type_id}}

    single = [part("SpecialToken", start), part("Sequence", "A"), part("SpecialToken", end)]
    pair = [*single, part("Sequence", "B", 1), part("SpecialToken", end, 1)]
    ids = {name: len(tokens) + index for index, name in enumerate(specials)}
    special_tokens = {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in template}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special_tokens}


def tiktoken_ranks(definition: Mapping[str, Any], engine: Any) -> tuple[dict[bytes, int], str] | None:
    """Return (rank of each token, pattern) if tiktoken gives the same tokens as `engine`, else None.

    tiktoken merges any adjacent tokens whose union is a token, in the order of ranks; `tokenizers` merges listed pairs.
    Both give the same result if each token comes from exactly one merge and its own text encodes to it: at the first
    step where they differed, the text of that token alone would have been stuck before it was made.
    """
    pattern = _pattern(definition)
    model = definition["model"]
    is_plain_bpe = (
        model.get("type", "BPE") == "BPE"
        and not any(model.get(name) for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
        and not model.get("byte_fallback")
        and not definition.get("normalizer")
        and all(token["special"] for token in definition.get("added_tokens") or ())
    )
    if pattern is None or not is_plain_bpe:
        return None
    vocabulary: dict[str, int] = model["vocab"]
    specials = {token["content"] for token in definition.get("added_tokens") or ()}
    merged = ["".join(_pair(merge)) for merge in model["merges"]]
    unmerged = set(vocabulary) - set(merged) - specials
    if len(set(merged)) != len(merged) or unmerged != {spell(bytes([value])) for value in range(256)}:
        return None
    for token in merged:
        pieces = engine.model.tokenize(token)
        if len(pieces) != 1 or pieces[0].value != token:
            return None
    ranks = {bytes([value]): value for value in range(256)}
    ranks.update((unspell(token), 256 + i) for i, token in enumerate(merged))
    return ranks, pattern


def spell(token: bytes) -> str:
    """Return bytes as the printable characters that byte-level tokenizer files use for them."""
    return "".join(_CHARACTERS[value] for value in token)


def unspell(token: str) -> bytes:
    """Return the bytes of a token that `spell` wrote."""
    return bytes(_BYTES[character] for character in token)


def is_spelled(token: str) -> bool:
    """Return True if every character of `token` represents a byte."""
    return all(character in _BYTES for character in token)


def _alphabet() -> list[str]:
    """Return the character of each byte: the byte itself if printable, else the next one from U+0100 (as in GPT-2)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    substitutes = iter(range(0x100, 0x200))
    return [chr(value if value in printable else next(substitutes)) for value in range(256)]


_CHARACTERS = _alphabet()
_BYTES = {character: value for value, character in enumerate(_CHARACTERS)}


def _learn_with_rustbpe(texts: Iterable[str], size: int, pattern: str) -> list[bytes]:
    trainer = import_module("rustbpe").Tokenizer()
    trainer.train_from_iterator(iter(texts), 256 + size, buffer_size=256, pattern=pattern)
    tokens_and_ranks = sorted(trainer.get_mergeable_ranks(), key=lambda entry: entry[1])
    return [bytes(token) for token, rank in tokens_and_ranks if rank >= 256]


def _learn_with_tokenizers(texts: Iterable[str], size: int, pattern: str) -> list[bytes]:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=256 + size, initial_alphabet=_CHARACTERS, special_tokens=[], show_progress=False
    )
    engine.train_from_iterator(iter(texts), trainer)
    merges = json.loads(engine.to_str())["model"]["merges"]
    return [unspell("".join(_pair(merge))) for merge in merges]


def _parts(token: bytes, ids: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    """Return the two tokens that `token` is merged from, by applying every earlier merge to its bytes."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        merged_ids = [ids.get(left + right, len(ids)) for left, right in itertools.pairwise(parts)]
        best = min(merged_ids)
        assert best < ids[token], "a learnt token is made of earlier ones"
        index = merged_ids.index(best)
        parts[index : index + 2] = [parts[index] + parts[index + 1]]
    return parts[0], parts[1]


def _pattern(definition: Mapping[str, Any]) -> str | None:
    """Return the pattern of the pre-tokenizer if every engine interprets it equally, else None."""
    part: dict[str, Any] = definition.get("pre_tokenizer") or {}
    parts: list[dict[str, Any]] = part["pretokenizers"] if part.get("type") == "Sequence" else [part]
    pattern = None
    if len(parts) == 2 and parts[0].get("type") == "Split":
        split = parts[0]
        if split.get("behavior") == "Isolated" and not split.get("invert"):
            pattern = split.get("pattern", {}).get("Regex")
    last = parts[-1]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    uses_default = last.get("use_regex", True)
    if len(parts) == 1 and uses_default:
        pattern = GPT2_PATTERN
    elif uses_default:
        return None
    return pattern if pattern in _VERIFIED_PATTERNS else None


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _bounded(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        clean = text.encode("utf-8", "replace").decode("utf-8")
        yield from [clean] if len(clean) <= _MAX_CHARACTERS else cut_text(clean, _MAX_CHARACTERS)


def cut_text(text: str, length: int) -> Iterator[str]:
    """Split `text` into pieces of at most `length` characters, after a line or a space if there is one."""
    start = 0
    while len(text) - start > length:
        end = start + length
        cut = max(text.rfind("\n", start + length // 2, end), text.rfind(" ", start + length // 2, end) - 1) + 1
        end = cut if cut > start else end
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def installed(name: str) -> bool:
    """Return True if a library can be imported."""
    return find_spec(name) is not None
