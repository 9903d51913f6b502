"""Simulated users of a released model: users of the built-in world, or users with the prompts of a source.

    crowd = users.crowd(release.folder / "model", where="pilot")
    for session in crowd.sessions(200, seed=0): ...

Users with the prompts of a source complain about answers with a low reward, such as truncated or overlong answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random

from pydantic import Field

from vita.data.records import Message
from vita.data.sources.prompts import Prompt, prompts, unique_prompts
from vita.data.sources.source import Source
from vita.data.tokens.dialogue_encoding import encode_prompt
from vita.data.world import World, WorldSettings
from vita.data.world.users import Reaction, UserSession, UserSimulator, reactions
from vita.data.world.visitors import WorldUsers
from vita.rl.rewards import FROM_MODEL, RewardChoice, Rewards
from vita.spine.config import Settings, neutral
from vita.spine.errors import ConfigError, DataError

PEOPLE = 40
"""The number of different users of the prompts of a source."""
COMPLAINT_THRESHOLD = 0.5
"""The users complain about an answer with a lower reward."""


class SimulatedUsers(Settings):
    """The simulated users, with their number and concurrency."""

    world: WorldSettings | None = None
    """The built-in world whose users ask about its things."""
    sources: tuple[Source, ...] = ()
    """Sources of the prompts, instead of `world`: dialogues, preferences, or rows with `prompt`."""
    complaint_reward: RewardChoice | None = None
    """With `sources`: reward of an answer, by name or `file.py:function`; the users complain about an answer with less
    than 0.5."""
    sessions: int = Field(160, ge=4)
    """Number of sessions; a session is one prompt with one or two answers."""
    concurrency: int = Field(8, ge=1)
    """Number of concurrent sessions."""
    replicas: int = Field(2, ge=1)
    """Number of replicas that serve the release."""
    max_tokens: int = Field(48, ge=1)
    """Maximum tokens of an answer."""
    ungated: str | None = neutral(None, min_length=1)
    """Reason for serving a release that no gate currently approves; without a reason, such a release is rejected."""

    def crowd(self, model: Path, *, where: str) -> UserSimulator:
        """Return the users; prompts that leave no room for an answer in the context are not used."""
        if self.world is not None:
            if self.sources or self.complaint_reward:
                raise ConfigError(where, expected="one of `world` and `sources`", got="both")
            return WorldUsers(World.create(self.world))
        if not self.sources or self.complaint_reward is None:
            raise ConfigError(where, expected="`world`, or `sources` with `complaint_reward`")
        if self.complaint_reward.use == FROM_MODEL and self.complaint_reward.file is None:
            raise ConfigError(f"{where}.complaint_reward", expected="a reward that needs no model", got=FROM_MODEL)
        rewards = Rewards.open([self.complaint_reward], where=f"{where}.complaint_reward")
        unique = unique_prompts(prompt for source in self.sources for prompt in prompts(source))
        return PromptUsers(_fitting(unique, model, answer_tokens=self.max_tokens, where=where), rewards)


@dataclass(frozen=True)
class PromptUsers:
    """Users with the prompts of a source."""

    prompts: Sequence[Prompt]
    rewards: Rewards

    def sessions(self, count: int, *, seed: int) -> Iterator[UserSession]:
        """Yield the prompts in random order, repeatedly if there are too few."""
        rng = Random(f"{seed}:visits")
        shuffled: list[Prompt] = []
        for number in range(count):
            if not shuffled:
                shuffled = rng.sample(self.prompts, len(self.prompts))
            user, answers = f"user {rng.randrange(PEOPLE) + 1}", rng.choice((1, 2, 2))
            yield UserSession(number, user, shuffled.pop().messages, answers)

    def complains_about(self, session: UserSession, answer: str) -> bool:
        """Return True if the reward of the answer is below the threshold; False if it has no reward."""
        from vita.infer.engine import Completion
        from vita.rl.before_after import compute_rewards

        completion = Completion(answer, (), "stop", ())
        value = compute_rewards(
            self.rewards, [self._prompts_by_messages[session.prompt]], [completion], seed=f"{session.number}"
        ).total[0]
        return value is not None and value < COMPLAINT_THRESHOLD

    def react(self, session: UserSession, answers: Sequence[str], *, seed: int) -> list[Reaction]:
        """Return a vote or a thumb."""
        return reactions(session, answers, [self.complains_about(session, answer) for answer in answers], seed=seed)

    @cached_property
    def _prompts_by_messages(self) -> dict[tuple[Message, ...], Prompt]:
        return {prompt.messages: prompt for prompt in self.prompts}


def _fitting(candidates: Sequence[Prompt], model: Path, *, answer_tokens: int, where: str) -> list[Prompt]:
    from vita.infer.pretrained import PretrainedText

    text = PretrainedText.load(model)
    tokenizer, template = text.tokenizer, text.require_template()
    max_prompt_tokens = text.architecture.context - answer_tokens

    def fits(prompt: Prompt) -> bool:
        return len(encode_prompt(tokenizer, template, prompt.messages)) <= max_prompt_tokens

    fitting = [prompt for prompt in candidates if fits(prompt)]
    if not fitting:
        raise DataError(
            where, expected=f"prompts of at most {max_prompt_tokens} tokens", got=f"none among {len(candidates)}"
        )
    return fitting
