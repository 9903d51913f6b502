"""Inference with a reward model, which scores dialogues.

reward_model = RewardModel.open(folder)
reward_model.score([[Message("user", "What is a cat?"), Message("assistant", "A furry mammal.")]])     # [0.73]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from vita.data.records import Message
from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.dialogue_encoding import encode_prompt
from vita.data.tokens.tokenizer import Tokenizer
from vita.infer.pretrained import Pretrained
from vita.nn.reward import RewardTransformer
from vita.spine.errors import DataError


class RewardModel:
    """A reward model with its tokenizer and chat template; it scores the last answer of a dialogue."""

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
        """Return the token ids of the dialogue as in training, up to the last token of the template."""
        return encode_prompt(self.tokenizer, self.template, dialogue, add_generation_prompt=False)

    def fits(self, dialogue: Sequence[Message]) -> bool:
        """Return True if the dialogue with its end of turn fits the context."""
        return len(self.ids(dialogue)) <= self.model.architecture.context

    def score(self, dialogues: Sequence[Sequence[Message]]) -> list[float]:
        """Return the score of each dialogue; it is independent of padding and of the other dialogues."""
        rows = [self.ids(dialogue) for dialogue in dialogues]
        context = self.model.architecture.context
        for number, ids in enumerate(rows, 1):
            if not 0 < len(ids) <= context:
                raise DataError(f"dialogue {number}", expected=f"1 to {context} tokens, the context", got=len(ids))
        order = sorted(range(len(rows)), key=lambda at: -len(rows[at]))
        scores = dict[int, float]()
        while order:
            count = max(1, self.tokens_at_once // len(rows[order[0]]))
            batch, order = order[:count], order[count:]
            scores |= zip(batch, self._scores([rows[at] for at in batch]), strict=True)
        return [scores[at] for at in range(len(rows))]

    @torch.inference_mode()
    def _scores(self, rows: Sequence[Sequence[int]]) -> list[float]:
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[self.tokenizer.pad] * (longest - len(row))] for row in rows], device=self.device)
        last = torch.tensor([len(row) - 1 for row in rows], device=self.device)
        return self.model.scores(ids, last).tolist()
