"""A pretrained model as training stages and engines open it: weights, tokenizer and chat template that fit together.

    pretrained = Pretrained.load(folder)                   # for training: also refuses NaN weights
    pretrained.model, pretrained.tokenizer, pretrained.require_template()

All stages load through here, so a folder that one of them refuses is refused by all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.tokenizer import Tokenizer
from vita.nn import hf
from vita.nn.transformer import Transformer


@dataclass(frozen=True)
class Pretrained:
    """The parts of a model folder."""

    folder: Path
    model: Transformer
    tokenizer: Tokenizer
    template: ChatTemplate | None

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        finite: bool = True,
    ) -> Pretrained:
        """Read a folder; a `ModelError` where tokenizer and weights do not fit, or (with `finite`) a weight is NaN."""
        tokenizer = Tokenizer.load(folder)
        model = hf.load(folder, dtype=dtype, device=device)
        hf.check_tokens(folder, model.architecture, tokenizer.vocabulary)
        if finite:
            hf.check_finite(model, folder)
        template = ChatTemplate.load(folder) if has_template(Path(folder), tokenizer) else None
        return cls(Path(folder), model, tokenizer, template)

    def require_template(self) -> ChatTemplate:
        """The chat template; a `ModelError` where the folder has none."""
        return self.template or ChatTemplate.load(self.folder)


def has_template(folder: Path, tokenizer: Tokenizer) -> bool:
    """Whether the folder of this tokenizer holds a chat template."""
    return (folder / "chat_template.jinja").is_file() or bool(tokenizer.settings.get("chat_template"))
