"""The context that the name of a metadata field gives to its value: `"phone": "5551234567"` is a phone number.

Several kinds of personal data are found only after a word that names them. In metadata, the field has this name.
"""

from __future__ import annotations

import re
from functools import lru_cache

from vita.data.curation.personal_data_numbers import PHONE_WORDS
from vita.data.curation.personal_data_secrets import KEY_NAMES

PASSWORD = "password"
"""The context of a password, of which the whole value is secret."""
_NAMES = {
    rf"{PHONE_WORDS}|cell": "phone",
    "ssn|social security": "ssn",
    "sin|social insurance": "sin",
    "pesel": "pesel",
    "aadhaar": "aadhaar",
    "cpf": "cpf",
    "steuer ?id|steueridentifikationsnummer|idnr": "idnr",
    "bsn|burgerservicenummer": "bsn",
    "personnummer": "personnummer",
    "ahv|avs": "ahv",
    # An id of a person in any country: the names of all numbers that have a checksum.
    "(?:national|tax|citizen|identity|personal) id(?:entity)?": "pesel cpf idnr bsn sin",
    "password|passwd|pwd|passphrase|passcode|passwort|kennwort|contraseña|senha|wachtwoord|пароль"
    "|(?:user|db|database|smtp|imap|mail|ftp|ssh|login|admin|root|account|proxy|auth) ?pass": PASSWORD,
    "^pass": "pass",  # also the name of a result or a ticket: only values with the form of a password are masked
    "(?:credit|debit|payment|bank)? ?card|kreditkarte|cc": "card",
    "authorization": "authorization",
    KEY_NAMES.replace("[_-]?", " ?"): "secret",
}
"""Names of fields as lower-case words -> the context."""
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|[0-9]+")
"""A word of a name in snake case, kebab case or camel case."""
_GENERAL_WORDS = "no|nr|num|number|value|raw|home|work|office|private|business|primary|secondary|main|[0-9]+"
"""Words that do not change the meaning of a name, as in `phone_home`, `ssn2` and `{"phone": {"home": ...}}`."""
_GENERAL = re.compile(rf"(?:(?:{_GENERAL_WORDS})s?(?: |$))+")
_NO_PASSWORD = re.compile(r"(?:is|has|shows?|forgot|requires?|no) ")
"""The beginning of names of settings and labels, as in `has_password` and `forgot_password`."""
_CONTEXTS = [
    (re.compile(rf"(?:^| )(?:{names})s?(?: (?:{_GENERAL_WORDS})s?)*$"), context) for names, context in _NAMES.items()
]


@lru_cache(maxsize=4096)
def field_context(name: str, outer: str = "") -> str:
    """Return the words to read before the value of a field, or "" if its name gives no context.

    `outer` is the context of the field around it, which applies to fields with a general name, such as `home`. All
    fields inside a password are parts of it.
    """
    if outer == PASSWORD:
        return outer
    words = " ".join(_WORD.findall(name)).lower()
    if _GENERAL.fullmatch(words):
        return outer
    context = next((context for pattern, context in _CONTEXTS if pattern.search(words)), "")
    return "" if context == PASSWORD and _NO_PASSWORD.match(words) else context
