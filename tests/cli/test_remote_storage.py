"""Unusable stores and sources on S3 are a one-line error with the documented exit code, within seconds."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.cli.models import Vita, command_runner
from vita.data.sources.files import find_files

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
STORE_ERROR, DATA_ERROR = 4, 3
SECONDS = 120
"""A slower command waits for ever; the first request has a time limit of 10 s."""


@pytest.fixture
def vita(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Vita]:
    s3fs = pytest.importorskip("s3fs", reason="needs the extra `s3`")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("VITA_DEVICE", "cpu")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("VITA_STORE", "VITA_LEDGER", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    s3fs.S3FileSystem.clear_instance_cache()
    yield command_runner(capsys)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def endpoint(vita: Vita, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the address of an S3 server with the bucket `texts`, which holds one file."""
    server_module = pytest.importorskip("moto.server", reason="needs moto's server")
    import boto3

    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    client = boto3.client("s3")
    client.create_bucket(Bucket="texts")
    row = {"text": "A sentence of some words for a corpus."}
    client.put_object(Bucket="texts", Key="a/rows.jsonl", Body=json.dumps(row).encode())
    yield f"http://{host}:{port}"
    httpx.post(f"http://{host}:{port}/moto-api/reset")  # all servers of a process share their buckets
    server.stop()


@pytest.fixture
def silent_endpoint() -> Iterator[str]:
    """Return the address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def life(path: str) -> str:
    """Write a life with the single source `path`."""
    settings = f'name: x\nstages:\n  curate:\n    sources: [{{path: "{path}"}}]\n    filters: []\n    held_out: 0\n'
    Path("life.yaml").write_text(settings)
    return "life.yaml"


def check(vita: Vita, *command: str, code: int, message: str) -> None:
    start = time.monotonic()
    exit_code, out, err = vita(*command)
    assert exit_code == code and message in err, (command, exit_code, out, err)
    assert err.count("\n") == 1 and err.startswith("error ") and "Traceback" not in out + err
    assert time.monotonic() - start < SECONDS


def commands(bucket: str) -> list[tuple[tuple[str, ...], int]]:
    """Return commands on a store and on a source in a bucket, with the exit code of their class of errors."""
    return [
        (("--store", f"s3://{bucket}/store", "ls"), STORE_ERROR),
        (("live", life(f"s3://{bucket}/a")), DATA_ERROR),
        (("curate", f"s3://{bucket}/a/*.jsonl"), DATA_ERROR),
    ]


def test_an_endpoint_that_refuses_connections_is_a_one_line_error(vita: Vita, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for command, code in commands("texts"):
        check(vita, *command, code=code, message="cannot be reached: Could not connect")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    for command, code in commands("other"):
        check(vita, *command, code=code, message="AWS_ENDPOINT_URL")


def test_an_endpoint_that_never_answers_is_a_one_line_error_within_seconds(
    vita: Vita, silent_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", silent_endpoint)
    check(vita, "curate", "s3://texts/a", code=DATA_ERROR, message="cannot be reached")


def test_missing_buckets_and_files_are_a_one_line_error(vita: Vita, endpoint: str) -> None:
    for command, code in commands("missing"):
        check(vita, *command, code=code, message="there is no such bucket")
    check(vita, "curate", "s3://texts/nothing", code=DATA_ERROR, message="s3://texts/nothing: there is no such file")
    check(vita, "curate", "s3://texts/b/*.jsonl", code=DATA_ERROR, message="there is no such file")
    assert vita("curate", "s3://texts/a", "--set", "filters=[]", "--held-out", "0")[0] == 0


def test_empty_objects_that_stand_for_folders_are_no_files(vita: Vita, endpoint: str) -> None:
    import boto3

    client = boto3.client("s3")
    row = json.dumps({"text": "Another sentence of some words for a corpus."}).encode()
    client.put_object(Bucket="texts", Key="mark/sub/b.jsonl", Body=row)
    for key in ("mark/", "mark/sub/", "mark/sub_$folder$", "empty/"):
        client.put_object(Bucket="texts", Key=key, Body=b"")
    for path in ("mark/", "mark", "mark/**", "mark/sub/"):
        code, _, err = vita("curate", f"s3://texts/{path}", "--set", "filters=[]", "--held-out", "0")
        assert code == 0, (path, err)
    check(vita, "curate", "s3://texts/empty/", code=DATA_ERROR, message="there is no such file")
    for key in ("glob[1]/x.jsonl", "glob1/y.jsonl", "glob2/y.jsonl"):
        client.put_object(Bucket="texts", Key=key, Body=row)
    names = {
        "glob[1]/x.jsonl": ["x.jsonl"],
        "glob[1]": ["x.jsonl"],
        "glob[2]/*": ["glob2/y.jsonl"],
        "glob[12]/y.jsonl": ["glob1/y.jsonl", "glob2/y.jsonl"],
    }
    for path, expected in names.items():
        assert [file.name for file in find_files(f"s3://texts/{path}", where="curate")] == expected
    code, _, err = vita("curate", "s3://texts/glob[1]/x.jsonl", "--set", "filters=[]", "--held-out", "0")
    assert code == 0, err


def test_wrong_and_missing_credentials_are_a_one_line_error(
    vita: Vita, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = pytest.importorskip("moto.settings")
    monkeypatch.setattr(settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)  # from now on the server checks credentials
    for command, code in commands("texts"):
        check(vita, *command, code=code, message="access is denied")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    for command, code in commands("texts"):
        check(vita, *command, code=code, message="needs credentials")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    s3fs.S3FileSystem.clear_instance_cache()
    check(vita, "curate", "s3://texts/a", code=DATA_ERROR, message="The config profile (nobody)")


def test_a_bucket_that_is_deleted_during_use_is_a_one_line_error(vita: Vita, endpoint: str) -> None:
    import boto3

    assert vita("--store", "s3://texts/store", "ls")[0] == 0
    client = boto3.client("s3")
    client.delete_object(Bucket="texts", Key="a/rows.jsonl")
    client.delete_bucket(Bucket="texts")
    check(vita, "--store", "s3://texts/store", "ls", code=STORE_ERROR, message="there is no such bucket")
