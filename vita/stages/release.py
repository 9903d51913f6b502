"""Create a release: the approved weights and the SHA-256 hash of every file, ready to serve.

Only weights that a gate has approved become a release. It includes the content filter, the limits, the sampling
defaults, and golden prompts with their greedy answers, which verify a replica or a restored archive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from vita.data.records import Message
from vita.data.tokens.generation_settings import sampling_defaults
from vita.gates import clearance
from vita.gates.exports import is_export, record_export
from vita.infer.content_filter import ContentFilter
from vita.infer.sampling import Sampling
from vita.server.backend_settings import BackendSettings, backend_values
from vita.server.backends.backend_plan import why_unsupported
from vita.server.backends.backend_release import check_release, prepare_backend
from vita.server.decoding_options import BATCH_INVARIANCE, DecodingOptions, check_batch_invariance
from vita.server.release import MODEL, create_release
from vita.server.speculation import SpeculationSettings, check_speculation, speculation_values
from vita.spine.config import Settings, neutral
from vita.spine.errors import ConfigError, DataError, GateError
from vita.spine.ledger import Ledger
from vita.spine.plan import Context, Draft
from vita.spine.stage import explicit_only
from vita.spine.store import Store, Traits
from vita.stages.kinds import Model, Release

if TYPE_CHECKING:
    from vita.infer.engine import Engine
    from vita.server.backends.conformance import Conformance

VERSION = 3

GOLDEN = ("What is a cat?", "Hello!", "Tell me about the sea.", "1 2 3", "")


class Config(Settings):
    """The name, the limits, the filter and the defaults with which the model is served."""

    name: str = Field("vita", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the model in requests; `name:version` is exactly this release."""
    version: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Version, which always names the same weights; by default the beginning of their digest."""
    guard: ContentFilter | None = None
    """Content filter of prompts and answers."""
    max_queue_size: int = Field(64, ge=1)
    """Maximum number of requests that wait in a replica; more are refused with 429."""
    max_batch_size: int = Field(16, ge=1)
    """Maximum number of requests that a replica answers at the same time."""
    prefix_cache_mb: int = neutral(256, ge=0)
    """Memory in MiB in which a replica keeps the beginnings of prompts, so that prompts that begin alike are read
    faster; 0 keeps none."""
    sampling: Sampling = Field(default_factory=lambda: Sampling(max_tokens=256))
    """Default sampling of a request; settings that are not set come from the model's generation settings."""
    backend: BackendSettings = neutral(BackendSettings())
    """Program that computes the answers: its name, or its settings (see [Backends](../operations.md#backends))."""
    speculation: SpeculationSettings = neutral(SpeculationSettings())
    """Speculative decoding, which changes the speed of answers and not the answers: the name of a method, or its
    settings (see [Speculative decoding](../serving.md#speculative-decoding))."""
    batch_invariance: bool = neutral(True)
    """Compute answers whose bits do not depend on the other requests. Without it, a few concurrent requests are
    answered faster (see [Batch invariance](../serving.md#batch-invariance))."""
    golden_prompts: tuple[str, ...] = Field(GOLDEN, min_length=1)
    """Prompts whose greedy answers identify the model; sent as a user message to a chat model."""
    golden_tokens: int = Field(32, ge=1)
    """Maximum tokens of a golden answer."""

    @field_validator("backend", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return backend_values(value)

    @field_validator("speculation", mode="before")
    @classmethod
    def _by_method(cls, value: Any) -> Any:
        return speculation_values(value)


@dataclass(frozen=True)
class Inputs:
    model: Model
    draft: Model | None = explicit_only()
    """The draft model of speculative decoding: a smaller one with the same tokenizer."""


def unsupported(config: Config, traits: Mapping[str, Traits]) -> str | None:
    """Return the reason why the backend cannot serve the model; raises a `VitaError` for a program that is missing."""
    if config.backend.program != "vita" and config.speculation.method != "none":
        where, problem = "release.speculation", f"the backend `{config.backend.program}` does not support this setting"
        raise ConfigError(where, problem, hint="use `none`")
    return why_unsupported(config.backend, traits.get("model"))


def admit(config: Config, inputs: Inputs, ledger: Ledger, store: Store) -> None:
    """Refuse a model that no gate approves now with these weights and this guard."""
    clearance.require_approval(ledger, store, inputs.model.digest, where="release.model", guard=_guard(config))
    _check_label(ledger, f"{config.name}:{_version(config, inputs.model)}", model=inputs.model.digest)


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Release]:
    version = _version(config, inputs.model)
    draft = inputs.draft.path if inputs.draft else None
    check_speculation(config.speculation, inputs.model.path, draft, program=config.backend.program)
    check_batch_invariance(config.batch_invariance, inputs.model.path, program=config.backend.program)
    answers, length = _golden(config, inputs.model.path)
    folder = context.draft_folder()
    exported = prepare_backend(inputs.model.path, folder, config.backend)
    create_release(
        inputs.model.path,
        folder,
        name=config.name,
        version=version,
        digest=inputs.model.digest,
        guard=_guard(config),
        limits={
            "max_queue_size": config.max_queue_size,
            "max_batch_size": config.max_batch_size,
            "prefix_cache_mb": config.prefix_cache_mb,
            "context": length,
        },
        sampling=_sampling(config.sampling, inputs.model.path),
        golden=answers,
        backend=None if config.backend.is_default else config.backend.record(),
        decoding=DecodingOptions(config.speculation, config.batch_invariance).record(),
        draft=draft,
    )
    if (checked := _compare(config, folder, answers, threads=context.machine.threads)) is not None:
        context.emit(
            "note",
            text=f"{config.backend.label} gives the golden answers within {checked.difference:.2g} nats per token",
        )
    context.emit("note", text=f"{config.name}:{version} pins {inputs.model.digest[:12]}, {len(answers)} golden answers")
    facts: dict[str, Any] = {"name": config.name, "version": version, "model": inputs.model.digest}
    if config.backend.program != "vita":
        facts["backend"] = config.backend.program
    if checked is not None:
        facts["golden_difference"] = round(checked.difference, 6)
    if (speculation := config.speculation.record()) is not None:
        facts["speculation"] = speculation
    if not config.batch_invariance:
        facts[BATCH_INVARIANCE] = False
    if inputs.draft is not None:
        facts["draft"] = inputs.draft.digest
    if config.backend.weight_format is not None:
        facts["quantization"] = config.backend.weight_format
    if exported is not None:
        facts["gguf"] = dict(exported.record)
    return Draft(Release, folder, {**facts, "guarded": config.guard is not None, "golden": len(answers)})


def _compare(config: Config, folder: Path, answers: Sequence[Mapping[str, Any]], *, threads: int) -> Conformance | None:
    """Compare another program or quantized weights with the golden answers; None where nothing is to be compared."""
    quantization = config.backend.weight_format
    if quantization is None:
        return check_release(folder, threads=threads)
    from vita.infer.engine import Engine
    from vita.server.replica.served_release import check_golden

    return check_golden(Engine.open(folder / MODEL, packed=True, quantization=quantization), answers, config.backend)


def _golden(config: Config, folder: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the golden answers of a model, and the maximum number of its tokens."""
    from vita.infer.text_model import TextModel, model_task

    if model_task(folder) is not None:
        from vita.infer.golden_texts import golden_texts

        model = TextModel.open(folder)
        return golden_texts(model, config.golden_prompts), model.max_tokens
    from vita.infer.engine import Engine

    engine = Engine.open(folder)
    answers = golden_answers(engine, config.golden_prompts, tokens=config.golden_tokens)
    return answers, engine.model.architecture.context


def _sampling(sampling: Sampling, folder: Path) -> dict[str, Any]:
    """Return the sampling settings; temperature, top_k and top_p that are not set come from the model folder."""
    recommended = sampling_defaults(folder)
    defaults = {name: value for name, value in recommended.items() if name not in sampling.model_fields_set}
    return {**sampling.model_dump(mode="json"), **defaults}


def record(artifact: Release, inputs: Inputs, ledger: Ledger) -> None:
    """Record the release in the ledger; the model becomes `serving` only while a service serves it."""
    label, model = f"{artifact.facts['name']}:{artifact.facts['version']}", inputs.model.digest
    _check_label(ledger, label, model=model)
    ledger.name(f"release/{label}", artifact.digest)
    gguf = artifact.facts.get("gguf")
    if gguf and not is_export(ledger, model, sha256=gguf["sha256"]):
        record_export(ledger, model, **gguf)
    recorded = {move.details.get("release") for move in ledger.moves(model)}
    if clearance.is_approved(ledger, model) and artifact.digest not in recorded:
        ledger.move(model, ledger.state(model), who="release", why=f"released as {label}", release=artifact.digest)


def _check_label(ledger: Ledger, label: str, *, model: str) -> None:
    """Raise a `GateError` if the label already names other weights."""
    release = ledger.named(f"release/{label}")
    for run in ledger.find(artifact=release, state="done") if release else ():
        if (model_digest := ledger.inputs(run.id).get("model")) not in (None, model):
            hint = "set another `version`"
            raise GateError(f"release {label}", f"already names the weights {model_digest[:12]}", hint=hint)


def _version(config: Config, model: Model) -> str:
    suffix = "" if config.backend.is_default else f"-{config.backend.label}"
    return config.version or f"{model.digest[:8]}{suffix}"


def _guard(config: Config) -> dict[str, Any] | None:
    return config.guard.model_dump(mode="json") if config.guard else None


def golden_answers(engine: Engine, prompts: tuple[str, ...], *, tokens: int) -> list[dict[str, Any]]:
    """Return each prompt's ids, the ids of its greedy answer and their log-probability, in float32 on the CPU."""
    answers: list[dict[str, Any]] = []
    for prompt in prompts:
        ids = engine.chat_ids([Message("user", prompt)]) if engine.template else engine.text_ids(prompt)
        if len(ids) >= engine.model.architecture.context:
            raise DataError("release.golden_prompts", "a prompt leaves no room for an answer", got=prompt[:80])
        answer = engine.generate([ids], Sampling(temperature=0, max_tokens=tokens))[0]
        logprob = round(sum(answer.logprobs), 4)
        answers.append({"prompt": ids, "greedy": list(answer.ids), "logprob": logprob})
    return answers
