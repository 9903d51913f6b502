"""Decoding options of a release: batch invariance, and changed options in a release of another version."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.server.backends.served import ServiceCommands
from tests.server.releases import model_folder
from tests.server.serving import serving
from vita.server.decoding_options import DecodingOptions, check_batch_invariance, release_with_decoding
from vita.server.release import create_release, read_release
from vita.server.replica.main import open_app
from vita.server.speculation import SpeculationSettings
from vita.spine.errors import ConfigError

BODY = {"model": "m", "prompt": "one two one two", "max_tokens": 12, "temperature": 0, "logprobs": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("models") / "model")


def answer_and_card(release: Path) -> tuple[str, list[float], dict[str, object]]:
    """Return the text and the log-probabilities of an answer, and the model card."""
    with serving(open_app(release)) as url, httpx.Client(base_url=url, timeout=60) as client:
        choice = client.post("/v1/completions", json=BODY).json()["choices"][0]
        return choice["text"], choice["logprobs"]["token_logprobs"], client.get("/v1/models").json()["data"][0]


@pytest.mark.slow
def test_a_release_without_batch_invariance_says_so(model: Path, tmp_path: Path) -> None:
    plain = create_release(model, tmp_path / "plain", name="m", version="1")
    text, logprobs, card = answer_and_card(plain)
    assert (card["batch_invariance"], card["bitwise_reproducible"]) == ("on", True)
    release_with_decoding(read_release(plain), DecodingOptions(batch_invariance=False), None, tmp_path / "changed")
    changed_text, changed_logprobs, card = answer_and_card(tmp_path / "changed")
    assert (card["batch_invariance"], card["bitwise_reproducible"]) == ("off", False)
    assert changed_text == text
    assert changed_logprobs == pytest.approx(logprobs, abs=1e-4)


def test_the_version_of_a_changed_release_names_its_options(model: Path, tmp_path: Path) -> None:
    release = read_release(create_release(model, tmp_path / "release", name="m", version="1"))
    steps = [
        (DecodingOptions(SpeculationSettings(method="ngram")), "1-ngram"),
        (DecodingOptions(SpeculationSettings(method="ngram"), batch_invariance=False), "1-ngram-variant"),
        (DecodingOptions(batch_invariance=False), "1-variant"),
        (DecodingOptions(), "1"),
    ]
    for number, (options, version) in enumerate(steps):
        release = read_release(release_with_decoding(release, options, None, tmp_path / str(number)))
        assert release.version == version
        assert DecodingOptions.of(release.content) == options
    assert "batch_invariance" not in release.content, "the default is not stored"


def test_a_draft_model_stays_when_another_option_changes(model: Path, tmp_path: Path) -> None:
    draft = model_folder(tmp_path / "draft", layers=1)
    settings = SpeculationSettings(method="draft_model")
    release = create_release(
        model, tmp_path / "release", name="m", version="1", decoding=DecodingOptions(settings).record(), draft=draft
    )
    options = DecodingOptions(settings, batch_invariance=False)
    changed = release_with_decoding(read_release(release), options, None, tmp_path / "changed")
    assert (changed / "draft" / "config.json").is_file()
    _, _, card = answer_and_card(changed)
    assert card["speculation"] == {"method": "draft_model", "tokens": 4}
    assert card["batch_invariance"] == "off"


def test_batch_invariance_cannot_be_turned_off_for_another_backend(model: Path) -> None:
    check_batch_invariance(True, model, program="llama.cpp")
    with pytest.raises(ConfigError, match=r"batch_invariance: the backend `llama\.cpp` never has it"):
        check_batch_invariance(False, model, program="llama.cpp")


@pytest.mark.slow
def test_the_command_line_turns_batch_invariance_off_and_on(model: Path, tmp_path: Path) -> None:
    commands = ServiceCommands(tmp_path)
    for options, expected in ((("--no-batch-invariance",), "off"), ((), "on")):
        with commands.serving(str(model), "--ungated", "a test", "--name", "m", *options):
            entry = httpx.get(f"{commands.url}/v1/models", timeout=60).json()["data"][0]
            assert entry["vita"]["batch_invariance"] == expected
            assert entry["vita"]["bitwise_reproducible"] is (expected == "on")
