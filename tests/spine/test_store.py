"""The store: identity by content, atomic commits, corrupt and missing files, and full disks."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.spine.stages import Number
from vita.spine.disk import confined
from vita.spine.errors import MissingExtra, StoreError
from vita.spine.store import Artifact, Draft, Store


def _draft(folder: Path, **files: str) -> Draft[Number]:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return Draft(Number, folder, {"files": len(files)})


def test_equal_content_has_one_digest_and_is_stored_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first = store.commit(_draft(tmp_path / "a", x="same", y="same"))
    second = store.commit(_draft(tmp_path / "b", x="same", y="same"))
    assert first.digest == second.digest
    objects = [path for path in (tmp_path / "store/objects").rglob("*") if path.is_file()]
    assert len(objects) == 1
    assert (first.path / "x").read_text() == "same"


def test_another_fact_name_or_byte_gives_another_digest(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    digests = {
        store.commit(_draft(tmp_path / "a", x="1")).digest,
        store.commit(_draft(tmp_path / "b", y="1")).digest,
        store.commit(_draft(tmp_path / "c", x="2")).digest,
        store.commit(Draft(Number, _draft(tmp_path / "d", x="1").folder, {"files": 9})).digest,
    }
    assert len(digests) == 4


def test_an_opened_artifact_is_an_ordinary_folder(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    artifact = store.commit(_draft(tmp_path / "a", **{"deep/er/x.txt": "hello"}))
    shutil.rmtree(tmp_path / "a")
    reopened = Store(tmp_path / "store").open(artifact.digest, Number)
    assert (reopened.path / "deep/er/x.txt").read_text() == "hello" and reopened.facts == {"files": 1}


def test_another_kind_is_refused(tmp_path: Path) -> None:
    class Letter(Artifact):
        kind = "letter"

    store = Store(tmp_path / "store")
    artifact = store.commit(_draft(tmp_path / "a", x="1"))
    with pytest.raises(StoreError, match=r"expected a letter, got a number"):
        store.open(artifact.digest, Letter)


@pytest.mark.parametrize(
    ("kind", "phrase"),
    [("archive", "an archive"), ("corpus", "a corpus"), ("model", "a model"), ("tokens", "tokens")],
)
def test_an_error_about_the_kind_of_an_artifact_uses_the_right_article(tmp_path: Path, kind: str, phrase: str) -> None:
    class Letter(Artifact):
        pass

    Letter.kind = kind
    store = Store(tmp_path / "store")
    artifact = store.commit(_draft(tmp_path / "a", x="1"))
    with pytest.raises(StoreError, match=f"expected {phrase}, got a number"):
        store.open(artifact.digest, Letter)


def test_a_corrupt_object_is_named_removed_and_can_be_created_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    artifact = store.commit(_draft(tmp_path / "a", x="hello"))
    object_path = next(path for path in (tmp_path / "store/objects").rglob("*") if path.is_file())
    object_path.chmod(0o644)
    object_path.write_text("hellO")
    with pytest.raises(StoreError, match=r"number .* file x: was corrupt .* run the same command again"):
        Store(tmp_path / "store").open(artifact.digest)
    new_store = Store(tmp_path / "store")
    assert not new_store.has(artifact.digest)
    assert new_store.commit(_draft(tmp_path / "b", x="hello")).digest == artifact.digest
    assert (new_store.open(artifact.digest).path / "x").read_text() == "hello"


def test_a_corrupt_object_is_replaced_when_the_same_bytes_are_committed(tmp_path: Path) -> None:
    Store(tmp_path / "store").commit(_draft(tmp_path / "a", x="hello"))
    object_path = next(path for path in (tmp_path / "store/objects").rglob("*") if path.is_file())
    object_path.chmod(0o644)
    object_path.write_text("hellO")
    artifact = Store(tmp_path / "store").commit(_draft(tmp_path / "b", x="hello"))
    assert (artifact.path / "x").read_text() == "hello"


def test_a_missing_object_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    artifact = store.commit(_draft(tmp_path / "a", x="hello"))
    shutil.rmtree(tmp_path / "store/objects")
    with pytest.raises(StoreError, match="file x: is missing from the store"):
        store.open(artifact.digest)


def test_a_corrupt_manifest_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    artifact = store.commit(_draft(tmp_path / "a", x="hello"))
    (tmp_path / f"store/artifacts/{artifact.digest}.json").write_text("{")
    with pytest.raises(StoreError, match="manifest was corrupt and has been renamed"):
        store.open(artifact.digest)


def test_an_unknown_digest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"artifact 0{12}: is not in the store"):
        Store(tmp_path / "store").open("0" * 64)


def test_verify_reads_every_byte(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    artifact = store.commit(_draft(tmp_path / "a", x="hello", y="there"))
    assert [bad_files for _, _, bad_files in store.verify()] == [[]]
    object_path = next(path for path in (tmp_path / "store/objects").rglob("*") if path.is_file())
    object_path.unlink()
    ((digest, _, bad_files),) = list(store.verify())
    assert digest == artifact.digest and len(bad_files) == 1


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "."])
def test_a_path_outside_the_artifact_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="expected a path inside the artifact"):
        confined(tmp_path, name)


def test_a_symbolic_link_and_an_empty_draft_are_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    (tmp_path / "a").mkdir()
    with pytest.raises(StoreError, match="contains no files"):
        store.commit(Draft(Number, tmp_path / "a"))
    (tmp_path / "a" / "x").symlink_to("/etc/hostname")
    with pytest.raises(StoreError, match="symbolic link"):
        store.commit(Draft(Number, tmp_path / "a"))


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises((StoreError, MissingExtra)):
        Store("nonsense://bucket")


def test_a_full_disk_is_refused_with_a_clear_message_and_loses_nothing(tiny_disk: Path) -> None:
    store = Store(tiny_disk / "store")
    first = store.commit(_draft(tiny_disk / "a", x="small"))
    folder = tiny_disk.parent / "outside"
    folder.mkdir()
    (folder / "big").write_bytes(os.urandom(2_000_000))
    with pytest.raises(StoreError, match="the disk is full; free some space and run the same command again"):
        store.commit(Draft(Number, folder))
    assert (Store(tiny_disk / "store").open(first.digest).path / "x").read_text() == "small"
    assert not list((tiny_disk / "store/objects").rglob(".*"))


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    process = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True)
    if process.returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture
def bucket() -> Iterator[str]:
    """Create an S3 bucket on a moto server on loopback."""
    pytest.importorskip("s3fs", reason="needs the extra `s3`")
    server_module = pytest.importorskip("moto.server", reason="needs moto's server")
    import boto3

    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    settings = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
        "AWS_REGION": "us-east-1",
    }
    patch = pytest.MonkeyPatch()
    for name, value in settings.items():
        patch.setenv(name, value)
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="vita")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    yield "s3://vita/store"
    server.stop()
    patch.undo()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_store_on_s3_is_read_by_a_machine_with_an_empty_cache(tmp_path: Path, bucket: str) -> None:
    artifact = Store(bucket, cache=tmp_path / "one").commit(_draft(tmp_path / "a", **{"deep/x": "hello", "y": "there"}))
    second_store = Store(bucket, cache=tmp_path / "two")
    assert second_store.digests() == [artifact.digest] and second_store.has(artifact.digest)
    assert (second_store.open(artifact.digest, Number).path / "deep/x").read_text() == "hello"
    for path in (tmp_path / "two").rglob("objects/*/*"):
        path.chmod(0o644)
        path.write_text("wrong")
    third_store = Store(bucket, cache=tmp_path / "two")
    assert (third_store.open(artifact.digest).path / "deep/x").read_text() == "hello", "a bad copy is fetched again"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_unreachable_s3_endpoint_is_refused_with_a_clear_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3fs = pytest.importorskip("s3fs", reason="needs the extra `s3`")
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StoreError, match="cannot be reached"):
        Store("s3://vita/store", cache=tmp_path).commit(_draft(tmp_path / "a", x="1"))
