"""The features of prompts by which drift is measured: a mean hidden state and a log-probability per token.

features = prompt_features(engine, ["What is a cat?"])
features.embeddings.shape, features.logprobs.shape            # (1, width), (1,)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch.nn import functional as F

from vita.infer.engine import Engine

LONGEST = 512
"""Number of tokens of a prompt that are read; longer prompts are cut."""


@dataclass(frozen=True)
class PromptFeatures:
    """The features of N prompts."""

    embeddings: Float[np.ndarray, "N D"]
    """Mean of the hidden states of the last layer, in float32."""
    logprobs: Float[np.ndarray, "N"]
    """Mean log-probability of the tokens, in nats."""


@torch.inference_mode()
def prompt_features(engine: Engine, texts: Sequence[str]) -> PromptFeatures:
    """Return the features of texts, each of which has at least one token."""
    longest = min(LONGEST, engine.model.architecture.context)
    rows = [engine.text_ids(text)[:longest] for text in texts]
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
    embeddings = np.zeros((len(rows), engine.model.architecture.width), dtype=np.float32)
    logprobs = np.zeros(len(rows))
    while order:
        count = max(1, engine.tokens_at_once // len(rows[order[0]]))
        batch, order = order[:count], order[count:]
        lengths = [len(rows[index]) for index in batch]
        padded = torch.tensor([[*rows[index], *[0] * (lengths[0] - len(rows[index]))] for index in batch])
        hidden = engine.model.hidden(padded.to(engine.device))
        for index, length, states in zip(batch, lengths, hidden, strict=True):
            targets = torch.tensor(rows[index][1:], device=engine.device)
            losses = F.cross_entropy(engine.logits(states[: length - 1]), targets)
            embeddings[index] = states[:length].float().mean(0).cpu().numpy()
            logprobs[index] = -float(losses)
    return PromptFeatures(embeddings, logprobs)
