"""Continuations of fixed prompts by a model in training, at the intervals of its evaluations.

    samples = TrainingSamples(model, tokenizer, prompts=("Once upon a time",), tokens=48, path=path, device="cpu")
    samples.write(step=100)

The file has one JSON object per prompt and step. A run that is resumed removes the samples after its checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vita.data.tokens.tokenizer import Tokenizer
from vita.infer.sampling import Sampling
from vita.nn.transformer import Transformer
from vita.spine.disk import write_atomically
from vita.train.run_files import json_lines


class TrainingSamples:
    """Greedy continuations of prompts by the current weights of a model."""

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer, *, prompts: Sequence[str], tokens: int, path: Path, device: str
    ) -> None:
        from vita.infer.engine import Engine

        self._engine = Engine(model, tokenizer, device=device)
        self._prompts, self._path = list(prompts), path
        self._sampling = Sampling(max_tokens=tokens, temperature=0.0)

    def write(self, *, step: int) -> list[dict[str, Any]]:
        """Continue the prompts, append the texts to the file, and return them."""
        answers = self._engine.generate([self._engine.text_ids(prompt) for prompt in self._prompts], self._sampling)
        rows = [
            {"step": step, "prompt": prompt, "text": answer.text}
            for prompt, answer in zip(self._prompts, answers, strict=True)
        ]
        earlier = [row for row in json_lines(self._path) if row["step"] < step]
        text = "".join(json.dumps(row) + "\n" for row in [*earlier, *rows])
        write_atomically(self._path, text.encode())
        return rows
