"""A tuned model judged beside the one it began from: how good its answers are, and whether they still are right.

judges = Judges(rewards, right)
found = judges.beside(before, after, prompts, sampling=Sampling(temperature=0), seed=0)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vita.data.records import Message
from vita.infer.engine import Engine
from vita.infer.sampling import Sampling
from vita.measure.rewards import Rewards
from vita.measure.shift import Shift, shift

RIGHT = 0.5
"""What a judge of right and wrong gives an answer at least that is right."""


@dataclass(frozen=True)
class Judges:
    """What says how good an answer is and, where there is such a judge, whether it is right."""

    score: Rewards
    right: Rewards | None = None

    def beside(
        self,
        before: Engine,
        after: Engine,
        prompts: Sequence[Sequence[Message]],
        *,
        columns: Mapping[str, Sequence[Any]] | None = None,
        samples: int = 1,
        sampling: Sampling,
        seed: int,
    ) -> Shift:
        """Both models answer every prompt `samples` times; `columns` hold what judges are told of each prompt."""

        def values(rewards: Rewards, asked: Sequence[Sequence[Message]], texts: Sequence[str]) -> list[float | None]:
            times = len(texts) // len(prompts)
            told = {name: [one for one in column for _ in range(times)] for name, column in (columns or {}).items()}
            return rewards(asked, texts, **told).total

        def is_right(asked: Sequence[Sequence[Message]], texts: Sequence[str]) -> list[bool | None]:
            assert self.right is not None
            return [None if value is None else value >= RIGHT for value in values(self.right, asked, texts)]

        return shift(
            before,
            after,
            prompts,
            score=lambda asked, texts: values(self.score, asked, texts),
            right=is_right if self.right else None,
            samples=samples,
            sampling=sampling,
            seed=seed,
        )
