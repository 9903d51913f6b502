"""The order of prompts and answers in reinforcement learning: a function of the seed, the round and the step.

order = RolloutOrder(prompts=100, prompts_per_step=4, num_generations=2, epochs=1, minibatches=2, seed=0)
order.prompts_of_round(0)       # 4 prompts, each with 2 answers
order.answers_of_step(1)        # 4 of the 8 answers: the second minibatch
order.prompts_of_step(1)        # the prompts of these answers
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from random import Random


@dataclass(frozen=True)
class RolloutOrder:
    """The prompts of each round, and the answers of each optimizer step."""

    prompts: int
    """Number of training prompts."""
    prompts_per_step: int
    """Prompts per round."""
    num_generations: int
    """Answers per prompt."""
    epochs: int
    """Epochs over the answers of a round."""
    minibatches: int
    """Optimizer steps per epoch."""
    seed: int

    @property
    def updates(self) -> int:
        """Return the optimizer steps per round."""
        return self.epochs * self.minibatches

    @property
    def answers(self) -> int:
        """Return the number of answers of a round."""
        return self.prompts_per_step * self.num_generations

    def prompts_of_round(self, number: int) -> list[int]:
        """Return the prompts of a round; each epoch contains every prompt once, in random order."""
        first = number * self.prompts_per_step
        positions = (divmod(index, self.prompts) for index in range(first, first + self.prompts_per_step))
        return [_epoch_order(self.prompts, self.seed, epoch)[position] for epoch, position in positions]

    def answers_of_step(self, step: int) -> list[int]:
        """Return the answers of a step: all of its round, or a minibatch in an order that changes with each epoch."""
        answers = list(range(self.answers))
        if self.minibatches == 1:
            return answers
        number, update = divmod(step, self.updates)
        epoch, part = divmod(update, self.minibatches)
        Random(f"{self.seed}/parts/{number}/{epoch}").shuffle(answers)
        return sorted(answers[part :: self.minibatches])

    def prompts_of_step(self, step: int) -> list[int]:
        """Return the prompt of each answer of a step."""
        prompts = self.prompts_of_round(step // self.updates)
        return [prompts[answer // self.num_generations] for answer in self.answers_of_step(step)]


@lru_cache(maxsize=8)
def _epoch_order(prompts: int, seed: int, epoch: int) -> tuple[int, ...]:
    """Return the prompts of an epoch in their order."""
    order = list(range(prompts))
    Random(f"{seed}/prompts/{epoch}").shuffle(order)
    return tuple(order)
