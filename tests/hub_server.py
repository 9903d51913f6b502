"""A Hugging Face Hub on this machine: the endpoints that `huggingface_hub` calls, over files in memory.

    with HubServer() as hub:
        commit = hub.add_model("acme/tiny", folder)
        run(["vita", "adopt", "acme/tiny"], env=hub.environment(tmp_path))

The client library is the real one; it reads the address from `HF_ENDPOINT`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


@dataclass
class Repository:
    """A repository of a model or a data set: commits with their files, and branches."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    token: str | None = None
    """The token that may read and write a gated repository."""

    def commit(self, files: Mapping[str, bytes], *, branch: str = "main") -> str:
        names = sorted((name, hashlib.sha256(data).hexdigest()) for name, data in files.items())
        sha = hashlib.sha1(json.dumps([names, len(self.commits)]).encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.branches[branch] = sha
        return sha


class HubServer:
    """A local Hub; `requests` lists the method and path of every request, `tokens` the received tokens."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.tokens: set[str] = set()
        self.objects: dict[str, bytes] = {}
        routes = [
            Route("/api/repos/create", self._create, methods=["POST"]),
            Route("/api/whoami-v2", self._whoami),
            Route("/api/validate-yaml", self._validate, methods=["POST"]),
            Route("/api/models/{owner}/{name}", self._info),
            Route("/api/models/{owner}/{name}/revision/{revision:path}", self._info),
            Route("/api/models/{owner}/{name}/tree/{revision:path}", self._tree),
            Route("/api/models/{owner}/{name}/preupload/{revision:path}", self._preupload, methods=["POST"]),
            Route("/api/models/{owner}/{name}/commit/{revision:path}", self._commit, methods=["POST"]),
            Route("/api/datasets/{owner}/{name}", self._info),
            Route("/api/datasets/{owner}/{name}/revision/{revision:path}", self._info),
            Route("/api/datasets/{owner}/{name}/tree/{revision:path}", self._tree),
            Route("/datasets/{owner}/{name}/resolve/{revision}/{file:path}", self._file),
            Route("/{owner}/{name}.git/info/lfs/objects/batch", self._batch, methods=["POST"]),
            Route("/lfs/{sha}", self._put_object, methods=["PUT"]),
            Route("/{owner}/{name}/resolve/{revision}/{file:path}", self._file),
        ]
        self._server = uvicorn.Server(
            uvicorn.Config(Starlette(routes=routes), host="127.0.0.1", port=0, log_level="error", lifespan="off")
        )
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()

    def environment(self, folder: Path, **variables: str) -> dict[str, str]:
        """Return the environment of a process that uses this Hub, with its cache below `folder`."""
        names = ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HOME", "HF_HUB_CACHE")
        inherited = {name: value for name, value in os.environ.items() if name not in names}
        return {
            **inherited, "HF_ENDPOINT": self.url, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0", **variables,
        }  # fmt: skip

    def add_model(
        self, model: str, folder: Path, *, branch: str = "main", extra: Mapping[str, bytes] | None = None
    ) -> str:
        """Add a commit with the files of a folder; return its hash."""
        names = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in names}
        repository = self.repositories.setdefault(model, Repository())
        return repository.commit({**files, **(extra or {})}, branch=branch)

    # -- requests

    def _repository(self, request: Request) -> tuple[str, Repository] | Response:
        self.requests.append(f"{request.method} {request.url.path}")
        token = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        self.tokens |= {token} - {""}
        model = f"{request.path_params['owner']}/{request.path_params['name']}"
        repository = self.repositories.get(model)
        if repository is None:
            return _error(401 if not token else 404, "RepoNotFound", "Repository not found")
        if repository.gated and token != repository.token:
            return _error(401 if not token else 403, "GatedRepo", "Access to this model is restricted")
        return model, repository

    def _files(self, request: Request) -> tuple[str, str, dict[str, bytes]] | Response:
        repository_or_error = self._repository(request)
        if isinstance(repository_or_error, Response):
            return repository_or_error
        model, repository = repository_or_error
        revision = request.path_params.get("revision", "main")
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            return _error(404, "RevisionNotFound", "Invalid rev id")
        return model, commit, repository.commits[commit]

    async def _info(self, request: Request) -> Response:
        files_or_error = self._files(request)
        if isinstance(files_or_error, Response):
            return files_or_error
        model, commit, files = files_or_error
        return JSONResponse(
            {"id": model, "modelId": model, "sha": commit, "private": False, "gated": False, "tags": [],
             "downloads": 0, "likes": 0, "siblings": [{"rfilename": name} for name in files]}
        )  # fmt: skip

    async def _tree(self, request: Request) -> Response:
        files_or_error = self._files(request)
        if isinstance(files_or_error, Response):
            return files_or_error
        _, _, files = files_or_error
        rows: list[dict[str, Any]] = []
        for name, data in files.items():
            row: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": _git_hash(data)}
            if _is_large(name):
                row["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            rows.append(row)
        return JSONResponse(rows)

    async def _file(self, request: Request) -> Response:
        files_or_error = self._files(request)
        if isinstance(files_or_error, Response):
            return files_or_error
        _, commit, files = files_or_error
        name = request.path_params["file"]
        if name not in files:
            return _error(404, "EntryNotFound", "Entry not found", commit=commit)
        data = files[name]
        digest = hashlib.sha256(data).hexdigest() if _is_large(name) else _git_hash(data)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        if _is_large(name):
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}
        if request.method == "HEAD":
            return Response(status_code=200, headers={**headers, "Content-Length": str(len(data))})
        return Response(data, headers=headers)

    # -- uploads

    async def _whoami(self, request: Request) -> Response:
        return JSONResponse({"type": "user", "name": "acme", "orgs": []})

    async def _validate(self, request: Request) -> Response:
        content = json.loads(await request.body())["content"]
        errors = [] if content.startswith("---") else [{"message": "no front matter"}]
        return JSONResponse({"errors": errors, "warnings": []}, status_code=400 if errors else 200)

    async def _create(self, request: Request) -> Response:
        body = json.loads(await request.body())
        self.requests.append("POST /api/repos/create")
        model = f"{body.get('organization') or 'acme'}/{body['name']}"
        if model in self.repositories:
            return JSONResponse({"url": f"{self.url}/{model}", "error": "exists"}, status_code=409)
        repository = self.repositories[model] = Repository()
        repository.commit({})
        return JSONResponse({"url": f"{self.url}/{model}", "id": model})

    async def _preupload(self, request: Request) -> Response:
        repository_or_error = self._repository(request)
        if isinstance(repository_or_error, Response):
            return repository_or_error
        names = [file["path"] for file in json.loads(await request.body())["files"]]
        rows = [{"path": name, "uploadMode": "lfs" if _is_large(name) else "regular", "shouldIgnore": False}
                for name in names]  # fmt: skip
        return JSONResponse({"files": rows})

    async def _batch(self, request: Request) -> Response:
        objects = [
            {"oid": entry["oid"], "size": entry["size"],
             "actions": {"upload": {"href": f"{self.url}/lfs/{entry['oid']}"}}}
            for entry in json.loads(await request.body())["objects"]
        ]  # fmt: skip
        return JSONResponse({"transfer": "basic", "objects": objects})

    async def _put_object(self, request: Request) -> Response:
        self.objects[request.path_params["sha"]] = await request.body()
        return Response()

    async def _commit(self, request: Request) -> Response:
        repository_or_error = self._repository(request)
        if isinstance(repository_or_error, Response):
            return repository_or_error
        model, repository = repository_or_error
        files = dict(repository.commits[repository.branches["main"]])
        for line in (await request.body()).splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                files.pop(value["path"], None)
        commit = repository.commit(files)
        return JSONResponse({"success": True, "commitOid": commit, "commitUrl": f"{self.url}/{model}/commit/{commit}"})


def _error(status: int, code: str, message: str, *, commit: str | None = None) -> Response:
    headers = {"X-Error-Code": code, "X-Error-Message": message}
    return JSONResponse(
        {"error": message}, status, headers={**headers, **({"X-Repo-Commit": commit} if commit else {})}
    )


def _is_large(name: str) -> bool:
    return name.endswith((".safetensors", ".gguf", ".bin"))


def _git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
