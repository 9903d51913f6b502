"""The measurements of `bench.gpu`: training steps and decoding at fixed shapes, on random weights and tokens."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from vita.nn.architecture import Architecture


@dataclass(frozen=True)
class Size:
    """Sizes of a Qwen3-shaped decoder and of a training step."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    feedforward: int
    vocabulary: int
    context: int
    rows: int
    tied: bool = False


SIZES = {
    "124M": Size(12, 768, 12, 12, 2048, 50304, 1024, 256, tied=True),
    "135M": Size(12, 768, 12, 12, 2048, 32768, 1024, 256),
    "1B": Size(20, 2048, 16, 16, 5632, 32768, 2048, 64),
}
TINY = Size(2, 64, 4, 4, 128, 512, 64, 4)
"""The size of a rehearsal."""


@dataclass(frozen=True)
class Case:
    """A measurement."""

    name: str
    kind: Literal["training", "decoding"]
    size: str
    determinism: Literal["exact", "fast"] = "exact"
    documents: bool = False
    """Attend within documents of about 300 tokens."""
    precision: Literal["auto", "float8"] = "auto"
    batch: int = 1
    """Answers that are decoded together."""
    limit: float = 75.0
    """Maximum seconds of the measurement."""


CASES = (
    Case("135M exact", "training", "135M"),
    Case("135M fast", "training", "135M", determinism="fast"),
    Case("124M exact", "training", "124M"),
    Case("1B exact", "training", "1B", limit=90.0),
    Case("decoding 1", "decoding", "135M", limit=40.0),
    Case("decoding 64", "decoding", "135M", batch=64, limit=40.0),
    Case("124M fast", "training", "124M", determinism="fast"),
    Case("1B fast", "training", "1B", determinism="fast", limit=90.0),
    Case("1B fast, float8", "training", "1B", determinism="fast", precision="float8", limit=90.0),
    Case("135M exact, documents", "training", "135M", documents=True),
)
"""In the order of their importance: the last ones are left out when the time is over."""

MEASURED_SECONDS = 12.0
"""Duration of the steps that are timed."""
FORMULA = "tokens/s x (6 matrix weights + 12 layers x heads x head size x (T + 1) / 2) / peak"


def architecture_of(size: Size) -> Architecture:
    """Return the architecture of a size."""
    from vita.nn.architecture import Architecture

    names = ("layers", "width", "heads", "kv_heads", "feedforward", "vocabulary", "context", "tied")
    values = {name: getattr(size, name) for name in names}
    return Architecture.model_validate({**values, "head_dim": size.width // size.heads, "qk_norm": "head"})


def random_tokens(step: int, *, rows: int, length: int, vocabulary: int) -> Tensor:
    """Return token ids [rows, length] with the frequencies of a text: the n-th token has 1 / (n + 10) of the weight."""
    import torch

    weights = 1.0 / (torch.arange(vocabulary) + 10.0)
    shares = weights.double().cumsum(0) / weights.double().sum()
    uniform = torch.rand(rows, length, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    return torch.searchsorted(shares, uniform).clamp(max=vocabulary - 1)


def measure(case: Case, *, rehearse: bool) -> dict[str, Any]:
    """Return the figures of a case."""
    import torch

    from vita.nn.transformer import Transformer
    from vita.spine.machine import Machine

    size = TINY if rehearse else SIZES[case.size]
    device = Machine.detect().device
    model = Transformer(architecture_of(size)).to(device)
    _randomize(model, device)
    function = _measure_training if case.kind == "training" else _measure_decoding
    name = torch.cuda.get_device_name(device) if device == "cuda" else device
    return {"device": name, "torch": torch.__version__, "kind": case.kind, **function(case, size, model, device)}


def _randomize(model: Any, device: str) -> None:
    """Draw weights on the device, which takes less time than on the CPU."""
    import torch

    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2:
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, 0.02, generator=generator)


def _measure_training(case: Case, size: Size, model: Any, device: str) -> dict[str, Any]:
    import torch

    from vita.train.hardware import matmul_peak, peak_memory, reset_peak_memory
    from vita.train.losses import language_modelling
    from vita.train.parallel.mesh import ProcessMesh
    from vita.train.peaks import device_peak
    from vita.train.prefetch import PrefetchedBatches
    from vita.train.trainer import StepBatch, Trainer, TrainerConfig

    on_gpu = device == "cuda"
    settings = {
        "schedule": {"steps": 1000, "warmup": 10},
        "determinism": case.determinism,
        "precision": case.precision,
        "micro_batch_tokens": "auto",
        "compile": "yes" if on_gpu else "no",
    }
    started = time.perf_counter()
    config = TrainerConfig.model_validate(settings)
    trainer = Trainer(model, language_modelling, config, world=ProcessMesh(device=device))
    targets = size.rows * size.context

    def batch(step: int) -> StepBatch:
        shape = {"rows": size.rows, "length": size.context + 1}
        tensors = {"ids": random_tokens(step % 4, vocabulary=size.vocabulary, **shape)}
        if case.documents:
            tensors["documents"] = (torch.arange(size.context + 1) // 300).repeat(size.rows, 1)
        return StepBatch(tensors, targets=targets)

    with PrefetchedBatches(batch, steps=1000, device=device) as batches:
        first_loss = trainer.step(batches(0)).loss
        _wait(device)
        first_step = time.perf_counter() - started
        for step in (1, 2):
            trainer.step(batches(step))
        _wait(device)
        reset_peak_memory(device)
        seconds, last_loss = _timed_steps(lambda step: trainer.step(batches(step + 3)).loss, device)
    memory = peak_memory(device)
    flops = architecture_of(size).flops_per_token(size.context)
    speed = targets / median(seconds)
    stated, measured = device_peak(device, trainer.precision.dtype), matmul_peak(trainer.precision.dtype, device=device)
    figures: dict[str, Any] = {
        "tokens/s": round(speed),
        "spread": [round(targets / max(seconds)), round(targets / min(seconds))],
        "MFU": round(speed * flops / stated.flops_per_second, 3) if stated else "no data sheet",
        "MFU of measured peak": round(speed * flops / measured, 3),
        "memory GB": round(memory / 1e9, 2),
        "first step s": round(first_step, 1),
        "micro-batch tokens": trainer.micro_tokens,
        "steps": len(seconds),
        "loss": [round(first_loss, 3), round(last_loss, 3)],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "precision": trainer.precision.name,
        "formula": FORMULA,
    }
    return figures


def _timed_steps(step: Callable[[int], float], device: str) -> tuple[list[float], float]:
    """Return the seconds of each step for `MEASURED_SECONDS`, at least three steps, and the last loss."""
    seconds: list[float] = []
    loss = 0.0
    until = time.perf_counter() + (MEASURED_SECONDS if device == "cuda" else 0.5)
    while len(seconds) < 3 or time.perf_counter() < until:
        started = time.perf_counter()
        loss = step(len(seconds))
        _wait(device)
        seconds.append(time.perf_counter() - started)
    return seconds, loss


def _measure_decoding(case: Case, size: Size, model: Any, device: str) -> dict[str, Any]:
    import torch

    from vita.infer.engine import Engine
    from vita.infer.sampling import Sampling
    from vita.testing import byte_tokenizer

    on_gpu = device == "cuda"
    prompt, new = (64, 256) if on_gpu else (4, 8)
    if on_gpu:
        model.bfloat16()
    tokenizer = byte_tokenizer()
    engine = Engine(model, tokenizer, device=device, rows=case.batch)
    sampling = Sampling(temperature=0.0, max_tokens=new)

    def answers(seed: int) -> tuple[int, float]:
        ids = random_tokens(seed, rows=case.batch, length=prompt, vocabulary=250).tolist()
        started = time.perf_counter()
        completions = engine.generate(ids, sampling)
        _wait(device)
        return sum(len(completion.ids) for completion in completions), time.perf_counter() - started

    first = answers(0)
    timings = [answers(seed) for seed in range(1, 4)]
    speeds = [tokens / seconds for tokens, seconds in timings]
    return {
        "tokens/s": round(median(speeds)),
        "spread": [round(min(speeds)), round(max(speeds))],
        "ms/step": round(1000 * case.batch / median(speeds), 2),
        "batch": case.batch,
        "first answer s": round(first[1], 2),
        "tokens": [tokens for tokens, _seconds in timings],
        "memory GB": round(torch.cuda.max_memory_allocated() / 1e9, 2) if on_gpu else 0.0,
        "precision": str(next(model.parameters()).dtype).removeprefix("torch."),
    }


def _wait(device: str) -> None:
    """Wait until the device has finished its work."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
