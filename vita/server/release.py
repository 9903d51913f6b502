"""A release: a folder that pins a model and how it is served, byte for byte.

    create_release(model_folder, target, name="cat", version="1") -> target     # release.json + model/ (+ base/)
    release = read_release(target)
    files = verify_release(release)                                         # every file hashed, nothing else there

The digest of the release is the sha256 of release.json, which names the sha256 of every other file. A replica that has
the digest can verify that it serves exactly this release. The digest of the model in release.json is a claim;
`vita.gates.clearance` computes the identity from the verified files.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from vita.data.tokens.generation_settings import sampling_defaults
from vita.gates.weights import Files, hidden, model_digest, regular_files
from vita.spine.disk import confined, file_sha256
from vita.spine.errors import ModelError, StoreError, exception_text
from vita.spine.model_files import BASE, ModelFiles, base_reference

_IDENTIFIER = re.compile(r"[^\s\x00-\x1f\x7f]{1,300}")
"""A name or a version of a release, which files, addresses and requests contain."""
FORMAT = 1
LIMITS: Mapping[str, int] = {"max_queue_size": 64, "max_batch_size": 16, "prefix_cache_mb": 256}
"""Limits of releases that do not set them."""
NEEDED = ("config.json", "model.safetensors", "tokenizer.json")
MODEL = "model"
"""The folder of the model inside a release; that of the base model of an adapter is `base`."""
DRAFT = "draft"
"""The folder of the draft model inside a release with one (`vita.server.speculation`)."""
GGUF = "gguf/model.gguf"
"""The file of the model for llama.cpp, in a release with this backend."""
DESCRIPTION = "release.json"
READ_ATTEMPTS = 3
T = TypeVar("T")


@dataclass(frozen=True)
class ReleaseInfo:
    """A release as its release.json describes it."""

    folder: Path
    digest: str
    name: str
    version: str
    model: str
    """The digest of the model: a claim of release.json, until a service has cleared the release."""
    limits: Mapping[str, int]
    created: float | None = None
    files: Mapping[str, str] = field(default_factory=dict, repr=False)
    """File name inside the release -> sha256."""
    content: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The whole of release.json."""

    def limit(self, name: str) -> int:
        """Return a limit, or its default."""
        return int(self.limits.get(name, LIMITS[name]))

    @property
    def id(self) -> str:
        """The name with which a request selects exactly this version."""
        return f"{self.name}:{self.version}"


def create_release(
    model: Path,
    target: Path,
    *,
    name: str,
    version: str | None = None,
    digest: str | None = None,
    guard: Mapping[str, Any] | None = None,
    limits: Mapping[str, int] | None = None,
    sampling: Mapping[str, Any] | None = None,
    golden: Sequence[Mapping[str, Any]] = (),
    backend: Mapping[str, Any] | None = None,
    decoding: Mapping[str, Any] | None = None,
    draft: Path | None = None,
) -> Path:
    """Create a release of a Hugging Face model folder in the folder `target`.

    `digest` is the digest of the model in the store, by default computed from its files; `version` is by default the
    beginning of that digest. `sampling` holds the defaults of requests, before those of `generation_config.json`.
    `backend` are the settings of the program that computes the answers; a GGUF file in `target` belongs to it.
    `decoding` are the entries of decoding options (`vita.server.decoding_options`), `draft` is the folder of the draft
    model.
    """
    if not model.is_dir():
        raise ModelError(str(model), "there is no such folder")
    base = ModelFiles(model).base
    _check_complete(model if base is None else base.folder)
    files = take_files(model, target)
    base_files = {} if base is None else take_files(base.folder, target, name=BASE)
    digest = digest or model_digest(files)
    content = {
        "format": FORMAT,
        "name": name,
        "version": version or digest[:8],
        "model": digest,
        "files": {f"{MODEL}/{file}": sha for file, (sha, _) in files.items()}
        | {f"{BASE}/{file}": sha for file, (sha, _) in base_files.items()},
        "guard": dict(guard) if guard is not None else None,
        "limits": {**LIMITS, **(limits or {})},
        "sampling": {**sampling_defaults(model), **(sampling or {})},
        "golden": [dict(answer) for answer in golden],
    }
    if base is not None:
        content["base"] = base_reference(model)
    content |= decoding or {}
    if draft is not None:
        draft_files = take_files(draft, target, name=DRAFT)
        content["files"] |= {f"{DRAFT}/{file}": sha for file, (sha, _) in draft_files.items()}
    write_description(target, content, backend=backend)
    return target


def write_description(target: Path, content: dict[str, Any], *, backend: Mapping[str, Any] | None) -> None:
    """Write the release.json of a release, with its backend and the SHA-256 of its GGUF file."""
    content = {name: value for name, value in content.items() if name != "backend"}
    files = {name: sha for name, sha in content["files"].items() if name != GGUF}
    if backend is not None:
        content["backend"] = dict(backend)
        if (target / GGUF).is_file():
            files[GGUF] = content["backend"]["gguf"] = file_sha256(target / GGUF)
    content["files"] = files
    (target / DESCRIPTION).write_bytes(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False).encode())


def read_release(folder: Path) -> ReleaseInfo:
    """Read the release.json of a folder; the files are not verified."""
    path = folder / DESCRIPTION
    if not path.is_file() or path.is_symlink():
        raise ModelError(str(folder), "holds no release.json", hint="create a release with `vita release`")
    data = path.read_bytes()
    try:
        content = json.loads(data)
        form, files = content["format"], _file_hashes(content["files"])
        release = ReleaseInfo(
            folder, hashlib.sha256(data).hexdigest(), str(content["name"]), str(content["version"]),
            str(content["model"]), content["limits"], content.get("created"), files, content,
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(str(path), f"is not a release: {exception_text(error)}") from None
    if form != FORMAT:
        raise ModelError(str(path), expected=f"format {FORMAT}", got=form, hint="update vita-lm")
    for name, text in (("name", release.name), ("version", release.version)):
        if not _IDENTIFIER.fullmatch(text):
            expected = f"a `{name}` without spaces, line breaks and control characters"
            raise ModelError(str(path), expected=expected, got=text)
    return release


def verify_release(release: ReleaseInfo) -> dict[str, tuple[str, int]]:
    """Hash every file of a release and return those of its model: name -> (sha256, size in bytes).

    Refuses a file that is missing or changed, a file that release.json does not name, and symbolic links.
    """
    present = dict(regular_files(release.folder))
    if file_sha256(release.folder / DESCRIPTION) != release.digest:
        raise StoreError(str(release.folder / DESCRIPTION), "changed while it was read")
    for name in release.files:
        confined(release.folder, name)
        if name not in present:
            raise StoreError(str(release.folder / name), "is missing from the release")
    if stray := sorted(present.keys() - release.files.keys() - {DESCRIPTION}):
        hint = "a release contains no other files; remove it"
        raise StoreError(str(release.folder / stray[0]), "is not named in release.json", hint=hint)
    for name, expected in release.files.items():
        if (actual := file_sha256(present[name])) != expected:
            raise StoreError(
                str(present[name]), expected=f"the released bytes (sha256 {expected[:12]})", got=actual[:12]
            )
    prefix = f"{MODEL}/"
    return {
        name.removeprefix(prefix): (sha, present[name].stat().st_size)
        for name, sha in release.files.items()
        if name.startswith(prefix)
    }


def load_verified(folder: Path, load: Callable[[ReleaseInfo, Files], T], *, digest: str | None = None) -> T:
    """Verify a release and load it; verifies and loads again when its files changed meanwhile.

        engine = load_verified(folder, lambda release, files: Engine.open(folder / MODEL), digest=digest)

    No file changed between the verification and the end of the last load, so that the bytes that were loaded are the
    bytes that were verified. The change time of a file (ctime) reveals a write or a replacement, and no program can
    set it.
    """
    for _ in range(READ_ATTEMPTS):
        fingerprint = _fingerprint(folder)
        release = read_release(folder)
        if digest is not None and release.digest != digest:
            raise StoreError(str(folder / DESCRIPTION), expected=f"the release {digest}", got=release.digest)
        loaded = load(release, verify_release(release))
        if _fingerprint(folder) == fingerprint:
            return loaded
    raise StoreError(str(folder), "its files change while they are loaded")


def _fingerprint(folder: Path) -> list[tuple[str, int, int, int, int]]:
    """Name, device, inode, size and change time of every file and folder."""
    states: list[tuple[str, int, int, int, int]] = []
    for path in sorted([folder, *folder.rglob("*")]):
        status = path.lstat()
        states.append((str(path), status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns))
    return states


def files_below(release: ReleaseInfo, folder: str) -> dict[str, str]:
    """Return the files of a folder inside a release: name -> sha256."""
    prefix = f"{folder}/"
    return {name.removeprefix(prefix): sha for name, sha in release.files.items() if name.startswith(prefix)}


def _check_complete(model: Path) -> None:
    missing = [required for required in NEEDED if not (model / required).is_file()]
    if missing and not _in_shards(model, missing):
        raise ModelError(
            str(model), f"holds no {', '.join(missing)}", hint="a release needs a Hugging Face model folder"
        )


def take_files(model: Path, target: Path, *, name: str = MODEL) -> dict[str, tuple[str, int]]:
    """Link or copy the files of a model folder into the folder `name` of a release; hidden files stay out."""
    files: dict[str, tuple[str, int]] = {}
    for file, source in regular_files(model.resolve()):
        if hidden(file):
            continue
        copy = confined(target, f"{name}/{file}")
        copy.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(source, copy)
        files[file] = file_sha256(copy), copy.stat().st_size
    return files


def _file_hashes(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(sha, str) for sha in value.values()):
        raise TypeError("`files` must name the sha256 of each file")
    return dict(value)


def _in_shards(model: Path, missing: Sequence[str]) -> bool:
    return list(missing) == ["model.safetensors"] and (model / "model.safetensors.index.json").is_file()


def link_or_copy(source: Path, target: Path) -> None:
    """Make a hard link where the disk allows it, and a copy otherwise."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
