"""Refining user feedback into preference pairs, dialogues and rated answers."""

from __future__ import annotations

import json
import re
import tracemalloc
from dataclasses import replace

import pytest

from vita.data.feedback import FeedbackFilter, FeedbackRecord, Kind, OverlapIndex, read_feedback, refine, write_feedback
from vita.data.records import Message
from vita.spine.errors import DataError

QUESTION = (Message("user", "What is a cat?"),)


def _feedback(number: int, kind: Kind, answer: str = "A cat.", **changes) -> FeedbackRecord:
    fields = {"prompt": QUESTION, "consent": True, "who": f"user{number}", **changes}
    return FeedbackRecord(f"f{number}", kind, f"r{number}", "m" * 64, answer=answer, **fields)


def _drop_reasons(*records: FeedbackRecord, **settings) -> list[str]:
    return [drop.reason for drop in refine(records, FeedbackFilter(**settings)).drops]


def test_votes_and_edits_give_pairs_with_their_lineage():
    refined = refine(
        [_feedback(1, "vote", "Good.", value=1, rejected="Bad."), _feedback(2, "edit", "Old.", better="New.")],
        FeedbackFilter(),
    )
    assert [(p.chosen[0].content, p.rejected[0].content) for p in refined.pairs] == [
        ("Good.", "Bad."),
        ("New.", "Old."),
    ]
    assert refined.pairs[0].metadata == {"requests": ["r1"], "models": ["m" * 64], "feedback": ["f1"], "votes": 1}
    assert [dialogue.messages[-1].content for dialogue in refined.dialogues] == ["New."]


def test_thumbs_up_and_down_on_one_prompt_form_pairs():
    records = [_feedback(1, "thumb", "Good.", value=1), _feedback(2, "thumb", "Bad.", value=-1)]
    single_record = _feedback(3, "thumb", "Alone.", value=-1, prompt=(Message("user", "What is a dog?"),))
    refined = refine([*records, single_record], FeedbackFilter())
    assert [(p.chosen[0].content, p.rejected[0].content) for p in refined.pairs] == [("Good.", "Bad.")]
    assert refined.pairs[0].metadata["requests"] == ["r1", "r2"]
    assert [(rated_answer.answer[0].content, rated_answer.good) for rated_answer in refined.rated] == [
        ("Alone.", False)
    ]


def test_opposing_votes_on_two_answers_are_counted_together():
    for_a = [_feedback(i, "vote", "A.", value=1, rejected="B.") for i in range(3)]
    for_b = _feedback(9, "vote", "B.", value=1, rejected="A.")
    (pair,) = refine([*for_a, for_b], FeedbackFilter()).pairs
    assert (pair.chosen[0].content, pair.margin, pair.metadata["votes"]) == ("A.", 0.5, 4)
    assert _drop_reasons(for_a[0], for_b) == ["disputed"]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (_feedback(1, "thumb", value=1, consent=False), "no consent"),
        (_feedback(1, "thumb", "  ", value=1), "empty answer"),
        (_feedback(1, "thumb", "x" * 5000, value=1), "answer too long"),
        (_feedback(1, "vote", "A.", value=0, rejected="B."), "tie"),
        (_feedback(1, "flag", reason="rude"), "flag without other feedback"),
        (_feedback(1, "edit", "Same.", better="Same."), "equal answers"),
        (_feedback(1, "thumb", value=1, prompt=()), "no prompt"),
    ],
)
def test_unusable_feedback_is_dropped_with_a_reason(record, reason):
    assert _drop_reasons(record) == [reason]


def test_the_newest_feedback_of_a_user_replaces_earlier_feedback():
    first_record, second_record = (_feedback(n, "thumb", "Good.", value=value) for n, value in ((1, 1), (2, -1)))
    for user in ("ann", None):
        refined = refine(
            [replace(record, who=user, request="r1") for record in (first_record, second_record)], FeedbackFilter()
        )
        assert [record.good for record in refined.rated] == [False]
        assert [(drop.id, drop.reason) for drop in refined.drops] == [(first_record.id, "superseded")]
    votes = [
        _feedback(n, "vote", chosen, value=1, rejected=rejected, who="ann")
        for n, chosen, rejected in ((1, "A.", "B."), (2, "B.", "A."))
    ]
    (pair,) = refine(votes, FeedbackFilter()).pairs
    assert pair.chosen[0].content == "B." and pair.metadata["votes"] == 1


def test_answers_that_differ_only_in_personal_data_are_equal():
    edit = _feedback(1, "edit", "Ask ann@a.org.", better="Ask bob@b.org.")
    refined = refine([edit], FeedbackFilter(), redact=lambda text: re.sub(r"\S+@\S+", "[address]", text))
    assert not refined.pairs and [drop.reason for drop in refined.drops] == ["equal answers"]


def test_duplicates_and_too_many_records_of_a_user_are_dropped():
    duplicates = [_feedback(1, "thumb", value=1)] * 2
    assert _drop_reasons(*duplicates) == ["duplicate"]
    records = [_feedback(i, "thumb", f"answer {i}", value=1, who="busy") for i in range(4)]
    assert _drop_reasons(*records, max_per_user=3) == ["limit per user"]


def test_evaluation_prompts_are_dropped():
    test_texts = ["what is a CAT", "one two three four five six seven eight nine ten"]
    refined = refine([_feedback(1, "thumb", value=1)], FeedbackFilter(), test_texts=test_texts)
    assert [drop.reason for drop in refined.drops] == ["evaluation prompt"]
    overlap = OverlapIndex(test_texts, words=8)
    assert "and two three four five six seven eight nine then" in overlap
    assert "two three four five six seven eight" not in overlap


def test_personal_data_is_redacted():
    refined = refine(
        [_feedback(1, "edit", "Ann.", better="Ben.")],
        FeedbackFilter(),
        redact=lambda text: text.replace("Ben", "[name]"),
    )
    assert refined.pairs[0].chosen[0].content == "[name]."


def test_read_feedback_equals_the_written_feedback(tmp_path):
    records = [_feedback(1, "vote", "Good.", value=1, rejected="Bad."), _feedback(2, "flag", reason="rude")]
    assert write_feedback(records, tmp_path) == 2
    assert list(read_feedback(tmp_path)) == records


def test_a_row_without_feedback_is_refused_with_its_line(tmp_path):
    (tmp_path / "feedback.jsonl").write_text('{"id": "x"}\n')
    with pytest.raises(DataError, match=r"feedback.jsonl:1: is not a feedback record"):
        list(read_feedback(tmp_path))


def test_an_answer_with_line_separators_is_restored(tmp_path):
    record = _feedback(1, "thumb", "one\u2028two\x85three\nfour", value=1)
    assert write_feedback([record], tmp_path) == 1
    assert list(read_feedback(tmp_path)) == [record]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "thumb", "value": None}, "expected a thumb's `value` of 1 or -1"),
        ({"kind": "thumb", "value": "1"}, "expected a thumb's `value` of 1 or -1"),
        ({"answer": None}, "expected texts"),
        ({"better": 7}, "expected texts"),
    ],
)
def test_an_invalid_record_is_refused_with_its_line(tmp_path, change, message):
    write_feedback([_feedback(1, "thumb", value=1)], tmp_path)
    path = tmp_path / "feedback.jsonl"
    path.write_text(json.dumps(json.loads(path.read_text()) | change) + "\n")
    with pytest.raises(DataError, match=rf"feedback\.jsonl:1: {message}"):
        list(read_feedback(tmp_path))


def test_a_file_that_is_not_utf_8_is_refused(tmp_path):
    (tmp_path / "feedback.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="is not UTF-8"):
        list(read_feedback(tmp_path))


def test_thousands_of_thumbs_on_one_prompt_take_bounded_memory():
    records = [_thumb(n, f"answer {n}", 1 if n % 2 else -1) for n in range(4000)]
    tracemalloc.start()
    refined = refine(records, FeedbackFilter())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(refined.pairs) == FeedbackFilter().max_pairs_per_prompt
    (drop,) = refined.drops
    assert (drop.reason, drop.detail) == ("limit per prompt", f"{2000 * 2000 - 8} more pairs of answers")
    assert peak < 60e6, "all four million pairs would take 2 GB"


def test_disputed_pairs_of_a_prompt_are_limited():
    records = [_thumb(f"{n}/{value}", f"answer {n}", value) for n in range(200) for value in (1, -1)]
    refined = refine(records, FeedbackFilter(max_pairs_per_prompt=1))
    assert not refined.pairs and len(refined.drops) == 65
    assert refined.drops[-1].detail == f"{200 * 199 // 2 - 64} more pairs of answers"


def test_a_changed_thumb_or_edit_of_the_same_user_counts_once():
    thumbs = [replace(_thumb(n, "yes", value), request="r") for n, value in enumerate((1, 1, -1))]
    refined = refine(thumbs, FeedbackFilter())
    assert [result.good for result in refined.rated] == [False]
    edits = [replace(thumbs[0], id=f"e{n}", kind="edit", better=text) for n, text in enumerate(("first", "second"))]
    refined = refine(edits, FeedbackFilter())
    assert [result.messages[-1].content for result in refined.dialogues] == ["second"] and len(refined.pairs) == 1


def _thumb(number: object, answer: str, value: float) -> FeedbackRecord:
    prompt = (Message("user", "What is a cat?"),)
    return FeedbackRecord(f"f{number}", "thumb", f"r{number}", "m", prompt, answer, value=value, consent=True)
