"""Chat, generation and releases use the sampling settings of the model's folder unless options override them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.stages.chat_models import create_chat_model
from vita.cli import main
from vita.data.tokens.generation_settings import ignored_settings, sampling_defaults
from vita.server.release import create_release


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VITA_STORE", str(tmp_path / "store"))
    (tmp_path / "base").mkdir()
    create_chat_model(tmp_path / "base")
    return tmp_path / "base"


def recommend(model: Path, **settings: object) -> None:
    path = model / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def generate(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[str, str]:
    with pytest.raises(SystemExit) as exit_info:
        main(["generate", "base", "Once upon", "--json", "--max-tokens", "12", "--seed", "5", *options])
    captured = capsys.readouterr()
    assert exit_info.value.code in (None, 0), captured.err
    return json.loads(captured.out)["text"], captured.err


@pytest.mark.slow
def test_generation_uses_the_sampling_of_the_folder_unless_an_option_overrides_it(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sampled_text, _ = generate(capsys)
    greedy_text, _ = generate(capsys, "--temperature", "0")
    assert sampled_text != greedy_text
    recommend(model, top_k=1)
    assert generate(capsys)[0] == greedy_text
    assert generate(capsys, "--top-k", "0")[0] == sampled_text
    recommend(model, top_k=50, do_sample=False, repetition_penalty=1.1)
    text, notice = generate(capsys)
    assert text == greedy_text and "repetition_penalty 1.1, which vita ignores" in notice


def test_a_release_of_a_folder_keeps_its_sampling(model: Path, tmp_path: Path) -> None:
    recommend(model, temperature=0.6, top_p=0.9, top_k=20)
    releases = [
        json.loads(
            (
                create_release(model, tmp_path / name, name="a", version="1", sampling=sampling) / "release.json"
            ).read_text()
        )
        for name, sampling in (("one", None), ("two", {"temperature": 0.2}))
    ]
    assert releases[0]["sampling"] == {"temperature": 0.6, "top_p": 0.9, "top_k": 20}
    assert releases[1]["sampling"] == {"temperature": 0.2, "top_p": 0.9, "top_k": 20}


def test_invalid_sampling_values_are_ignored(tmp_path: Path) -> None:
    settings = {"temperature": None, "top_p": 1.5, "top_k": 20.5, "num_beams": 4, "min_p": 0.0}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    assert sampling_defaults(tmp_path) == {} and ignored_settings(tmp_path) == ["num_beams 4"]
    assert sampling_defaults(tmp_path / "nowhere") == {}
