"""A replica whose answers would all be errors does not become ready and gives the reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import torch

from tests.server.releases import model_folder, release_folder
from tests.server.serving import serving
from vita.data.tokens.chat_template import CHATML
from vita.nn.transformer import Transformer
from vita.server.release import create_release
from vita.server.replica.main import open_app
from vita.spine.errors import ModelError


def nan_in_a_layer(model: Transformer) -> None:
    model.model.layers[1].mlp.down_proj.weight.view(-1)[7] = float("nan")  # type: ignore[union-attr,operator]


def infinity_in_a_norm(model: Transformer) -> None:
    model.model.norm.weight[3] = float("inf")


def all_nan(model: Transformer) -> None:
    for parameter in model.parameters():
        parameter.fill_(float("nan"))


def too_large(model: Transformer) -> None:
    model.model.norm.weight.fill_(3e38)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (nan_in_a_layer, r"NaN or infinity is in model\.layers\.1\.mlp\.down_proj\.weight"),
        (infinity_in_a_norm, r"NaN or infinity is in model\.norm\.weight"),
        (all_nan, r"NaN or infinity is in .* and \d+ more"),
        (too_large, r"its weights are finite; they may be too large"),
    ],
)
def test_the_error_for_weights_without_finite_logits_names_them(
    tmp_path: Path, change: Callable[[Transformer], None], reason: str
) -> None:
    with pytest.raises(ModelError, match=f"logits that are not finite.*{reason}"):
        open_app(release_folder(tmp_path, change=torch.no_grad()(change)))


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('no') }}", r"cannot process a chat: chat template: refuses the dialogue \(no\)"),
        ("{{ messages[0].contents.strip() }}", "cannot process a chat: chat template: refuses the dialogue"),
        ("{{ messages[0]['content'] + 1 }}", "cannot process a chat: .*TypeError"),
        ("{% if %}", "is not Jinja"),
        ("{# nothing #}", "produces no tokens"),
        ("{{ nowhere() }}", "'nowhere' is undefined"),
    ],
)
def test_a_template_that_renders_no_dialogue_is_refused(tmp_path: Path, template: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        open_app(release_folder(tmp_path, template=template))


@pytest.mark.slow
@pytest.mark.parametrize(
    "template",
    [
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML,
        "{% if messages[0].role != 'system' %}{{ raise_exception('system first') }}{% endif %}" + CHATML,
    ],
)
def test_a_template_that_refuses_only_some_dialogues_is_served(tmp_path: Path, template: str) -> None:
    with serving(open_app(release_folder(tmp_path, template=template))) as url:
        assert httpx.get(f"{url}/ready").status_code == 200
        user = {"role": "user", "content": "Hi"}
        dialogues = [[user], [{"role": "system", "content": "Be kind."}, user]]
        bodies = [{"model": "m", "messages": messages, "max_tokens": 1} for messages in dialogues]
        statuses = {httpx.post(f"{url}/v1/chat/completions", json=body).status_code for body in bodies}
        assert statuses == {200, 400}


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the tokenizer has 259 tokens, the model 200"):
        open_app(release_folder(tmp_path, vocabulary=200))


def test_sampling_settings_that_fail_every_request_are_refused(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model")
    release = create_release(model, tmp_path / "release", name="m", version="1", sampling={"top_p": 7.0})
    with pytest.raises(ModelError, match="responds to its first request to /v1/.*completions with 500"):
        open_app(release)


def test_a_model_without_a_template_is_served_for_completions(tmp_path: Path) -> None:
    with serving(open_app(release_folder(tmp_path, template=None, context=48))) as url:
        card = httpx.get(f"{url}/ready").json()
        assert card["max_model_len"] == 48 and card["warnings"] == [] and card["bitwise_reproducible"] is True


def test_recommended_settings_that_are_not_applied_are_a_warning(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model")
    settings = {"temperature": 0.7, "repetition_penalty": 1.1, "min_p": 0.05, "num_beams": 1}
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": 0, **settings}))
    with serving(open_app(create_release(model, tmp_path / "release", name="m", version="1"))) as url:
        (warning,) = httpx.get(f"{url}/ready").json()["warnings"]
        assert "repetition_penalty 1.1, min_p 0.05, which the server ignores" in warning


def test_non_finite_weights_that_affect_only_some_requests_are_a_warning(tmp_path: Path) -> None:
    def change(model: Transformer) -> None:
        with torch.no_grad():
            model.model.embed_tokens.weight[200] = float("nan")

    with serving(open_app(release_folder(tmp_path, change=change, tied=False))) as url:
        (warning,) = httpx.get(f"{url}/ready").json()["warnings"]
        assert "NaN or infinity in 1 parameter, for example model.embed_tokens.weight" in warning


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["weights", "template"])
def test_vita_serve_stops_with_the_reason_instead_of_restarting(tmp_path: Path, fault: str) -> None:
    if fault == "weights":
        model = model_folder(tmp_path / "m", change=torch.no_grad()(all_nan))
    else:
        model = model_folder(tmp_path / "m", template="{{ raise_exception('broken') }}")
    environment = {**os.environ, "VITA_STORE": str(tmp_path / "store"), "VITA_THREADS": "1", "COLUMNS": "400"}
    program = "from vita.cli import main; main()"
    command = [sys.executable, "-c", program, "serve", str(model), "--port", "0", "--ungated", "test"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert process.returncode == 6, process.stderr
    reason = "not finite" if fault == "weights" else "cannot process a chat: chat template: refuses the dialogue"
    assert reason in process.stderr and "Traceback" not in process.stderr
