"""Byte-level byte-pair encoding: learnt from text, written as `tokenizer.json`, and handed to tiktoken.

Text is split into words by `PATTERN` (GPT-4's, with digits in ones and twos); inside a word, the most frequent
pair of neighbours becomes a new token, again and again (Sennrich et al. 2016, on bytes). A merge list is an
order, so the same file drives rustbpe, `tokenizers` and tiktoken to the same tokens.
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

PATTERN = (
    r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How text is split into words. Contractions are spelled in both cases, since engines fold case differently."""

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What a `ByteLevel` pre-tokenizer splits by on its own."""

_PROVEN = (PATTERN, GPT2_PATTERN)
"""Patterns that match every character and that all engines read alike (a test compares them)."""

_LONGEST = 100_000
"""Characters handed to a trainer at once: a run of a million spaces is more than its regex engine can hold."""

TRAINERS = ("rustbpe", "tokenizers")


def learn(texts: Iterable[str], *, size: int, trainer: str | None = None) -> list[bytes]:
    """The `size` tokens learnt from `texts`, best first, after the 256 single bytes.

    `trainer` is rustbpe where it is installed, else `tokenizers`; both are exact and differ in ties only.
    """
    if size == 0:
        return []
    if trainer is None:
        trainer = "rustbpe" if installed("rustbpe") else "tokenizers"
    if trainer not in TRAINERS:
        raise unknown_name("tokenizer trainer", trainer, TRAINERS)
    tokens = (_learn_with_rustbpe if trainer == "rustbpe" else _learn_with_tokenizers)(_bounded(texts), size)
    if len(tokens) < size:
        raise DataError(
            "tokenizer",
            expected=f"text that supports {size} tokens",
            got=f"text whose words are all spelled with {len(tokens)}",
            hint=f"lower `vocabulary` by at least {size - len(tokens)}, or give more text",
        )
    return tokens


def definition(tokens: Sequence[bytes], *, specials: Sequence[str]) -> dict[str, Any]:
    """The content of `tokenizer.json`: token `i` of `tokens` has id 256 + i, the specials the last ids."""
    everything = [bytes([value]) for value in range(256)] + list(tokens)
    ids = {token: i for i, token in enumerate(everything)}
    merges = [f"{spell(left)} {spell(right)}" for left, right in (_parts(token, ids) for token in tokens)]
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    added = [
        {"id": len(everything) + i, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
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
        "post_processor": None,
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


def tiktoken_ranks(definition: Mapping[str, Any], engine: Any) -> tuple[dict[bytes, int], str] | None:
    """(rank of each token, pattern) when tiktoken gives the tokens that `engine` gives, else None.

    tiktoken merges any neighbours whose union is a token, in the order of ranks; `tokenizers` merges listed pairs.
    Both end alike when each token comes from exactly one merge and is what its own text encodes to: at the first
    step where they differed, the text of that token alone would have been stuck before it was made.
    """
    pattern = _pattern(definition)
    model = definition["model"]
    ordinary = (
        model.get("type", "BPE") == "BPE"
        and not any(model.get(name) for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
        and not model.get("byte_fallback")
        and not definition.get("normalizer")
        and all(token["special"] for token in definition.get("added_tokens") or ())
    )
    if pattern is None or not ordinary:
        return None
    vocabulary: dict[str, int] = model["vocab"]
    specials = {token["content"] for token in definition.get("added_tokens") or ()}
    merged = ["".join(_pair(merge)) for merge in model["merges"]]
    rest = set(vocabulary) - set(merged) - specials
    if len(set(merged)) != len(merged) or rest != {spell(bytes([value])) for value in range(256)}:
        return None
    for token in merged:
        pieces = engine.model.tokenize(token)
        if len(pieces) != 1 or pieces[0].value != token:
            return None
    ranks = {bytes([value]): value for value in range(256)}
    ranks.update((unspell(token), 256 + i) for i, token in enumerate(merged))
    return ranks, pattern


def spell(token: bytes) -> str:
    """Bytes as the printable characters that byte-level tokenizer files use for them."""
    return "".join(_CHARACTERS[value] for value in token)


def unspell(token: str) -> bytes:
    """The bytes behind `spell`'s characters."""
    return bytes(_BYTES[character] for character in token)


def is_spelled(token: str) -> bool:
    """Whether every character of `token` stands for a byte."""
    return all(character in _BYTES for character in token)


def sample(texts: Iterable[str], *, limit: int, total: int) -> Iterator[str]:
    """Pieces that amount to at most `limit` bytes, spread evenly over `texts`, which hold `total` bytes.

    A piece is taken whenever what was taken so far lags behind its share of what went by: the choice depends on
    nothing but the texts, and no part of them is preferred.
    """
    share = min(1.0, limit / total) if total else 1.0
    seen = taken = 0
    for text in texts:
        for piece in [text] if share == 1.0 else _pieces(text, 4096):
            size = len(piece.encode("utf-8", "surrogatepass"))
            seen += size
            if taken + size <= seen * share:
                taken += size
                yield piece


def _alphabet() -> list[str]:
    """The character of each byte: itself where it prints, else the next one from U+0100 on (as GPT-2 set it)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(value if value in printable else next(others)) for value in range(256)]


_CHARACTERS = _alphabet()
_BYTES = {character: value for value, character in enumerate(_CHARACTERS)}


def _learn_with_rustbpe(texts: Iterable[str], size: int) -> list[bytes]:
    trainer = import_module("rustbpe").Tokenizer()
    trainer.train_from_iterator(iter(texts), 256 + size, buffer_size=256, pattern=PATTERN)
    ranked = sorted(trainer.get_mergeable_ranks(), key=lambda entry: entry[1])
    return [bytes(token) for token, rank in ranked if rank >= 256]


def _learn_with_tokenizers(texts: Iterable[str], size: int) -> list[bytes]:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
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
    """The two tokens that `token` is merged from: its bytes, merged by every earlier merge."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [ids.get(left + right, len(ids)) for left, right in itertools.pairwise(parts)]
        best = min(joined)
        assert best < ids[token], "a learnt token is made of earlier ones"
        at = joined.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def _pattern(definition: Mapping[str, Any]) -> str | None:
    """The one pattern that the pre-tokenizer splits by, when it is one that every engine reads alike."""
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
    uses_own = last.get("use_regex", True)
    if len(parts) == 1 and uses_own:
        pattern = GPT2_PATTERN
    elif uses_own:
        return None
    return pattern if pattern in _PROVEN else None


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _bounded(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        clean = text.encode("utf-8", "replace").decode("utf-8")
        yield from [clean] if len(clean) <= _LONGEST else _pieces(clean, _LONGEST)


def _pieces(text: str, length: int) -> Iterator[str]:
    """`text` in pieces of at most `length` characters, cut after a line or a space where there is one."""
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
    """Whether a library can be imported."""
    return find_spec(name) is not None
