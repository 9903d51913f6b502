"""Language identification by the character profiles of resiliparse, which are part of its package.

101 languages are identified; a text in another language is taken for a similar one. Norwegian and Danish, Portuguese
and Galician, and Hindi, Marathi and Nepali, are confused with each other. Accuracy by length is in
docs/stages/curate.md. Texts under `MIN_CHARACTERS` are too short.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

UNKNOWN = "unknown"
"""The language of texts that are short, or whose characters fit no language."""
MIN_CHARACTERS = 100
_SAMPLE = 2000
"""Number of characters at the beginning of a text from which its language is determined."""


def identify_language(text: str) -> str:
    """Return the ISO 639-1 code of the language of a text, or `unknown`."""
    if len(text) < MIN_CHARACTERS:
        return UNKNOWN
    return _detector()(text[:_SAMPLE])[0]


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
