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
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
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
from vita.spine.model_files import ModelFiles, ModelFolder

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
GENERATION = "generation_config.json"
DESCRIPTION = "vita.json"
M = TypeVar("M", bound=Transformer)
TOKENIZER_CONFIG = "tokenizer_config.json"
COMPANIONS = (
    "tokenizer.json",
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    GENERATION,
)
"""Files that go with a model through its life and do not change when its weights do."""
TEMPLATES = "additional_chat_templates"
"""A folder of further chat templates, which goes with a model likewise."""


@dataclass(frozen=True)
class Generation:
    """The token ids that begin, pad and end a text."""

    start: int | None = None
    padding: int | None = None
    stop: tuple[int, ...] = ()


def load(
    folder: ModelFolder,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    attention: str = "sdpa",
) -> Transformer:
    """The model in a Hugging Face folder, its weights converted to `dtype`."""
    files = ModelFiles.of(folder)
    architecture = Architecture.from_hf(read_config(files), where=str(files.path(CONFIG)))
    with torch.device("meta"):
        model = Transformer(architecture, attention=attention)
    return filled(model, files, dtype=dtype, device=device)


def filled(model: M, folder: ModelFolder, *, dtype: torch.dtype, device: str | torch.device) -> M:
    """A model that was made on the meta device, with the weights in the folder."""
    model = model.to(dtype).to_empty(device=device)
    model.model.rotary.reset_parameters()
    _fill(model, ModelFiles.of(folder))
    return model


def read_config(folder: ModelFolder) -> dict[str, Any]:
    """Return the content of `config.json`."""
    return _read_json(folder, CONFIG)


def save(
    model: Transformer,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    dtypes: Mapping[str, torch.dtype] | None = None,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Writes `config.json`, with what `config` adds or replaces, and `model.safetensors`, rounded to a `dtype`.

    `dtypes` gives single tensors a type of their own, by name.

    Each file is written aside and renamed, the config last: an interrupted save leaves no half-written file behind
    under its real name.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    types = dtypes or {}
    tensors = {
        name: tensor.detach().to("cpu", types.get(name, dtype)).contiguous()
        for name, tensor in model.state_dict().items()
    }
    written = dtype or model.head_weight.dtype
    with _written_aside(folder / WEIGHTS) as aside:
        save_file(tensors, aside, metadata={"format": "pt"})
    described = {**model.architecture.to_hf(), "dtype": str(written).removeprefix("torch.")}
    _write_json(folder / CONFIG, {**described, **(config or {})})


def load_generation(folder: ModelFolder) -> Generation:
    """Return the settings of `generation_config.json`, or those of `config.json` where there is no such file."""
    files = ModelFiles.of(folder)
    config = _read_json(files, GENERATION if files.exists(GENERATION) else CONFIG)
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


def add_stops(folder: str | Path, tokens: Iterable[int], *, otherwise: Iterable[int] = ()) -> None:
    """Let generation end at `tokens` too; everything else that `generation_config.json` says stays as it is.

    A folder that names no end token at all gets `otherwise` as well.
    """
    path = Path(folder) / GENERATION
    before = load_generation(folder)
    stops = list(dict.fromkeys([*(before.stop or sorted(otherwise)), *tokens]))
    if path.exists() and stops == [*before.stop]:
        return
    values = (
        _read_json(folder, GENERATION)
        if path.exists()
        else {"bos_token_id": before.start, "pad_token_id": before.padding}
    )
    _write_json(path, {**values, "eos_token_id": stops})


def carry(source: ModelFolder, folder: str | Path) -> None:
    """Copy tokenizer, chat templates and generation settings from one model folder to another."""
    files, folder = ModelFiles.of(source), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in COMPANIONS:
        if files.exists(name):
            (folder / name).write_bytes(files.read(name))
    if files.path(TEMPLATES).is_dir():
        shutil.copytree(files.path(TEMPLATES), folder / TEMPLATES, dirs_exist_ok=True)


def save_next(model: Transformer, folder: str | Path, *, source: ModelFolder, **learnt: int) -> None:
    """Saves a language model that was made from the one in `source`, with everything else that `source` says.

    The weights keep the types in which `source` stores them, `config.json` keeps its further fields, and tokenizer,
    templates and generation settings are copied. `learnt` goes into `vita.json`.
    """
    source = ModelFiles.of(source)
    save_like(model, folder, source=source, config=read_config(source))
    carry(source, folder)
    pad_left(folder)
    describe(model.architecture, folder, **learnt)


def save_like(model: Transformer, folder: str | Path, *, source: ModelFolder, config: Mapping[str, Any]) -> None:
    """Saves weights in the types in which `source` stores them, those without a counterpart in the most common one."""
    dtypes = stored_dtypes(source)
    usual = _most_common(dtypes)
    save(model, folder, dtype=usual, dtypes=dtypes, config=config)


@torch.no_grad()
def round_like(model: Transformer, source: ModelFolder) -> None:
    """Rounds weights in place to the types in which `source` stores them, so that what is measured is what is saved."""
    dtypes = stored_dtypes(source)
    usual = _most_common(dtypes)
    for name, parameter in model.named_parameters():
        parameter.copy_(parameter.to(dtypes.get(name, usual)))


def stored_dtypes(folder: ModelFolder) -> dict[str, torch.dtype]:
    """Return the type of each tensor in the folder's weight files, by name."""
    files = ModelFiles.of(folder)
    if files.tensor_types is not None:
        return dict(files.tensor_types)
    dtypes: dict[str, torch.dtype] = {}
    for path in _weight_files(files):
        with _reading(path) as file:
            dtypes |= {name: _TYPES.get(file.get_slice(name).get_dtype(), torch.float32) for name in file.keys()}  # noqa: SIM118
    return dtypes


_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def _most_common(dtypes: Mapping[str, torch.dtype]) -> torch.dtype:
    return Counter(dtypes.values()).most_common(1)[0][0] if dtypes else torch.float32


def pad_left(folder: str | Path) -> None:
    """Has transformers pad on the left, as generation with a decoder needs it.

    With padding on the right, its default, transformers continues a shorter prompt of a batch after the padding, and
    gives other answers than for the prompt alone.
    """
    path = Path(folder) / TOKENIZER_CONFIG
    if path.exists():
        settings = _read_json(folder, TOKENIZER_CONFIG)
        if settings.get("padding_side") != "left":
            _write_json(path, {**settings, "padding_side": "left"})


def check_tokens(folder: ModelFolder, architecture: Architecture, tokens: int) -> None:
    """Refuses a tokenizer with more ids (`tokens`) than the model has embeddings, and an end token beyond them."""
    rows = architecture.vocabulary
    if tokens > rows:
        raise ModelError(
            str(folder),
            f"the tokenizer knows {tokens} tokens, the model {rows}",
            hint="resize the embedding to the tokenizer, or take the tokenizer that belongs to the model",
        )
    beyond = [token for token in load_generation(folder).stop if token >= rows]
    if beyond:
        raise ModelError(f"{folder}: eos_token_id", expected=f"token ids from 0 to {rows - 1}", got=beyond[0])


def check_finite(model: Transformer, folder: ModelFolder) -> None:
    """Refuses weights that are NaN or infinite, by the name of the first such tensor."""
    names = nonfinite_tensors(model)
    if names:
        more = f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
        hint = "the weights are damaged; take the last good copy of the model"
        raise ModelError(f"{folder}: {names[0]}{more}", "holds NaN or infinite values", hint=hint)


def nonfinite_tensors(model: Transformer) -> list[str]:
    """Names of the parameters that hold NaN or infinite values."""
    return [name for name, parameter in model.named_parameters() if not bool(torch.isfinite(parameter).all())]


def describe(architecture: Architecture, folder: str | Path, **learnt: int) -> None:
    """Writes `vita.json`: the context, and what was learnt last (`steps`, `tokens`)."""
    _write_json(Path(folder) / DESCRIPTION, {"context": architecture.context, **learnt})


def _fill(model: Transformer, files: ModelFiles) -> None:
    wanted = dict(model.state_dict())
    head = None
    found: dict[str, Path] = {}
    dtypes: dict[str, torch.dtype] = {}
    for path in _weight_files(files):
        for name, tensor in _tensors(path):
            dtypes[name] = tensor.dtype if tensor.dtype in _TYPES.values() else torch.float32
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
        raise ModelError(f"{files}: {missing[0]}{more}", "missing from the weights")
    if head is not None and not torch.equal(head.to(model.head_weight), model.head_weight):
        raise ModelError(f"{files}: lm_head.weight", "differs from the embedding though `tie_word_embeddings` is true")
    files.tensor_types = dtypes


def _copy(tensor: Tensor, parameter: Tensor, *, where: str) -> None:
    if tensor.shape != parameter.shape:
        raise ModelError(where, expected=f"shape {tuple(parameter.shape)}", got=tuple(tensor.shape))
    if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise ModelError(where, expected="floating-point numbers of 16 to 64 bits", got=str(tensor.dtype))
    with torch.no_grad():
        parameter.copy_(tensor)


def _weight_files(files: ModelFiles) -> list[Path]:
    folder = files.folder
    if files.exists(INDEX):
        shards: Mapping[str, str] = _read_json(files, INDEX).get("weight_map") or {}
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
    with _reading(path) as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            yield name, file.get_tensor(name)


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    try:
        path.open("rb").close()  # safetensors reports a file without permission as missing
    except OSError as error:
        raise ModelError(str(path), f"cannot be read: {(error.strerror or str(error)).lower()}") from None
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ModelError(str(path), f"cannot be read, perhaps it was cut short: {error}") from None


def _read_json(folder: ModelFolder, name: str) -> dict[str, Any]:
    files = ModelFiles.of(folder)
    path = files.path(name)
    try:
        value = json.loads(files.text(name))
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
