"""The kinds of personal data: the pattern, the check and the placeholder of each.

Repetitions are bounded and not ambiguous, so that the time is linear in the text. Patterns for frequent kinds begin
with a class of characters and look back afterwards, because `re` skips quickly to a class, and not to a look-behind.
`hint` is a shorter RE2 pattern that occurs in every text in which an exact pattern matches.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from vita.data.curation import identifiers as ids


@dataclass(frozen=True)
class Form:
    """One written form of a kind; the group `value`, or the whole match, is masked if it passes the check."""

    pattern: re.Pattern[str]
    check: Callable[[str], bool] | None = None

    def mask(self, text: str, placeholder: str) -> tuple[str, int]:
        """Return the text with placeholders, and their number."""
        group = "value" if "value" in self.pattern.groupindex else 0
        pieces: list[str] = []
        position = count = 0
        for match in self.pattern.finditer(text):
            if self.check is None or self.check(match[group]):
                pieces += text[position : match.start(group)], placeholder
                position, count = match.end(group), count + 1
        return "".join([*pieces, text[position:]]) if count else text, count


@dataclass(frozen=True)
class PersonalDataKind:
    """A kind of personal data with its written forms."""

    name: str
    placeholder: str
    hint: str
    forms: tuple[Form, ...]

    def mask(self, text: str) -> tuple[str, int]:
        """Return the text with the values of this kind replaced by the placeholder, and their number."""
        total = 0
        for form in self.forms:
            text, count = form.mask(text, self.placeholder)
            total += count
        return text, total


def _form(pattern: str, check: Callable[[str], bool] | None = None, flags: int = 0) -> Form:
    return Form(re.compile(pattern, flags), check)


# -- secrets

_TOKENS = (
    r"(?:AKIA|ASIA)[0-9A-Z]{16}",  # AWS
    r"gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}",
    r"glpat-[A-Za-z0-9_-]{20,64}",  # GitLab
    r"sk-[A-Za-z0-9_-]{20,255}",  # OpenAI, Anthropic
    r"hf_[A-Za-z0-9]{34,64}",  # Hugging Face
    r"xox[abeoprs]-[A-Za-z0-9-]{10,255}",  # Slack
    r"AIza[A-Za-z0-9_-]{35}",  # Google
    r"(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{20,255}",  # Stripe
    r"npm_[A-Za-z0-9]{36}",
    r"pypi-[A-Za-z0-9_-]{50,255}",
    r"SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,64}",  # SendGrid
    r"eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,1000}",  # JSON web token
)
_PRIVATE_KEY = r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----"
_TOKEN_PREFIXES = (
    r"(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_|github_pat_|glpat-|sk-[A-Za-z0-9_-]{20}|hf_[A-Za-z0-9]{34}"
    r"|xox[abeoprs]-|AIza|_(?:live|test)_|npm_|pypi-|SG\.|eyJ[A-Za-z0-9_-]{10}"
)


def _has_digit(text: str) -> bool:
    """Return True if a token contains a digit, as random tokens of 20 characters do, unlike most names."""
    return any(character.isdigit() for character in text)


_KEY = PersonalDataKind(
    "key",
    "<KEY>",
    rf"{_TOKEN_PREFIXES}|PRIVATE KEY|://[^\s/:@]+:[^\s/@]+@",
    (
        _form(rf"{_PRIVATE_KEY}[^-]{{0,20000}}(?:-----END [A-Z0-9 ]{{0,30}}PRIVATE KEY(?: BLOCK)?-----)?"),
        _form(rf"(?<![A-Za-z0-9_-])(?:{'|'.join(_TOKENS)})(?![A-Za-z0-9])", _has_digit),
        _form(r"(?<=://)[^\s/:@<>]{1,64}:(?P<value>[^\s/@<>]{1,128})(?=@)"),
    ),
)


# -- addresses

_LATIN = "A-Za-z0-9\u00c0-\u024f"
_AT_HINT = r"[\[({<] ?(?:at|AT) ?[\])}>]"
_AT = r"(?:@| ?[\[({<] ?(?:at|AT) ?[\])}>] ?)"
_DOT = r"(?:\.| ?[\[({<] ?(?:dot|DOT) ?[\])}>] ?)"
_RESERVED_DOMAIN = re.compile(r"(?:@|\.)example\.(?:com|net|org|edu)$|\.(?:example|invalid|localhost|test)$", re.I)


def _is_personal_address(address: str) -> bool:
    """Return True unless the domain is reserved for examples (RFC 2606), or the address is that of a Git server."""
    return not _RESERVED_DOMAIN.search(address) and not address.startswith("git@")


_EMAIL = PersonalDataKind(
    "email",
    "<EMAIL>",
    rf"[^\s@]@[^\s@]+[.\])}}>][ A-Za-z]|{_AT_HINT}",
    (
        _form(
            rf"[{_LATIN}_%+-](?<![{_LATIN}_%+-].)[{_LATIN}._%+'-]{{0,63}}{_AT}"
            rf"(?:[{_LATIN}][{_LATIN}-]{{0,62}}{_DOT}){{1,8}}[A-Za-z]{{2,24}}(?![{_LATIN}])",
            _is_personal_address,
        ),
    ),
)
_IP = PersonalDataKind(
    "ip",
    "<IP_ADDRESS>",
    r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]|[23][0-9A-Fa-f]{3}:[0-9A-Fa-f]{1,4}:",
    (
        _form(
            r"[0-9](?<![\w.-].)(?<![vV]ersion .)[0-9]{0,2}\.(?:[0-9]{1,3}\.){2}[0-9]{1,3}(?![\w-]|\.[0-9])",
            ids.is_public_address,
        ),
        _form(
            r"[23](?<![\w:.].)[0-9A-Fa-f]{3}:[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{0,4}){1,6}(?![\w:])", ids.is_public_address
        ),
    ),
)


# -- numbers

_PHONE_WORDS = (
    "tel|telephone|telephone number|phone|phone number|fax|mobile|cellphone|whatsapp|sms"
    "|telefon|telefonnummer|handy|tél|téléphone|portable|teléfono|telefono|móvil|cellulare|telefone|celular"
)
_PHONE = PersonalDataKind(
    "phone",
    "<PHONE>",
    r"\+[1-9][-0-9 ./()\x{a0}]{7}|[0-9]{3}\)? ?[-. ]?[0-9]{3}[-. ][0-9]{4}"
    rf"|(?i:{_PHONE_WORDS})\.?(?: ?(?:no|nr|number)\b\.?)? ?[:#]? ?\(?[0-9]",
    (
        _form(r"\+(?<![\w+)].)(?:[2-9]|1[-./( \u00a0]{0,2}[2-9])(?:[-./() \u00a0]{0,2}[0-9]){7,14}(?![0-9])"),
        _form(
            r"(?<![\w.+/-])(?:1[-. ])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[-.])[0-9]{3}[-.][0-9]{4}(?![\w-]|\.[0-9])"
        ),
        _form(r"(?<![\w.+/-])(?:1[-. ])?\([2-9][0-9]{2}\) ?[0-9]{3} [0-9]{4}(?![\w-]|\.[0-9])"),
        _form(
            rf"(?<!\w)(?:{_PHONE_WORDS})\.?(?: ?(?:no|nr|number)\b\.?)? ?[:#]? ?"
            r"(?P<value>\(?[0-9](?:[-./() ]{0,2}[0-9]){6,14})(?![0-9])",
            flags=re.IGNORECASE,
        ),
    ),
)
_CARD = PersonalDataKind(
    "card",
    "<CARD>",
    r"[2-6][0-9]{3}[ -]?[0-9]{4}[ -]?[0-9]{4}|3[0-9]{3}[ -]?[0-9]{6}[ -]?[0-9]{4}",
    (
        _form(
            r"(?<![\w.])(?<![0-9][ -])(?:"
            r"(?:4[0-9]{3}|5[1-5][0-9]{2}|2[2-7][0-9]{2}|6011|6[245][0-9]{2}|35[2-8][0-9])"
            r"([ -]?)[0-9]{4}\1[0-9]{4}\1[0-9]{4}"  # Visa, Mastercard, Discover, UnionPay, JCB
            r"|3[47][0-9]{2}([ -]?)[0-9]{6}\2[0-9]{5}"  # American Express
            r"|3(?:0[0-5]|[689][0-9])[0-9]([ -]?)[0-9]{6}\3[0-9]{4}"  # Diners Club
            r")(?![\w]|-[0-9])",
            ids.is_card_number,
        ),
    ),
)
_IBAN_BODY = "|".join(
    rf"{country}[0-9]{{2}}(?:[ -]?[A-Z0-9]){{{length - 4}}}" for country, length in ids.IBAN_LENGTHS.items()
)
_IBAN = PersonalDataKind(
    "iban",
    "<IBAN>",
    r"[A-Z]{2}[0-9]{2}[ -]?[A-Z0-9]{4}[ -]?[A-Z0-9]{4}",
    (_form(rf"(?<![A-Za-z0-9])(?:{_IBAN_BODY})(?![A-Za-z0-9])", ids.is_iban),),
)
_NATIONAL_ID = PersonalDataKind(
    "national_id",
    "<NATIONAL_ID>",
    r"[0-9]{3}[- ][0-9]{2}[- ][0-9]{4}|[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]|[0-9]{17}[0-9Xx]|[0-9]{7}-?[A-Z]"
    r"|[0-9]{6}-[1-4][0-9]{6}|[12] ?[0-9]{2} ?[01][0-9] ?[0-9][0-9AB] ?[0-9]{3} ?[0-9]{3}|[A-Z]{6}[0-9]{2}[A-Z][0-9]{2}"
    r"|[A-Z]{2} ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]|(?i:pesel|aadhaar|\bsin|social insurance)[^0-9\n]{0,20}[0-9]{3}",
    (
        _form(r"(?<![\w.-])[0-9]{3}([- ])[0-9]{2}\1[0-9]{4}(?![\w-])", ids.is_us_social_security_number),
        _form(r"(?<![\w.-])[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}(?![\w-])", ids.is_brazilian_cpf),
        _form(
            r"(?<![\w.-])[1-9][0-9]{5}(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])[0-3][0-9]{4}[0-9Xx](?![\w-])",
            ids.is_chinese_resident_id,
        ),
        _form(r"(?<![\w.-])(?:[0-9]{8}|[XYZ]-?[0-9]{7})-?[A-HJ-NP-TV-Z](?![\w-])", ids.is_spanish_id),
        _form(
            r"(?<![\w.-])[12]( ?)[0-9]{2}\1(?:0[1-9]|1[0-2])\1(?:[0-9]{2}|2[AB])\1[0-9]{3}\1[0-9]{3} ?[0-9]{2}"
            r"(?![\w-])",
            ids.is_french_social_security_number,
        ),
        _form(r"(?<!\w)[A-Z]{6}[0-9]{2}[A-EHLMPRST][0-9]{2}[A-Z][0-9]{3}[A-Z](?!\w)", ids.is_italian_tax_code),
        _form(r"(?<!\w)(?![DFIQUV])[A-Z](?![DFIOQUV])[A-Z] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D](?!\w)"),  # UK
        _form(  # Korea: the date of birth, and the century
            r"(?<![\w.-])[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])-[1-4][0-9]{6}(?![\w-])"
        ),
        _form(r"(?i:\bpesel)[^0-9\n]{0,20}(?P<value>[0-9]{11})(?![0-9])", ids.is_polish_pesel),
        _form(
            r"(?i:\baadhaar)[^0-9\n]{0,20}(?P<value>[2-9][0-9]{3}[ -]?[0-9]{4}[ -]?[0-9]{4})(?![0-9])",
            ids.is_indian_aadhaar,
        ),
        _form(
            r"(?i:\bsin|social insurance)\b[^0-9\n]{0,20}(?P<value>[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{3})(?![0-9])",
            ids.is_canadian_sin,
        ),
    ),
)

CANDIDATE = (
    rf"[0-9](?:[-./() \x{{a0}}]{{0,2}}[0-9]){{5}}|@|{_AT_HINT}|[0-9]\.[0-9]{{1,3}}\.[0-9]{{1,3}}\.[0-9]"
    rf"|[23][0-9A-Fa-f]{{3}}:[0-9A-Fa-f]{{1,4}}:|[A-Z]{{6}}[0-9]{{2}}|PRIVATE KEY|{_TOKEN_PREFIXES}"
)
"""A pattern that occurs wherever one of the hints does. RE2 searches it several times as fast as all hints together."""
KINDS = (_KEY, _EMAIL, _IBAN, _CARD, _NATIONAL_ID, _PHONE, _IP)
"""All kinds, in the order in which they are masked: longer numbers first, of which others may be parts."""
