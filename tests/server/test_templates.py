"""A replica applies real chat templates to requests of clients."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import httpx

from tests.data.templates import LLAMA_3_2, QWEN_3
from tests.server.releases import release_folder
from tests.server.serving import serving
from vita.server.replica.main import open_app

REASONING_DIALOGUE = [
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "<think>\nTwo and two.\n</think>\n\n4"},
    {"role": "user", "content": "And 3 + 3?"},
]


def prompt_of(url: str, messages: list[dict[str, str]]) -> str:
    """Return the prompt that the server makes of a dialogue, and check that the dialogue gets an answer."""
    body = {"model": "m", "messages": messages, "max_tokens": 2, "seed": 1}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    tokens = httpx.post(f"{url}/tokenize", json={"messages": messages}).json()["tokens"]
    assert answer.json()["usage"]["prompt_tokens"] == len(tokens)
    return httpx.post(f"{url}/detokenize", json={"tokens": tokens}).json()["prompt"]


def test_a_template_that_removes_earlier_reasoning_works(tmp_path: Path) -> None:
    with serving(open_app(release_folder(tmp_path, template=QWEN_3))) as url:
        prompt = prompt_of(url, REASONING_DIALOGUE)
    assert prompt.endswith("<|im_start|>assistant\n4<|im_end|>\n<|im_start|>user\nAnd 3 + 3?<|im_end|>\n"
                           "<|im_start|>assistant\n")  # fmt: skip


def test_a_template_that_prints_the_date_uses_the_date_of_the_server(tmp_path: Path) -> None:
    start = datetime.now()
    with serving(open_app(release_folder(tmp_path, template=LLAMA_3_2))) as url:
        prompt = prompt_of(url, [{"role": "user", "content": "Hi"}])
    days = {(start + timedelta(days=day)).strftime("%d %b %Y") for day in (0, 1)}
    assert any(f"Today Date: {day}\n" in prompt for day in days), prompt


def test_a_dialogue_that_the_template_refuses_gets_status_400(tmp_path: Path) -> None:
    """Only a dialogue with a system message fails here; the replica still serves other dialogues."""
    template = (
        "{% if messages[0].role == 'system' %}{{ 1 / 0 }}{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    with serving(open_app(release_folder(tmp_path, template=template))) as url:
        assert prompt_of(url, [{"role": "user", "content": "Hi"}]) == "Hi"
        messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
        answer = httpx.post(f"{url}/v1/chat/completions", json={"model": "m", "messages": messages})
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "messages"
        assert "ZeroDivisionError" in answer.json()["error"]["message"]
        empty_answer = httpx.post(
            f"{url}/v1/chat/completions", json={"model": "m", "messages": [{**messages[1], "content": ""}]}
        )
        assert empty_answer.status_code == 400 and "produces no tokens" in empty_answer.json()["error"]["message"]
