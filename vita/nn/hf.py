"""A model is a Hugging Face folder: what `save` writes, transformers, vLLM and llama.cpp read, and `load` reads theirs.

    model = load(folder)
    save(model, other)            # config.json and model.safetensors
    carry(folder, other)          # tokenizer, chat template and generation settings, unchanged

Only safetensors are read, never pickles. Whatever is missing, superfluous or of another shape is named and refused.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vita.nn.architecture import Architecture
from vita.nn.transformer import Transformer
from vita.spine.errors import ModelError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
GENERATION = "generation_config.json"
DESCRIPTION = "vita.json"
M = TypeVar("M", bound=Transformer)
COMPANIONS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", GENERATION)
"""Files that go with a model through its life and do not change when its weights do."""


@dataclass(frozen=True)
class Generation:
    """The token ids that begin, pad and end a text."""

    start: int | None = None
    padding: int | None = None
    stop: tuple[int, ...] = ()


def load(
    folder: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    attention: str = "sdpa",
) -> Transformer:
    """The model in a Hugging Face folder, its weights converted to `dtype`."""
    architecture = Architecture.from_hf(read_config(folder), where=str(Path(folder) / CONFIG))
    with torch.device("meta"):
        model = Transformer(architecture, attention=attention)
    return filled(model, folder, dtype=dtype, device=device)


def filled(model: M, folder: str | Path, *, dtype: torch.dtype, device: str | torch.device) -> M:
    """A model that was made on the meta device, with the weights in the folder."""
    model = model.to(dtype).to_empty(device=device)
    model.model.rotary.reset_parameters()
    _fill(model, Path(folder))
    return model


def read_config(folder: str | Path) -> dict[str, Any]:
    """What `config.json` says."""
    return _read_json(Path(folder) / CONFIG)


def save(
    model: Transformer,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Writes `config.json`, with what `config` adds or replaces, and `model.safetensors`, rounded to a `dtype`.

    Each file is written aside and renamed, the config last: an interrupted save leaves no half-written file behind
    under its real name.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in model.state_dict().items()}
    written = dtype or model.head_weight.dtype
    with _written_aside(folder / WEIGHTS) as aside:
        save_file(tensors, aside, metadata={"format": "pt"})
    described = {**model.architecture.to_hf(), "dtype": str(written).removeprefix("torch.")}
    _write_json(folder / CONFIG, {**described, **(config or {})})


def load_generation(folder: str | Path) -> Generation:
    """What `generation_config.json` says, or what `config.json` does where there is none."""
    folder = Path(folder)
    path = folder / GENERATION
    config = _read_json(path if path.exists() else folder / CONFIG)
    stop = config.get("eos_token_id")
    return Generation(
        start=config.get("bos_token_id"),
        padding=config.get("pad_token_id"),
        stop=() if stop is None else (stop,) if isinstance(stop, int) else tuple(stop),
    )


def save_generation(generation: Generation, folder: str | Path) -> None:
    """Writes `generation_config.json`."""
    values = {"bos_token_id": generation.start, "pad_token_id": generation.padding, "eos_token_id": [*generation.stop]}
    _write_json(Path(folder) / GENERATION, values)


def carry(source: str | Path, folder: str | Path) -> None:
    """Copies tokenizer, chat template and generation settings from one model folder to another."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in COMPANIONS:
        if (Path(source) / name).exists():
            shutil.copyfile(Path(source) / name, Path(folder) / name)


def save_next(model: Transformer, folder: str | Path, *, source: str | Path, **learnt: int) -> None:
    """Saves a model that was made from the one in `source`: weights, its companions, and `learnt` in `vita.json`."""
    save(model, folder)
    carry(source, folder)
    describe(model.architecture, folder, **learnt)


def describe(architecture: Architecture, folder: str | Path, **learnt: int) -> None:
    """Writes `vita.json`: the context, and what was learnt last (`steps`, `tokens`)."""
    _write_json(Path(folder) / DESCRIPTION, {"context": architecture.context, **learnt})


def _fill(model: Transformer, folder: Path) -> None:
    wanted = dict(model.state_dict())
    head = None
    found: dict[str, Path] = {}
    for path in _weight_files(folder):
        for name, tensor in _tensors(path):
            if name in found:
                raise ModelError(f"{path}: {name}", f"stands also in {found[name].name}")
            found[name] = path
            if name == "lm_head.weight" and model.architecture.tied:
                head = tensor  # some writers store the tied head too; it must say the same
            elif name not in wanted:
                raise ModelError(f"{path}: {name}", "is no parameter of this architecture")
            else:
                _copy(tensor, wanted[name], where=f"{path}: {name}")
    missing = sorted(wanted.keys() - found.keys())
    if missing:
        more = f" and {len(missing) - 1} more tensors" if len(missing) > 1 else ""
        raise ModelError(f"{folder}: {missing[0]}{more}", "missing from the weights")
    if head is not None and not torch.equal(head.to(model.head_weight), model.head_weight):
        raise ModelError(f"{folder}: lm_head.weight", "differs from the embedding though `tie_word_embeddings` is true")


def _copy(tensor: Tensor, parameter: Tensor, *, where: str) -> None:
    if tensor.shape != parameter.shape:
        raise ModelError(where, expected=f"shape {tuple(parameter.shape)}", got=tuple(tensor.shape))
    if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise ModelError(where, expected="floating-point numbers of 16 to 64 bits", got=str(tensor.dtype))
    with torch.no_grad():
        parameter.copy_(tensor)


def _weight_files(folder: Path) -> list[Path]:
    if (folder / INDEX).exists():
        shards: Mapping[str, str] = _read_json(folder / INDEX).get("weight_map") or {}
        paths = [folder / name for name in sorted(set(shards.values()))]
        for path in paths:
            if path.parent != folder or not path.exists():
                raise ModelError(str(path), f"is named in {INDEX} and is missing")
        return paths
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    pickles = sorted(folder.glob("*.bin"))
    if pickles:
        hint = "pickles can run code and are not read; convert the folder to safetensors"
        raise ModelError(str(folder), expected=WEIGHTS, got=pickles[0].name, hint=hint)
    raise ModelError(str(folder), f"holds no {WEIGHTS}")


def _tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                yield name, file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise ModelError(str(path), f"cannot be read, perhaps it was cut short: {error}") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(str(path), "no such file", hint="a model is a folder as Hugging Face writes it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(str(path), f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(str(path), expected="a JSON object", got=type(value).__name__)
    return value


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with _written_aside(path) as aside:
        aside.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _written_aside(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; what stands there moves to `path` once its bytes are on the disk."""
    aside = path.with_name(f".{path.name}.partial")
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(str(path), f"cannot be written: {error}") from None
    finally:
        aside.unlink(missing_ok=True)
