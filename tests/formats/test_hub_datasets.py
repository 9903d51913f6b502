"""Token files and a tokenizer of the Hub, through the real client library and a local server."""

from __future__ import annotations

import json
from pathlib import Path

from tests.formats.runner import Vita
from tests.hub_server import HubServer
from vita.data.tokens.shards import Shards
from vita.data.tokens.token_files import write_token_file
from vita.testing import byte_tokenizer

DOCUMENT = 256


def test_token_files_and_their_tokenizer_are_downloaded_without_the_weights(
    vita: Vita, hub: HubServer, tmp_path: Path
) -> None:
    shards, model = tmp_path / "shards", tmp_path / "model"
    shards.mkdir()
    for name, text in {"train_01": b"abc", "train_02": b"cde", "train_33": b"no", "val_00": b"xyz"}.items():
        write_token_file(shards / f"{name}.bin", [DOCUMENT, *text])
    byte_tokenizer().save(model)
    commit = hub.add_model("acme/shards", shards)
    tokenizer_commit = hub.add_model("acme/tiny", model, extra={"model.safetensors": b"weights", "config.json": b"{}"})
    base = f"hf://datasets/acme/shards@{commit}"
    words = (
        "import-tokens", "--train", f"{base}/train_0?.bin", "--validation", f"{base}/val_00.bin",
        "--tokenizer", f"acme/tiny@{tokenizer_commit}", "--life", "x", "--json",
    )  # fmt: skip
    artifact = json.loads(vita(*words))
    stream = Shards.open(Path(artifact["folder"]) / "train")
    assert stream.read(0, stream.tokens).tolist() == [DOCUMENT, *b"abc", DOCUMENT, *b"cde"]
    assert artifact["run"]["record"]["tokenizer"] == {"hub": "acme/tiny", "revision": tokenizer_commit}
    assert sorted(artifact["run"]["record"]["files"]) == ["train_01.bin", "train_02.bin", "val_00.bin"]
    assert not any("model.safetensors" in request or "train_33" in request for request in hub.requests)
    assert json.loads(vita("import-tokens", *words[1:], HF_HUB_OFFLINE="1"))["digest"] == artifact["digest"]

    wrong = (*words[:2], f"{base}/test_*.bin", *words[3:])
    assert "the data set has no file that matches" in vita(*wrong, code=3)
    wrong = (*words[:2], "hf://datasets/acme/nothing/train.bin", *words[3:])
    assert "there is no such data set, or it is private" in vita(*wrong, code=3)
    wrong = (*words[:2], "s3://acme/train.bin", *words[3:])
    assert "expected a local path, or hf://datasets/OWNER/NAME@REVISION/FILES" in vita(*wrong, code=2)
