"""The settings of a backend are checked by name, and contain no secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.server.test_text_endpoints import embedding_folder
from vita.server.backend_settings import BackendSettings, release_backend
from vita.server.backends.backend_release import prepare_backend
from vita.server.backends.programs import endpoint_key, require_vllm
from vita.spine.config import build
from vita.spine.errors import ConfigError
from vita.stages.release import Config as ReleaseConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"program": "sglang"}, "program"),
        (
            {"program": "vita", "quantization": "q8_0"},
            "`quantization` of the backend `vita` is one of float32, bf16, int8, int4, not `q8_0`",
        ),
        ({"program": "vita", "url": "http://a/v1"}, "`url` is not a setting of the backend `vita`"),
        ({"program": "llama.cpp", "url": "http://a/v1"}, "`url` is not a setting of the backend `llama.cpp`"),
        ({"program": "openai"}, "needs `url`"),
        ({"program": "openai", "url": "ftp://a"}, "a URL http://HOST/v1"),
        ({"program": "openai", "url": "https://user:password@host/v1"}, "without a user name"),
        ({"program": "openai", "url": "http://a/v1", "key_file": "k", "key_variable": "K"}, "cannot both be set"),
        ({"program": "vllm"}, "pip install vllm"),
        ({"program": "vllm", "environment": "e", "arguments": ["--port=1"]}, "`--port=1` is not an argument"),
        ({"program": "llama.cpp", "tolerance": 0}, "tolerance"),
    ],
)
def test_a_wrong_setting_of_a_backend_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(BackendSettings, values, where="backend")
    assert message in str(error.value)


def test_quantized_weights_of_vita_have_a_label_and_a_tolerance() -> None:
    settings = build(ReleaseConfig, {"backend": {"program": "vita", "quantization": "int8"}}, where="release").backend
    assert (settings.label, settings.weight_format, settings.allowed_difference) == ("int8", "int8", 0.05)
    assert settings.record() == {"program": "vita", "quantization": "int8"}
    assert BackendSettings(quantization="int4", tolerance=0.1).allowed_difference == 0.1
    default = BackendSettings()
    assert default.is_default and default.allowed_difference == 0.01 and default.weight_format is None


def test_quantized_weights_are_refused_for_a_model_that_reads_whole_texts(tmp_path: Path) -> None:
    embedding_folder(tmp_path / "model")
    with pytest.raises(ConfigError, match="a model for embedding cannot be served with `quantization`"):
        prepare_backend(tmp_path / "model", tmp_path / "release", BackendSettings(quantization="int8"))


def test_the_release_stage_reads_a_backend_by_its_name_or_its_settings() -> None:
    by_name = build(ReleaseConfig, {"backend": "llama.cpp"}, where="release").backend
    assert by_name == BackendSettings(program="llama.cpp") and by_name.label == "llama.cpp-bf16"
    settings = {"program": "llama.cpp", "quantization": "q4_0"}
    assert build(ReleaseConfig, {"backend": settings}, where="release").backend.allowed_difference == 0.4
    assert build(ReleaseConfig, {}, where="release").backend.program == "vita"
    assert release_backend({"backend": {**by_name.record(), "gguf": "0" * 64}}) == by_name


def test_the_key_of_an_endpoint_is_read_at_the_start_and_is_in_no_error(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"
    path.write_text("sk-1\n")
    by_file = BackendSettings(program="openai", url="http://a/v1", key_file=str(path))
    assert endpoint_key(by_file) == "sk-1" and "sk-1" not in str(by_file.record())
    path.write_text("sk-one\nsk-two")
    with pytest.raises(ConfigError, match="one line of ASCII characters") as error:
        endpoint_key(by_file)
    assert "sk-one" not in str(error.value)
    by_variable = BackendSettings(program="openai", url="http://a/v1", key_variable="ENDPOINT_KEY")
    with pytest.raises(ConfigError, match="ENDPOINT_KEY: is not set"):
        endpoint_key(by_variable)
    monkeypatch.setenv("ENDPOINT_KEY", "sk-2")
    assert endpoint_key(by_variable) == "sk-2"


def test_an_environment_without_vllm_is_refused_with_the_install_line(tmp_path: Any) -> None:
    settings = BackendSettings(program="vllm", environment=str(tmp_path))
    with pytest.raises(ConfigError, match=r"holds no bin/python; python -m venv .* -m pip install vllm"):
        require_vllm(settings)
