"""Words of every script: Unicode white space, and scripts without spaces between words."""

from __future__ import annotations

import numpy as np
import pytest

from vita.data.curation.filters import DEFAULT_FILTERS, FilterChain, FilterUse
from vita.data.curation.page_features import PageFeatures
from vita.data.curation.scripts import main_script, unspaced_words
from vita.data.records import Document


def page(text: str) -> PageFeatures:
    return PageFeatures(Document("x", text, "s"))


@pytest.mark.parametrize("blank", [chr(code) for code in range(0x80, 0x3001) if chr(code).isspace()])
def test_every_white_space_of_unicode_separates_words(blank: str) -> None:
    unicode_page, ascii_page = page(f"The{blank}old{blank}{blank}haus mit é"), page("The old haus mit é")
    assert np.array_equal(unicode_page.words.hashes, ascii_page.words.hashes)
    assert unicode_page.words.lengths.tolist() == [3, 3, 4, 3, 1]


def test_other_characters_with_the_same_bytes_do_not_separate_words() -> None:
    assert page("“a‘b’c” ÂÀ ​x 、 ᚁ").words.lengths.tolist() == [7, 2, 2, 1, 1]
    assert page("x\u2003").words.lengths.tolist() == [1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("中华人民共和国成立。", 6),  # 9 characters of about 1.5
        ("ひらがなだけ", 3),
        ("ประเทศไทย", 2),
        ("GPT は 中华 word2", 4),  # two words of Latin letters, one of each other script
        ("plain words only", 3),
    ],
)
def test_words_of_scripts_without_spaces_are_estimated_from_their_characters(text: str, words: int) -> None:
    assert unspaced_words(text) == page(text).word_count == words


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("", "LATIN"),
        ("Größe", "LATIN"),
        ("Привет, world", "CYRILLIC"),
        ("부두를", "HANGUL"),
        ("中文 a", "CJK"),
        ("¿¡", ""),
    ],
)
def test_the_main_script_is_that_of_most_letters(text: str, script: str) -> None:
    assert main_script(text) == script


PROSE = {
    "no-break spaces": (
        "The harbour master wrote a letter to the council and asked that the old pier be mended before the winter "
        "came. He said that boats have to lie in the open, and that two of them were lost in the storm of last year. "
        "The council read it with care and told him that there was no money until the spring."
    ).replace(" ", "\u00a0"),
    "korean": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 인간은 천부적으로 이성과 양심을 "
    "부여받았으며 서로 형제애의 정신으로 행동하여야 한다. 모든 사람은 인종, 피부색, 성, 언어, 종교, 정치적 또는 기타의 "
    "견해, 민족적 또는 사회적 출신, 재산, 출생 또는 기타의 신분과 같은 어떠한 종류의 차별이 "
    "없이 이 선언에 규정된 모든 권리와 자유를 향유할 자격이 있다. "
    "더 나아가 개인이 속한 국가의 지위에 근거하여 차별이 있어서는 아니된다.",
    "chinese": "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,"
    "并应以兄弟关系的精神相对待。人人有资格享有本宣言所载的一切权利和自由,不分种族、肤色、性别、语言、宗教、政治或其他见解、国籍或社会出身、财产、出生或其他身份等任何区别。",
    "thai": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ต่างมีเหตุผลและมโนธรรม และควรปฏิบัติต่อกันด้วยเจตนารมณ์"
    "แห่งภราดรภาพ ทุกคนย่อมมีสิทธิและอิสรภาพทั้งปวงตามที่กำหนดไว้ในปฏิญญานี้ โดยปราศจากความแตกต่างไม่ว่าชนิดใด ๆ",
}


@pytest.mark.parametrize("name", PROSE)
def test_the_default_filters_keep_prose_of_other_scripts(name: str) -> None:
    filter_chain = FilterChain([FilterUse.model_validate(name) for name in DEFAULT_FILTERS])
    assert filter_chain(page(PROSE[name])) is None
    assert filter_chain(page(PROSE[name][:12])) is not None
