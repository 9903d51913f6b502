"""The documented example "start from an open-weight model", with a tiny model under the same name."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.cli.models import save_chat_model
from tests.docs import material
from tests.formats.runner import Vita
from tests.hub_server import HubServer

ROOT = Path(__file__).resolve().parents[2]
MODEL = "Qwen/Qwen3-0.6B"
PAGES = [
    page
    for page in ("README.md", "docs/stages/adopt.md")
    if re.search(rf"```yaml[^`]*\nmodel: {MODEL}\n", (ROOT / page).read_text(encoding="utf-8"))
]
"""Pages with a lifecycle that starts from the model."""
TINY = (
    "--set",
    "sft.steps=2",
    "--set",
    "sft.batch_size=2",
    "--set",
    "sft.max_length=128",
    "--set",
    "sft.on_long=truncate",
)
"""Settings that keep the test short; the example itself sets none."""


def example(page: str) -> tuple[str, list[str]]:
    """Return the lifecycle file of a page, and the commands that follow it in the same section."""
    text = (ROOT / page).read_text(encoding="utf-8")
    life = re.search(rf"```yaml[^\n]*\n([^`]*\nmodel: {MODEL}\n[^`]*)```", text)
    assert life is not None
    section = text[life.end() :].split("\n## ")[0]
    return life[1], re.findall(r"^\$ (vita [^\n#]+)", section, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_documented_example_runs(page: str, vita: Vita, hub: HubServer, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    hub.add_model(MODEL, save_chat_model(tmp_path / "tiny", context=512))
    life, commands = example(page)
    (vita.folder / shlex.split(commands[0])[2]).write_text(life)
    material.write_dialogues(vita.folder / "conversations.jsonl")
    assert [command.split()[1] for command in commands][:2] == ["live", "trace"]
    for command in commands:
        arguments = shlex.split(command)[1:]
        if arguments[0] in ("live", "plan"):
            vita(*arguments, *TINY)
        else:
            vita(*arguments, text="Hello\n")
    exported_model = next(shlex.split(command)[2] for command in commands if command.startswith("vita export"))
    trace = json.loads(vita("trace", exported_model, "--json"))
    assert MODEL in [(source.get("origin") or {}).get("hub") for source in trace["made_from"]]
    assert [use["format"] for use in trace["given_away"]] == ["gguf"]
