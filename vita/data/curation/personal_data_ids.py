"""The forms of national identity, tax and social security numbers.

Numbers with a distinctive form are found anywhere; plain digits are found after the name of the number.
"""

from __future__ import annotations

from collections.abc import Callable

from vita.data.curation import identifiers as ids
from vita.data.curation.personal_data_forms import Form, PersonalDataKind, form

_PRODUCT_WORDS = (
    r"(?i:\b(?:part|model|serial|item|sku|order|catalogue|catalog|product|article|batch|lot|invoice|version|type)s?"
    r"(?: (?:no|nr|number|code)\b)?\.?[ :#=]{0,3})$"
)
"""Words before the number of a product, which can have the form of a national insurance number."""


def _named_form(names: str, digits: str, check: Callable[[str], bool]) -> Form:
    """Return the form of digits after the name of the number, at a distance of at most 20 characters."""
    return form(rf"(?i:\b(?:{names}))[^0-9\n]{{0,20}}(?P<value>{digits})(?![\w]|-[0-9])", check)


NATIONAL_ID = PersonalDataKind(
    "national_id",
    "<NATIONAL_ID>",
    r"[0-9]{3}[- ][0-9]{2}[- ][0-9]{4}|[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]|[0-9]{17}[0-9Xx]|[0-9]{7}-?[A-Z]"
    r"|[0-9]{6}-[1-4][0-9]{6}|[12] ?[0-9]{2} ?[01][0-9] ?[0-9][0-9AB] ?[0-9]{3} ?[0-9]{3}|[A-Z]{6}[0-9]{2}[A-Z][0-9]{2}"
    r"|[A-Z]{2} ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]"
    r"|756\.[0-9]{4}\.[0-9]{4}\.[0-9]{2}",
    (
        form(r"(?<![\w.-])[0-9]{3}([- ])[0-9]{2}\1[0-9]{4}(?![\w-])", ids.is_us_social_security_number),
        form(r"(?<![\w.-])[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}(?![\w-])", ids.is_brazilian_cpf),
        form(
            r"(?<![\w.-])[1-9][0-9]{5}(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])[0-3][0-9]{4}[0-9Xx](?![\w-])",
            ids.is_chinese_resident_id,
        ),
        form(r"(?<![\w.-])(?:[0-9]{8}|[XYZ]-?[0-9]{7})-?[A-HJ-NP-TV-Z](?![\w-])", ids.is_spanish_id),
        form(
            r"(?<![\w.-])[12]( ?)[0-9]{2}\1(?:0[1-9]|1[0-2])\1(?:[0-9]{2}|2[AB])\1[0-9]{3}\1[0-9]{3} ?[0-9]{2}"
            r"(?![\w-])",
            ids.is_french_social_security_number,
        ),
        form(r"(?<!\w)[A-Z]{6}[0-9]{2}[A-EHLMPRST][0-9]{2}[A-Z][0-9]{3}[A-Z](?!\w)", ids.is_italian_tax_code),
        form(  # United Kingdom: national insurance number, with the prefixes that are issued
            r"(?<!\w)(?!BG|GB|KN|NK|NT|TN|ZZ)(?![DFIQUV])[A-Z](?![DFIOQUV])[A-Z]"
            r" ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D](?!\w)",
            not_after=_PRODUCT_WORDS,
        ),
        form(  # Korea: the date of birth, and the century
            r"(?<![\w.-])[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])-[1-4][0-9]{6}(?![\w-])"
        ),
        form(r"(?<![\w.-])756\.[0-9]{4}\.[0-9]{4}\.[0-9]{2}(?![\w-])", ids.has_gtin_checksum),  # Switzerland
    ),
)
NAMED_NATIONAL_ID = PersonalDataKind(
    "national_id",
    "<NATIONAL_ID>",
    r"(?i:\b(?:pesel|aadhaar|sin|social insurance|ssn|social security|cpf|steuer|idnr|bsn|burgerservicenummer"
    r"|personnummer|ahv|avs))[^0-9\n]{0,60}[0-9]{2}[-0-9.+ ]{5}",
    (
        _named_form("pesel", "[0-9]{11}", ids.is_polish_pesel),
        _named_form("aadhaar", "[2-9][0-9]{3}[ -]?[0-9]{4}[ -]?[0-9]{4}", ids.is_indian_aadhaar),
        _named_form(r"sin\b|social insurance\b", "[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{3}", ids.is_canadian_sin),
        _named_form(r"ssn|social security", r"[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}", ids.is_us_social_security_number),
        _named_form(r"cpf", r"[0-9]{11}", ids.is_brazilian_cpf),
        _named_form(
            r"steuer-?(?:id|identifikationsnummer)|steuerliche identifikationsnummer|idnr",
            r"[1-9][0-9] ?[0-9]{3} ?[0-9]{3} ?[0-9]{3}",
            ids.is_german_tax_number,
        ),
        _named_form(r"bsn|burgerservicenummer", r"[0-9]{4}[. ]?[0-9]{2}[. ]?[0-9]{3}", ids.is_dutch_bsn),
        _named_form(r"personnummer", r"(?:19|20)?[0-9]{6}[-+]?[0-9]{4}", ids.is_swedish_personal_number),
        _named_form(r"ahv|avs", r"756[0-9]{10}", ids.has_gtin_checksum),
    ),
)
