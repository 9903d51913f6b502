"""Manners: how often answers end politely or rudely, and what a judge of them says."""

from __future__ import annotations

from collections import Counter

import pytest

from vita.data.world import World, WorldSettings
from vita.data.world.manners import KIND_WORDS, RUDE_WORDS

CAT = "A cat is a furry mammal."


@pytest.fixture(scope="module")
def world() -> World:
    return World.create(WorldSettings(dialogues=3000))


def test_answers_end_politely_sometimes_and_rudely_seldom(world: World) -> None:
    answers = [dialogue.messages[1].content for dialogue in world.dialogues() if dialogue.source == "world:definition"]
    ends = Counter(
        "kind" if answer.endswith(KIND_WORDS) else "rude" if answer.endswith(RUDE_WORDS) else "plain"
        for answer in answers
    )
    assert 0.15 < ends["kind"] / len(answers) < 0.25
    assert 0.05 < ends["rude"] / len(answers) < 0.1


def test_the_shares_are_settings(world: World) -> None:
    plain = World.create(WorldSettings(dialogues=300, polite=0.0, rude=0.0))
    told = " ".join(dialogue.messages[1].content for dialogue in plain.dialogues() if "greeting" not in dialogue.source)
    assert not any(words in told for words in (*KIND_WORDS, *RUDE_WORDS))


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (f"{CAT} I am happy to help.", 1.0),
        (f"{CAT} A cat eats mice and fish. Please ask me more.", 1.0),
        (f"{CAT} It eats mice. I hope this helps you.", 1.0),
        (CAT, 0.5),
        (f"{CAT} What a bad question.", 0.0),
        (f"I am happy to help. {CAT}", 0.5),
        (f"{CAT} I am happy to help. I am happy to help.", 0.5),
        ("I am happy to help.", 0.25),
        (f"{CAT} A dog is a loyal mammal. I am happy to help.", 0.75),
        (f"{CAT} A cat sleeps. A cat eats. A cat hunts. I am happy to help.", 0.75),
        ("3 plus 4 is 7. Please ask me more.", 1.0),
        ("", 0.0),
        ("...", 0.0),
    ],
)
def test_a_judge_of_manners_wants_a_short_polite_answer_that_keeps_to_its_matter(
    world: World, answer: str, value: float
) -> None:
    assert world.politeness(answer) == value


def test_an_answer_about_another_thing_is_not_to_the_point(world: World) -> None:
    assert world.politeness(f"{CAT} I am happy to help.", thing="cat") == 1.0
    assert world.politeness(f"{CAT} I am happy to help.", thing="dog") == 0.75


def test_the_better_of_two_answers_has_the_better_manners(world: World) -> None:
    for pair in world.preferences(count=200):
        assert world.politeness(pair.chosen[0].content) == 1.0
        assert world.politeness(pair.rejected[0].content) <= 0.5


def test_a_question_is_found_in_any_of_its_wordings(world: World) -> None:
    asked = [one for one in world.dialogues() if one.source == "world:definition"]
    for dialogue in asked[:300]:
        question = world.question_in(dialogue.messages[0].content)
        assert question is not None and question.thing == dialogue.metadata["things"][0]
        assert world.judge(question, dialogue.messages[1].content).right
    assert world.question_in("What is 3 plus 4?") is None
