"""Models on the Hugging Face Hub: the commit of a revision, and the download of its safe files.

    commit = resolve_commit(HubReference("Qwen/Qwen3-0.6B", "main"))
    files = download_model(reference, commit)       # name -> path in the cache of huggingface_hub

The token comes from the environment (`HF_TOKEN`) or from `hf auth login`; huggingface_hub reads it, Vita never does.
Only safetensors, JSON, templates, tokenizers, cards and licences are downloaded: no pickles and no code. Every file is
verified against the hash under which the Hub lists it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from vita.formats.hub_reference import HubReference
from vita.spine.disk import file_sha256
from vita.spine.errors import MissingExtra, ModelError, VitaError

WEIGHTS, INDEX, CONFIG, CARD = "model.safetensors", "model.safetensors.index.json", "config.json", "README.md"
_SAFE_SUFFIXES = (".json", ".jinja", ".txt", ".md", ".model")
_LICENCE_NAMES = ("license", "licence", "notice", "use_policy", "copying")
_TEMPLATES = "additional_chat_templates/"
_DEFAULT_REVISION = "main"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def resolve_commit(reference: HubReference, *, ledger: Any = None) -> str:
    """Return the commit of a revision: from the Hub, or without a network from the cache or an earlier adoption."""
    if reference.is_pinned:
        return str(reference.revision)
    hub = library()
    revision = reference.revision or _DEFAULT_REVISION
    try:
        commit = hub.HfApi().model_info(reference.id, revision=revision).sha
        return str(commit)
    except Exception as error:  # noqa: BLE001 (the classes of the HTTP library are not fixed)
        if not is_unreachable(error):
            raise explain_error(error, reference) from None
        known = _cached_commit(reference.id, revision) or _adopted_commit(reference, ledger)
        if known is None:
            raise explain_error(error, reference) from None
        return known


def download_model(reference: HubReference, commit: str) -> dict[str, Path]:
    """Download the safe files of a model, or its GGUF file; return name -> path of the verified files."""
    hub = library()
    with errors_explained(reference):
        names = _file_names(reference, commit)
        if reference.file:
            chosen = [reference.file]
            if reference.file not in names:
                raise ModelError(str(reference), f"the repository has no file {reference.file}")
        else:
            chosen = _safe_files(names, reference, _shards(reference, commit, names))
        folder = Path(hub.snapshot_download(reference.id, revision=commit, allow_patterns=chosen))
    files = {name: folder / name for name in chosen if (folder / name).is_file()}
    if missing := sorted(set(chosen) - set(files)):
        raise ModelError(str(reference), f"{missing[0]} is missing from the cache", hint=online_hint())
    for name, path in files.items():
        verify_blob(path, where=f"{reference}: {name}")
    return files


def card_metadata(text: str) -> dict[str, Any]:
    """Return the front matter of a model card; empty where there is none or it is not YAML."""
    match = re.match(r"\ufeff?---\s*\n(.*?)\n---\s*(?:\n|$)", text.replace("\r\n", "\n"), re.DOTALL)
    try:
        value = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError:
        return {}
    return value if isinstance(value, dict) else {}


@contextmanager
def errors_explained(reference: HubReference | str) -> Iterator[None]:
    try:
        yield
    except VitaError:
        raise
    except Exception as error:  # noqa: BLE001 (the classes of the HTTP library are not fixed)
        raise explain_error(error, reference) from None


# -- the files of a repository


def _file_names(reference: HubReference, commit: str) -> list[str]:
    """Return the names of all files of a commit; without a network those in the cache."""
    hub = library()
    try:
        return sorted(hub.HfApi().list_repo_files(reference.id, revision=commit))
    except Exception as error:
        if not is_unreachable(error):
            raise
        folder = cached_snapshot(reference.id, commit)
        if folder is None:
            raise
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _safe_files(names: Iterable[str], reference: HubReference, shards: list[str]) -> list[str]:
    names = list(names)
    if CONFIG not in names:
        raise ModelError(str(reference), f"the repository has no {CONFIG}", hint=_what_it_holds(names))
    if missing := [shard for shard in shards if shard not in names]:
        raise ModelError(str(reference), f"{INDEX} lists {missing[0]}, which the repository does not have")
    weights = shards or [name for name in names if name == WEIGHTS]
    if not weights:
        raise ModelError(str(reference), f"the repository has no {WEIGHTS}", hint=_what_it_holds(names))
    return [*weights, *(name for name in names if _is_safe(name) and (shards or name != INDEX))]


def _is_safe(name: str) -> bool:
    if name.startswith(_TEMPLATES):
        return name.endswith(".jinja")
    if "/" in name or name.startswith("."):
        return False
    return name.lower().endswith(_SAFE_SUFFIXES) or name.lower().startswith(_LICENCE_NAMES)


def _what_it_holds(names: Iterable[str]) -> str:
    """Return the hint for a repository without a model that can be read."""
    names = list(names)
    if "adapter_config.json" in names:
        return "it holds an adapter; adopt its base model, and give the adapter to the stage"
    if gguf := [name for name in names if name.endswith(".gguf")]:
        return f"it holds GGUF files: give one of them, OWNER/NAME/{gguf[0]}"
    pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    if pickles:
        return f"{pickles[0]} is a pickle, which can run code and is not read; use a revision with safetensors"
    return "a model repository has config.json and model.safetensors"


def _shards(reference: HubReference, commit: str, names: Iterable[str]) -> list[str]:
    """Return the weight files that the index lists; empty without an index."""
    if INDEX not in names or WEIGHTS in names:
        return []
    path = library().hf_hub_download(reference.id, INDEX, revision=commit)
    try:
        weight_map = json.loads(Path(path).read_text(encoding="utf-8"))["weight_map"]
        return sorted(set(map(str, weight_map.values())))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{reference}: {INDEX}", "is not an index of weight files") from None


def download_tokenizer(reference: HubReference, commit: str) -> Path:
    """Download the tokenizer of a model without its weights; return the folder of its verified files."""
    hub = library()
    with errors_explained(reference):
        names = [name for name in _file_names(reference, commit) if name in TOKENIZER_FILES]
        if TOKENIZER_FILES[0] not in names:
            raise ModelError(str(reference), f"the repository has no {TOKENIZER_FILES[0]}")
        folder = Path(hub.snapshot_download(reference.id, revision=commit, allow_patterns=names))
    for name in names:
        if not (folder / name).is_file():
            raise ModelError(str(reference), f"{name} is missing from the cache", hint=online_hint())
        verify_blob(folder / name, where=f"{reference}: {name}")
    return folder


def verify_blob(path: Path, *, where: str) -> None:
    """Compare a cached file with the hash that names it: sha256 of large files, the git hash of small ones."""
    name = path.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", name):
        actual = file_sha256(path)
    elif re.fullmatch(r"[0-9a-f]{40}", name):
        data = path.read_bytes()
        actual = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    else:
        return
    if actual != name:
        hint = f"remove {path.resolve()} and run the same command again"
        raise ModelError(where, expected=f"content with the hash {name[:12]}", got=actual[:12], hint=hint)


# -- without a network


def _cached_commit(model: str, revision: str) -> str | None:
    from huggingface_hub.constants import HF_HUB_CACHE

    path = Path(HF_HUB_CACHE, f"models--{model.replace('/', '--')}", "refs", revision)
    commit = path.read_text(encoding="utf-8").strip() if path.is_file() else None
    return commit if commit and cached_snapshot(model, commit) else None


def cached_snapshot(repository: str, commit: str, *, kind: str = "models") -> Path | None:
    """Return the folder of a commit in the cache, of a repository of the kind `models` or `datasets`."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE, f"{kind}--{repository.replace('/', '--')}", "snapshots", commit)
    return folder if folder.is_dir() else None


def _adopted_commit(reference: HubReference, ledger: Any) -> str | None:
    """Return the commit of the newest adoption of this revision."""
    if ledger is None:
        return None
    for run in reversed(ledger.find(stage="adopt", state="done")):
        record: Mapping[str, Any] = run.record or {}
        if record.get("hub") == reference.id and record.get("requested") == (reference.revision or _DEFAULT_REVISION):
            return str(record["revision"])
    return None


# -- errors


def library() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise MissingExtra("models of the Hugging Face Hub", "hub") from None
    return huggingface_hub


def is_unreachable(error: Exception) -> bool:
    """Return True if the Hub did not answer, or answered with an error of its own."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, (OfflineModeIsEnabled, LocalEntryNotFoundError)):
        return True
    if isinstance(error, HfHubHTTPError):
        return _status(error) >= 500
    return _is_transport_error(error)


def _is_transport_error(error: Exception) -> bool:
    """Return True for a failed connection; its class belongs to the HTTP library of huggingface_hub."""
    names = {cls.__name__ for cls in type(error).__mro__}
    return bool(names & {"TransportError", "ConnectionError", "Timeout", "TimeoutException"})


def _status(error: Any) -> int:
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)


def explain_error(error: Exception, reference: HubReference | str) -> VitaError:
    """Return the error with its cause and what to do; it never holds a token."""
    from huggingface_hub import constants, errors

    where, revision = f"{reference} on the Hub", getattr(reference, "revision", None)
    model = getattr(reference, "id", reference)
    if isinstance(error, errors.GatedRepoError):
        hint = f"accept its conditions at {constants.ENDPOINT}/{model}, and set HF_TOKEN to a token of that account"
        return ModelError(where, "is gated: its owner grants access to accounts", hint=hint)
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelError(where, f"has no revision `{revision}`", hint="give a branch, a tag or a commit of the model")
    if isinstance(error, errors.RepositoryNotFoundError):
        hint = "check the id (owner/name); for a private model set HF_TOKEN to a token that may read it"
        return ModelError(where, "there is no such model, or it is private", hint=hint)
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return ModelError(where, "a file of this revision does not exist")
    if is_unreachable(error):
        return ModelError(where, _unreachable_text(error), hint=online_hint())
    if isinstance(error, errors.HfHubHTTPError):
        codes = {401: "the token is not valid", 403: "the token does not permit this", 429: "too many requests"}
        problem = codes.get(_status(error), f"answered with HTTP status {_status(error)}")
        return ModelError(where, problem, hint="check HF_TOKEN" if _status(error) in (401, 403) else "try again later")
    if isinstance(error, errors.HFValidationError):
        return ModelError(where, expected="an id of the form owner/name", got=str(model))
    causes = [str(cause) for cause in (error, error.__cause__) if cause is not None]
    text = re.sub(r"hf_\w+|Bearer \S+", "...", " ".join(" ".join(causes).split()))[:300]  # never a token
    return ModelError(where, f"failed with {type(error).__name__}" + (f": {text}" if text else ""))


def _unreachable_text(error: Exception) -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "is not in the cache, and HF_HUB_OFFLINE forbids the network"
    if _status(error) >= 500:
        return f"is not in the cache, and {constants.ENDPOINT} answered with HTTP status {_status(error)}"
    return f"is not in the cache, and {constants.ENDPOINT} cannot be reached"


def online_hint() -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "unset HF_HUB_OFFLINE, or give a model folder or GGUF file of this machine"
    return "connect to the network, or give a model folder or GGUF file of this machine"
