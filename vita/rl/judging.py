"""A tuned model judged beside the one it began from: how good its answers are, and whether they still are right.

judges = Judges(rewards, right)
found = judges.beside(before, after, prompts, sampling=Sampling(temperature=0), seed=0)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from vita.data.records import Message
from vita.data.sources.prompts import Prompt
from vita.infer.engine import Completion, Engine
from vita.infer.sampling import Sampling
from vita.rl.before_after import Shift, shift
from vita.rl.rewards import Given, Rewards, Values

RIGHT = 0.5
"""What a judge of right and wrong gives an answer at least that is right."""

TRIED = Completion("I do not know.", (), "stop", ())


@dataclass(frozen=True)
class Judges:
    """What says how good an answer is and, where there is such a judge, whether it is right."""

    score: Rewards
    right: Rewards | None = None

    def try_out(self, prompt: Prompt) -> None:
        """Ask once, so that a judge that cannot work is known before anything slow begins."""
        for one in (self.score, self.right):
            if one is not None:
                judged(one, [prompt], [TRIED], seed="tried")

    def beside(
        self,
        before: Engine,
        after: Engine,
        prompts: Sequence[Prompt],
        *,
        samples: int = 1,
        sampling: Sampling,
        seed: int,
    ) -> Shift:
        """Both models answer every prompt `samples` times; judges are told what is known of each prompt."""

        def values(rewards: Rewards, answers: Sequence[Completion]) -> Values:
            each = len(answers) // len(prompts)
            return judged(rewards, [one for one in prompts for _ in range(each)], answers, seed=f"{seed}").total

        def score(_: Sequence[Sequence[Message]], answers: Sequence[Completion]) -> Values:
            return [earned(value, one) for value, one in zip(values(self.score, answers), answers, strict=True)]

        def right(_: Sequence[Sequence[Message]], answers: Sequence[Completion]) -> list[bool | None]:
            assert self.right is not None
            return [None if value is None else value >= RIGHT for value in values(self.right, answers)]

        return shift(
            before,
            after,
            [one.messages for one in prompts],
            score=score,
            right=right if self.right else None,
            samples=samples,
            sampling=sampling,
            seed=seed,
        )


def earned(value: float | None, answer: Completion, *, penalty: float = 0.0) -> float | None:
    """What an answer earns: one that was cut off nothing, whatever its reward says, and it loses `penalty`."""
    return value if answer.finish == "stop" else min(value or 0.0, 0.0) - penalty


def judged(rewards: Rewards, prompts: Sequence[Prompt], answers: Sequence[Completion], *, seed: str) -> Given:
    """What answers are worth: a reward is told the columns of the prompt's row, the tokens, and a number by chance."""
    names = dict.fromkeys(name for prompt in prompts for name in prompt.columns)
    chance = Random(f"{seed}/draws")
    told: dict[str, list[Any]] = {name: [prompt.columns.get(name) for prompt in prompts] for name in names}
    told["completion_ids"] = [list(one.ids) for one in answers]
    told["draw"] = [chance.getrandbits(48) for _ in answers]
    return rewards([prompt.messages for prompt in prompts], [one.text for one in answers], **told)
