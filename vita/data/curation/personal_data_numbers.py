"""The forms of phone numbers, payment card numbers and bank account numbers."""

from __future__ import annotations

import re

from vita.data.curation import identifiers as ids
from vita.data.curation.personal_data_forms import DASHES, SPACES, PersonalDataKind, form

# -- phone numbers

PHONE_WORDS = (
    "tel|telephone|phone|fax|mobile|cellphone|cell phone|cell number|whatsapp|sms|telefon|telefonnummer|handy"
    "|tél|téléphone|portable|teléfono|telefono|móvil|cellulare|telefone|celular|telefoon|telefoonnummer|телефон|тел"
)
_PHONE_WORDS_WITHOUT_SPACES = "電話|电话|手机|手機|携帯|전화|연락처"
_NUMBER_WORDS = r"(?: ?(?:no|nr|number)\b\.?|番号|号码|號碼| ?번호)?(?: (?:is|at|on|ist|est|es)\b)? ?[:#=：]? ?"
_CALL_WORDS = "call|dial|ring|text|cell|contact|reach"
"""Words that are often not followed by a phone number: the number must have a trunk prefix or be North American."""
_SEPARATORS = rf"[-./(){SPACES}{DASHES}]"
_UNIT = (
    rf"[{SPACES}]?(?:[%‰°$€£¥]|(?:[kKMGT]?(?:Hz|W|V|eV|B|Pa|cal|bp)|[kcmµμn]?[mgsl]|kg|mL|K|ft|in|lbs?|oz|rpm|ppm|psi"
    r"|dollars|euros|pounds|people|years|days|hours|minutes|miles|metres|meters|feet|degrees|words|pages)\b)"
)
"""A unit after a number."""
_COORDINATE = r" ?(?:[NSEW]\b|[°º′″])"


def _has_different_groups(text: str) -> bool:
    """Return True if the groups of digits have different lengths, unlike those of a table; the last may be shorter."""
    lengths = [len(group) for group in re.findall("[0-9]+", text)]
    return len(set(lengths)) > 1 and (len(lengths) < 4 or len(set(lengths[:-1])) > 1)


def _is_not_range_of_years(text: str) -> bool:
    """Return True unless the text is a range of years with a dash, as in `mobile (2010\u20132015)`."""
    return not re.fullmatch(rf"\(?(?:1[5-9]|20)[0-9]{{2}} ?[{DASHES}] ?(?:1[5-9]|20)[0-9]{{2}}", text)


def _is_not_range_of_numbers(text: str) -> bool:
    """Return True unless the groups of digits are round numbers that increase, as in `250\u2013300\u20134000`."""
    numbers = [int(group) for group in re.findall("[0-9]+", text)]
    return len(numbers) != 3 or any(number % 10 for number in numbers) or numbers != sorted(numbers)


PHONE = PersonalDataKind(
    "phone",
    "<PHONE>",
    rf"\+[1-9]{_SEPARATORS[:-1]}0-9]{{7}}|[0-9]{{3}}\)? ?[-. {DASHES}]?[0-9]{{3}}[-. {DASHES}][0-9]{{4}}"
    rf"|\b00[1-9][0-9]{{0,2}}[-./({SPACES}]{{1,2}}[0-9](?:{_SEPARATORS}{{0,2}}[0-9]){{6}}",
    (
        form(
            rf"\+(?<![\w+)].)(?:[2-9]|1[-./({SPACES}]{{0,2}}[2-9])(?:{_SEPARATORS}{{0,2}}[0-9]){{7,14}}(?![0-9])",
            not_after=r"(?i:\b(?:gps|lat|latitude|lon|longitude|coordinates?)\W{1,3})$",
            not_before=_COORDINATE,
        ),
        form(  # the international prefix 00
            rf"(?<![\w.+/-])(?<![0-9][{SPACES}])00"
            rf"(?:1(?=[-./({SPACES}]{{1,2}}[2-9])|7(?=[-./({SPACES}]{{1,2}}[3489])|20|27|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|[2-9][0-9]{{2}})"
            rf"[-./({SPACES}]{{1,2}}[0-9](?:{_SEPARATORS}{{0,2}}[0-9]){{6,11}}(?![{SPACES}]?[0-9]| [A-Fa-f][0-9]\b)",
            _has_different_groups,
        ),
        form(
            r"(?<![\w.+/$€£-])(?:1[-. ])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[-.])[0-9]{3}[-.][0-9]{4}(?![\w-]|\.[0-9])"
        ),
        form(r"(?<![\w.+/-])(?:1[-. ])?\([2-9][0-9]{2}\) ?[0-9]{3} [0-9]{4}(?![\w-]|\.[0-9])"),
        form(  # with dashes: the same in both places, because ranges of numbers have one
            rf"(?<![\w.+/$€£{DASHES}-])(?:1[-. {DASHES}])?"
            rf"(?:\([2-9][0-9]{{2}}\) ?[2-9][0-9]{{2}}[{DASHES}]|[2-9][0-9]{{2}}([{DASHES}])[2-9][0-9]{{2}}\1)"
            rf"[0-9]{{4}}(?![\w{DASHES}-]|\.[0-9])",
            _is_not_range_of_numbers,
            not_before=_UNIT,
        ),
    ),
)
NAMED_PHONE = PersonalDataKind(
    "phone",
    "<PHONE>",
    rf"(?:(?i:\b(?:{PHONE_WORDS}|{_CALL_WORDS})|тел)|{_PHONE_WORDS_WITHOUT_SPACES})"
    rf"[^0-9\n]{{0,20}}[0-9](?:{_SEPARATORS}{{0,3}}[0-9]){{6}}",
    (
        form(
            rf"(?:(?<!\w)(?:{PHONE_WORDS})\.?|{_PHONE_WORDS_WITHOUT_SPACES}){_NUMBER_WORDS}"
            rf"(?P<value>\(?[0-9](?:{_SEPARATORS}{{0,3}}[0-9]){{6,14}})(?![0-9])",
            _is_not_range_of_years,
            flags=re.IGNORECASE,
        ),
        form(
            rf"(?<!\w)(?:{_CALL_WORDS})(?: (?:me|us|him|her|them))?(?: (?:is|at|on|now))?:? "
            rf"(?P<value>\(?0[1-9](?:{_SEPARATORS}{{0,2}}[0-9]){{8,9}}"
            r"|\(?[2-9][0-9]{2}\)?[-. ]?[2-9][0-9]{2}[-. ]?[0-9]{4})(?![0-9])",
            flags=re.IGNORECASE,
        ),
    ),
)


# -- card numbers

_CARD_SEPARATOR = rf"[{SPACES}.-]?"
_GROUP = r"\1[0-9]{4}"  # four digits after the separator that the first groups have


def _card_form(groups: str) -> str:
    return rf"[2-6](?<![\w.].)(?<![0-9][{SPACES}-].)(?:{groups})(?!\w|[.-][0-9])"


_MAESTRO = rf"(?:(?<=5)(?:0(?:18|20|38)|893)|(?<=6)(?:304|759|76[1-3]))({_CARD_SEPARATOR})[0-9]{{4}}{_GROUP}"
CARD = PersonalDataKind(
    "card",
    "<CARD>",
    rf"[2-6][0-9]{{3}}{_CARD_SEPARATOR}[0-9]{{4}}{_CARD_SEPARATOR}[0-9]{{4}}"
    rf"|3[0-9]{{3}}{_CARD_SEPARATOR}[0-9]{{6}}{_CARD_SEPARATOR}[0-9]{{4}}",
    tuple(
        form(_card_form(groups), ids.is_card_number)
        for groups in (
            # Longer numbers come first. If their checksum is wrong, a shorter number can be followed by other digits.
            # Visa and UnionPay with 19 digits, Maestro
            rf"(?:(?<=4)[0-9]{{3}}|(?<=6)2[0-9]{{2}})({_CARD_SEPARATOR})[0-9]{{4}}{_GROUP}{_GROUP}\1[0-9]{{3}}",
            rf"{_MAESTRO}{_GROUP}\1[0-9]{{1,3}}",
            rf"(?:(?<=4)[0-9]{{3}}|(?<=5)[1-5][0-9]{{2}}|(?<=2)[2-7][0-9]{{2}}|(?<=6)(?:011|[245][0-9]{{2}})"
            r"|(?<=3)5[2-8][0-9])"
            rf"({_CARD_SEPARATOR})[0-9]{{4}}{_GROUP}{_GROUP}",  # Visa, Mastercard, Discover, UnionPay, JCB
            rf"{_MAESTRO}\1[0-9]{{1,4}}",
            _MAESTRO,
            rf"(?<=3)[47][0-9]{{2}}({_CARD_SEPARATOR})[0-9]{{6}}\1[0-9]{{5}}",  # American Express
            rf"(?<=3)(?:0[0-5]|[689][0-9])[0-9]({_CARD_SEPARATOR})[0-9]{{6}}{_GROUP}",  # Diners Club
            r"(?<=4)[0-9]{12}",  # Visa until the 1990s
        )
    ),
)


# -- bank account numbers

_IBAN_SEPARATOR = rf"[{SPACES}-]"
_IBAN_BODY = "|".join(
    rf"{country}[0-9]{{2}}(?:{_IBAN_SEPARATOR}?[A-Z0-9]){{{length - 4}}}"
    for country, length in ids.IBAN_LENGTHS.items()
)
IBAN = PersonalDataKind(
    "iban",
    "<IBAN>",
    rf"(?i:[A-Z]{{2}}[0-9]{{2}}{_IBAN_SEPARATOR}?[A-Z0-9]{{4}}{_IBAN_SEPARATOR}?[A-Z0-9]{{4}})",
    (
        form(rf"(?=[A-Z]{{2}}[0-9]{{2}})(?<![A-Za-z0-9])(?:{_IBAN_BODY})(?![A-Za-z0-9])", ids.is_iban),
        # In lower case, parts of a UUID or a digest must not be taken for an account.
        form(
            rf"(?=[A-Z]{{2}}[0-9]{{2}})(?<![A-Za-z0-9-])(?:{_IBAN_BODY})(?!-?[A-Za-z0-9])",
            ids.is_iban,
            flags=re.IGNORECASE,
        ),
    ),
)
