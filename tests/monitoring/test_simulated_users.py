"""Simulated users with prompts of a source complain about answers with a low reward."""

from __future__ import annotations

from vita.data.records import Message
from vita.data.sources.prompts import Prompt
from vita.data.world.users import ERROR_RATE
from vita.monitoring.simulated_users import PromptUsers
from vita.rl.rewards import RewardChoice, Rewards

PROMPTS = [Prompt(word, (Message("user", f"Say {word}."),), "a file", {"wanted": word}) for word in ("mu", "ba", "ko")]


def simulated_users(reward: RewardChoice) -> PromptUsers:
    return PromptUsers(PROMPTS, Rewards.open([reward], where="complaint_reward"))


USERS = simulated_users(RewardChoice(use="matches", options={"pattern": r"\.$"}))


def test_every_prompt_is_used_before_one_is_repeated():
    visits = list(USERS.sessions(30, seed=1))
    assert visits == list(USERS.sessions(30, seed=1)) != list(USERS.sessions(30, seed=2))
    prompts = [visit.prompt for visit in visits]
    assert all(len(set(prompts[start : start + 3])) == 3 for start in range(0, 30, 3))
    assert {visit.answers for visit in visits} == {1, 2} and len({visit.who for visit in visits}) > 5


def test_an_answer_with_half_a_reward_or_more_gets_no_complaint():
    visit = next(USERS.sessions(1, seed=0))
    assert not USERS.complains_about(visit, "Mu.") and USERS.complains_about(visit, "Mu and")


def test_the_reward_of_simulated_users_receives_the_columns_of_the_prompt(tmp_path):
    (tmp_path / "wanted.py").write_text(
        "def said(completions, wanted, **more):\n"
        "    return [None if not text else float(word in text) for text, word in zip(completions, wanted)]\n"
    )
    users = simulated_users(RewardChoice.model_validate(f"{tmp_path}/wanted.py:said"))
    for visit in users.sessions(3, seed=0):
        word = visit.prompt[0].content[4:6]
        assert (
            not users.complains_about(visit, f"well, {word}")
            and users.complains_about(visit, "well")
            and not users.complains_about(visit, "")
        )


def test_simulated_users_vote_for_the_better_answer_with_a_rate_of_errors():
    votes, thumbs = [], []
    for visit in USERS.sessions(600, seed=0):
        reactions = USERS.react(visit, ["Mu and", "Mu."][: visit.answers], seed=0)
        (votes if visit.answers == 2 else thumbs).extend(reactions)
    assert {vote.kind for vote in votes} == {"vote"} and {thumb.kind for thumb in thumbs} == {"thumb"}
    for correct_share in (
        sum(vote.index == 1 for vote in votes) / len(votes),
        sum(thumb.value < 0 for thumb in thumbs) / len(thumbs),
    ):
        assert 1 - 3 * ERROR_RATE < correct_share < 1
