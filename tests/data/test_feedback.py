"""From what users said to what can be learnt."""

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


def _said(number: int, kind: Kind, answer: str = "A cat.", **more) -> FeedbackRecord:
    given = {"prompt": QUESTION, "consent": True, "who": f"user{number}", **more}
    return FeedbackRecord(f"f{number}", kind, f"r{number}", "m" * 64, answer=answer, **given)


def _reasons(*said: FeedbackRecord, **cleaning) -> list[str]:
    return [drop.reason for drop in refine(said, FeedbackFilter(**cleaning)).drops]


def test_a_vote_and_an_edit_give_a_pair_each_with_its_lineage():
    found = refine(
        [_said(1, "vote", "Good.", value=1, rejected="Bad."), _said(2, "edit", "Old.", better="New.")], FeedbackFilter()
    )
    assert [(p.chosen[0].content, p.rejected[0].content) for p in found.pairs] == [("Good.", "Bad."), ("New.", "Old.")]
    assert found.pairs[0].metadata == {"requests": ["r1"], "models": ["m" * 64], "feedback": ["f1"], "votes": 1}
    assert [dialogue.messages[-1].content for dialogue in found.dialogues] == ["New."]


def test_thumbs_up_and_down_on_one_prompt_meet_in_pairs_and_the_rest_stays_single():
    said = [_said(1, "thumb", "Good.", value=1), _said(2, "thumb", "Bad.", value=-1)]
    other = _said(3, "thumb", "Alone.", value=-1, prompt=(Message("user", "What is a dog?"),))
    found = refine([*said, other], FeedbackFilter())
    assert [(p.chosen[0].content, p.rejected[0].content) for p in found.pairs] == [("Good.", "Bad.")]
    assert found.pairs[0].metadata["requests"] == ["r1", "r2"]
    assert [(one.answer[0].content, one.good) for one in found.rated] == [("Alone.", False)]


def test_voices_on_the_same_two_answers_are_counted_whichever_side_they_take():
    for_a = [_said(i, "vote", "A.", value=1, rejected="B.") for i in range(3)]
    for_b = _said(9, "vote", "B.", value=1, rejected="A.")
    (pair,) = refine([*for_a, for_b], FeedbackFilter()).pairs
    assert (pair.chosen[0].content, pair.margin, pair.metadata["votes"]) == ("A.", 0.5, 4)
    assert _reasons(for_a[0], for_b) == ["disputed"]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (_said(1, "thumb", value=1, consent=False), "no consent"),
        (_said(1, "thumb", "  ", value=1), "empty answer"),
        (_said(1, "thumb", "x" * 5000, value=1), "answer too long"),
        (_said(1, "vote", "A.", value=0, rejected="B."), "tie"),
        (_said(1, "flag", reason="rude"), "flag without other feedback"),
        (_said(1, "edit", "Same.", better="Same."), "equal answers"),
        (_said(1, "thumb", value=1, prompt=()), "no prompt"),
    ],
)
def test_what_cannot_be_used_is_dropped_with_its_reason(said, reason):
    assert _reasons(said) == [reason]


def test_who_changes_their_mind_is_heard_with_the_last_word():
    first, later = (_said(n, "thumb", "Good.", value=value) for n, value in ((1, 1), (2, -1)))
    for who in ("ann", None):
        found = refine([replace(one, who=who, request="r1") for one in (first, later)], FeedbackFilter())
        assert [one.good for one in found.rated] == [False]
        assert [(drop.id, drop.reason) for drop in found.drops] == [(first.id, "superseded")]
    votes = [
        _said(n, "vote", chosen, value=1, rejected=other, who="ann")
        for n, chosen, other in ((1, "A.", "B."), (2, "B.", "A."))
    ]
    (pair,) = refine(votes, FeedbackFilter()).pairs
    assert pair.chosen[0].content == "B." and pair.metadata["votes"] == 1


def test_answers_that_differ_in_private_things_only_are_alike():
    edit = _said(1, "edit", "Ask ann@a.org.", better="Ask bob@b.org.")
    found = refine([edit], FeedbackFilter(), redact=lambda text: re.sub(r"\S+@\S+", "[address]", text))
    assert not found.pairs and [drop.reason for drop in found.drops] == ["equal answers"]


def test_one_user_counts_once_for_a_thing_and_no_more_than_allowed():
    twice = [_said(1, "thumb", value=1)] * 2
    assert _reasons(*twice) == ["duplicate"]
    many = [_said(i, "thumb", f"answer {i}", value=1, who="busy") for i in range(4)]
    assert _reasons(*many, max_per_user=3) == ["limit per user"]


def test_prompts_that_the_model_is_tested_on_are_kept_out():
    tested = ["what is a CAT", "one two three four five six seven eight nine ten"]
    found = refine([_said(1, "thumb", value=1)], FeedbackFilter(), test_texts=tested)
    assert [drop.reason for drop in found.drops] == ["evaluation prompt"]
    overlap = OverlapIndex(tested, words=8)
    assert "and two three four five six seven eight nine then" in overlap
    assert "two three four five six seven eight" not in overlap


def test_what_is_private_does_not_reach_the_training_data():
    found = refine(
        [_said(1, "edit", "Ann.", better="Ben.")], FeedbackFilter(), redact=lambda text: text.replace("Ben", "[name]")
    )
    assert found.pairs[0].chosen[0].content == "[name]."


def test_reading_gives_what_was_written(tmp_path):
    said = [_said(1, "vote", "Good.", value=1, rejected="Bad."), _said(2, "flag", reason="rude")]
    assert write_feedback(said, tmp_path) == 2
    assert list(read_feedback(tmp_path)) == said


def test_a_row_that_is_no_feedback_is_named(tmp_path):
    (tmp_path / "feedback.jsonl").write_text('{"id": "x"}\n')
    with pytest.raises(DataError, match=r"feedback.jsonl:1: is not a feedback record"):
        list(read_feedback(tmp_path))


def test_a_voice_with_any_character_of_a_line_s_end_is_read_again(tmp_path):
    said = _said(1, "thumb", "one\u2028two\x85three\nfour", value=1)
    assert write_feedback([said], tmp_path) == 1
    assert list(read_feedback(tmp_path)) == [said]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "thumb", "value": None}, "expected a thumb's `value` of 1 or -1"),
        ({"kind": "thumb", "value": "1"}, "expected a thumb's `value` of 1 or -1"),
        ({"answer": None}, "expected texts"),
        ({"better": 7}, "expected texts"),
    ],
)
def test_a_row_that_is_no_voice_is_refused_by_its_place(tmp_path, change, message):
    write_feedback([_said(1, "thumb", value=1)], tmp_path)
    path = tmp_path / "feedback.jsonl"
    path.write_text(json.dumps(json.loads(path.read_text()) | change) + "\n")
    with pytest.raises(DataError, match=rf"feedback\.jsonl:1: {message}"):
        list(read_feedback(tmp_path))


def test_a_file_that_is_not_utf_8_is_refused(tmp_path):
    (tmp_path / "feedback.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="is not UTF-8"):
        list(read_feedback(tmp_path))


def test_thousands_of_thumbs_on_one_prompt_take_bounded_memory():
    said = [_thumb(n, f"answer {n}", 1 if n % 2 else -1) for n in range(4000)]
    tracemalloc.start()
    found = refine(said, FeedbackFilter())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found.pairs) == FeedbackFilter().max_pairs_per_prompt
    (drop,) = found.drops
    assert (drop.reason, drop.detail) == ("limit per prompt", f"{2000 * 2000 - 8} more pairs of answers")
    assert peak < 60e6, "all four million pairs would take 2 GB"


def test_a_prompt_on_which_nobody_agrees_is_given_up_after_a_number_of_pairs():
    said = [_thumb(f"{n}/{value}", f"answer {n}", value) for n in range(200) for value in (1, -1)]
    found = refine(said, FeedbackFilter(max_pairs_per_prompt=1))
    assert not found.pairs and len(found.drops) == 65
    assert found.drops[-1].detail == f"{200 * 199 // 2 - 64} more pairs of answers"


def test_a_changed_thumb_or_edit_of_the_same_person_counts_once():
    thumbs = [replace(_thumb(n, "yes", value), request="r") for n, value in enumerate((1, 1, -1))]
    found = refine(thumbs, FeedbackFilter())
    assert [one.good for one in found.rated] == [False]
    edits = [replace(thumbs[0], id=f"e{n}", kind="edit", better=text) for n, text in enumerate(("first", "second"))]
    found = refine(edits, FeedbackFilter())
    assert [one.messages[-1].content for one in found.dialogues] == ["second"] and len(found.pairs) == 1


def _thumb(number: object, answer: str, value: float) -> FeedbackRecord:
    prompt = (Message("user", "What is a cat?"),)
    return FeedbackRecord(f"f{number}", "thumb", f"r{number}", "m", prompt, answer, value=value, consent=True)
