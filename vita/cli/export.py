"""Models for other programs: `vita export`, `vita push`."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vita.cli.app import app, open_workspace
from vita.cli.options import MODELS, JsonOption, print_json
from vita.cli.trace import PUSHED
from vita.cli.workspace import Workspace, writing
from vita.spine.config import unknown_name
from vita.spine.console import line
from vita.spine.disk import file_sha256
from vita.spine.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from vita.gates.clearance import Clearance
    from vita.stages.kinds import Model

FORMATS = ("gguf", "hf", "mlx")
ModelArgument = Annotated[
    str, typer.Argument(help="A name (cat/sft), a digest, a model folder, or an id of the Hugging Face Hub.")
]
UngatedOption = Annotated[
    str | None,
    typer.Option(metavar="REASON", help="Release a model that no gate has approved. The ledger records REASON."),
]


@app.command(rich_help_panel=MODELS)
def export(
    ctx: typer.Context,
    model: ModelArgument,
    to: Annotated[str, typer.Option(help="gguf (llama.cpp, Ollama), hf (transformers, vLLM) or mlx (mlx_lm).")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="PATH", help="The GGUF file, or the folder. Default: the model's name."),
    ] = None,
    quant: Annotated[
        str | None,
        typer.Option(
            help="Number type of a GGUF file: f32, f16, bf16, q8_0, q6_k, q5_k_m, q5_0, q4_k_m or q4_0. Default: bf16."
        ),
    ] = None,
    ungated: UngatedOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a model as a file or folder for other programs: llama.cpp, Ollama, transformers, vLLM, mlx_lm."""
    from vita.formats.folder import require_model
    from vita.gates.exports import record_export

    workspace = open_workspace(ctx)
    if to not in FORMATS:
        raise unknown_name("--to", to, FORMATS)
    if quant is not None and to != "gguf":
        raise ConfigError("--quant", f"is for --to gguf; `{to}` keeps the number types of the model")
    artifact, clearance = _cleared(workspace, model, ungated, purpose="exporting")
    require_model(artifact.path, where=model)
    name = _file_name(workspace, model, artifact)
    if to == "gguf":
        result = _export_gguf(workspace, artifact, output or Path(f"{name}-{quant or 'bf16'}.gguf"), name, quant)
    else:
        result = _export_folder(workspace, artifact, output or Path(f"{name}-{to}"), to)
    record = {"format": to, **result, "clearance": clearance.as_json()}
    record_export(workspace.ledger, artifact.digest, **record)
    if as_json:
        print_json({"model": artifact.digest, **record})
        return
    workspace.console.print(line((str(result["path"]), "bold"), f"  {artifact.digest[:12]} as {to}"), soft_wrap=True)
    for note in result["notes"]:
        workspace.console.print(line(("note", "yellow"), f": {note}"), soft_wrap=True)


@app.command(rich_help_panel=MODELS)
def push(
    ctx: typer.Context,
    model: ModelArgument,
    repository: Annotated[str, typer.Argument(metavar="REPO", help="Repository on the Hub: owner/name.")],
    private: Annotated[bool, typer.Option("--private", help="Create the repository as a private one.")] = False,
    branch: Annotated[str | None, typer.Option(help="Branch to write to. Default: main.")] = None,
    gguf: Annotated[
        list[str] | None, typer.Option("--gguf", metavar="QUANT", help="Also upload a GGUF file of this number type.")
    ] = None,
    ungated: UngatedOption = None,
    as_json: JsonOption = False,
) -> None:
    """Upload a model to the Hugging Face Hub, with its card, licence and metadata."""
    from vita.formats.folder import require_model
    from vita.formats.hub_upload import upload_folder

    workspace = open_workspace(ctx)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repository):
        raise ConfigError("REPO", expected="owner/name", got=repository)
    artifact, clearance = _cleared(workspace, model, ungated, purpose="pushing")
    require_model(artifact.path, where=model)
    name = _file_name(workspace, model, artifact)
    with tempfile.TemporaryDirectory(prefix="vita-push-") as temporary:
        folder = Path(temporary) / name
        exported = _export_folder(workspace, artifact, folder, "hf")
        notes = list(exported["notes"])
        for quant in gguf or ():
            notes += _export_gguf(workspace, artifact, folder / f"{name}-{quant}.gguf", name, quant)["notes"]
        files = {path.relative_to(folder).as_posix(): file_sha256(path) for path in _files(folder)}
        message = f"Upload {name} ({artifact.digest[:12]})"
        commit = upload_folder(folder, repository, private=private, message=message, branch=branch)
    record = {"repository": repository, "branch": branch or "main", "commit": commit, "files": files,
              "notes": list(dict.fromkeys(notes)), "clearance": clearance.as_json()}  # fmt: skip
    workspace.ledger.log(PUSHED, artifact.digest, **record)
    if as_json:
        print_json({"model": artifact.digest, **record})
        return
    text = f"  {artifact.digest[:12]} at commit {commit[:12]}, {len(files)} files"
    workspace.console.print(line((repository, "bold"), text), soft_wrap=True)


# -- formats


def _export_gguf(workspace: Workspace, artifact: Model, path: Path, name: str, quant: str | None) -> dict[str, Any]:
    from vita.formats.gguf.write import write_gguf
    from vita.formats.ollama import write_modelfile
    from vita.nn import hf

    if path.suffix != ".gguf":
        raise ConfigError("--output", expected="a file name that ends with .gguf", got=str(path))
    quantization = quant or "bf16"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        report = write_gguf(artifact.path, path, quantization=quantization, general=_general(workspace, artifact, name))
        context = int(hf.read_config(artifact.path).get("max_position_embeddings") or report.context)
        modelfile, notes = write_modelfile(artifact.path, path, context=min(context, report.context))
    return {
        "path": str(path), "quantization": quantization, "bytes": report.bytes, "sha256": file_sha256(path),
        "types": dict(report.types), "modelfile": str(modelfile), "notes": [*report.notes, *notes],
    }  # fmt: skip


def _general(workspace: Workspace, artifact: Model, name: str) -> dict[str, Any]:
    """Return the provenance and the sampling defaults for the header of a GGUF file."""
    from vita.cards.hub_metadata import front_matter
    from vita.cards.model_card import gather
    from vita.data.tokens.generation_settings import sampling_defaults

    metadata = front_matter(gather(workspace.ledger, workspace.store, artifact.digest))
    values: dict[str, Any] = {"name": name, "version": artifact.digest[:12], "quantized_by": "Vita"}
    if metadata.get("license") not in (None, "unknown"):
        values["license"] = str(metadata["license"])
    if metadata.get("license_name"):
        values["license.name"] = str(metadata["license_name"])
    if isinstance(base := metadata.get("base_model"), str):
        values |= {"base_model.count": 1, "base_model.0.name": base.partition("/")[2] or base,
                   "base_model.0.repo_url": f"https://huggingface.co/{base}"}  # fmt: skip
    keys = {
        "temperature": ("sampling.temp", float),
        "top_k": ("sampling.top_k", int),
        "top_p": ("sampling.top_p", float),
    }
    for setting, value in sampling_defaults(artifact.path).items():
        key, convert = keys[setting]
        values[key] = convert(value)
    return values


def _export_folder(workspace: Workspace, artifact: Model, folder: Path, to: str) -> dict[str, Any]:
    from vita.data.tokens.tokenizer import Tokenizer
    from vita.formats.folder import complete_config, write_folder
    from vita.formats.mlx import check_mlx, write_mlx_config
    from vita.formats.stops import stop_ids

    notes = check_mlx(artifact.path) if to == "mlx" else []
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreError(str(folder), "exists already", hint="choose another folder with --output, or remove it")
    with writing(folder):
        write_folder(artifact.path, folder, card=_card(workspace, artifact))
        if to == "mlx":
            write_mlx_config(folder)
        complete_config(folder, stop_ids(folder, Tokenizer.load(folder)))
    files = {path.relative_to(folder).as_posix(): file_sha256(path) for path in _files(folder)}
    return {"path": str(folder), "files": files, "notes": notes}


def _card(workspace: Workspace, artifact: Model) -> str | None:
    """Return the model card; None for an adopted model, which keeps its own."""
    from vita.cards.model_card import gather
    from vita.cards.model_card_page import card_markdown

    card = gather(workspace.ledger, workspace.store, artifact.digest)
    return None if card.is_adopted and (artifact.path / "README.md").is_file() else card_markdown(card)


# -- helpers


def _cleared(workspace: Workspace, reference: str, ungated: str | None, *, purpose: str) -> tuple[Model, Clearance]:
    """Return a model and the permission to give it away."""
    from vita.gates.clearance import CompanionModel, clear_export
    from vita.gates.tensor_digest import tensor_digest
    from vita.gates.weights import hash_files
    from vita.spine.model_files import ModelFiles
    from vita.stages.kinds import Model

    artifact = workspace.store.open(workspace.weights(reference), Model)
    base = ModelFiles(artifact.path).base
    companions = (
        [CompanionModel("base model", hash_files(base.folder), tensor_digest(base.folder))] if base is not None else []
    )
    clearance = clear_export(
        workspace.ledger, workspace.store, artifact.digest, files=hash_files(artifact.path), label=reference,
        purpose=purpose, ungated=ungated, companions=companions,
    )  # fmt: skip
    return artifact, clearance


def _file_name(workspace: Workspace, reference: str, artifact: Model) -> str:
    """Return a file name for a model: its name in the store, or the name of its folder, or its digest."""
    names = [name for name, digest in workspace.ledger.all_names().items() if digest == artifact.digest]
    name = reference if reference in names else Path(reference).name if Path(reference).exists() else ""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name.partition("@")[0]).strip("-._") or artifact.digest[:12]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
