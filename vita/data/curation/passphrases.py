"""Passphrases: words that are no label, message or description.

Three or more in lower case, or four or more that all begin with a capital or are joined by hyphens.
"""

from __future__ import annotations

import re

from vita.data.curation.stop_words import ENGLISH

_WORD = re.compile("[a-z]{3,20}")
_CAPITALIZED = re.compile("[A-Z][a-z]{2,19}")
_OTHER_LABELS = """
adgangskode clave contrasena haslo heslo jelszo kata kennwort lozinka mot motdepasse parola passe passord passwort
salasana sandi senha sifre wachtwoord
"""
"""Words for `password` in other languages, in letters of ASCII."""
_LABELS = """
access account add admin again allowed alphanumeric anonymous any api app apply are asked authentication auto away bad
base based basic been before below between blank both but can cannot change changed changing char character characters
chars check choose client code comparison config configuration confirm confirmation connect contain contains could
create created credentials current custom database decrypt default define derived did different digit digits disabled
display does don dont dummy edit either email empty enable enabled encode encoded encrypt encrypted encryption enter
entered entry error every example exceeded expired fail failed failure fake false field file first for forget forgot
forgotten format found from generate generated get given has hash hashed help here hide hint host how incorrect input
insert invalid its keep key keyphrase last least leave length letter letters like line link list locked log logged
login lowercase mail make managed many match matches max maximum may message min minimum mismatch missing mode must
name need needed needs never new next none not null number numbers off old once one only optional other our output
page pass passcode passphrase passwd password passwords path phrase pin placeholder plain plaintext please previous
private problem prompt protected provide provided public pwd random raw read recovery redacted register remember
remove repeat request require required requires reset restore retype root safe same sample save saved secret secure
security see select send sent server session set setting settings setup short should show sign signin signup small
special ssh stored string strong style submit success such symbol symbols system temporary test text textbox their
then there these they this those token too true try type unknown update updated uppercase use used user username users
using valid validation value vault verify very view visible want was weak web were what when whether which who will
without word words would write wrong yes you your zip
"""
"""Words of labels, messages and descriptions."""
_LABEL_WORDS = frozenset(ENGLISH).union(_LABELS.split(), _OTHER_LABELS.split())


def is_passphrase(value: str) -> bool:
    """Return True for words of letters between spaces, and numbers, without a word of labels.

    Three words in lower case, or four that all begin with a capital: a label seldom has a capital in every word.
    """
    words = value.rstrip("!").split(" ")
    if sum(bool(_CAPITALIZED.fullmatch(word)) for word in words) >= 4:
        words = [word.lower() if _CAPITALIZED.fullmatch(word) else word for word in words]
    return _are_words(words, minimum=3)


def is_hyphenated_passphrase(value: str) -> bool:
    """Return True for four or more words of letters and numbers between hyphens, without a word of labels."""
    return _are_words(value.lower().split("-"), minimum=4)


def _are_words(words: list[str], *, minimum: int) -> bool:
    if sum(bool(_WORD.fullmatch(word)) for word in words) < minimum:
        return False
    return all((_WORD.fullmatch(word) and word not in _LABEL_WORDS) or word.isdecimal() for word in words)
