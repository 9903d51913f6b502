"""Pre-tokenizers of llama.cpp: the name under which llama.cpp splits text as a given tokenizer does.

The name is found by comparing splits, not patterns: the same split can be written in several ways. A split that no name
has, such as that of Vita's first tokenizers (numbers of one or two digits), cannot be exported.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

_CONTRACTIONS = r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_SPLITS: dict[str, tuple[str, ...]] = {
    "dbrx": (_WORDS + r"|\p{N}{1,3}" + _REST,),
    "qwen2": (_WORDS + r"|\p{N}" + _REST,),
    "gpt-2": (_GPT2,),
    "smollm": (r"\p{N}", _GPT2),
    "gpt-4o": (_CASED,),
    "tekken": (_TEKKEN,),
    "deepseek-v3": _DEEPSEEK_V3,
}
"""Name in llama.cpp -> the patterns that split text, one after another."""
_WHOLE_WORDS = {"dbrx": "llama-bpe", "tekken": "tekken"}
"""Names for tokenizers that take a word of the vocabulary without merges (`ignore_merges`)."""


def matching_name(pre_tokenizer: Any, texts: Iterable[str], *, whole_words: bool) -> str | None:
    """Return the name under which llama.cpp splits all texts as `pre_tokenizer` of a byte-level tokenizer; or None."""
    candidates = [*_SPLITS]
    for text in texts:
        expected = _offsets(pre_tokenizer, text)
        candidates = [name for name in candidates if _offsets(_reference(name), text) == expected]
        if not candidates:
            return None
    name = candidates[0]
    return _WHOLE_WORDS.get(name, name) if whole_words else name


_ALIASES = {
    "llama-bpe": ("dbrx", True), "llama3": ("dbrx", True), "llama-v3": ("dbrx", True), "falcon3": ("dbrx", True),
    "pixtral": ("dbrx", True), "lfm2": ("dbrx", True), "dbrx": ("dbrx", False), "smaug-bpe": ("dbrx", False),
    "qwen2": ("qwen2", False), "deepseek-r1-qwen": ("qwen2", False), "stablelm2": ("qwen2", False),
    "gpt-2": ("gpt-2", False), "phi-2": ("gpt-2", False), "olmo": ("gpt-2", False), "mpt": ("gpt-2", False),
    "smollm": ("smollm", False), "starcoder": ("smollm", False), "refact": ("smollm", False),
    "command-r": ("smollm", False), "codeshell": ("smollm", False), "exaone": ("smollm", False),
    "gpt-4o": ("gpt-4o", False), "tekken": ("tekken", True), "deepseek-v3": ("deepseek-v3", False),
}  # fmt: skip
"""Name in a file -> the name of its patterns, and whether a word of the vocabulary is taken without merges."""


def patterns_of(name: str) -> tuple[tuple[str, ...], bool] | None:
    """Return the patterns of a name in llama.cpp and whether whole words win over merges; None if it is not known."""
    if name not in _ALIASES:
        return None
    patterns, whole_words = _ALIASES[name]
    return _SPLITS[patterns], whole_words


@cache
def _reference(name: str) -> Any:
    from tokenizers import Regex, pre_tokenizers

    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in _SPLITS[name]]
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _offsets(pre_tokenizer: Any, text: str) -> Sequence[tuple[int, int]]:
    return [offsets for _, offsets in pre_tokenizer.pre_tokenize_str(text)]
