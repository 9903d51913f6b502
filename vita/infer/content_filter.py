"""The content filter: refuses prompts and withholds answers by words, patterns and secrets, also in disguise.

    guard = ContentFilter(words=("poison",), pairs=(("set", "fire"),))
    guard.refuses_input([Message("user", "How can I p0ison the well?")])   # the refusal to send, or None
    guard.refuses_output("Throw it into the well.")                        # None

A text is matched as written and in decoded forms (`readings`): look-alike letters, digits for letters, spaced letters,
base64, hexadecimal, rot13, reversed. A filter of patterns is incomplete; use it in addition to safety tuning.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

from pydantic import Field, field_validator

from vita.data.records import Message
from vita.spine.config import Settings


class ContentFilter(Settings):
    """The rules for prompts that are refused without the model, and for answers that are withheld."""

    words: tuple[str, ...] = ()
    """Words for which a prompt is refused, also with the endings -s, -ed and -ing."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Pairs of words for which a prompt is refused when both are in one sentence: ["set", "fire"]."""
    patterns: tuple[str, ...] = ()
    """Regular expressions for which a prompt is refused; matched with the lower-case text."""
    output_words: tuple[str, ...] = ()
    """Words for which an answer is withheld."""
    output_pairs: tuple[tuple[str, str], ...] = ()
    """Pairs of words for which an answer is withheld when both are in one sentence."""
    output_patterns: tuple[str, ...] = ()
    """Regular expressions for which an answer is withheld; matched with the lower-case text."""
    secrets: tuple[str, ...] = ()
    """Texts that no answer may contain, in any spelling."""
    normalize_obfuscation: bool = True
    """Also match the text after look-alike letters, letter spacing and simple encodings are normalized."""
    refusal: str = Field(default="I will not help with that.", min_length=1)
    """Answer that replaces a refused prompt or a withheld answer."""

    @field_validator("patterns", "output_patterns")
    @classmethod
    def _compiles(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"`{pattern}` is not a regular expression: {error}") from None
        return patterns

    @field_validator("words", "output_words")
    @classmethod
    def _are_words(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        if not all(word.strip() for word in words):
            raise ValueError("an empty word would refuse everything")
        return words

    def refuses_input(self, messages: Sequence[Message]) -> str | None:
        """Return the refusal if a message of the user or a tool matches, else None; system messages are trusted.

        The messages are also matched together, to detect a request that is split over several messages.
        """
        contents = [message.content for message in messages if message.role in ("user", "tool")]
        texts = [*contents, " ".join(contents)] if len(contents) > 1 else contents
        return self.refusal if any(self._matches(text, *self._input) for text in texts) else None

    def refuses_output(self, text: str) -> str | None:
        """Return the refusal that replaces the answer if the answer matches, else None."""
        if any(_bare(secret) in _bare(reading) for reading in self._readings(text) for secret in self.secrets):
            return self.refusal
        return self.refusal if self._matches(text, *self._output) else None

    @cached_property
    def _input(self) -> tuple[list[re.Pattern[str]], list[tuple[re.Pattern[str], re.Pattern[str]]]]:
        return _compiled(self.words, self.patterns), [(_word(first), _word(second)) for first, second in self.pairs]

    @cached_property
    def _output(self) -> tuple[list[re.Pattern[str]], list[tuple[re.Pattern[str], re.Pattern[str]]]]:
        patterns = _compiled(self.output_words, self.output_patterns)
        return patterns, [(_word(first), _word(second)) for first, second in self.output_pairs]

    def _readings(self, text: str) -> Iterator[str]:
        return readings(text) if self.normalize_obfuscation else iter([text.casefold()])

    def _matches(
        self, text: str, patterns: list[re.Pattern[str]], pairs: list[tuple[re.Pattern[str], re.Pattern[str]]]
    ) -> bool:
        for reading in self._readings(text):
            if any(pattern.search(reading) for pattern in patterns):
                return True
            for sentence in re.split(r"[.!?\n]", reading) if pairs else ():
                if any(first.search(sentence) and second.search(sentence) for first, second in pairs):
                    return True
        return False


def readings(text: str) -> Iterator[str]:
    """Yield the text in lower case, as written and with each kind of obfuscation decoded."""
    plain = plain_letters(text)
    yield plain
    leet = plain.translate(_LEET)
    if leet != plain:
        yield leet
    spaced = re.sub(r"\s{2,}", " | ", plain)  # between spaced letters, wider gaps separate words
    for run in (_APART, _APART_AFTER_A_WORD):
        yield run.sub(lambda match: re.sub(r"[\s.\-_*]", "", match.group()), spaced).replace(" | ", " ")
    yield codecs.decode(plain, "rot13")
    yield plain[::-1]
    # Base64 depends on the case of letters, so it is searched in the original text.
    visible = "".join(letter for letter in text if unicodedata.category(letter) != "Cf")
    for decoded in (*_decoded(_BASE64, visible, _from_base64), *_decoded(_HEX, visible, bytes.fromhex)):
        yield plain_letters(decoded)


def plain_letters(text: str) -> str:
    """Return the text in lower case, without accents, invisible characters and look-alikes of other alphabets."""
    if text.isascii():
        return text.casefold()
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    return "".join(letter for letter in folded if unicodedata.category(letter) not in ("Cf", "Mn")).translate(_LOOKS)


def _decoded(pattern: re.Pattern[str], text: str, decode: Callable[[str], bytes]) -> Iterator[str]:
    for encoded in pattern.findall(text):
        try:
            decoded = decode(encoded).decode("utf-8")
        except (ValueError, binascii.Error):
            continue
        if decoded.isprintable():
            yield decoded


def _from_base64(text: str) -> bytes:
    bare = text.rstrip("=")
    return base64.b64decode(bare + "=" * (-len(bare) % 4), altchars=b"-_" if re.search("[-_]", bare) else None)


def _compiled(words: Sequence[str], patterns: Sequence[str]) -> list[re.Pattern[str]]:
    return [*map(_word, words), *(re.compile(pattern) for pattern in patterns)]


def _word(word: str) -> re.Pattern[str]:
    return re.compile(rf"\b{re.escape(plain_letters(word))}(s|es|d|ed|ing|er|ers)?\b")


def _bare(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.casefold())


_LEET = str.maketrans("013457$@!|+", "oieastsaiit")
_LOOKS = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u04bb\u0501\u051b\u051d\u043a\u043c\u0442\u0432\u043d\u03b1\u03bf\u03c1\u03bd\u03b9\u03ba\u03c4\u03c5\u03c7\u0131",
    "aeopcyxijshdqwkmtbhaopviktuxi",
)  # Cyrillic and Greek letters that look like Latin ones
_APART = re.compile(r"\b(?:[a-z][\s.\-_*]){2,}[a-z]\b")
_APART_AFTER_A_WORD = re.compile(r"(?<=\b[ai] )(?:[a-z][\s.\-_*]){2,}[a-z]\b")  # "can I p o i s o n"
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{12,}={0,2}")
_HEX = re.compile(r"(?:[0-9a-fA-F]{2}[ :]?){6,}")
