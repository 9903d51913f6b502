"""Passphrases between quotes: three or more words in lower case that are no label, message or description."""

from __future__ import annotations

import re

from vita.data.curation.stop_words import ENGLISH

_WORD = re.compile("[a-z]{3,20}")
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
_LABEL_WORDS = frozenset(ENGLISH).union(_LABELS.split())


def is_passphrase(value: str) -> bool:
    """Return True for three or more words of letters in lower case, and numbers, without a word of labels."""
    words = value.rstrip("!").split(" ")
    if sum(bool(_WORD.fullmatch(word)) for word in words) < 3:
        return False
    return all((_WORD.fullmatch(word) and word not in _LABEL_WORDS) or word.isdecimal() for word in words)
