"""Speculative decoding in releases: its settings, its draft model, and the same answers over HTTP."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.server.backends.served import ServiceCommands
from tests.server.releases import model_folder
from tests.server.serving import serving
from vita.data.tokens.tokenizer import Tokenizer
from vita.server.decoding_options import DecodingOptions, release_with_decoding
from vita.server.release import create_release, read_release
from vita.server.replica.main import open_app
from vita.server.speculation import SpeculationSettings, check_speculation
from vita.spine.errors import ConfigError, ModelError, StoreError

PROMPT = "one two one two one two one two"
BODY = {"model": "m", "prompt": PROMPT, "max_tokens": 40, "seed": 3, "temperature": 0.4, "logprobs": 2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    model_folder(folder / "model")
    model_folder(folder / "draft", layers=1)
    return folder


def answers(release: Path) -> tuple[list[object], str, dict[str, object]]:
    """Return three answers of a replica, its metrics and its model card."""
    with serving(open_app(release)) as url, httpx.Client(base_url=url, timeout=60) as client:
        choices = [client.post("/v1/completions", json=BODY).json()["choices"] for _ in range(3)]
        return choices, client.get("/metrics").text, client.get("/v1/models").json()["data"][0]


@pytest.mark.slow
def test_a_replica_gives_the_same_answers_with_each_method(folders: Path, tmp_path: Path) -> None:
    plain = create_release(folders / "model", tmp_path / "plain", name="m", version="1")
    expected, _, card = answers(plain)
    assert "speculation" not in card
    for settings, draft in (
        (SpeculationSettings(method="ngram", tokens=3), None),
        (SpeculationSettings(method="draft_model", tokens=5), folders / "draft"),
    ):
        target = tmp_path / settings.method
        release_with_decoding(read_release(plain), DecodingOptions(settings), draft, target)
        assert read_release(target).version == f"1-{settings.method}", "a service can roll it out beside the first"
        choices, metrics, card = answers(target)
        assert choices == expected
        assert card["speculation"] == {"method": settings.method, "tokens": settings.tokens}
        drafted = next(line for line in metrics.splitlines() if line.startswith("vita_draft_tokens_total"))
        assert float(drafted.rsplit(" ", 1)[1]) > 0


def test_the_files_of_a_draft_model_belong_to_the_release(folders: Path, tmp_path: Path) -> None:
    settings = SpeculationSettings(method="draft_model")
    release = create_release(
        folders / "model", tmp_path / "release", name="m", version="1", decoding=DecodingOptions(settings).record(),
        draft=folders / "draft",
    )  # fmt: skip
    assert {"draft/config.json", "draft/model.safetensors", "draft/tokenizer.json"} <= set(read_release(release).files)
    weights = release / "draft" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.unlink()
    weights.write_bytes(data)
    with pytest.raises(StoreError, match=r"draft/model\.safetensors: expected the released bytes"):
        open_app(release)


def test_impossible_settings_are_refused(folders: Path, tmp_path: Path) -> None:
    model, draft = folders / "model", folders / "draft"
    with pytest.raises(ConfigError, match="there is a draft model, expected draft_model, got 'ngram'"):
        check_speculation(SpeculationSettings(method="ngram"), model, draft, program="vita")
    with pytest.raises(ConfigError, match="`draft_model` needs a draft model"):
        check_speculation(SpeculationSettings(method="draft_model"), model, None, program="vita")
    with pytest.raises(ConfigError, match="the backend `vllm` does not support this setting"):
        check_speculation(SpeculationSettings(method="ngram"), model, None, program="vllm")
    other = model_folder(tmp_path / "other")
    Tokenizer.train(["a b c d e f"] * 20, vocabulary=262).save(other)
    with pytest.raises(ModelError, match="expected a tokenizer with the 259 tokens of the model"):
        check_speculation(SpeculationSettings(method="draft_model"), model, other, program="vita")


@pytest.mark.slow
def test_the_command_line_serves_with_drafts(folders: Path, tmp_path: Path) -> None:
    commands = ServiceCommands(tmp_path)
    contents = []
    for options in ((), ("--speculation", "ngram"), ("--draft-model", str(folders / "draft"))):
        with commands.serving(str(folders / "model"), "--ungated", "a test", "--name", "m", *options):
            contents.append(httpx.post(f"{commands.url}/v1/completions", json=BODY, timeout=60).json()["choices"])
            models = httpx.get(f"{commands.url}/v1/models", timeout=60).json()["data"]
    assert contents[0] == contents[1] == contents[2]
    assert models[0]["vita"]["speculation"] == {"method": "draft_model", "tokens": 4}
    code, output = commands.vita("serve", str(folders / "model"), "--ungated", "a test", "--speculation", "magic")
    assert code == 2
    assert "magic" in output and "ngram" in output
