"""Options of a release that change how its tokens are computed: speculative decoding and batch invariance.

    options = DecodingOptions(SpeculationSettings(method="ngram"), batch_invariance=False)
    release_with_decoding(release, options, None, target)

With batch invariance, the bits of an answer do not depend on the other requests (`vita.infer.batch`). Without it, steps
compute no padding and are faster for a few requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vita.server.backend_settings import release_backend
from vita.server.release import DRAFT, MODEL, ReleaseInfo, link_or_copy, take_files, verify_release, write_description
from vita.server.speculation import SpeculationSettings, check_speculation, release_speculation
from vita.spine.errors import ConfigError

BATCH_INVARIANCE = "batch_invariance"
"""The entry of `release.json` that is false for a release without batch invariance."""


@dataclass(frozen=True)
class DecodingOptions:
    """The decoding options of a release."""

    speculation: SpeculationSettings = field(default_factory=SpeculationSettings)
    batch_invariance: bool = True

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> DecodingOptions:
        """Return the options of a release."""
        return cls(release_speculation(content), has_batch_invariance(content))

    @property
    def suffix(self) -> str:
        """The end of the version of a release whose options were changed."""
        method = self.speculation.method
        return ("" if method == "none" else f"-{method}") + ("" if self.batch_invariance else "-variant")

    def record(self) -> dict[str, Any]:
        """Return the entries of `release.json`, without those of the defaults."""
        speculation = self.speculation.record()
        entries: dict[str, Any] = {} if speculation is None else {"speculation": speculation}
        return entries if self.batch_invariance else {**entries, BATCH_INVARIANCE: False}


def has_batch_invariance(content: Mapping[str, Any]) -> bool:
    """Return True unless a release turns batch invariance off."""
    return content.get(BATCH_INVARIANCE) is not False


def switch(value: bool) -> str:
    """Return the name of a setting that is on or off."""
    return "on" if value else "off"


def check_batch_invariance(batch_invariance: bool, model: Path, *, program: str) -> None:
    """Raise a `ConfigError` if batch invariance is turned off where it has no effect."""
    from vita.infer.text_model import model_task

    if batch_invariance:
        return
    if program != "vita":
        raise ConfigError(BATCH_INVARIANCE, f"the backend `{program}` never has it", hint="use `on`, the default")
    if (task := model_task(model)) is not None:
        raise ConfigError(BATCH_INVARIANCE, f"a model for {task} generates no tokens", hint="use `on`, the default")


def release_with_decoding(release: ReleaseInfo, options: DecodingOptions, draft: Path | None, target: Path) -> Path:
    """Create a copy of a release with other decoding options in `target`; its files are links.

    `draft` is the folder of the draft model. Without it, the draft model of the release stays if it is still used.
    """
    verify_release(release)
    model, program = release.folder / MODEL, release_backend(release.content).program
    keeps_draft = draft is None and (release.folder / DRAFT).is_dir() and options.speculation.method == "draft_model"
    check_speculation(options.speculation, model, release.folder / DRAFT if keeps_draft else draft, program=program)
    check_batch_invariance(options.batch_invariance, model, program=program)
    files = {name: sha for name, sha in release.files.items() if keeps_draft or not name.startswith(f"{DRAFT}/")}
    for name in files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(release.folder / name, target / name)
    if draft is not None:
        files |= {f"{DRAFT}/{file}": sha for file, (sha, _) in take_files(draft, target, name=DRAFT).items()}
    content = {name: value for name, value in release.content.items() if name not in ("speculation", BATCH_INVARIANCE)}
    version = str(content["version"]).removesuffix(DecodingOptions.of(release.content).suffix) + options.suffix
    content |= {"version": version, "files": files, **options.record()}
    write_description(target, content, backend=release.content.get("backend"))
    return target
