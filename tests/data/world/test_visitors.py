"""Visitors of the village ask what may be asked, and mind one thing."""

from __future__ import annotations

from vita.data.records import Message
from vita.data.world import World, WorldSettings
from vita.data.world.users import ERROR_RATE, UserSession
from vita.data.world.visitors import COMPLAINT, WorldUsers

VILLAGERS = WorldUsers(World.create(WorldSettings(things=20)))
GOOD, BAD = "A cat is a furry mammal. I hope this helps you.", f"A cat is a furry mammal. {COMPLAINT}"


def _react(answers: list[str], *, number: int):
    asked = (Message("user", "What is a cat?"),)
    return VILLAGERS.react(UserSession(number, "Anna", asked, len(answers)), answers, seed=0)


def test_the_same_seed_brings_the_same_visits_about_asked_things_only():
    first, second = (list(VILLAGERS.sessions(200, seed=3)) for _ in range(2))
    assert first == second != list(VILLAGERS.sessions(200, seed=4))
    silent = {thing.name for thing in VILLAGERS.world.never_asked}
    assert not any(name in visit.prompt[-1].content.split() for visit in first for name in silent)


def test_of_two_answers_the_one_without_the_complaint_wins_most_often():
    votes = [reaction for number in range(300) for reaction in _react([BAD, GOOD], number=number)]
    for_good = sum(vote.index == 1 and vote.rejected == 0 for vote in votes)
    assert len(votes) == 300 and 1 - 3 * ERROR_RATE < for_good / 300 < 1
    assert _react([GOOD, GOOD], number=1) == _react([BAD, BAD], number=1) == []


def test_a_bad_answer_gets_a_thumb_down_or_is_put_right():
    said = [reaction for number in range(200) for reaction in _react([BAD], number=number)]
    assert {reaction.kind for reaction in said} == {"thumb", "edit"}
    better = [reaction.better for reaction in said if reaction.kind == "edit"]
    assert set(better) == {GOOD} and not any(COMPLAINT in (text or "") for text in better)
    up = [reaction.value for number in range(200) for reaction in _react([GOOD], number=number)]
    assert sum(up) > 160
