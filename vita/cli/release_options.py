"""Options of `vita serve` and `vita fleet roll` that change how a release is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vita.cli.workspace import Workspace

if TYPE_CHECKING:
    from vita.server.release import ReleaseInfo

GOLDEN_TOKENS = 32
"""Maximum tokens of a golden answer of a model that is served without a release."""
BackendOption = Annotated[
    str | None,
    typer.Option(
        help="Engine that computes completions: vita, vllm, llama.cpp or openai. Default: that of the release."
    ),
]
BackendSetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--backend-set", help="A setting of the backend, for example quantization=q8_0 or url=http://HOST/v1."
    ),
]
SpeculationOption = Annotated[
    str | None,
    typer.Option(
        metavar="METHOD",
        help="Speculative decoding, which changes the speed but not the completions: none, ngram or draft_model. "
        "Default: the setting of the release.",
    ),
]
BatchInvarianceOption = Annotated[
    bool | None,
    typer.Option(
        "--batch-invariance/--no-batch-invariance",
        help="Make completions bitwise independent of concurrent requests; without it, small batches are faster. "
        "Default: the setting of the release.",
        show_default=False,
    ),
]
DraftModelOption = Annotated[
    str | None, typer.Option(metavar="MODEL", help="The draft model: a smaller model with the same tokenizer.")
]


def with_backend(
    workspace: Workspace, release: ReleaseInfo, folder: Path, program: str | None, assignments: Sequence[str] | None
) -> ReleaseInfo:
    """Return the release with another backend, in `folder`; the release itself if no other backend is requested."""
    from vita.gates.exports import record_export
    from vita.gates.weights import match_model
    from vita.server.backend_settings import BackendSettings, release_backend
    from vita.server.backends.backend_release import release_with_backend
    from vita.server.release import MODEL, read_release, verify_release
    from vita.spine.config import build, override

    if program is None and not assignments:
        return release
    previous = release_backend(release.content)
    values = {"program": program} if program is not None and program != previous.program else previous.record()
    settings = build(BackendSettings, override(values, assignments or []), where="--backend")
    if settings == previous:
        return release
    golden = [] if release.content.get("golden") or settings.is_default else _golden(release.folder / MODEL)
    _, exported = release_with_backend(release, settings, folder, golden=golden)
    if exported is not None:
        model = match_model(workspace.ledger, workspace.store, verify_release(release)).digest
        record_export(workspace.ledger, model, **exported.record)
    return read_release(folder)


def _golden(model: Path) -> list[dict[str, Any]]:
    """Return golden answers of a model, with which a replica of another backend is compared."""
    from vita.infer.engine import Engine
    from vita.infer.text_model import model_task
    from vita.stages.release import GOLDEN, golden_answers

    return [] if model_task(model) is not None else golden_answers(Engine.open(model), GOLDEN, tokens=GOLDEN_TOKENS)


def with_decoding(
    workspace: Workspace,
    release: ReleaseInfo,
    folder: Path,
    *,
    method: str | None,
    draft_model: str | None,
    batch_invariance: bool | None,
) -> ReleaseInfo:
    """Return the release with other decoding options, in `folder`; the release itself if nothing is requested."""
    from vita.server.decoding_options import DecodingOptions, release_with_decoding
    from vita.server.release import read_release
    from vita.server.speculation import SpeculationSettings
    from vita.spine.config import build
    from vita.stages.kinds import Model

    options = DecodingOptions.of(release.content)
    if method is not None or draft_model is not None:
        values = {"method": method or "draft_model", "tokens": options.speculation.tokens}
        speculation = build(SpeculationSettings, values, where="--speculation")
        options = replace(options, speculation=speculation)
    if batch_invariance is not None:
        options = replace(options, batch_invariance=batch_invariance)
    if draft_model is None and options == DecodingOptions.of(release.content):
        return release
    draft = None if draft_model is None else workspace.find(draft_model, Model).path
    release_with_decoding(release, options, draft, folder)
    return read_release(folder)
