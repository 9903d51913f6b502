"""The backend of a release: the program that computes its answers, with its settings.

    backend = build(BackendSettings, {"program": "llama.cpp", "quantization": "q8_0"}, where="release.backend")

Vita itself, vLLM and llama.cpp read the model of the release; an OpenAI-compatible endpoint runs elsewhere. A release
stores these settings in `release.json`, without secrets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, cast, get_args

from pydantic import Field, field_validator, model_validator

from vita.nn.weight_format import WeightFormat
from vita.spine.config import Settings, build
from vita.spine.endpoints import http_url

FLOAT32 = "float32"
Program = Literal["vita", "vllm", "llama.cpp", "openai"]
DEFAULT_TOLERANCE: Mapping[str, float] = {
    "vita": 0.01, "float32": 0.01, "int8": 0.05, "int4": 0.4, "vllm": 0.05, "openai": 0.05,
    "f32": 0.01, "f16": 0.02, "bf16": 0.05, "q8_0": 0.05, "q6_k": 0.1, "q5_k_m": 0.2, "q5_0": 0.2,
    "q4_k_m": 0.4, "q4_0": 0.4,
}  # fmt: skip
"""Program, or number type of the weights -> allowed difference of a golden answer's log-probability, in nats per
token."""
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "vita": ("quantization", "tolerance"),
    "llama.cpp": ("quantization", "tolerance"),
    "vllm": ("environment", "arguments", "tolerance"),
    "openai": ("url", "model", "key_variable", "key_file", "retry_seconds", "tolerance"),
}
"""Program -> the settings that it has."""
_SET_BY_VITA = (
    "--host",
    "--port",
    "--uds",
    "--api-key",
    "--model",
    "--served-model-name",
    "--root-path",
    "--middleware",
)
"""Arguments of vLLM that the service sets."""


class BackendSettings(Settings):
    """The program that computes the answers of a release, and its settings."""

    program: Program = "vita"
    """`vita`, `vllm`, `llama.cpp`, or `openai` for a running OpenAI-compatible endpoint."""
    quantization: str | None = None
    """Number type of the weights. For `vita`: `float32`, `bf16`, `int8` or `int4`, by default float32 on a CPU and bf16
    on a GPU. For `llama.cpp`: the number type of the GGUF file, as in `vita export`, by default `bf16`."""
    environment: str | None = None
    """Folder of the Python environment in which vLLM is installed."""
    arguments: tuple[str, ...] = ()
    """Further arguments of vLLM, such as `--gpu-memory-utilization=0.5`."""
    url: str | None = None
    """Base URL of an OpenAI-compatible endpoint, such as `http://127.0.0.1:9000/v1`."""
    model: str | None = None
    """Name of the model at the endpoint; by default its only model."""
    key_variable: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Environment variable that contains the API key of the endpoint."""
    key_file: str | None = None
    """File that contains the API key of the endpoint."""
    retry_seconds: float = Field(default=10.0, ge=0, le=600, allow_inf_nan=False)
    """Time in seconds in which a request is sent again while the endpoint is not available."""
    tolerance: float | None = Field(default=None, gt=0)
    """Allowed difference of the log-probability of each golden answer, in nats per token. The default depends on the
    program and on the number type."""

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str | None) -> str | None:
        return http_url(url) if url else None

    @model_validator(mode="after")
    def _fields_belong_to_the_program(self) -> Self:
        for name in self.model_fields_set - {"program"}:
            if name not in _FIELDS[self.program] and getattr(self, name) not in (None, ()):
                raise ValueError(f"`{name}` is not a setting of the backend `{self.program}`")
        if self.program == "vita" and self.quantization not in (None, FLOAT32, *get_args(WeightFormat)):
            kinds = f"{FLOAT32}, {', '.join(get_args(WeightFormat))}"
            raise ValueError(f"`quantization` of the backend `vita` is one of {kinds}, not `{self.quantization}`")
        if self.program == "openai" and self.url is None:
            raise ValueError("the backend `openai` needs `url`, the base URL of the endpoint")
        if self.key_variable and self.key_file:
            raise ValueError("`key_variable` and `key_file` cannot both be set")
        if self.program == "vllm" and self.environment is None:
            raise ValueError(
                "the backend `vllm` needs `environment`, the folder of a Python environment with vLLM "
                "(python -m venv FOLDER && FOLDER/bin/pip install vllm)"
            )
        for argument in self.arguments:
            if not argument.startswith("--") or argument.partition("=")[0] in _SET_BY_VITA:
                raise ValueError(f"`{argument}` is not an argument --NAME or --NAME=VALUE that can be set")
        return self

    @property
    def gguf_type(self) -> str:
        """Return the number type of the GGUF file."""
        return self.quantization or "bf16"

    @property
    def allowed_difference(self) -> float:
        """Return the allowed difference of the log-probability of a golden answer, in nats per token."""
        kind = self.gguf_type if self.program == "llama.cpp" else self.quantization or self.program
        return DEFAULT_TOLERANCE.get(kind, 0.05) if self.tolerance is None else self.tolerance

    @property
    def label(self) -> str:
        """Return the suffix of the version of a release with this backend."""
        if self.program == "vita":
            return self.quantization or "vita"
        return "-".join([self.program, *([self.gguf_type] if self.program == "llama.cpp" else [])])

    @property
    def weight_format(self) -> WeightFormat | None:
        """Return the number format of the weights of the backend `vita`; None for float32 and for other programs."""
        is_float32 = self.program != "vita" or self.quantization in (None, FLOAT32)
        return None if is_float32 else cast("WeightFormat", self.quantization)

    def on_device(self, device: str) -> BackendSettings:
        """Return the settings with the default number type of a device: `bf16` of the backend `vita` on a GPU."""
        if self.program != "vita" or self.quantization is not None or device.partition(":")[0] == "cpu":
            return self
        return self.model_copy(update={"quantization": "bf16"})

    @property
    def is_default(self) -> bool:
        """Return True for the backend `vita` with float32 weights and the default tolerance."""
        return self.program == "vita" and self.quantization is None and self.tolerance is None

    def record(self) -> dict[str, Any]:
        """Return the settings that differ from their defaults, for `release.json`."""
        return {"program": self.program, **self.model_dump(mode="json", exclude_defaults=True)}


def backend_values(value: Any) -> Any:
    """Return the settings of a backend that is given by the name of its program."""
    return {"program": value} if isinstance(value, str) else value


def release_backend(content: Mapping[str, Any], *, where: str = "release.backend") -> BackendSettings:
    """Return the backend of a release; `content` is its `release.json`."""
    values = {name: value for name, value in (content.get("backend") or {}).items() if name != "gguf"}
    return build(BackendSettings, values, where=where)


def gguf_digest(content: Mapping[str, Any]) -> str | None:
    """Return the SHA-256 of the GGUF file of a release; None without such a file."""
    value = (content.get("backend") or {}).get("gguf")
    return value if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) else None


def python_of(environment: str) -> Path:
    """Return the Python program of an environment."""
    return Path(environment).expanduser() / "bin" / "python"
