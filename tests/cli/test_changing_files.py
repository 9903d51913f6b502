"""A corpus is recorded under the content that it was built from, also when files change while they are read."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.corpora import rows, write
from tests.cli.test_cli import Vita, vita

__all__ = ["vita"]

OPTIONS = ("--set", "filters=[]", "--held-out", "0", "--name", "x")


def documents(count: int, *, words: int = 1) -> list[dict[str, str]]:
    return [{"id": str(number), "text": f"Text number {number}." + " word" * words} for number in range(count)]


def replace_content(file: Path) -> None:
    """Write other content of the same length and keep the old times."""
    status = file.stat()
    file.write_bytes(file.read_bytes().replace(b"number", b"NUMBER"))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def append_row(file: Path) -> None:
    with file.open("a") as handle:
        handle.write('{"id": "new", "text": "One more."}\n')


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def move_another_file_over(file: Path) -> None:
    replacement = file.with_name(".other")
    write(replacement, *documents(3))
    replacement.replace(file)


@pytest.mark.slow
@pytest.mark.parametrize("change", [replace_content, append_row, truncate, move_another_file_over, Path.unlink])
def test_a_file_that_changes_during_the_run_stops_it(
    vita: Vita, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    write(tmp_path / "in" / "a.jsonl", *documents(3_000, words=40))
    changed_file = write(tmp_path / "in" / "b.jsonl", *documents(200, words=3))
    for file in (tmp_path / "in").iterdir():
        os.utime(file, (1e9, 1e9))
    shutil.copy2(changed_file, tmp_path / "keep")
    command = [
        sys.executable,
        "-c",
        "from vita.cli import main; main()",
        "curate",
        "--set",
        "sources=[{path: in, on_bad_row: drop}]",
        *OPTIONS,
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "VITA_THREADS": "1"})
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("vita-store/scratch/*/sifted/*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    change(changed_file)
    _, message = process.communicate()
    assert process.returncode == 3, message
    assert "in/b.jsonl" in message.replace("\n", "") and "during the run" in " ".join(message.split()), message
    assert "Traceback" not in message and json.loads(vita("ls", "--json")[1]) == []
    shutil.copy2(tmp_path / "keep", changed_file)
    code, _, err = vita("curate", "in", *OPTIONS)
    assert code == 0, err
    assert len(rows(vita, "x/curate")) == 3_200


@pytest.mark.slow
def test_changed_content_with_unchanged_times_is_read_again(vita: Vita, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", *documents(5))
    for _ in range(2):  # the second run uses the cached digest
        os.utime(file, (1e9, 1e9))
        assert vita("curate", "a.jsonl", *OPTIONS)[0] == 0
    replace_content(file)
    assert vita("curate", "a.jsonl", *OPTIONS)[0] == 0
    assert rows(vita, "x/curate")[0]["text"].startswith("Text NUMBER 0.")


def test_files_that_are_not_read_may_change(vita: Vita, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "in" / "a.jsonl", *documents(5))
    log = tmp_path / "in" / "run.log"
    log.write_text("begins")
    from vita.stages import curate

    def write_to_log(*arguments: object, **variables: object) -> str:
        log.write_text(f"ends {time.time_ns()}")
        return "page"

    monkeypatch.setattr(curate, "write_report_pages", write_to_log)
    code, _, err = vita("curate", "in", *OPTIONS)
    assert code == 0, err


@pytest.mark.slow
def test_the_origin_of_a_file_is_part_of_its_identity(vita: Vita, tmp_path: Path) -> None:
    for folder in ("licensed", "scraped"):
        write(tmp_path / folder / "part.jsonl", *documents(3))
        assert vita("curate", folder, *OPTIONS)[0] == 0
        assert {row["source"] for row in rows(vita, "x/curate")} == {folder}
    for name in ("one.jsonl", "two.jsonl"):
        write(tmp_path / name, {"text": "No id of its own."})
        assert vita("curate", "--set", f"sources=[{{path: {name}, name: s}}]", *OPTIONS)[0] == 0
        assert [row["id"] for row in rows(vita, "x/curate")] == [f"{name}:1"]
    for first_folder, second_folder in (("a", "b"), ("b", "a")):
        write(tmp_path / "g" / first_folder / "x.jsonl", {"text": "First text."})
        write(tmp_path / "g" / second_folder / "x.jsonl", {"text": "Second text."})
        assert vita("curate", "g/*/x.jsonl", *OPTIONS)[0] == 0
        assert {row["id"]: row["text"] for row in rows(vita, "x/curate")}[f"{first_folder}/x.jsonl:1"] == "First text."


# -- the contents of a folder


PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2


def obey_permissions() -> None:
    """Drop the capabilities that let root ignore permissions, in a child process from the next exec on."""
    if os.geteuid() == 0:
        for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
            if ctypes.CDLL(None, use_errno=True).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
                raise OSError(ctypes.get_errno(), "the right to read everything cannot be given up")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="rights are given up by a call of Linux")
def test_the_error_for_an_unreadable_folder_or_file_names_it(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.jsonl", *documents(3))
    write(tmp_path / "in" / "locked" / "b.jsonl", *documents(3))
    write(tmp_path / "one" / "secret.jsonl", *documents(3))

    def curate(path: str) -> tuple[int, str]:
        words = [sys.executable, "-c", "from vita.cli import main; main()", "curate", path, *OPTIONS]
        process = subprocess.run(
            words, cwd=tmp_path, capture_output=True, text=True, preexec_fn=obey_permissions, timeout=120, check=False
        )
        return process.returncode, " ".join((process.stdout + process.stderr).split())

    locked = {"in": tmp_path / "in" / "locked", "in/*/*.jsonl": tmp_path / "in" / "locked"}
    locked["one"] = tmp_path / "one" / "secret.jsonl"
    for folder in locked.values():
        folder.chmod(0)
    try:
        for path, folder in locked.items():
            code, output = curate(path)
            assert code == 3 and "Traceback" not in output, output
            assert str(folder.relative_to(tmp_path)) in output, output
    finally:
        for folder in locked.values():
            folder.chmod(0o755)


@pytest.mark.slow
def test_links_are_followed_once(vita: Vita, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "deep" / "a.jsonl", *documents(3))
    (tmp_path / "linked").symlink_to("elsewhere")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "sub").symlink_to("../elsewhere/deep")
    (tmp_path / "in" / "loop").symlink_to("../in")
    (tmp_path / "elsewhere" / "deep" / "up").symlink_to("..")
    for path, count in (("linked", 3), ("in", 3)):
        code, _, err = vita("curate", path, *OPTIONS)
        assert code == 0 and len(rows(vita, "x/curate")) == count, err
    assert rows(vita, "x/curate", "drops") == [], "no file is read twice"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["broken link", "named pipe", "socket"])
def test_the_error_for_a_special_file_names_it(
    vita: Vita, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "in" / "a.jsonl", *documents(3))
    special_file = tmp_path / "in" / "odd.jsonl"
    if kind == "broken link":
        special_file.symlink_to("nowhere")
    elif kind == "named pipe":
        os.mkfifo(special_file)
    else:
        monkeypatch.chdir(tmp_path / "in")  # the path of a socket must be short
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("odd.jsonl")
        monkeypatch.chdir(tmp_path)
    for path in ("in", "in/*.jsonl", "in/odd.jsonl"):
        code, _, err = vita("curate", path, *OPTIONS)
        assert code == 3 and "odd.jsonl" in err and kind in " ".join(err.split()), err


@pytest.mark.slow
def test_a_file_whose_name_is_not_utf8_is_read(vita: Vita, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / os.fsdecode(b"caf\xe9.txt")).write_text("A text under an old name.")
    for path in ("in", "in/*.txt"):
        code, _, err = vita("curate", path, *OPTIONS)
        assert code == 0, err
        assert [row["id"] for row in rows(vita, "x/curate")] == ["caf\\xe9.txt"]
    (folder / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"a\xff")
    code, _, err = vita("curate", "in", *OPTIONS)
    assert code == 3 and "caf\\xe9.txt" in err and "Traceback" not in err


def test_a_change_in_a_bucket_during_the_run_is_an_error(vita: Vita) -> None:
    import fsspec

    files = fsspec.filesystem("memory")
    files.pipe({"/b/a.jsonl": b'{"text": "One."}\n', "/b/b.jsonl": b'{"text": "Two."}\n'})
    from vita.data.sources.read import Source, documents
    from vita.spine.contents import content_digests, reading
    from vita.spine.errors import DataError
    from vita.spine.ledger import Ledger

    source = Source.model_validate("memory://b")
    contents = content_digests(source, Ledger("ledger.db"), where="curate")
    try:
        with pytest.raises(DataError, match="memory:///b/b.jsonl: changed during the run"), reading(contents):
            rows = documents(source)
            assert next(rows).text == "One."
            files.pipe({"/b/b.jsonl": b'{"text": "New."}\n'})
            list(rows)
    finally:
        files.rm("/b", recursive=True)


def test_the_bytes_of_the_digest_are_read_and_a_later_change_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vita.data.sources.read import Source, documents
    from vita.spine import contents as module
    from vita.spine.errors import DataError
    from vita.spine.ledger import Ledger

    folder = tmp_path / "in"
    folder.mkdir()
    for name, text in (("a", "One."), ("b", "Two.")):
        (folder / f"{name}.txt").write_text(text)
    source, ledger = Source.model_validate(str(folder)), Ledger(str(tmp_path / "ledger.db"))
    contents = module.content_digests(source, ledger, where="curate")
    with pytest.raises(DataError, match=r"b.txt: changed during the run"), module.reading(contents):
        rows = documents(source)
        assert next(rows).text == "One."
        (folder / "b.txt").write_text("New.")
        assert next(rows).text == "Two."

    monkeypatch.setattr(module, "_HELD_BYTES", 7)  # the second file exceeds the rest
    (files,) = module.content_digests(source, ledger, where="curate").files.values()
    assert [file.content for file in files] == [b"One.", None]
