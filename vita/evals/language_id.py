"""Language identification by script, and by function words and letters where languages share a script.

`speaks("Das ist nicht mein Hund.", "de")` is True, False, or None where there is too little evidence for any
language, so that a guess never counts as a measurement.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

SHARE_OF_SCRIPT = 0.7
"""The minimum share of letters in the script of the language; names in another script are common."""
ENOUGH_HITS = 2
"""The minimum number of characteristic words for a decision."""


@dataclass(frozen=True, slots=True)
class Language:
    """The script of a language, by its Unicode name, with the words and letters that distinguish the language."""

    script: str
    words: frozenset[str] = frozenset()
    letters: frozenset[str] = frozenset()


def speaks(text: str, language: str) -> bool | None:
    """Return True if `text` is in the language (ISO 639-1); None if that cannot be decided."""
    target = LANGUAGES.get(language)
    letters = [character for character in text if character.isalpha()]
    if target is None or not letters:
        return None
    names = target.script.split("|")
    in_script = sum(any(unicodedata.name(letter, "").startswith(name) for name in names) for letter in letters)
    if in_script < SHARE_OF_SCRIPT * len(letters):
        return False
    rivals = {name: other for name, other in LANGUAGES.items() if other.script == target.script}
    if len(rivals) == 1:
        return True
    hits = _hits(text, rivals)
    best = max(hits.values())
    if best < ENOUGH_HITS or list(hits.values()).count(best) > 1:
        return None
    return hits[language] == best


def _hits(text: str, languages: Mapping[str, Language]) -> dict[str, int]:
    """Count the function words of each language in the text, and the words with a letter specific to the language."""
    words = [word.strip(_AROUND_WORDS) for word in unicodedata.normalize("NFC", text).lower().split()]
    return {
        name: sum(word in language.words or not language.letters.isdisjoint(word) for word in words if word)
        for name, language in languages.items()
    }


_AROUND_WORDS = "".join(
    chr(code) for code in range(0x3000) if unicodedata.category(chr(code))[0] in "PSZ" or chr(code).isspace()
)


def _of(script: str, words: str = "", letters: str = "") -> Language:
    return Language(script, frozenset(words.split()), frozenset(letters))


LANGUAGES: Mapping[str, Language] = {
    "en": _of("LATIN", "the and of to is in that it was for you with are this not have be on as by from i my your we"),
    "de": _of("LATIN", "der die das und ist nicht ein eine ich zu mit den von auf sich auch es dem im wir sie", "ß"),
    "fr": _of("LATIN", "le la les et est un une des du pas que qui dans pour je vous nous avec sur ce cette au", "œ"),
    "es": _of("LATIN", "el la los las y es un una que de no en por para con se lo su mi está muy como pero", "ñ¿¡"),
    "pt": _of("LATIN", "o os as e é um uma que não em por para com se do da no na seu você muito mais como", "ãõ"),
    "it": _of("LATIN", "il lo gli e è un una che di non per con si del della nel sono ho mi questo come più ma"),
    "nl": _of("LATIN", "de het een en is niet van ik je dat op te zijn met voor die aan er maar ook wij naar"),
    "sv": _of("LATIN", "och är att det som en ett inte jag på för med den av till har vi om men från var", "å"),
    "fi": _of("LATIN", "ja on ei se että hän minä olen oli mutta kun niin kuin myös ovat sinä tämä joka mitä hyvin"),
    "pl": _of("LATIN", "i w na nie się jest to z do że jak ale po co tak za od dla przez są", "łśżźćńęą"),
    "vi": _of("LATIN", "là và của có không một cho được những trong tôi bạn này các với", "ăơưđạảấầậắặẻếềệịọốồộớờợụứừ"),
    "sw": _of("LATIN", "na ya wa kwa ni za katika la hii kuwa yako wangu sana mimi wewe kama pia lakini cha vya hiyo"),
    "id": _of("LATIN", "yang dan di itu dengan untuk tidak ini dari dalam akan pada juga saya ke adalah kami bisa"),
    "tr": _of("LATIN", "ve bir bu için de da ile çok ne ben mi gibi daha var ama olarak sen değil", "ığş"),
    "ru": _of("CYRILLIC", "и в не на я что он с как это но по за от для мы вы они так у же бы был", "ыэё"),
    "uk": _of("CYRILLIC", "і в не на я що він з як це але по за від для ми ви вони так у та й є", "їєґ"),
    "bg": _of("CYRILLIC", "и в не на аз че той с как това но по за от да ще се са съм е ни ви като", ""),
    "ar": _of("ARABIC", "في من على إلى هذا أن هو هي ما لا كان مع عن هذه التي الذي أنا كل لم و", "ةىإأك"),
    "fa": _of("ARABIC", "و در به از که این است را با برای آن یک می ما من تو بود هم شد", "پچژگ"),
    "ur": _of("ARABIC", "ہے اور کے کی کا میں سے کو یہ پر نہیں ہیں کہ تھا بھی ایک ہم وہ", "ٹڈڑںےہھ"),
    "hi": _of("DEVANAGARI", "है हैं और का की के में से को नहीं यह था पर भी मैं हूँ हूं एक कि ने तो हम आप वह थी थे"),
    "mr": _of("DEVANAGARI", "आहे आहेत आणि मी तो ती हे नाही होते होता या एक मला आपण ते का पण साठी माझ्या", "ळ"),
    "ne": _of("DEVANAGARI", "छ छन् र हो यो मा पनि छैन म तपाईं गर्न भएको हुन्छ लागि थियो हामी एक गर्छ"),
    "bn": _of("BENGALI"),
    "gu": _of("GUJARATI"),
    "pa": _of("GURMUKHI"),
    "ta": _of("TAMIL"),
    "te": _of("TELUGU"),
    "kn": _of("KANNADA"),
    "ml": _of("MALAYALAM"),
    "th": _of("THAI"),
    "ko": _of("HANGUL"),
    "ja": _of("HIRAGANA|KATAKANA|CJK"),
    "zh-cn": _of("CJK"),
    "he": _of("HEBREW"),
    "el": _of("GREEK"),
}  # fmt: skip
"""ISO 639-1 code, in the spelling of langdetect -> language."""
