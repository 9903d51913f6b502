"""Frequent function words by language, for the rule that prose contains stop words.

The rule of Gopher (Rae et al. 2021, section A.1.1) has eight English words. The other lists contain 14 to 18 frequent
words of the language. A language without a list has no rule.
"""

from __future__ import annotations

from typing import Any

from vita.data.curation.language import supported_languages

ENGLISH = ("the", "be", "to", "of", "and", "that", "have", "with")
"""The words of Gopher."""

STOP_WORDS: dict[str, tuple[str, ...]] = {
    "en": ENGLISH,
    **{
        language: tuple(words.split())
        for language, words in {
            "af": "die en van in is het nie dat op te om vir met ek word",
            "ar": "في من على أن إلى عن ما هذا لا التي الذي هو كان مع و",
            "bg": "и на да се в за от не са че с по като е това",
            "ca": "de la i el que a en un per una els les amb no del",
            "cs": "a v se na je že s z do o i to ve pro jako",
            "da": "og i at det er en til på som af de for den med ikke",
            "de": "der die und in den von zu das mit sich des auf für ist im nicht eine",
            "el": "και το να η του της ο την με που από για τα στο είναι",
            "es": "de la que el en y a los se del las un por con una para es",
            "et": "ja on ei et see oli ka mis kui aga oma ta või siis nii",
            "fa": "و در به از که این را با است برای آن یک می تا بر",
            "fi": "ja on ei että se hän oli joka mutta ovat kun niin myös tai kuin",
            "fr": "de la le et les des en un une du que est pour dans qui à il",
            "gl": "de a o que e do da en un para con non unha os se",
            "he": "של את על לא הוא עם זה כי גם היא אל או כל אני יש",
            "hi": "के में है की और को से का यह पर हैं ने कि एक नहीं",
            "hr": "i u je na se da za su od a ne s kao koji to",
            "hu": "a az és hogy nem is egy meg ez de csak volt van mint el",
            "id": "yang dan di dari dengan untuk pada dalam ini itu adalah ke tidak akan oleh",
            "is": "og að í á er sem til það en við um var af með fyrir ekki",
            "it": "di e il la che in un per è una del sono con non i",
            "lt": "ir yra kad į iš su tai kaip bet buvo ne jo už dėl ar",
            "lv": "un ir ka no uz ar par bet kas to kā lai bija tas pie",
            "mk": "и на во да се од за не со е што ги го како",
            "nl": "de het een en van in is dat op te zijn met voor niet aan",
            "no": "og i det er på en som til av for at med har de ikke",
            "pl": "i w na z się nie do to że o jest za od po jak",
            "pt": "de a o que e do da em um para é com não uma os",
            "ro": "și de în la a cu pe care nu o că din un este pentru",
            "ru": "и в не на что с по это как к из у от за но",
            "sk": "a v sa na je že s z do o to ako pre aj sú",
            "sl": "in v je na se da za so ne ki z s pa kot bi",
            "sr": "и у је на се да за су од а не са као који то",
            "sv": "och i att det som en på är av för med till den har inte",
            "tr": "ve bir bu da de için ile olarak çok ne daha gibi olan en ki",
            "uk": "і в на що не з та до у як за від це для є",
            "vi": "và của là có một được trong cho không các với người những này đã",
        }.items()
    },
}
"""Language (ISO 639-1) -> its stop words."""


def stop_words_of(language: Any) -> tuple[str, ...]:
    """Return the stop words of an identified language: English ones if it is unknown, none if it has no list."""
    if language in STOP_WORDS:
        return STOP_WORDS[language]
    return () if language in supported_languages() else ENGLISH
