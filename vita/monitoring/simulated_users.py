"""Simulated users of a released model: people of the embedded world, or users with the prompts of a source.

    crowd = users.crowd(release.folder / "model", where="pilot")
    for visit in crowd.visits(200, seed=0): ...

The people of a source ask its prompts and mind what a reward thinks little of: an answer that breaks off, one that is
too long, whatever a line of Python can tell.
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
from vita.data.tokens.chat_template import encode_prompt
from vita.data.world import World, WorldSettings
from vita.data.world.users import Reaction, UserSession, UserSimulator, reactions
from vita.data.world.visitors import WorldUsers
from vita.rl.rewards import FROM_MODEL, RewardChoice, Rewards
from vita.spine.config import Settings, neutral
from vita.spine.errors import ConfigError, DataError

PEOPLE = 40
"""The number of different users of the prompts of a source."""
MINDED = 0.5
"""An answer that the reward gives less than this is minded."""


class SimulatedUsers(Settings):
    """The simulated users, with their number and concurrency."""

    world: WorldSettings | None = None
    """The embedded world whose users ask about its things."""
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
    """Reason for serving a release that no gate approves now; without a reason such a release is refused."""

    def crowd(self, model: Path, *, where: str) -> UserSimulator:
        """The users; what is too long for the model with its answer is not asked."""
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
        return PromptUsers(_fitting(unique, model, answer=self.max_tokens, where=where), rewards)


@dataclass(frozen=True)
class PromptUsers:
    """People with prompts of a source."""

    prompts: Sequence[Prompt]
    rewards: Rewards

    def visits(self, count: int, *, seed: int) -> Iterator[UserSession]:
        """The prompts in a drawn order, from the beginning again where there are too few."""
        chance = Random(f"{seed}:visits")
        shuffled: list[Prompt] = []
        for number in range(count):
            if not shuffled:
                shuffled = chance.sample(self.prompts, len(self.prompts))
            who, answers = f"user {chance.randrange(PEOPLE) + 1}", chance.choice((1, 2, 2))
            yield UserSession(number, who, shuffled.pop().messages, answers)

    def minds(self, visit: UserSession, answer: str) -> bool:
        """Return True if the reward of the answer is below the threshold; False if it has no reward."""
        from vita.infer.engine import Completion
        from vita.rl.before_after import judged

        completion = Completion(answer, (), "stop", ())
        value = judged(self.rewards, [self._asked[visit.prompt]], [completion], seed=f"{visit.number}").total[0]
        return value is not None and value < MINDED

    def react(self, visit: UserSession, answers: Sequence[str], *, seed: int) -> list[Reaction]:
        """A vote or a thumb."""
        return reactions(visit, answers, [self.minds(visit, answer) for answer in answers], seed=seed)

    @cached_property
    def _asked(self) -> dict[tuple[Message, ...], Prompt]:
        return {prompt.messages: prompt for prompt in self.prompts}


def _fitting(every: Sequence[Prompt], model: Path, *, answer: int, where: str) -> list[Prompt]:
    from vita.infer.pretrained import PretrainedText

    text = PretrainedText.load(model)
    tokenizer, template = text.tokenizer, text.require_template()
    room = text.architecture.context - answer

    def fits(prompt: Prompt) -> bool:
        return len(encode_prompt(tokenizer, template, prompt.messages)) <= room

    fitting = [prompt for prompt in every if fits(prompt)]
    if not fitting:
        raise DataError(where, expected=f"prompts of at most {room} tokens", got=f"none among {len(every)}")
    return fitting
