"""Simulated users of the built-in world: their questions, votes and complaints."""

from __future__ import annotations

from vita.data.records import Message
from vita.data.world import World, WorldSettings
from vita.data.world.users import ERROR_RATE, UserSession
from vita.data.world.visitors import COMPLAINT, WorldUsers

USERS = WorldUsers(World.create(WorldSettings(things=20)))
GOOD, BAD = "A cat is a furry mammal. I hope this helps you.", f"A cat is a furry mammal. {COMPLAINT}"


def _react(answers: list[str], *, number: int):
    prompt = (Message("user", "What is a cat?"),)
    return USERS.react(UserSession(number, "Anna", prompt, len(answers)), answers, seed=0)


def test_sessions_are_deterministic_and_ask_only_about_allowed_things():
    first, second = (list(USERS.sessions(200, seed=3)) for _ in range(2))
    assert first == second != list(USERS.sessions(200, seed=4))
    never_asked_names = {thing.name for thing in USERS.world.never_asked}
    assert not any(name in session.prompt[-1].content.split() for session in first for name in never_asked_names)


def test_users_usually_prefer_the_answer_without_the_complaint():
    votes = [reaction for number in range(300) for reaction in _react([BAD, GOOD], number=number)]
    for_good = sum(vote.index == 1 and vote.rejected == 0 for vote in votes)
    assert len(votes) == 300 and 1 - 3 * ERROR_RATE < for_good / 300 < 1
    assert _react([GOOD, GOOD], number=1) == _react([BAD, BAD], number=1) == []


def test_a_bad_answer_gets_a_thumb_down_or_an_edit():
    reactions = [reaction for number in range(200) for reaction in _react([BAD], number=number)]
    assert {reaction.kind for reaction in reactions} == {"thumb", "edit"}
    edits = [reaction.better for reaction in reactions if reaction.kind == "edit"]
    assert set(edits) == {GOOD} and not any(COMPLAINT in (text or "") for text in edits)
    good_values = [reaction.value for number in range(200) for reaction in _react([GOOD], number=number)]
    assert sum(good_values) > 160
