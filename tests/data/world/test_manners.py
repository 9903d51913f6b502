"""Politeness: the shares of polite and rude answers, and the politeness score."""

from __future__ import annotations

from collections import Counter

import pytest

from vita.data.world import World, WorldSettings
from vita.data.world.manners import KIND_WORDS, RUDE_WORDS

CAT = "A cat is a furry mammal."


@pytest.fixture(scope="module")
def world() -> World:
    return World.create(WorldSettings(dialogues=3000))


def test_answers_have_the_default_shares_of_polite_and_rude_endings(world: World) -> None:
    answers = [dialogue.messages[1].content for dialogue in world.dialogues() if dialogue.source == "world:definition"]
    endings = Counter(
        "kind" if answer.endswith(KIND_WORDS) else "rude" if answer.endswith(RUDE_WORDS) else "plain"
        for answer in answers
    )
    assert 0.15 < endings["kind"] / len(answers) < 0.25
    assert 0.05 < endings["rude"] / len(answers) < 0.1


def test_the_shares_of_polite_and_rude_answers_can_be_set(world: World) -> None:
    neutral_world = World.create(WorldSettings(dialogues=300, polite=0.0, rude=0.0))
    text = " ".join(
        dialogue.messages[1].content for dialogue in neutral_world.dialogues() if "greeting" not in dialogue.source
    )
    assert not any(words in text for words in (*KIND_WORDS, *RUDE_WORDS))


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
def test_the_politeness_score_prefers_short_polite_answers_to_the_point(
    world: World, answer: str, value: float
) -> None:
    assert world.politeness(answer) == value


def test_an_answer_about_another_thing_has_a_lower_score(world: World) -> None:
    assert world.politeness(f"{CAT} I am happy to help.", thing="cat") == 1.0
    assert world.politeness(f"{CAT} I am happy to help.", thing="dog") == 0.75


def test_the_chosen_answer_has_the_higher_politeness_score(world: World) -> None:
    for pair in world.preferences(count=200):
        assert world.politeness(pair.chosen[0].content) == 1.0
        assert world.politeness(pair.rejected[0].content) <= 0.5


def test_a_question_is_recognized_in_every_wording(world: World) -> None:
    dialogues = [candidate for candidate in world.dialogues() if candidate.source == "world:definition"]
    for dialogue in dialogues[:300]:
        question = world.question_in(dialogue.messages[0].content)
        assert question is not None and question.thing == dialogue.metadata["things"][0]
        assert world.judge(question, dialogue.messages[1].content).right
    assert world.question_in("What is 3 plus 4?") is None
