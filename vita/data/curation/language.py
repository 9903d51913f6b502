"""Language identification by the character profiles of resiliparse, which are part of its package.

101 languages are identified; a text in another language is taken for a similar one. Norwegian and Danish, Portuguese
and Galician, and Hindi, Marathi and Nepali, are confused with each other. Accuracy by length is in
docs/stages/curate.md. Texts under `MIN_CHARACTERS` are too short.

The profiles were made of text with few capitals, so text in capitals is identified in lower case. A language that is
written in a script of its own is accepted only for a text in that script.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

UNKNOWN = "unknown"
"""The language of texts that are short, or whose characters fit no language."""
MIN_CHARACTERS = 100
_SAMPLE = 2000
"""Number of characters at the beginning of a text from which its language is determined."""


_STRIDE = 7
"""Every seventh character of a sample is examined for capitals."""
_MAX_CAPITALS = 0.1
"""Share of capitals among the characters of text that is identified as it is: German has 0.06, titles have 0.13."""
_MIN_SHARE = 0.05
"""Smallest share of the script of a language among the letters of a text in that language."""
_CANDIDATES = 20
"""Number of languages that are compared when the first has another script than the text."""
_SCRIPT_LANGUAGES = {
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff": "zh",
    "\u3041-\u30ff\uff66-\uff9d": "ja",
    "\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3": "ko",
    "\u0400-\u052f": "ba be bg ce cv mk ru tg uk",
    "\u0370-\u03ff\u1f00-\u1fff": "el",
    "\u0530-\u058f": "hy",
    "\u0590-\u05ff": "he yi",
    "\u0600-\u06ff\u0750-\u077f\ufb50-\ufdff\ufe70-\ufeff": "ar fa ps ug ur",
    "\u0780-\u07bf": "dv",
    "\u0900-\u097f": "hi mr ne sa",
    "\u0980-\u09ff": "as bn",
    "\u0a80-\u0aff": "gu",
    "\u0b00-\u0b7f": "or",
    "\u0b80-\u0bff": "ta",
    "\u0c00-\u0c7f": "te",
    "\u0c80-\u0cff": "kn",
    "\u0d00-\u0d7f": "ml",
    "\u0d80-\u0dff": "si",
    "\u0e00-\u0e7f": "th",
    "\u0f00-\u0fff": "bo",
    "\u1000-\u109f": "my",
    "\u10a0-\u10ff\u1c90-\u1cbf": "ka",
    "\u1780-\u17ff": "km",
}
_SCRIPTS: Mapping[str, re.Pattern[str]] = {
    language: re.compile(f"[{characters}]")
    for characters, languages in _SCRIPT_LANGUAGES.items()
    for language in languages.split()
}
"""Language -> a character of its only script; languages in Latin script, and in several scripts, are left out."""


def identify_language(text: str) -> str:
    """Return the ISO 639-1 code of the language of a text, or `unknown`."""
    if len(text) < MIN_CHARACTERS:
        return UNKNOWN
    sample = text[:_SAMPLE]
    examined = sample[::_STRIDE]
    if _count_capitals(examined) > _MAX_CAPITALS * len(examined):
        sample = sample.lower()
    language = _detector()(sample)[0]
    if language not in _SCRIPTS or _fits_script(language, sample):
        return language
    candidates = (language for language, _ in _detector()(sample, n_results=_CANDIDATES))
    return next((language for language in candidates if _fits_script(language, sample)), UNKNOWN)


def _count_capitals(text: str) -> int:
    if text.isascii():
        return len(text.encode().translate(None, _NOT_CAPITALS))
    return sum(map(str.isupper, text))


_NOT_CAPITALS = bytes(code for code in range(256) if not 65 <= code <= 90)


def _fits_script(language: str, sample: str) -> bool:
    """Return True if a text has enough letters of the script of a language, or the language has no own script."""
    script = _SCRIPTS.get(language)
    if script is None:
        return True
    if sample.isascii():
        return False
    return len(script.findall(sample)) >= max(1, _MIN_SHARE * sum(map(str.isalpha, sample)))


def supported_languages() -> list[str]:
    """Return the codes of the languages that are identified."""
    from resiliparse.parse.lang import supported_langs  # pyright: ignore[reportMissingModuleSource]

    return sorted(supported_langs())


@cache
def _detector() -> Any:
    from resiliparse.parse.lang import detect_fast  # pyright: ignore[reportMissingModuleSource]

    return detect_fast


def _are_supported(codes: tuple[str, ...]) -> tuple[str, ...]:
    known = supported_languages()
    for code in codes:
        if code not in known and code != UNKNOWN:
            raise ValueError(f"`{code}` is not the code of a language that is identified; known are {', '.join(known)}")
    return codes


Languages = Annotated[tuple[str, ...], AfterValidator(_are_supported)] | Literal["all", "none"]
"""`all` identifies the language of each document, `none` does not, and a list of codes keeps these languages."""
