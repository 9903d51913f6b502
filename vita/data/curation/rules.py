"""The rules of curation: settings that decide which documents stay, and what is changed in them."""

from __future__ import annotations

from pydantic import Field

from vita.data.curation.deduplication import Deduplication
from vita.data.curation.filters import DEFAULT_FILTERS, FilterUse
from vita.data.curation.language import Languages
from vita.data.curation.personal_data import PersonalData
from vita.spine.config import Settings


class CurationRules(Settings):
    """Encodings, languages, filters, duplicates and personal data."""

    repair_encoding: bool = True
    """Revert wrong decodings, such as `rÃ´le` for `rôle`."""
    languages: Languages = "all"
    """`all` to identify the language of each document, `none` to skip it, or the codes of the languages to keep, such
    as `[en, de]`."""
    filters: tuple[FilterUse, ...] = Field(DEFAULT_FILTERS, validate_default=True)
    """Quality filters in order, by name or as `{name: {setting: value}}`; `[]` keeps all documents."""
    deduplicate: Deduplication = Deduplication()
    """Dropping of duplicates: `near`, `exact`, `none`, or the settings in full. Of duplicates the first is kept."""
    personal_data: PersonalData = PersonalData()
    """Personal data and secrets: `mask`, `drop` (drop the document) or `keep`, for all kinds or by kind. A mask is a
    placeholder such as `<EMAIL>`."""
