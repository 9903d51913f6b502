"""The list of commands: modules of this package, and one command for each stage."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

from vita.cli.app import app
from vita.cli.options import STAGES
from vita.cli.stage_command import stage_command
from vita.spine.renamed_stages import RENAMED_STAGES
from vita.stages import own_stages

_ORDER = (
    "adopt", "design", "curate", "deduplicate", "rephrase", "tokenize", "import_tokens", "initialize", "pretrain",
    "test", "adapt", "sft", "reward", "rlhf", "dpo", "classify", "contrastive", "merge", "redteam", "release", "pilot",
    "refine", "canary", "deploy", "retire",
)  # fmt: skip

OWN_COMMANDS = ("deploy",)
"""Commands with the name of a stage that a module of this package defines: they do more than the stage."""

RENAMED = {
    "who-saw": "trace-document", "story": "report", "init": "initialize", "ls": "list", "--why": "--reason",
    "--fresh": "--rerun-all (vita live) or --rerun (a stage)", "--again": "--rerun", "--out": "--output",
    "--name": "--life", "--erase": "vita forget", **RENAMED_STAGES,
}  # fmt: skip
"""Former names of commands and options, which are refused with the present name."""


def stage_commands() -> dict[str, str]:
    """Return command -> stage, in the order of the lifecycle."""
    stages = [name for name in own_stages() if name not in OWN_COMMANDS]
    names = sorted(stages, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))
    return {name.replace("_", "-"): name for name in names}


def register(requested: str | None) -> None:
    """Register all commands. Of the stages, only the requested one is imported; the others show their summary."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"vita.cli.{module.name}")  # its decorators register the commands

    for command, name in stage_commands().items():
        if command == requested:
            run, summary = stage_command(name)
        else:
            run, summary = _placeholder, _first_sentence(name)
        app.command(command, help=summary, rich_help_panel=STAGES)(run)


def _placeholder() -> None:
    """Placeholder in the command list for a stage that is not imported."""


def _first_sentence(name: str) -> str:
    path = Path(__file__).parents[1] / "stages" / f"{name}.py"
    docstring = re.match(r'"""(.*?)(?:\n\n|""")', path.read_text(encoding="utf-8"), re.DOTALL)  # faster than `ast`
    return " ".join(docstring[1].split()) if docstring else ""
