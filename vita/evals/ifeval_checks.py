"""The checks of verifiable instructions, under the names of IFEval (Zhou et al. 2023).

    @CHECKS.add("punctuation:no_comma")
    def no_comma(answer: str) -> bool: ...

A check takes the answer and the settings of the instruction (`num_words=300`). It returns None where it cannot
decide, which never counts as followed. The meaning of an instruction is that of its wording in the prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Literal

from vita.evals.language_id import speaks
from vita.spine.registry import Registry

Check = Callable[..., bool | None]
Relation = Literal["at least", "less than"]

CHECKS: Registry[Check] = Registry("check", plural="instruction_checks")
"""instruction id -> function that checks an answer."""


# -- words and letters


@CHECKS.add("keywords:existence")
def existence(answer: str, *, keywords: Sequence[str]) -> bool:
    """Every keyword occurs, in any case, also inside a longer word."""
    return all(word.lower() in answer.lower() for word in keywords)


@CHECKS.add("keywords:frequency")
def frequency(answer: str, *, keyword: str, frequency: int, relation: Relation) -> bool:
    """A keyword occurs at least (or less than) `frequency` times."""
    return _related(answer.lower().count(keyword.strip().lower()), relation, frequency)


@CHECKS.add("keywords:forbidden_words")
def forbidden_words(answer: str, *, forbidden_words: Sequence[str]) -> bool:
    """None of the words occurs as a separate word."""
    return not any(re.search(rf"\b{re.escape(word)}\b", answer, re.IGNORECASE) for word in forbidden_words)


@CHECKS.add("keywords:letter_frequency")
def letter_frequency(answer: str, *, letter: str, let_frequency: int, let_relation: Relation) -> bool:
    """A letter (or another character) occurs at least (or less than) `let_frequency` times."""
    return _related(answer.lower().count(letter.lower()), let_relation, let_frequency)


@CHECKS.add("change_case:capital_word_frequency")
def capital_words(answer: str, *, capital_frequency: int, capital_relation: Relation) -> bool:
    """At least (or less than) `capital_frequency` words are written in capitals."""
    words = re.findall(r"\w+(?:['’-]\w+)*", answer)
    return _related(sum(word.isupper() for word in words), capital_relation, capital_frequency)


@CHECKS.add("change_case:english_capital")
def english_capital(answer: str) -> bool | None:
    """The answer is English, without lowercase letters."""
    return answer.isupper() and speaks(answer, "en")


@CHECKS.add("change_case:english_lowercase")
def english_lowercase(answer: str) -> bool | None:
    """The answer is English, without capital letters."""
    return answer.islower() and speaks(answer, "en")


@CHECKS.add("language:response_language")
def response_language(answer: str, *, language: str) -> bool | None:
    """The whole answer is in this language."""
    return speaks(answer, language)


@CHECKS.add("punctuation:no_comma")
def no_comma(answer: str) -> bool:
    """The answer has no comma."""
    return "," not in answer


# -- lengths


@CHECKS.add("length_constraints:number_words")
def number_words(answer: str, *, num_words: int, relation: Relation) -> bool:
    """The answer has at least (or less than) `num_words` words."""
    return _related(len(re.findall(r"\w+", answer)), relation, num_words)


@CHECKS.add("length_constraints:number_sentences")
def number_sentences(answer: str, *, num_sentences: int, relation: Relation) -> bool:
    """The answer has at least (or less than) `num_sentences` sentences."""
    return _related(len(sentences(answer)), relation, num_sentences)


@CHECKS.add("length_constraints:number_paragraphs")
def number_paragraphs(answer: str, *, num_paragraphs: int) -> bool:
    """The answer has exactly `num_paragraphs` paragraphs, divided by `***`; it may begin or end with a divider."""
    return _exactly(re.split(r"\s?\*\*\*\s?", answer), num_paragraphs) is not None


@CHECKS.add("length_constraints:nth_paragraph_first_word")
def nth_paragraph_first_word(answer: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """The answer has `num_paragraphs` paragraphs divided by empty lines, and the nth begins with `first_word`."""
    paragraphs = [part.strip() for part in re.split(r"\n\n", answer) if part.strip()]
    if len(paragraphs) != num_paragraphs or not 1 <= nth_paragraph <= len(paragraphs):
        return False
    match = re.match(r"[\W_]*([\w'’-]*)", paragraphs[nth_paragraph - 1])
    return match is not None and match[1].lower() == first_word.lower()


# -- forms


@CHECKS.add("detectable_content:number_placeholders")
def number_placeholders(answer: str, *, num_placeholders: int) -> bool:
    """The answer has at least `num_placeholders` placeholders in square brackets."""
    return len(re.findall(r"\[.*?\]", answer)) >= num_placeholders


@CHECKS.add("detectable_content:postscript")
def postscript(answer: str, *, postscript_marker: str) -> bool:
    """The answer has a postscript with this marker; its dots may be followed by spaces."""
    letters = [letter for letter in postscript_marker.lower() if letter.isalnum()]
    if letters in (["p", "s"], ["p", "p", "s"]):
        pattern = r"\.\s?".join(letters) + (r"\." if letters == ["p", "s"] else "")
    else:
        pattern = re.escape(postscript_marker.strip().lower())
    return re.search(pattern, answer.lower()) is not None


@CHECKS.add("detectable_format:number_bullet_lists")
def number_bullets(answer: str, *, num_bullets: int) -> bool:
    """The answer has exactly `num_bullets` bullet points, which are lines that begin with `*` or `-`."""
    return len(re.findall(r"^\s*(?:\*(?!\*)|-(?!-)).*\S", answer, re.MULTILINE)) == num_bullets


@CHECKS.add("detectable_format:constrained_response")
def constrained_response(answer: str) -> bool:
    """The answer contains one of the three permitted answers."""
    return any(f"My answer is {word}." in answer for word in ("yes", "no", "maybe"))


@CHECKS.add("detectable_format:number_highlighted_sections")
def highlighted_sections(answer: str, *, num_highlights: int) -> bool:
    """The answer has at least `num_highlights` sections between single or double asterisks."""
    bold = re.findall(r"\*\*([^\n*]*)\*\*", answer)
    slanted = re.findall(r"\*([^\n*]*)\*", re.sub(r"\*\*[^\n*]*\*\*", " ", answer))
    return sum(bool(section.strip()) for section in bold + slanted) >= num_highlights


@CHECKS.add("detectable_format:multiple_sections")
def multiple_sections(answer: str, *, section_spliter: str, num_sections: int) -> bool:
    """The answer has at least `num_sections` sections, each headed by this word and a number."""
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", answer)) >= num_sections


@CHECKS.add("detectable_format:json_format")
def json_format(answer: str) -> bool:
    """The whole answer is JSON; a Markdown code fence around it is allowed."""
    bare = re.sub(r"^```(?:json)?|```$", "", answer.strip(), flags=re.IGNORECASE)
    try:
        json.loads(bare)
    except (ValueError, RecursionError):
        return False
    return True


@CHECKS.add("detectable_format:title")
def title(answer: str) -> bool:
    """The answer has a title in double angle brackets."""
    return any(bracketed.strip("<> \t") for bracketed in re.findall(r"<<[^\n]+?>>", answer))


# -- the whole answer


@CHECKS.add("combination:repeat_prompt")
def repeat_prompt(answer: str, *, prompt_to_repeat: str) -> bool:
    """The answer begins with a verbatim repetition of the prompt."""
    return answer.strip().lower().startswith(prompt_to_repeat.strip().lower())


@CHECKS.add("combination:two_responses")
def two_responses(answer: str) -> bool:
    """The answer has exactly two different responses, divided by six asterisks."""
    responses = _exactly(answer.split("******"), 2)
    return responses is not None and responses[0] != responses[1]


@CHECKS.add("startend:end_checker")
def ends_with(answer: str, *, end_phrase: str) -> bool:
    """The answer ends with this phrase; a quotation mark may follow."""
    return answer.strip().strip('"').strip().lower().endswith(end_phrase.strip().strip('"').strip().lower())


@CHECKS.add("startend:quotation")
def quotation(answer: str) -> bool:
    """The whole answer is in double quotation marks."""
    bare = answer.strip()
    return len(bare) > 1 and bare[0] == bare[-1] == '"'


# -- helpers


def sentences(text: str) -> list[str]:
    """Split a text after full stops, question and exclamation marks, but not after abbreviations or inside numbers."""
    joined = " ".join(text.split())
    shielded = _SHIELD.sub(lambda match: match.group().replace(".", "\0"), joined)
    parts = re.split(r"(?<=[.!?])[\"'”’)\]*_]*(?:\s+|$)", shielded)
    return [part.replace("\0", ".") for part in parts if re.search(r"\w", part)]


_SHIELD = re.compile(
    r"\b(?:(?:Mr|Mrs|Ms|Dr|St|Prof|Capt|Lt|Col|Gen|Mt|Inc|Ltd|Jr|Sr|Co|vs|etc|Ph\.D|e\.g|i\.e|a\.m|p\.m|No|Fig)\."
    r"|(?:[A-Za-z]\.){2,}|[A-Z]\.(?=\s[A-Z][a-z]))|(?:^|(?<=\s))\d+\.(?=\s)"
)


def _related(count: int, relation: str, number: int) -> bool:
    return count >= number if relation == "at least" else count < number


def _exactly(parts: Sequence[str], count: int) -> list[str] | None:
    """Return the non-empty parts if there are exactly `count`, and no empty part between others; else None."""
    stripped = [part.strip() for part in parts]
    inside = stripped[1:-1] if len(stripped) > 2 else []
    nonempty = [part for part in stripped if part]
    return nonempty if len(nonempty) == count and all(inside) else None
