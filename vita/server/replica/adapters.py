"""Adapters of a replica: each has its own names and digest, and uses the weights and the batch of the base model.

    adapters = Adapters(base_release, engine)
    loaded = adapters.load(folder, digest=digest, model=model)      # verified, tested, not yet reachable

An adapter is a release whose base model has the same files as the release of the replica. It is added and removed while
the replica answers requests. An adapter that was trained on a quantized base has weights and a batch of its own,
because its base differs from that of the replica. So has an adapter that trains a matrix in full that the replica has
quantized, and one that `vita.infer.adapter_scheduler` cannot compute in the batch of the base.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from vita.gates.weights import Files, model_digest
from vita.server.backend_settings import BackendSettings, release_backend
from vita.server.release import MODEL, ReleaseInfo, files_below, load_verified
from vita.server.replica.served_release import check_golden, served_model
from vita.spine.errors import ModelError
from vita.spine.model_files import BASE, ModelFiles, description

if TYPE_CHECKING:
    from vita.infer.adapter_scheduler import AdapterScheduler
    from vita.infer.engine import Engine
    from vita.infer.scheduler import Scheduler
    from vita.server.replica.request_checks import ServedModel


class Adapters:
    """Loads adapters of the model of a replica."""

    def __init__(
        self,
        release: ReleaseInfo,
        engine: Engine,
        scheduler: Scheduler | None = None,
        settings: BackendSettings | None = None,
    ) -> None:
        """`scheduler` computes the requests of the base; without it, each adapter has a batch of its own.

        `settings` are those of the base on its device, by default those of the release.
        """
        from vita.infer.adapter_scheduler import AdapterBatches

        self.release, self.engine = release, engine
        self.settings = settings or release_backend(release.content)
        self.batches = AdapterBatches(scheduler) if scheduler is not None else None

    def load(
        self, folder: Path, *, digest: str, model: str | None = None
    ) -> tuple[Scheduler | AdapterScheduler, ServedModel]:
        """Verify the release of an adapter, and return its scheduler and its names.

        `model` is the digest under which the service cleared the adapter; by default it is computed from its files.
        """
        from vita.server.replica.readiness import check_engine

        def load(release: ReleaseInfo, files: Files) -> tuple[ReleaseInfo, str, Engine]:
            self._check_base(release)
            return release, model or model_digest(files), self._open(folder)

        release, identity, engine = load_verified(folder, load, digest=digest)
        check_engine(engine)
        conformance = check_golden(engine, release.content.get("golden") or [], self.settings)
        scheduler = self._scheduler(release, engine)
        served = served_model(release, identity, folder=folder, warnings=(), conformance=conformance)
        return scheduler, replace(served, names=(release.id,))

    def _scheduler(self, release: ReleaseInfo, engine: Engine) -> Scheduler | AdapterScheduler:
        """Return the queue of an adapter in the batch of the base, or else a scheduler of its own."""
        from vita.infer.scheduler import Scheduler

        rows, queue = release.limit("max_batch_size"), release.limit("max_queue_size")
        prefix_bytes = release.limit("prefix_cache_mb") * 2**20
        if self.batches is not None and not self._has_other_weights(ModelFiles(release.folder / MODEL)):
            salt = bytes.fromhex(release.digest)
            shared = self.batches.add(engine, salt=salt, rows=rows, queue=queue, has_prefixes=prefix_bytes > 0)
            if shared is not None:
                return shared
        return Scheduler(engine, rows=rows, queue=queue, prefix_bytes=prefix_bytes)

    def _check_base(self, release: ReleaseInfo) -> None:
        adapter_base, served_base = files_below(release, BASE), files_below(self.release, MODEL)
        where = f"adapter {release.id}"
        if not adapter_base:
            raise ModelError(where, "is a full model", hint="roll it out with `vita fleet roll`")
        if adapter_base != served_base:
            expected = f"an adapter of the model of {self.release.id} ({self.release.model[:12]})"
            raise ModelError(where, expected=expected, got=f"one of {str(release.content.get('base'))[:12]}")

    def _open(self, folder: Path) -> Engine:
        """Open the engine of an adapter over the weights of the base."""
        from vita.infer.engine import Engine
        from vita.infer.pretrained import Pretrained, PretrainedText
        from vita.nn.adapters.attach import reference_copy
        from vita.nn.adapters.files import load_adapter

        files = ModelFiles(folder / MODEL)
        device = self.engine.device
        if self._has_other_weights(files):
            quantization = self.settings.weight_format
            return Engine.open(files, device=device, clock=datetime.now, packed=True, quantization=quantization)
        self.engine.model.split_projections()  # before the copy, which shares them
        self.engine.model.requires_grad_(False)
        shared = reference_copy(self.engine.model)
        load_adapter(shared, files)
        shared.requires_grad_(False)
        text = PretrainedText.load(files)
        return Engine.of(Pretrained(files, shared, text.tokenizer, text.template), device=device, clock=datetime.now)

    def _has_other_weights(self, files: ModelFiles) -> bool:
        """Return True if the matrices of the replica cannot be those of the base of an adapter.

        They differ if the adapter was trained on a quantized base, or if it trains a matrix in full that the replica
        has quantized.
        """
        from vita.nn.adapters.attach import HEAD, all_linears
        from vita.nn.adapters.config import LoraConfig

        if description(files.folder).get("quantization"):
            return True
        names = [HEAD, *(name for _, name in all_linears(self.engine.model))]
        config = LoraConfig.read(files)
        return self.settings.weight_format in ("int8", "int4") and any(config.saves(name) for name in names)
