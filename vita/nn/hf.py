"""Models as Hugging Face folders, in the format of transformers in both directions.

    model = load(folder)
    save(model, other)            # config.json and model.safetensors
    copy_tokenizer_files(folder, other)   # tokenizer, chat template and generation settings, unchanged

Only safetensors are read, never pickles. A missing or unexpected tensor, or one of another shape, raises an error.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vita.nn.architecture import Architecture
from vita.nn.block_scaled import STORED_TYPES, dequantized_tensors
from vita.nn.experts import CORRECTION
from vita.nn.families import read_architecture, weight_map, write_config
from vita.nn.families.successor import successor_config
from vita.nn.families.weight_map import WeightMap, expert_slices
from vita.nn.meta_device import allocate
from vita.nn.rotary import Rotary
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
"""Files that are copied from a model to its successors, because they do not depend on the weights."""
TEMPLATES = "additional_chat_templates"
"""Folder of additional chat templates, which is copied as well."""


@dataclass(frozen=True)
class GenerationTokens:
    """The special token ids for generation: start, padding and end of a text."""

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
    """Load the model in a Hugging Face folder, with weights converted to `dtype`."""
    return load_weights(load_structure(folder, attention=attention), folder, dtype=dtype, device=device)


def load_structure(folder: ModelFolder, *, attention: str = "sdpa") -> Transformer:
    """Return the model of a folder on the meta device, without memory for its weights."""
    files = ModelFiles.of(folder)
    architecture = read_architecture(read_config(files), where=str(files.path(CONFIG)))
    with torch.device("meta"):
        return Transformer(architecture, attention=attention)


def load_weights(model: M, folder: ModelFolder, *, dtype: torch.dtype, device: str | torch.device) -> M:
    """Load the weights in a folder into a model on the meta device."""
    model = model.to(dtype)
    allocate(model, device)
    for module in model.modules():
        if isinstance(module, Rotary):
            module.reset_parameters()
    _copy_weights(model, ModelFiles.of(folder))
    return model


def weights_of(model: Transformer) -> WeightMap:
    """Return the translation between the names of the weight files and those of a model."""
    return weight_map(model.architecture, classifier=hasattr(model, "score"))


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
    """Write `config.json`, updated with `config`, and `model.safetensors`, with weights rounded to `dtype`.

    Both have the format of the model's family. `dtypes` sets the types of individual tensors, by their name in files.

    Each file is written under a temporary name and renamed, the config last: an interrupted save leaves no incomplete
    file under its final name.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    types = dtypes or {}
    state = {name: tensor.detach().to("cpu") for name, tensor in model.state_dict().items()}
    tensors = {
        name: tensor.to(types.get(name, torch.float32 if name.endswith(CORRECTION) else dtype)).contiguous()
        for name, tensor in weights_of(model).to_file(state).items()
    }
    main_dtype = dtype or model.head_weight.dtype
    with _atomic_write(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    written = write_config(model.architecture)
    contents = {**written, "dtype": str(main_dtype).removeprefix("torch.")}
    if config:
        before = read_architecture(config, where=CONFIG) if "model_type" in config else None
        contents |= successor_config(model.architecture, written, config, before=before)
    _write_json(folder / CONFIG, contents)


def load_generation(folder: ModelFolder) -> GenerationTokens:
    """Return the settings of `generation_config.json`, or those of `config.json` where there is no such file."""
    files = ModelFiles.of(folder)
    config = _read_json(files, GENERATION if files.exists(GENERATION) else CONFIG)
    stop = config.get("eos_token_id")
    return GenerationTokens(
        start=config.get("bos_token_id"),
        padding=config.get("pad_token_id"),
        stop=() if stop is None else (stop,) if isinstance(stop, int) else tuple(stop),
    )


def save_generation(generation: GenerationTokens, folder: str | Path) -> None:
    """Write `generation_config.json`."""
    values = {"bos_token_id": generation.start, "pad_token_id": generation.padding, "eos_token_id": [*generation.stop]}
    _write_json(Path(folder) / GENERATION, values)


def add_stops(folder: str | Path, tokens: Iterable[int], *, otherwise: Iterable[int] = ()) -> None:
    """Add `tokens` to the end tokens in `generation_config.json`; other values stay unchanged.

    A folder without any end token gets `otherwise` as well.
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


def copy_tokenizer_files(source: ModelFolder, folder: str | Path) -> None:
    """Copy tokenizer, chat templates and generation settings from one model folder to another."""
    files, folder = ModelFiles.of(source), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in COMPANIONS:
        if files.exists(name):
            (folder / name).write_bytes(files.read(name))
    if files.path(TEMPLATES).is_dir():
        shutil.copytree(files.path(TEMPLATES), folder / TEMPLATES, dirs_exist_ok=True)


def save_successor(model: Transformer, folder: str | Path, *, source: ModelFolder, **progress: int) -> None:
    """Save a language model that was trained from the one in `source`, with all other files of `source`.

    The weights keep the dtypes of `source`, `config.json` keeps its other fields, and tokenizer, templates and
    generation settings are copied. `progress` is written to `vita.json`.
    """
    source = ModelFiles.of(source)
    config = read_config(source)
    if not model.architecture.causal:
        # The class of the source may have parts that a masked-language model does not have.
        config["architectures"] = write_config(model.architecture)["architectures"]
    save_like(model, folder, source=source, config=config)
    copy_tokenizer_files(source, folder)
    if model.architecture.causal:
        pad_left(folder)
    if read_architecture(config, where=str(source.path(CONFIG))).context < model.architecture.context:
        _extend_tokenizer(folder, model.architecture.context)
    describe(model.architecture, folder, **progress)


def save_like(model: Transformer, folder: str | Path, *, source: ModelFolder, config: Mapping[str, Any]) -> None:
    """Save weights in the dtypes of `source`; tensors that `source` does not have get its most common dtype."""
    dtypes = stored_dtypes(source)
    common_dtype = _most_common(dtypes)
    save(model, folder, dtype=common_dtype, dtypes=dtypes, config=config)


@torch.no_grad()
def round_like(model: Transformer, source: ModelFolder) -> None:
    """Round weights in place to the dtypes of `source`, so that evaluations use the weights that are saved."""
    dtypes = stored_dtypes(source)
    common_dtype, names = _most_common(dtypes), weights_of(model)
    for name, parameter in expert_slices(dict(model.named_parameters())).items():
        parameter.copy_(parameter.to(dtypes.get(names.file_name(name), common_dtype)))


def stored_dtypes(folder: ModelFolder) -> dict[str, torch.dtype]:
    """Return the type of each tensor in the folder's weight files, by name."""
    files = ModelFiles.of(folder).weights
    if files.tensor_types is not None:
        return dict(files.tensor_types)
    dtypes: dict[str, torch.dtype] = {}
    for path in weight_files(files):
        with reading(path) as file:
            dtypes |= {name: _TYPES.get(file.get_slice(name).get_dtype(), torch.float32) for name in file.keys()}  # noqa: SIM118
    return dtypes


_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_TYPES = {**_FLOATS, **STORED_TYPES}


def _most_common(dtypes: Mapping[str, torch.dtype]) -> torch.dtype:
    return Counter(dtypes.values()).most_common(1)[0][0] if dtypes else torch.float32


def pad_left(folder: str | Path) -> None:
    """Configure left padding for transformers, which batched generation with a decoder requires.

    With right padding, its default, transformers continues a shorter prompt of a batch after the padding, and returns
    other answers than for the prompt alone.
    """
    path = Path(folder) / TOKENIZER_CONFIG
    if path.exists():
        settings = _read_json(folder, TOKENIZER_CONFIG)
        if settings.get("padding_side") != "left":
            _write_json(path, {**settings, "padding_side": "left"})


def _extend_tokenizer(folder: str | Path, context: int) -> None:
    """Raise the limit of the tokenizer to the context of a model whose context became longer."""
    path = Path(folder) / TOKENIZER_CONFIG
    if path.exists():
        settings = _read_json(folder, TOKENIZER_CONFIG)
        limit = settings.get("model_max_length")
        if isinstance(limit, int) and limit < context:
            _write_json(path, {**settings, "model_max_length": context})


def check_tokens(folder: ModelFolder, architecture: Architecture, tokens: int) -> None:
    """Raise `ModelError` if the tokenizer (`tokens` ids) or an end token exceeds the embeddings of the model."""
    rows = architecture.vocabulary
    if tokens > rows:
        raise ModelError(
            str(folder),
            f"the tokenizer has {tokens} tokens, the model {rows}",
            hint="resize the embedding to the tokenizer, or use the tokenizer of the model",
        )
    beyond = [token for token in load_generation(folder).stop if token >= rows]
    if beyond:
        raise ModelError(f"{folder}: eos_token_id", expected=f"token ids from 0 to {rows - 1}", got=beyond[0])


def check_finite(model: Transformer, folder: ModelFolder) -> None:
    """Raise `ModelError` for NaN or infinite weights, with the name of the first such tensor."""
    refuse_nonfinite(nonfinite_tensors(model), folder)


def refuse_nonfinite(names: Sequence[str], folder: ModelFolder) -> None:
    """Raise `ModelError` if there are `names` of tensors with NaN or infinite values."""
    if names:
        remainder = f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
        hint = "the weights are corrupt; use the last valid copy of the model"
        raise ModelError(f"{folder}: {names[0]}{remainder}", "contains NaN or infinite values", hint=hint)


def nonfinite_tensors(model: Transformer) -> list[str]:
    """Return the names of the parameters that contain NaN or infinite values."""
    return [name for name, parameter in model.named_parameters() if not bool(torch.isfinite(parameter).all())]


def describe(architecture: Architecture, folder: str | Path, **progress: int) -> None:
    """Write `vita.json`: the context, and the size of the last training (`steps`, `tokens`)."""
    _write_json(Path(folder) / DESCRIPTION, {"context": architecture.context, **progress})


def _copy_weights(model: Transformer, files: ModelFiles) -> None:
    parameters = expert_slices(model.state_dict())

    def copy(name: str, tensor: Tensor) -> None:
        with torch.no_grad():
            parameters[name].copy_(tensor)

    head = read_weights(model, files, copy)
    if head is not None and not torch.equal(head.to(model.head_weight), model.head_weight):
        raise unequal_head(files)


def unequal_head(files: ModelFiles) -> ModelError:
    """Return the error for a tied head that is stored with other values than the embedding."""
    return ModelError(f"{files}: lm_head.weight", "differs from the embedding though `tie_word_embeddings` is true")


def read_weights(model: Transformer, folder: ModelFolder, write: Callable[[str, Tensor], None]) -> Tensor | None:
    """Read the weights of a folder for a model, one at a time, and pass each with its name to `write`.

    Names of stacked experts are those of `expert_slices`. `model` gives the expected shapes, and may be on the meta
    device. Returns the head if the folder stores it although it is tied: it must equal the embedding.
    """
    files = ModelFiles.of(folder)
    shapes = {name: tensor.shape for name, tensor in expert_slices(model.state_dict()).items()}
    head = None
    source_files: dict[str, Path] = {}
    dtypes: dict[str, torch.dtype] = {}
    weights = weights_of(model)
    paths, config = weight_files(files), read_config(files)
    for path in paths:
        for file_name, file_tensor in dequantized_tensors(_tensors(path), paths, config=config):
            dtypes[file_name] = file_tensor.dtype if file_tensor.dtype in _TYPES.values() else torch.float32
            for name, tensor in weights.to_own(file_name, file_tensor):
                if name in source_files:
                    raise ModelError(f"{path}: {file_name}", f"is also stored in {source_files[name].name}")
                source_files[name] = path
                if name == "lm_head.weight" and model.architecture.tied:
                    head = tensor  # some tools store the tied head, too; it must equal the embedding
                elif name not in shapes:
                    raise ModelError(f"{path}: {file_name}", "is not a parameter of this architecture")
                else:
                    _check_tensor(tensor, shapes[name], where=f"{path}: {file_name}")
                    write(name, tensor)
    missing = [weights.file_name(name) for name in sorted(shapes.keys() - source_files.keys())]
    if missing:
        remainder = f" and {len(missing) - 1} more tensors" if len(missing) > 1 else ""
        raise ModelError(f"{files}: {missing[0]}{remainder}", "missing from the weights")
    files.tensor_types = dtypes
    return head


def _check_tensor(tensor: Tensor, shape: torch.Size, *, where: str) -> None:
    if tensor.shape != shape:
        raise ModelError(where, expected=f"shape {tuple(shape)}", got=tuple(tensor.shape))
    if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise ModelError(where, expected="floating-point numbers of 16 to 64 bits", got=str(tensor.dtype))


def weight_files(files: ModelFiles) -> list[Path]:
    folder = files.folder
    if files.exists(INDEX):
        shards: Mapping[str, str] = _read_json(files, INDEX).get("weight_map") or {}
        paths = [folder / name for name in sorted(set(shards.values()))]
        for path in paths:
            if path.parent != folder or not path.exists():
                raise ModelError(str(path), f"is listed in {INDEX} and missing")
        return paths
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    pickles = sorted(folder.glob("*.bin"))
    if pickles:
        hint = "pickles can run code and are not read; convert the folder to safetensors"
        raise ModelError(str(folder), expected=WEIGHTS, got=pickles[0].name, hint=hint)
    raise ModelError(str(folder), f"contains no {WEIGHTS}")


def _tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    with reading(path) as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            yield name, file.get_tensor(name)


@contextmanager
def reading(path: Path) -> Iterator[Any]:
    try:
        path.open("rb").close()  # safetensors reports a file without permission as missing
    except OSError as error:
        raise ModelError(str(path), f"cannot be read: {(error.strerror or str(error)).lower()}") from None
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ModelError(str(path), f"cannot be read, possibly truncated: {error}") from None


def _read_json(folder: ModelFolder, name: str) -> dict[str, Any]:
    files = ModelFiles.of(folder)
    path = files.path(name)
    try:
        value = json.loads(files.text(name))
    except FileNotFoundError:
        raise ModelError(str(path), "no such file", hint="a model is a folder in the Hugging Face format") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(str(path), f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(str(path), expected="a JSON object", got=type(value).__name__)
    return value


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with _atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`, which is synced and renamed to `path` at the end."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(str(path), f"cannot be written: {error}") from None
    finally:
        temporary.unlink(missing_ok=True)
