"""Creates releases whose answers another program computes: with a GGUF file for llama.cpp, and with golden answers.

files = prepare_backend(model_folder, release_folder, settings)        # before `create_release`
check_release(release_folder, threads=1)                               # compare the program with the golden answers
release_with_backend(release, settings, target, golden=...)            # another backend for an existing release
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vita.server.backend_settings import BackendSettings, release_backend
from vita.server.release import GGUF, MODEL, ReleaseInfo, link_or_copy, read_release, verify_release, write_description
from vita.spine.disk import file_sha256
from vita.spine.errors import ConfigError
from vita.spine.model_files import is_adapter_folder

if TYPE_CHECKING:
    from vita.server.backends.conformance import Conformance


@dataclass(frozen=True)
class ExportedGguf:
    """The GGUF file of a release."""

    path: Path
    sha256: str
    record: Mapping[str, Any]
    """The record of the export for the ledger."""


def prepare_backend(model: Path, target: Path, settings: BackendSettings) -> ExportedGguf | None:
    """Check that a program can serve a model folder, and export the GGUF file of llama.cpp into a release folder."""
    from vita.infer.text_model import model_task

    if settings.weight_format is None and settings.program == "vita":
        return None
    if (task := model_task(model)) is not None:
        program = "with `quantization`" if settings.program == "vita" else f"with `{settings.program}`"
        raise ConfigError("backend", f"a model for {task} cannot be served {program}", hint="use `vita` in float32")
    if settings.program == "vita":
        return None
    if is_adapter_folder(model):
        raise ConfigError(
            "backend", f"`{settings.program}` cannot serve an adapter", hint="merge it with its base model"
        )
    if settings.program == "vllm":
        from vita.server.backends.programs import require_vllm

        require_vllm(settings)
    return _export(model, target, settings) if settings.program == "llama.cpp" else None


def _export(model: Path, target: Path, settings: BackendSettings) -> ExportedGguf:
    from vita.formats.gguf.write import write_gguf
    from vita.server.backends.programs import require_llama_cpp

    require_llama_cpp()
    path = target / GGUF
    path.parent.mkdir(parents=True, exist_ok=True)
    report = write_gguf(model, path, quantization=settings.gguf_type, reads_text=False)
    digest = file_sha256(path)
    record = {
        "format": "gguf", "path": GGUF, "quantization": settings.gguf_type, "bytes": report.bytes, "sha256": digest,
        "types": dict(report.types), "notes": list(report.notes), "use": "release",
    }  # fmt: skip
    return ExportedGguf(path, digest, record)


def check_release(folder: Path, *, threads: int) -> Conformance | None:
    """Start the program of a release and compare it with the golden answers; None for one that runs elsewhere.

    Raises `ModelError` if the program cannot start, or if an answer differs by more than the tolerance.
    """
    from vita.data.tokens.chat_template import training_clock
    from vita.server.backends.programs import open_program
    from vita.server.backends.remote_engine import RemoteEngine

    release = read_release(folder)
    settings = release_backend(release.content)
    if settings.program in ("vita", "openai"):
        return None
    engine = RemoteEngine.open(folder / MODEL, clock=training_clock)
    program = open_program(settings, release, engine, rows=1, threads=threads)

    async def compare() -> Conformance:
        try:
            return await program.compare(release.content["golden"])
        finally:
            await program.client.close()

    try:
        return asyncio.run(compare())
    finally:
        program.stop()


def release_with_backend(
    release: ReleaseInfo, settings: BackendSettings, target: Path, *, golden: Sequence[Mapping[str, Any]]
) -> tuple[Path, ExportedGguf | None]:
    """Create a copy of a release with another backend and version; its files are links. `golden` replaces none."""
    verify_release(release)
    for name in release.files:
        if name != GGUF:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(release.folder / name, target / name)
    exported = prepare_backend(release.folder / "model", target, settings)
    backend = None if settings.is_default else settings.record()
    content = {
        **release.content,
        "version": backend_version(release.content, settings),
        "golden": list(release.content.get("golden") or golden),
    }
    write_description(target, content, backend=backend)
    return target, exported


def backend_version(content: Mapping[str, Any], settings: BackendSettings) -> str:
    """Return the version of a release with another backend: that of the release, and the label of the backend."""
    version = str(content["version"]).removesuffix(f"-{release_backend(content).label}")
    return version if settings.is_default else f"{version}-{settings.label}"
