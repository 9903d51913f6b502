"""Tokenizers: byte-level BPE trained by Vita, or the tokenizer of any Hugging Face folder.

    tokenizer = Tokenizer.train(texts, vocabulary=4096)
    tokenizer.save(folder)                       # transformers.AutoTokenizer opens it and gives the same ids
    tokenizer.decode(tokenizer.encode(text)) == text

`encode` takes plain text: the names of special tokens in it are ordinary characters, and nothing is put before
or after. `encode_template` takes text that a chat template wrote, in which those names *are* the special tokens.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vita.data.tokens import bpe
from vita.spine.errors import ConfigError, ModelError
from vita.spine.model_files import ModelFiles, ModelFolder

DOCUMENT, START_OF_TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIALS = (DOCUMENT, START_OF_TURN, END_OF_TURN)
"""The special tokens of a tokenizer trained by Vita: always its last ids, in this order."""
CLASS, SEPARATOR, PADDING, MASK = "[CLS]", "[SEP]", "[PAD]", "[MASK]"
MASKED_SPECIALS = (CLASS, SEPARATOR, PADDING, MASK)
"""The special tokens of a tokenizer trained by Vita for an encoder."""


class TokenSpans(NamedTuple):
    """Token ids with the characters [start, stop) that each represents."""

    ids: np.ndarray
    starts: np.ndarray
    stops: np.ndarray


class Tokenizer:
    """A tokenizer as its `tokenizer.json` defines it; encodes with tiktoken where that gives identical tokens."""

    def __init__(self, definition: str, *, settings: Mapping[str, Any], stops: Iterable[int] = ()) -> None:
        """`definition` is the text of `tokenizer.json`, `settings` what `tokenizer_config.json` says,
        `stops` further ids that end an answer."""
        self._definition, self.settings = definition, dict(settings)
        self._engine = _huggingface(definition)
        content: dict[str, Any] = json.loads(definition)
        self.specials: dict[str, int] = {
            token["content"]: token["id"] for token in content.get("added_tokens") or () if token["special"]
        }
        """Name -> id of every special token."""
        self._ids: dict[str, int] = self._engine.get_vocab(with_added_tokens=True)
        self.vocabulary: int = max(self._ids.values()) + 1
        """Number of ids: bytes, merges and special tokens together."""
        self._fast = _Tiktoken.of(content, self._engine)
        self._stops = frozenset(stops)
        self._added = {token["content"] for token in content.get("added_tokens") or ()}
        self._byte_level = "ByteLevel" in json.dumps([content.get("pre_tokenizer"), content.get("decoder")])

    # -- where it comes from and goes to

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        *,
        vocabulary: int,
        trainer: str | None = None,
        digits: int = bpe.DIGITS,
        masked: bool = False,
    ) -> Tokenizer:
        """Train a byte-level BPE of exactly `vocabulary` ids; equal texts give equal bytes.

        `digits` is the largest number of digits in a token: 1, 2 or 3. `masked` gives the special tokens of an encoder.
        """
        specials = MASKED_SPECIALS if masked else SPECIALS
        size = vocabulary - 256 - len(specials)
        if size < 0:
            least = 256 + len(specials)
            raise ConfigError(
                "tokenizer.vocabulary", expected=f"at least {least} (the bytes and specials)", got=vocabulary
            )
        tokens = bpe.learn(texts, size=size, trainer=trainer, digits=digits)
        ends: dict[str, Any] = {"template": (CLASS, SEPARATOR), "mask": MASK} if masked else {}
        content = bpe.definition(tokens, specials=specials, digits=digits, **ends)
        definition = json.dumps(content, ensure_ascii=False, indent=1)
        return cls(definition + "\n", settings=_encoder_settings() if masked else _own_settings())

    @classmethod
    def load(cls, folder: ModelFolder) -> Tokenizer:
        """Load the tokenizer of a Hugging Face folder."""
        files = ModelFiles.of(folder)
        path = files.path("tokenizer.json")
        try:
            definition = files.text("tokenizer.json")
        except FileNotFoundError:
            hint = "open the folder once with transformers and save its fast tokenizer there"
            raise ModelError(str(folder), "holds no tokenizer.json", hint=hint) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(str(path), f"cannot be read ({error})") from None
        settings = {
            **read_settings(files, "special_tokens_map.json"),
            **read_settings(files, "tokenizer_config.json"),
        }
        extra_stops: list[int] = []
        for name in ("generation_config.json", "config.json"):  # either may name ends that the other lacks
            stops = read_settings(files, name).get("eos_token_id")
            extra_stops += [stops] if isinstance(stops, int) else stops or []
        try:
            return cls(definition, settings=settings, stops=extra_stops)
        except ModelError as error:
            raise ModelError(str(path), error.problem, expected=error.expected, hint=error.hint) from None

    def with_template(self, *, prefix: Sequence[int], border: int, end: int | None) -> Tokenizer:
        """Return a tokenizer whose engine adds special tokens: at the start, between two texts, and at the end.

        `encode` and `encode_template` still add none.
        """
        names = {token: name for name, token in self._ids.items()}

        def special(token: int, part: int) -> dict[str, Any]:
            return {"SpecialToken": {"id": names[token], "type_id": part}}

        last = [] if end is None else [end]
        first = [*(special(token, 0) for token in prefix), {"Sequence": {"id": "A", "type_id": 0}}]
        second = [{"Sequence": {"id": "B", "type_id": 1}}, *(special(token, 1) for token in last)]
        content = json.loads(self._definition)
        content["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [*first, *(special(token, 0) for token in last)],
            "pair": [*first, special(border, 0), *second],
            "special_tokens": {
                names[token]: {"id": names[token], "ids": [token], "tokens": [names[token]]}
                for token in dict.fromkeys([*prefix, border, *last])
            },
        }
        definition = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
        # Tokenizer classes of families write their own template when they open a folder.
        settings = {**self.settings, "tokenizer_class": "PreTrainedTokenizerFast"}
        return Tokenizer(definition, settings=settings, stops=self._stops)

    def with_settings(self, **settings: Any) -> Tokenizer:
        """Return the same tokenizer with other values of `tokenizer_config.json`."""
        return Tokenizer(self._definition, settings={**self.settings, **settings}, stops=self._stops)

    def new_engine(self) -> Any:
        """Return a new encoder of the library `tokenizers`, without truncation and padding."""
        return _huggingface(self._definition)

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        names = {name: token for name in _NAMES if (token := self.name_of(name)) is not None}
        (folder / "tokenizer.json").write_text(self._definition, encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(_json(self.settings), encoding="utf-8")
        (folder / "special_tokens_map.json").write_text(_json(names), encoding="utf-8")

    @cached_property
    def digest(self) -> str:
        """Return the digest of the definition, which identifies the tokenization."""
        return hashlib.sha256(self._definition.encode()).hexdigest()

    @property
    def engine(self) -> str:
        """Return the encoder library: `tiktoken` or `tokenizers`."""
        return "tiktoken" if self._fast else "tokenizers"

    # -- its special tokens

    def name_of(self, role: str) -> str | None:
        """Return the token that the settings name `bos_token`, `eos_token`, `pad_token` or `unk_token`."""
        value = self.settings.get(role)
        return value.get("content") if isinstance(value, dict) else value

    def id_of(self, token: str | None) -> int | None:
        """Return the id of a token by its name."""
        return None if token is None else self._ids.get(token)

    @cached_property
    def document(self) -> int:
        """Return the token at the start of every document (`<|endoftext|>`; `[CLS]` of an encoder)."""
        first = self.name_of("cls_token") if self._mask is not None else None
        names = (first, DOCUMENT, self.name_of("bos_token"), self.name_of("eos_token"), self.name_of("pad_token"))
        token = next((i for i in map(self.id_of, names) if i is not None), None)
        if token is None:
            hint = f"give `bos_token` in its tokenizer_config.json, or add {DOCUMENT} to it"
            raise ModelError("tokenizer", "has no token that could stand between documents", hint=hint)
        return token

    @cached_property
    def bos(self) -> int | None:
        """Return the id of `bos_token`, the beginning of a sequence, if the settings name one."""
        return self.id_of(self.name_of("bos_token"))

    @cached_property
    def pad(self) -> int:
        """Return the padding token, which is never attended to."""
        named = self.id_of(self.name_of("pad_token"))
        return self.document if named is None else named

    @cached_property
    def _mask(self) -> int | None:
        names = (self.name_of("mask_token"), *(name for name in _MASKS if name in self.specials))
        return next((i for i in map(self.id_of, names) if i is not None), None)

    @property
    def has_mask(self) -> bool:
        """Return True if there is a token for words to predict."""
        return self._mask is not None

    @property
    def mask(self) -> int:
        """Return the token for a word to predict; a `ModelError` where there is none."""
        if self._mask is None:
            hint = "name it as `mask_token` in tokenizer_config.json, or train a tokenizer with `objective: masked`"
            raise ModelError("tokenizer", "has no mask token", hint=hint)
        return self._mask

    @cached_property
    def separator(self) -> int | None:
        """Return the token at the end of every text of an encoder (`[SEP]`), None for a decoder."""
        return self.id_of(self.name_of("sep_token")) if self._mask is not None else None

    @cached_property
    def continuing_prefix(self) -> bytes:
        """Return the prefix of tokens that continue a word (`##` of WordPiece); empty for other tokenizers."""
        model = json.loads(self._definition)["model"]
        return (model.get("continuing_subword_prefix") or "").encode() if model.get("type") == "WordPiece" else b""

    def with_end(self, ids: list[int]) -> list[int]:
        """Return the tokens of a document with the separator of an encoder at their end."""
        return ids if self.separator is None else [*ids, self.separator]

    def encode_masked(self, text: str) -> list[int]:
        """Return the ids of a text in which the name of the mask token is a mask, between `[CLS]` and `[SEP]`."""
        ids = self._engine.encode(_valid(text), add_special_tokens=False).ids
        return [self.document, *self.with_end(ids)]

    @cached_property
    def end_of_turn(self) -> int:
        """Return the token that ends an answer (`<|im_end|>`, else `eos_token`)."""
        named = self.id_of(END_OF_TURN)
        if named is None:
            named = self.id_of(self.name_of("eos_token"))
        return self.document if named is None else named

    @cached_property
    def stops(self) -> frozenset[int]:
        """Return the ids that end generation."""
        eos = self.id_of(self.name_of("eos_token"))
        return frozenset({self.document, self.end_of_turn, *self._stops} | ({eos} if eos is not None else set()))

    @cached_property
    def special_ids(self) -> frozenset[int]:
        return frozenset(self.specials.values())

    # -- text to ids

    def encode(self, text: str) -> list[int]:
        """Return the ids of plain text, in which names of special tokens are ordinary characters."""
        return self._encode(_valid(text)).tolist()

    def encode_batch(self, texts: Sequence[str], *, threads: int = 1) -> list[np.ndarray]:
        """Encode many texts, each to an array of uint32."""
        texts = [_valid(text) for text in texts]
        if self._fast is None:
            encodings = self._plain.encode_batch_fast(texts, add_special_tokens=False)
            return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]
        if threads <= 1 or len(texts) < 2:
            return [self._encode(text) for text in texts]
        with ThreadPoolExecutor(threads) as pool:
            parts = pool.map(lambda part: [self._encode(text) for text in part], _shares(texts, 4 * threads))
            return list(itertools.chain.from_iterable(parts))

    def encode_template(self, text: str) -> list[int]:
        """Return the ids of rendered text, in which names of special tokens are special tokens."""
        text = _valid(text)
        if self._fast is None:
            return self._engine.encode(text, add_special_tokens=False).ids
        ids: list[int] = []
        for start, end, special in self._pieces(text):
            ids += [special] if special is not None else self._encode(text[start:end]).tolist()
        return ids

    def spans(self, text: str) -> TokenSpans:
        """Return the ids of plain text with the characters of each token."""
        text = _valid(text)
        if self._fast is None:
            return _spans_of(self._plain.encode(text, add_special_tokens=False))
        return self._spanned(text, self._encode(text))

    def template_spans(self, text: str, *, restore: Mapping[int, str] | None = None) -> TokenSpans:
        """Return the ids of rendered text with the characters of each token.

        `restore` maps stand-in characters back (as `str.translate` does) once the special tokens have been found:
        what they spell then stays plain text. Both have the same length, so the positions hold.
        """
        text, restore = _valid(text), restore or {}
        if self._fast is None and not restore:
            return _spans_of(self._engine.encode(text, add_special_tokens=False))
        pieces = self._pieces(text)
        if self._fast is not None:
            ids = [np.array([special]) if special is not None else self._encode(text[start:end].translate(restore))
                   for start, end, special in pieces]  # fmt: skip
            return self._spanned(text.translate(restore), np.concatenate(ids) if ids else np.zeros(0, dtype=np.int64))
        parts = [TokenSpans(np.zeros(0, dtype=np.int64), *np.zeros((2, 0), dtype=np.int64))]
        for start, end, special in pieces:
            if special is not None:
                parts.append(TokenSpans(np.array([special]), np.array([start]), np.array([end])))
            else:
                ids, starts, stops = self.spans(text[start:end].translate(restore))
                parts.append(TokenSpans(ids, starts + start, stops + start))
        return TokenSpans(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _pieces(self, text: str) -> list[tuple[int, int, int | None]]:
        """Yield (start, end, id) of every special token in `text`, and of the text between with None."""
        if not self.specials:
            return [(0, len(text), None)] if text else []
        pieces: list[tuple[int, int, int | None]] = []
        position = 0
        for match in self.special_pattern.finditer(text):
            if match.start() > position:
                pieces.append((position, match.start(), None))
            position = match.end()
            pieces.append((match.start(), position, self.specials[match.group()]))
        return pieces if position == len(text) else [*pieces, (position, len(text), None)]

    def _spanned(self, text: str, ids: np.ndarray) -> TokenSpans:
        """Return the characters of each token of `text`, computed from the bytes of the tokens."""
        if not len(ids):
            return TokenSpans(*np.zeros((3, 0), dtype=np.int64))
        character = np.cumsum((np.frombuffer(text.encode(), dtype=np.uint8) & 0xC0) != 0x80) - 1
        lengths = self._lengths[ids]
        stops = np.cumsum(lengths)
        return TokenSpans(ids.astype(np.int64), character[stops - lengths], character[stops - 1] + 1)

    # -- ids to text

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """Return the text of `ids`; special tokens are omitted unless `special`."""
        tokens = list(map(int, ids))
        if not special:
            specials = self.special_ids
            tokens = [i for i in tokens if i not in specials]
        if not self._byte_level:
            return self._engine.decode(tokens, skip_special_tokens=False)
        table, size = self._bytes, self.vocabulary
        if tokens and (min(tokens) < 0 or max(tokens) >= size):
            tokens = [i for i in tokens if 0 <= i < size]
        return b"".join([table[i] for i in tokens]).decode("utf-8", errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of a token: the name of a special token, nothing for an unused id."""
        return self._bytes[token] if 0 <= token < len(self._bytes) else b""

    # -- the parts

    def _encode(self, text: str) -> np.ndarray:
        if self._fast is not None:
            ids = self._fast.encode(text)
            if ids is not None:
                return ids
        return np.array(self._plain.encode(text, add_special_tokens=False).ids, dtype=np.uint32)

    @cached_property
    def _plain(self) -> Any:
        """Return the engine for plain text, which ignores special tokens."""
        engine = _huggingface(self._definition)
        engine.encode_special_tokens = True
        return engine

    @cached_property
    def _bytes(self) -> list[bytes]:
        table = [b""] * self.vocabulary
        for token, i in self._ids.items():
            if token in self._added:
                table[i] = token.encode()
            elif self._byte_level and bpe.is_spelled(token):
                table[i] = bpe.unspell(token)
            else:
                table[i] = _sentencepiece_bytes(token)
        return table

    @cached_property
    def _lengths(self) -> np.ndarray:
        return np.array([len(token) for token in self._bytes], dtype=np.int64)

    @cached_property
    def special_pattern(self) -> re.Pattern[str]:
        """Return the pattern of the names of the special tokens, longest first."""
        names = sorted(self.specials, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names)) if names else r"(?!)")


class _Tiktoken:
    """The same tokens from tiktoken, three to four times as fast."""

    def __init__(self, ranks: dict[bytes, int], *, pattern: str, ids: np.ndarray) -> None:
        import tiktoken

        # The list of special tokens must not be empty: tiktoken joins the names into a regular expression, and an
        # empty one matches at every character, which halves the speed. This name is never allowed as a special token,
        # so a text that contains it is encoded as plain text.
        specials = {_NEVER_SPECIAL: len(ranks)}
        self._encoding = tiktoken.Encoding("vita", pat_str=pattern, mergeable_ranks=ranks, special_tokens=specials)
        self._ids = None if np.array_equal(ids, np.arange(len(ids))) else ids

    @classmethod
    def of(cls, definition: Mapping[str, Any], engine: Any) -> _Tiktoken | None:
        """Create the encoder; None if tiktoken is missing or cannot give the same tokens."""
        if not bpe.installed("tiktoken"):
            return None
        result = bpe.tiktoken_ranks(definition, engine)
        if result is None:
            return None
        ranks, pattern = result
        vocabulary = definition["model"]["vocab"]
        ids = np.zeros(len(ranks), dtype=np.uint32)
        for token, rank in ranks.items():
            ids[rank] = vocabulary[bpe.spell(token)]
        return cls(ranks, pattern=pattern, ids=ids)

    def encode(self, text: str) -> np.ndarray | None:
        """Ids, or None for the rare text (a run of a million spaces) that is too much for its regex engine."""
        try:
            tokens = self._encoding.encode_to_numpy(text, disallowed_special=())
        except ValueError:
            return None
        return tokens if self._ids is None else self._ids[tokens]


_NEVER_SPECIAL = "\U0010ffff<|never special|>"
"""Begins with a character that Unicode reserves as "not a character", so the search for it skips quickly over text."""
_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
_MASKS = (MASK, "<|mask|>", "<mask>")


def _own_settings() -> dict[str, Any]:
    return {
        "add_bos_token": False,
        "add_eos_token": False,
        "add_prefix_space": False,
        "bos_token": DOCUMENT,
        "clean_up_tokenization_spaces": False,
        "eos_token": END_OF_TURN,
        "model_max_length": 1_000_000,
        "pad_token": DOCUMENT,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }


def _encoder_settings() -> dict[str, Any]:
    return {
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "cls_token": CLASS,
        "mask_token": MASK,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 1_000_000,
        "pad_token": PADDING,
        "sep_token": SEPARATOR,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }


def _huggingface(definition: str) -> Any:
    from tokenizers import Tokenizer as Engine

    try:
        engine = Engine.from_str(definition)
    except Exception as error:  # noqa: BLE001 - the library raises the bare class
        raise ModelError("tokenizer.json", f"is not a tokenizer that can be read ({error})") from None
    engine.no_truncation()
    engine.no_padding()
    return engine


def read_settings(folder: ModelFolder, name: str) -> dict[str, Any]:
    """Read the settings in a JSON file of a model folder; empty where the folder has no such file."""
    files = ModelFiles.of(folder)
    if not files.exists(name):
        return {}
    try:
        value = json.loads(files.text(name))
    except (ValueError, OSError) as error:
        raise ModelError(str(files.path(name)), f"is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ModelError(str(files.path(name)), expected="a JSON object", got=type(value).__name__)
    return value


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n"


def _valid(text: str) -> str:
    """Return `text` with lone surrogates, which UTF-8 cannot represent, replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _spans_of(encoding: Any) -> TokenSpans:
    offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    return TokenSpans(np.array(encoding.ids, dtype=np.int64), offsets[:, 0], offsets[:, 1])


def _sentencepiece_bytes(token: str) -> bytes:
    if re.fullmatch(r"<0x[0-9A-F]{2}>", token):
        return bytes([int(token[3:5], 16)])
    return token.replace("\u2581", " ").encode()


def _shares(texts: Sequence[str], parts: int) -> list[Sequence[str]]:
    """Divide `texts` in order into at most `parts` runs of about equal size."""
    sizes = np.cumsum([len(text) for text in texts])
    cuts = np.searchsorted(sizes, np.linspace(0, sizes[-1], parts + 1)[1:-1]) + 1
    edges = [0, *np.unique(cuts).tolist(), len(texts)]
    return [texts[a:b] for a, b in itertools.pairwise(edges) if b > a]
