"""Upload of a model folder to the Hugging Face Hub.

The token comes from the environment (`HF_TOKEN`) or from `hf auth login`; huggingface_hub reads it, Vita never does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vita.formats.hub import errors_explained, library


def upload_folder(folder: Path, repository: str, *, private: bool, message: str, branch: str | None) -> str:
    """Upload all files of a folder to a repository, which is created if needed; return the commit."""
    with errors_explained(repository):
        api: Any = library().HfApi()
        api.create_repo(repository, private=private, exist_ok=True, repo_type="model")
        if branch is not None:
            api.create_branch(repository, branch=branch, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message=message, revision=branch, repo_type="model"
        )
    return str(commit.oid)
