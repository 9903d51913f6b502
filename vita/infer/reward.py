"""A reward model behind a door: dialogues in, scores out.

judge = RewardModel.open(folder)
judge.score([[Message("user", "What is a cat?"), Message("assistant", "A furry mammal.")]])     # [0.73]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from vita.data.records import Message
from vita.data.tokens.chat_template import ChatTemplate, encode_prompt
from vita.data.tokens.tokenizer import Tokenizer
from vita.infer.pretrained import Pretrained
from vita.nn.reward import RewardTransformer
from vita.spine.errors import DataError


class RewardModel:
    """Scores dialogues by how good their last answer is."""

    def __init__(
        self,
        model: RewardTransformer,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        *,
        device: str | torch.device = "cpu",
        tokens_at_once: int = 8192,
    ) -> None:
        self.model = model.to(device)
        self.tokenizer, self.template, self.device = tokenizer, template, torch.device(device)
        self.tokens_at_once = tokens_at_once

    @classmethod
    def open(cls, folder: str | Path, *, device: str | torch.device = "cpu") -> RewardModel:
        """Open the reward model of a folder, with its tokenizer and chat template."""
        pretrained = Pretrained.load_reward(folder, device=device)
        return cls(pretrained.model, pretrained.tokenizer, pretrained.require_template(), device=device)

    def ids(self, dialogue: Sequence[Message]) -> list[int]:
        """The dialogue in tokens, as it was in training: to the last that its template writes."""
        return encode_prompt(self.tokenizer, self.template, dialogue, add_generation_prompt=False)

    def fits(self, dialogue: Sequence[Message]) -> bool:
        """Whether it can be scored: an answer that went to the end of the context leaves no room for its own end."""
        return len(self.ids(dialogue)) <= self.model.architecture.context

    def score(self, dialogues: Sequence[Sequence[Message]]) -> list[float]:
        """One number for each; how it is padded and what else is asked does not change it."""
        told = [self.ids(dialogue) for dialogue in dialogues]
        most = self.model.architecture.context
        for number, ids in enumerate(told, 1):
            if not 0 < len(ids) <= most:
                raise DataError(f"dialogue {number}", expected=f"1 to {most} tokens, the context", got=len(ids))
        order = sorted(range(len(told)), key=lambda at: -len(told[at]))
        found = dict[int, float]()
        while order:
            count = max(1, self.tokens_at_once // len(told[order[0]]))
            batch, order = order[:count], order[count:]
            found |= zip(batch, self._scores([told[at] for at in batch]), strict=True)
        return [found[at] for at in range(len(told))]

    @torch.inference_mode()
    def _scores(self, rows: Sequence[Sequence[int]]) -> list[float]:
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[self.tokenizer.pad] * (longest - len(row))] for row in rows], device=self.device)
        last = torch.tensor([len(row) - 1 for row in rows], device=self.device)
        return self.model.scores(ids, last).tolist()
