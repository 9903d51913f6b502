"""People with prompts of a source: they ask these, and mind what a reward thinks little of."""

from __future__ import annotations

from vita.data.records import Message
from vita.data.sources.prompts import Prompt
from vita.data.world.users import ERROR_RATE
from vita.monitoring.simulated_users import PromptUsers
from vita.rl.rewards import RewardChoice, Rewards

PROMPTS = [Prompt(word, (Message("user", f"Say {word}."),), "a file", {"wanted": word}) for word in ("mu", "ba", "ko")]


def askers(reward: RewardChoice) -> PromptUsers:
    return PromptUsers(PROMPTS, Rewards.open([reward], where="complaint_reward"))


SHORT = askers(RewardChoice(use="matches", options={"pattern": r"\.$"}))


def test_every_prompt_is_asked_before_one_is_asked_again():
    coming = list(SHORT.sessions(30, seed=1))
    assert coming == list(SHORT.sessions(30, seed=1)) != list(SHORT.sessions(30, seed=2))
    asked = [visit.prompt for visit in coming]
    assert all(len(set(asked[start : start + 3])) == 3 for start in range(0, 30, 3))
    assert {visit.answers for visit in coming} == {1, 2} and len({visit.who for visit in coming}) > 5


def test_an_answer_with_half_a_reward_or_more_gets_no_complaint():
    visit = next(SHORT.sessions(1, seed=0))
    assert not SHORT.complains_about(visit, "Mu.") and SHORT.complains_about(visit, "Mu and")


def test_what_they_look_at_is_told_the_columns_of_the_prompt(tmp_path):
    (tmp_path / "wanted.py").write_text(
        "def said(completions, wanted, **more):\n"
        "    return [None if not text else float(word in text) for text, word in zip(completions, wanted)]\n"
    )
    crowd = askers(RewardChoice.model_validate(f"{tmp_path}/wanted.py:said"))
    for visit in crowd.sessions(3, seed=0):
        word = visit.prompt[0].content[4:6]
        assert (
            not crowd.complains_about(visit, f"well, {word}")
            and crowd.complains_about(visit, "well")
            and not crowd.complains_about(visit, "")
        )


def test_they_vote_for_what_they_do_not_mind_and_err_now_and_then():
    votes, thumbs = [], []
    for visit in SHORT.sessions(600, seed=0):
        said = SHORT.react(visit, ["Mu and", "Mu."][: visit.answers], seed=0)
        (votes if visit.answers == 2 else thumbs).extend(said)
    assert {vote.kind for vote in votes} == {"vote"} and {thumb.kind for thumb in thumbs} == {"thumb"}
    for right in (
        sum(vote.index == 1 for vote in votes) / len(votes),
        sum(thumb.value < 0 for thumb in thumbs) / len(thumbs),
    ):
        assert 1 - 3 * ERROR_RATE < right < 1
