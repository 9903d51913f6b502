"""Speculative decoding of a release: how drafts of the next tokens are proposed, and the draft model.

    settings = build(SpeculationSettings, {"method": "ngram", "tokens": 4}, where="release.speculation")

A release stores these settings in `release.json`, and the files of the draft model in its folder `draft`. They change
the speed of answers, and never the answers (`vita.infer.drafts`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from vita.server.backend_settings import BackendSettings, release_backend
from vita.server.release import DRAFT, MODEL, ReleaseInfo
from vita.spine.config import Settings, build
from vita.spine.errors import ConfigError, ModelError
from vita.spine.model_files import is_adapter_folder

if TYPE_CHECKING:
    from vita.infer.drafts import Drafter
    from vita.infer.engine import Engine


class SpeculationSettings(Settings):
    """Settings of the drafts of next tokens, which the model verifies in one pass."""

    method: Literal["none", "ngram", "draft_model"] = "none"
    """`ngram` continues the last tokens as they continued earlier in the prompt or the answer; `draft_model` asks a
    smaller model with the same tokenizer."""
    tokens: int = Field(default=4, ge=1, le=15)
    """Maximum number of tokens of a draft; shorter where drafts are rejected."""

    def record(self) -> dict[str, Any] | None:
        """Return the settings as `release.json` stores them; None without speculative decoding."""
        return None if self.method == "none" else self.model_dump(mode="json")


def speculation_values(value: Any) -> Any:
    """Return settings that are written as the name of a method in full: `speculation: ngram`."""
    return {"method": value} if isinstance(value, str) else value


def release_speculation(content: Mapping[str, Any]) -> SpeculationSettings:
    """Return the settings of a release."""
    return build(SpeculationSettings, content.get("speculation") or {}, where="release.speculation")


def check_speculation(settings: SpeculationSettings, model: Path, draft: Path | None, *, program: str) -> None:
    """Raise a `ConfigError` if a model cannot be served with these settings and this draft model."""
    from vita.infer.text_model import model_task

    where = "speculation"
    if draft is not None and settings.method != "draft_model":
        raise ConfigError(where, "there is a draft model", expected="draft_model", got=settings.method)
    if settings.method == "none":
        return
    if program != "vita":
        raise ConfigError(where, f"the backend `{program}` does not support this setting", hint="use `none`")
    if (task := model_task(model)) is not None:
        raise ConfigError(where, f"a model for {task} generates no tokens", hint="use `none`")
    if settings.method == "draft_model":
        if draft is None:
            raise ConfigError(where, "`draft_model` needs a draft model", hint="name it with the input `draft`")
        check_draft_model(model, draft)


def check_draft_model(model: Path, draft: Path) -> None:
    """Raise a `ModelError` unless the draft model generates text with the same tokens."""
    from vita.data.tokens.tokenizer import Tokenizer
    from vita.infer.text_model import model_task

    if is_adapter_folder(draft):
        raise ModelError(str(draft), "is an adapter", hint="merge it with its base model")
    if (task := model_task(draft)) is not None:
        raise ModelError(str(draft), f"is a model for {task}, which proposes no tokens")
    tokenizers = [Tokenizer.load(folder) for folder in (model, draft)]
    sizes = [tokenizer.vocabulary for tokenizer in tokenizers]
    if sizes[0] != sizes[1]:
        raise ModelError(str(draft), expected=f"a tokenizer with the {sizes[0]} tokens of the model", got=sizes[1])
    for token in range(sizes[0]):
        texts = [tokenizer.token_bytes(token) for tokenizer in tokenizers]
        if texts[0] != texts[1]:
            raise ModelError(str(draft), f"has another token {token}", expected=repr(texts[0]), got=repr(texts[1]))


def open_drafter(release: ReleaseInfo, engine: Engine, backend: BackendSettings | None = None) -> Drafter | None:
    """Open the drafter of a verified release; None without speculative decoding.

    `backend` are the settings of the engine on its device, by default those of the release.
    """
    from vita.infer.drafts import ModelDrafter, NgramDrafter
    from vita.infer.pretrained import Pretrained
    from vita.nn.weight_quantization import quantize_weights

    settings = release_speculation(release.content)
    if settings.method == "none":
        return None
    if settings.method == "ngram":
        return NgramDrafter(tokens=settings.tokens)
    check_draft_model(release.folder / MODEL, release.folder / DRAFT)
    model = Pretrained.load(release.folder / DRAFT, device=engine.device).model
    if (quantization := (backend or release_backend(release.content)).weight_format) is not None:
        quantize_weights(model, quantization)
    model.pack()
    return ModelDrafter(model, tokens=settings.tokens, rows=release.limit("max_batch_size"))
