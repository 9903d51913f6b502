"""Each instruction with an answer that follows it and an answer that does not."""

# ruff: noqa: E501

from __future__ import annotations

from typing import Any

import pytest

from vita.evals.ifeval_checks import CHECKS, sentences
from vita.evals.language_id import LANGUAGES, speaks

TEN_WORDS = "one two three four five six seven eight nine ten"
CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("keywords:existence", {"keywords": ["cat", "dog"]}, "A Cat and two dogs.", "A cat alone."),
    ("keywords:frequency", {"keyword": "cat", "frequency": 2, "relation": "at least"}, "Cat, cat.", "One cat."),
    ("keywords:frequency", {"keyword": "cat", "frequency": 2, "relation": "less than"}, "One cat.", "Cat, cat."),
    ("keywords:forbidden_words", {"forbidden_words": ["rock"]}, "A rocket flies.", "It will Rock you."),
    ("keywords:letter_frequency", {"letter": "#", "let_frequency": 2, "let_relation": "at least"}, "#a #b", "#a b"),
    ("keywords:letter_frequency", {"letter": "A", "let_frequency": 2, "let_relation": "less than"}, "Abc", "Abca"),
    ("language:response_language", {"language": "de"}, "Das ist nicht mein Hund und er mag dich.", "This is a dog."),
    ("language:response_language", {"language": "mr"}, "मी घाईने कामावर जातो आणि बस नाही", "मैं काम पर जा रहा हूँ और बस नहीं है"),
    ("language:response_language", {"language": "hi"}, "मैं काम पर जा रहा हूँ और बस नहीं है", "मी घाईने कामावर जातो आणि बस नाही"),
    ("language:response_language", {"language": "ne"}, "यो मेरो घर हो र म यहाँ बस्छु, तर यहाँ पानी छैन", "यह मेरा घर है और मैं यहाँ हूँ"),
    ("language:response_language", {"language": "fa"}, "این یک گربه است و من آن را می‌بینم", "هذا قط في البيت وهو من أصدقائي"),
    ("language:response_language", {"language": "ur"}, "یہ ایک بلی ہے اور میں اسے دیکھتا ہوں", "این یک گربه است و من آن را می‌بینم"),
    ("language:response_language", {"language": "ar"}, "هذا قط في البيت وهو من أصدقائي", "یہ ایک بلی ہے اور میں نہیں"),
    ("language:response_language", {"language": "ru"}, "Это мой дом, и я не знаю, что он стоит.", "Wir sind und das ist nicht so."),
    ("language:response_language", {"language": "vi"}, "Tôi không có một con mèo nào và bạn cũng vậy.", "I do not have a cat."),
    ("language:response_language", {"language": "sw"}, "Paka wa kwanza ni mkubwa sana na yuko katika nyumba ya Juma.", "The cat is in the house of the man."),
    ("language:response_language", {"language": "it"}, "Il gatto è nella casa e non si muove più.", "El gato está en la casa y no se mueve."),
    ("language:response_language", {"language": "pt"}, "O gato não está em casa e você não sabe.", "Il gatto è nella casa e non si muove."),
    ("language:response_language", {"language": "fi"}, "Kissa on talossa ja se ei ole kotona, mutta minä olen.", "The cat is in the house and it is not."),
    ("language:response_language", {"language": "ko"}, "고양이는 동물입니다.", "A cat is an animal."),
    ("language:response_language", {"language": "th"}, "แมวเป็นสัตว์", "A cat is an animal."),
    ("length_constraints:number_sentences", {"num_sentences": 3, "relation": "less than"}, "Dr. Who? Yes.", "A. B c! D?"),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, "One. Two.", "Only 3.5 m"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "One\n***\nTwo\n***\n", "One\n***\n***\nTwo"),
    ("length_constraints:number_words", {"num_words": 10, "relation": "at least"}, TEN_WORDS, TEN_WORDS[:-4]),
    ("length_constraints:number_words", {"num_words": 10, "relation": "less than"}, TEN_WORDS[:-4], TEN_WORDS),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "president"},
        "One.\n\n\"President, we are here.",
        "One.\n\nThe President.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name], [street]", "[name] and (street)"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\nP.S. Call me.", "Bye. PS call me."),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye.\nP.P.S. Call me.", "Bye.\nP.S. Call me."),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "List:\n* one\n  - two\n---\n", "* one\n**two**"),
    ("detectable_format:constrained_response", {}, "Well. My answer is maybe.", "My answer is perhaps."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and **b c**", "*a* and ** **"),
    ("detectable_format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 2}, "SECTION 1 a SECTION 2 b", "SECTION 1 a SECTION b"),
    ("detectable_format:json_format", {}, '```json\n{"a": [1]}\n```', "{a: 1}"),
    ("detectable_format:title", {}, "<<A poem>>\nRoses", "<< >>\nRoses"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hello."}, " say HELLO. Hello!", "Hello! Say hello."),
    ("combination:two_responses", {}, "Yes.\n******\nNo.", "Yes.\n******\nYes."),
    ("startend:end_checker", {"end_phrase": "Peace!"}, 'And so on. peace!"', "Peace! And so on."),
    ("startend:quotation", {}, ' "All of it." ', '"Only" this'),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}, "I am OK", "Am ok, NO"),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "less than"}, "Am ok, NO", "I am OK"),
    ("change_case:english_capital", {}, "THE CAT IS IN THE HOUSE.", "The cat is in the house."),
    ("change_case:english_lowercase", {}, "the cat is in the house.", "The cat is in the house."),
    ("punctuation:no_comma", {}, "No such thing", "Well, one"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("id", "settings", "good", "bad"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_check_accepts_the_good_answer_and_rejects_the_bad_one(
    id: str, settings: dict[str, Any], good: str, bad: str
) -> None:
    assert CHECKS[id](good, **settings) is True
    assert CHECKS[id](bad, **settings) is False


def test_every_check_has_its_cases() -> None:
    assert {id for id, *_ in CASES} == set(CHECKS.names())


def test_edge_cases_of_single_checks() -> None:
    assert not CHECKS["combination:two_responses"]("a ****** b ****** c")
    assert CHECKS["combination:two_responses"]("******\na\n******\nb\n******")
    assert not CHECKS["startend:quotation"]('"')
    assert not CHECKS["detectable_format:json_format"]("[" * 100_000)
    assert not CHECKS["length_constraints:nth_paragraph_first_word"](
        "a\n\nb", num_paragraphs=2, nth_paragraph=3, first_word="a"
    )


def test_sentences_are_split_at_their_ends() -> None:
    assert len(sentences("Mr. Smith paid 3.50 dollars, e.g. for tea. Was it good? “Yes!” he said...")) == 4
    assert sentences("1. First\n2. Second") == ["1. First 2. Second"]
    assert sentences("") == [] and sentences("...") == []


def test_an_undetectable_language_gives_none() -> None:
    assert speaks("Hello", "en") is None
    assert speaks("", "de") is None and speaks("12345", "de") is None
    assert speaks("Nobody knows what this is", "xx") is None
    assert speaks("Привет", "ru") is None
    assert speaks("Привет", "en") is False
    assert set(LANGUAGES) >= {"mr", "fa", "vi", "ko", "sw", "ru", "kn", "hi", "pt", "gu", "te", "it", "ar", "ta"}
