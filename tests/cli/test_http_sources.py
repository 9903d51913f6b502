"""Sources over HTTP: pages with links, folders, passwords in addresses, and servers that fail for a moment."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import zstandard

from tests.cli.test_cli import Vita, vita
from tests.cli.test_curate_folder import rows
from tests.data.sources.document_files import tar_file, zip_file
from vita.data.sources.files import find_files
from vita.data.sources.source import Source
from vita.spine import retried_http
from vita.spine.contents import content_digest
from vita.spine.errors import DataError
from vita.spine.ledger import Ledger
from vita.spine.url_secrets import mask_reference_secrets, mask_url_secrets, without_user_and_query

__all__ = ["vita"]
ROWS = b"".join(
    json.dumps({"text": f"A sentence of some words, number {number}."}).encode() + b"\n" for number in range(9)
)
PAGE = (
    b'<html><body><p>The <a href="a.html">river</a> has a mill that sells flour and bread every week.</p></body></html>'
)
BLOG = b'<html><title>The mill</title><p>A page about the <a href="river">river</a> and its mill.</p></html>'
LISTING = (
    b'<html><title>Index of /dir</title><a href="?C=N">Name</a><a href="../">Up</a><a href="a.jsonl">a.jsonl</a></html>'
)
ARCHIVE = zip_file([("d/a.jsonl", ROWS), ("d/b.txt", b"A text of some words."), ("c.bin", os.urandom(300_000))])
LARGE = zip_file([("a.txt", os.urandom(6_000_000).hex().encode()), ("b.txt", b"A text of some words.")])
TAR = tar_file(("d/a.jsonl", ROWS))
PASSWORD = "hunter22pass"
OPTIONS = ("--set", "filters=[]", "--held-out", "0", "--out", "o")


@dataclass
class Server:
    host: str
    failures: list[int] = field(default_factory=list)
    """Statuses of the next responses."""
    cuts: int = 0
    """Number of the next responses with content whose connection ends inside it."""
    every: int = 1
    """The distance between such responses."""
    has_ranges: bool = True
    """True if the server sends parts of archives."""
    has_validators: bool = False
    """True if the server sends an `ETag`."""
    changes: bool = False
    """True if the content changes with its first part that is sent."""
    refused_after: int | None = None
    """The number of responses with content after which all requests are refused."""
    responses: int = 0


@pytest.fixture
def server(vita: Vita, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(retried_http, "FIRST_WAIT_SECONDS", 0.01)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path.startswith("/signed"):
                self.send_response(302)
                self.send_header("location", f"{path.removeprefix('/signed')}?signature={time.time_ns()}")
                self.send_header("content-length", "0")
                self.end_headers()
                return
            pages = {"/links.html": PAGE, "/dir/": LISTING, "/dir/a.jsonl": ROWS, "/private/": LISTING}
            pages |= {"/private/a.jsonl": ROWS, "/blog/": BLOG, "/custom/": LISTING.replace(b"Index of", b"Data of")}
            pages |= {
                "/custom/a.jsonl": ROWS,
                "/private/a.zip": ARCHIVE,
                "/a.zip": ARCHIVE,
                "/large.zip": LARGE,
                "/a.tar.gz": gzip.compress(TAR),
            }
            content = pages.get(path, b"")
            expected = "Basic " + base64.b64encode(f"bob:{PASSWORD}".encode()).decode()
            is_refused = path.startswith("/private") and self.headers.get("authorization") != expected
            status = state.failures.pop(0) if state.failures else 401 if is_refused else 200 if content else 404
            if state.refused_after is not None and state.responses >= state.refused_after:
                status = 403
            state.responses += status == 200 and self.command == "GET"
            is_cut = status == 200 and self.command == "GET" and state.cuts > 0 and not state.responses % state.every
            state.cuts -= is_cut
            if status == 200 and path.endswith((".zip", ".gz")) and state.has_ranges:
                first, _, last = self.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")
                part = content[int(first) : int(last) + 1 if last else None]
                self.send_response(206 if "range" in self.headers else 200)
                self.send_header("accept-ranges", "bytes")
                self.send_header("content-range", f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}")
                content = part
            else:
                self.send_response(status)
            self.send_header("content-type", "text/html" if content.startswith(b"<") else "application/json")
            self.send_header("content-length", str(len(content)))
            if state.has_validators:
                self.send_header(
                    "etag", f'"{zlib.crc32(pages.get(path, b"")) + (state.responses if state.changes else 0)}"'
                )
            if is_cut:
                self.send_header("connection", "close")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content[: len(content) // 2] if is_cut else content)
            self.close_connection = is_cut

        do_HEAD = do_GET  # noqa: N815 (a name of `http.server`)

        def log_message(self, format: str, *_: object) -> None:
            """Write no log."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Server(f"127.0.0.1:{http.server_address[1]}")
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


def ids() -> list[str]:
    values = [row["id"] for row in rows(Path("o/train"))]
    Path("o").rename(f"o{len(list(Path().glob('o*')))}")  # a command writes only to a new folder
    return values


def plain(file: Path) -> bytes:
    """Return the content of a file without compression."""
    data = file.read_bytes()
    return zstandard.ZstdDecompressor().decompressobj().decompress(data) if file.suffix == ".zst" else data


def test_a_page_with_links_is_one_document_and_a_folder_its_files(vita: Vita, server: Server) -> None:
    code, _, err = vita("curate", f"http://{server.host}/links.html", *OPTIONS)
    assert code == 0, err
    assert ids() == ["links.html"]
    for address in ("dir/", "dir/*.jsonl", "dir/a.jsonl?token=abc"):
        code, _, err = vita("curate", f"http://{server.host}/{address}", *OPTIONS)
        assert code == 0, err
        assert ids() == [f"a.jsonl:{number}" for number in range(1, 10)]


def test_a_folder_with_a_query_is_refused_and_another_page_with_one_is_a_document(vita: Vita, server: Server) -> None:
    for address in ("dir/?x=1", "custom/?token=t0p", "dir/?x=a/"):
        code, _, err = vita("curate", f"http://{server.host}/{address}", *OPTIONS)
        assert code == 3 and "its page lists files, and a folder has no query; give the address without" in err, err
        assert err.count("\n") == 1 and "t0p" not in err
    code, _, err = vita("curate", f"http://{server.host}/blog/?p=1", *OPTIONS)
    assert code == 0 and len(ids()) == 1, err


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://bob:pw77@[::1/a.jsonl", "http://***@[::1/a.jsonl: is not an address that can be opened: its host or"),
        ("http://bob:pw77/x#y@host/a.jsonl", "http://***@host/a.jsonl: is not an address that can be opened: its host"),
        ("http://host:99999/a.jsonl", "its host or its port is malformed"),
        ("http://host:pw77/a.jsonl", "its host or its port is malformed"),
        ("http:///a.jsonl", "it has no host"),
        ("https://bob:pw77@:80/a.jsonl", "it has no host"),
        ("http://a b/c.jsonl", "its host contains a space"),
        ("zip://a::http://[::1/a.zip", "its host or its port is malformed"),
        ("http://[::1]:9/a.jsonl", "cannot be reached: Cannot connect to host ::1:9"),
    ],
)
def test_a_malformed_address_is_a_one_line_error_without_the_password(url: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)) as error:
        find_files(url, where="curate")
    text = str(error.value)
    assert "\n" not in text and ("pw77" not in text or url == "http://host:pw77/a.jsonl")


@pytest.mark.slow
def test_a_password_in_an_address_is_written_nowhere(vita: Vita, server: Server, tmp_path: Path) -> None:
    for address in ("private/*.jsonl", "private/", f"private/a.jsonl?sig={PASSWORD}"):
        url = f"http://bob:{PASSWORD}@{server.host}/{address}"
        for target in (("--out", "o"), ("--life", "x")):
            code, out, err = vita("curate", url, *OPTIONS[:4], *target)
            assert code == 0 and PASSWORD not in out + err, err
        assert ids() == [f"a.jsonl:{number}" for number in range(1, 10)]
    code, out, err = vita("curate", f"http://bob:{PASSWORD}@{server.host}/none.jsonl", *OPTIONS)
    assert code == 3 and PASSWORD not in out + err
    code, _, err = vita("forget", "a.jsonl:1", "--plan", "--output", "plan")
    plan = Path("plan/plan.md").read_text()
    assert code == 0 and "HTTP status 401; the ledger records the address without its secrets (`***`)" in plan, err
    leaks = [file for file in tmp_path.rglob("*") if file.is_file() and PASSWORD.encode() in plain(file)]
    assert not leaks


def test_a_server_that_fails_for_a_moment_is_asked_again(vita: Vita, server: Server) -> None:
    url = f"http://{server.host}/dir/a.jsonl"
    server.failures[:], server.cuts = [503, 429, 200, 503], 2
    code, _, err = vita("curate", url, *OPTIONS)
    assert code == 0 and len(ids()) == 9 and not server.failures and not server.cuts, err
    server.failures[:] = [503] * 50
    code, _, err = vita("curate", url, *OPTIONS)
    assert code == 3 and "HTTP status 503; the server is overloaded" in err
    server.failures.clear()
    code, _, err = vita("curate", f"http://{server.host}/private/a.jsonl", *OPTIONS)
    assert code == 3 and "HTTP status 401; check the user and password" in err


def test_a_folder_is_an_address_whose_page_lists_files(vita: Vita, server: Server) -> None:
    code, out, err = vita("curate", f"http://{server.host}/custom/", *OPTIONS)
    assert code == 0 and f"the page http://{server.host}/custom/ lists 1 file, which is read" in out + err
    assert ids() == [f"a.jsonl:{number}" for number in range(1, 10)]
    code, out, err = vita("curate", f"http://{server.host}/blog/", *OPTIONS)
    assert code == 0 and f"the page http://{server.host}/blog/ lists no files: it is read as a document" in out + err
    assert ids() == ["blog"]


def test_members_of_a_remote_archive_are_read_also_over_connections_that_break(vita: Vita, server: Server) -> None:
    address = f"::http://bob:{PASSWORD}@{server.host}/private/a.zip"
    server.failures[:], server.cuts, server.every = [503, 200, 429], 3, 2
    code, out, err = vita("curate", f"zip://d/*.jsonl{address}", *OPTIONS)
    assert code == 0 and len(ids()) == 9 and PASSWORD not in out + err, err
    assert not server.failures and server.cuts < 3
    server.has_ranges, server.cuts = False, 0
    code, _, err = vita("curate", f"zip://d/a.jsonl::http://{server.host}/a.zip", *OPTIONS)
    assert code == 3 and "the server sends no part of a file" in err and "give its own address" in err


def test_an_archive_at_an_address_with_a_query_has_the_same_members(vita: Vita, server: Server, tmp_path: Path) -> None:
    host = f"bob:{PASSWORD}@{server.host}"
    code, _, err = vita("curate", f"http://{host}/private/a.zip", *OPTIONS)
    assert code == 0, err
    expected = ids()
    assert any(".jsonl:" in name for name in expected)
    address = f"http://{host}/private/a.zip?sig=a/{PASSWORD}#part"
    code, out, err = vita("curate", address, *OPTIONS)
    assert code == 0 and ids() == expected and PASSWORD not in out + err, err
    code, out, err = vita("curate", f"zip://d/*.jsonl::{address}", *OPTIONS, "--json")
    assert code == 0 and len(ids()) == 9 and PASSWORD not in out + err, err
    address = f"http://{server.host}/a.tar.gz?sig={PASSWORD}"
    code, out, err = vita("curate", f"tar://d/*.jsonl::{address}", *OPTIONS)
    assert code == 0 and len(ids()) == 9, err
    code, out, err = vita("curate", f"zip://d/*.jsonl::{address}", *OPTIONS)
    assert code == 3 and "the archive cannot be opened: File is not a zip file" in err and PASSWORD not in err
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and PASSWORD.encode() in plain(file)]


def test_another_signature_in_the_address_of_a_file_is_the_same_source(vita: Vita, server: Server) -> None:
    def digest(address: str) -> str:
        return content_digest(f"http://{server.host}/{address}", Ledger("ledger.db"), where="curate")

    assert digest("a.zip?sig=1") != digest("a.zip?sig=2")
    server.has_validators = True
    assert digest("a.zip?sig=1") == digest("a.zip?sig=2") != digest("dir/a.jsonl?sig=1")


def test_a_chain_of_addresses_is_named_without_users_and_queries() -> None:
    assert without_user_and_query("zip://d/*.jsonl::http://bob:pw@h/a.zip?sig=a/b") == "zip://d/*.jsonl::http://h/a.zip"
    assert without_user_and_query("http://[::1]:9/a.zip?x=1") == "http://[::1]:9/a.zip"
    assert without_user_and_query("simplecache::s3://key:s@b/a#1.txt") == "simplecache::s3://b/a#1.txt"
    source = Source.model_validate({"path": "zip://d/*.jsonl::http://bob:pw@h/a.zip?sig=a/b"})
    assert source.origin() == "a.zip"


def test_an_address_that_is_redirected_to_new_signatures_is_unchanged(vita: Vita, server: Server) -> None:
    code, out, err = vita("curate", f"http://{server.host}/signed/dir/a.jsonl", *OPTIONS)
    assert code == 0 and len(ids()) == 9 and "signature" not in out + err, err


def test_an_archive_that_changes_or_is_refused_while_it_is_read_is_an_error(vita: Vita, server: Server) -> None:
    server.has_validators = server.changes = True
    code, _, err = vita("curate", f"http://{server.host}/a.zip", *OPTIONS)
    assert code == 3 and "changed during the run" in err and not Path("o/train").exists(), err
    server.changes, server.refused_after = False, 1
    code, _, err = vita("curate", f"http://{server.host}/large.zip?sig={PASSWORD}", *OPTIONS)
    assert code == 3 and "large.zip?sig=***: the server answers with the HTTP status 403" in err, err


def test_members_of_a_local_archive_have_addresses(vita: Vita) -> None:
    Path("a.zip").write_bytes(ARCHIVE)
    Path("b.tar.gz").write_bytes(gzip.compress(TAR))
    Path("outer.zip").write_bytes(zip_file([("a.zip", ARCHIVE)]))
    for address, count in (
        ("zip://d/*.jsonl::a.zip", 9),
        (f"tar://d/a.jsonl::{Path.cwd()}/b.tar.gz", 9),
        (f"zip://d/*::file://{Path.cwd()}/a.zip", 10),
        ("zip://a.zip::outer.zip", 10),
    ):
        code, _, err = vita("curate", address, *OPTIONS)
        assert code == 0 and len(ids()) == count, err
    for address, problem in (
        ("zip://d/a.jsonl", "it names no archive: write zip://MEMBER::ARCHIVE"),
        ("zip://x::none.zip", "No such file or directory"),
        ("zip://x::a.zip", "there is no such file, and no file below it"),
    ):
        code, _, err = vita("curate", address, *OPTIONS)
        assert code == 3 and address in err and problem in err, err
    data = bytearray(zip_file([("a.txt", b"secret")]))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    Path("e.zip").write_bytes(data)
    code, _, err = vita("curate", "zip://a.txt::e.zip", *OPTIONS)
    assert code == 3 and "the member is encrypted" in err, err


@pytest.mark.slow
def test_an_archive_that_cannot_be_opened_is_an_error_with_its_address(vita: Vita) -> None:
    code, _, err = vita("curate", "zip://x::http://127.0.0.1:1/a.zip", *OPTIONS)
    assert code == 3 and "zip://x::http://127.0.0.1:1/a.zip: cannot be read" in err and "check the address" in err


def test_secrets_of_urls_are_masked() -> None:
    masked = {
        "http://bob:pw@host/a": "http://***@host/a",
        "see s3://key:s@bucket/a, then": "see s3://***@bucket/a, then",
        "https://h/a?page=2&X-Amz-Signature=ab1&token=x#y": "https://h/a?page=2&X-Amz-Signature=***&token=***#***",
        "https://h/a?sv=1&sig=a%2Fb": "https://h/a?sv=1&sig=***",
        "https://h/a@b:c?lang=en": "https://h/a@b:c?lang=en",
        "https://ghp_0123abc@github.com/a/b": "https://***@github.com/a/b",
        "http://bob:a/b#c?d@e@host:8080/x@2.png": "http://***@2.png",
        "http://host:8080/@ann/b": "http://host:8080/@ann/b",
        "http://bob:pw@[::1/a": "http://***@[::1/a",
        "http://[::1]:80/a@b": "http://[::1]:80/a@b",
        "https://h/?code=1&pass=2&pw=3&session=4&jwt=5&access=6&k=7&ghp_8": "https://h/?code=***&pass=***&pw=***"
        "&session=***&jwt=***&access=***&k=***&***",
        "https://h/a#access_token=x&id=1": "https://h/a#access_token=***&id=1",
        "https://h/a;jsessionid=0A1B/b?id=ann@mail.net": "https://h/a;jsessionid=***/b?id=***",
        "https://h/a?token=x: there is no such file": "https://h/a?token=***: there is no such file",
        "(https://h/a?token=x), or https://h/b?n=1;token=y.": "(https://h/a?token=***), or https://h/b?n=1;token=***.",
        "zip://x::http://bob:pw@h/a.zip?k=1": "zip://x::http://***@h/a.zip?k=***",
        "https://h/a?next=https://bob:pw@i/b&page=1": "https://h/a?next=https://***@i/b&page=1",
        "https://h/?%74oken=x&a[token]=y&token%5B%5D=z&token[]=v": "https://h/?%74oken=***&a[token]=***&token%5B%5D=***"
        "&token[]=***",
        "https://h/a#4f8a, https://h/a#part2, s3://b/a#1.txt": "https://h/a#***, https://h/a#part2, s3://b/a#1.txt",
        "https://h/a?path=https%253A%252F%252Fi%252F%253Fk%253D1&page=2%26k%3D3": "https://h/a?path=***&page=***",
        "https://h/a?page=2?k=1&title=%3Flang%3Dde": "https://h/a?page=***&title=%3Flang%3Dde",
        "https://bob:p w@h/a and http://h:80: see @b": "https://***@h/a and http://h:80: see @b",
        "https://h/my file.csv?sig=a b and https://h/'x'?n=1&token=y.": "https://h/my file.csv?sig=*** b and "
        "https://h/'x'?n=1&token=***.",
        "https://h/a?response-content-disposition=attachment%3B%20filename%3Da.csv": "https://h/a?"
        "response-content-disposition=attachment%3B%20filename%3Da.csv",
        "https://h/dir/?C=N;O=D and https://h/dir/?x": "https://h/dir/?C=N;O=D and https://h/dir/?***",
    }
    assert {text: mask_url_secrets(text) for text in masked} == masked
    assert {text: mask_url_secrets(text) for text in masked.values()} == {text: text for text in masked.values()}
    references = {
        "https://h/?%74oken=x&a[token]=y&token%5B%5D=z&token[]=v": "https://h/?%74oken=***&a[token]=***&token%5B%5D=***"
        "&token[]=***",
        "https://h/?next=https%3A%2F%2Fi%2F%3Ftoken%3Dx&n=1": "https://h/?next=***&n=1",
        "https://h/?next=https%3A%2F%2Fi%2F%3Fpage%3D2&country_code=de&zip_code=12345&a[b]=c": None,
        "https://h/?code=x&auth_code=y": "https://h/?code=***&auth_code=***",
        "/a?token=x&n=1": "/a?token=***&n=1",
        "//h/a?sig=x": "//h/a?sig=***",
        "https%3A%2F%2Fh%2Fa%3Ftoken%3Dx": "https://h/a?token=***",
        "https%3A%2F%2Fh%2Fa%3Fn%3D1": None,
        "https://h/a#/back?access_token=x": "https://h/a#/back?access_token=***",
        'https://h/a?q="b c"&token=x&monkey=1#token': 'https://h/a?q="b c"&token=***&monkey=1#token',
        "https://h/a?accessKey=x&passcode=y&u=%252Fb%253Ftoken%253Dz": "https://h/a?accessKey=***&passcode=***&u=***",
        "https://h/a?new_password2=ab12cd&tokenId=a1b2c3&token_type=bearer&tokens=12": "https://h/a?new_password2=***"
        "&tokenId=***&token_type=bearer&tokens=12",
        "https://h/a?token%3Dx1&q=password%3Dx2&d=%7B%22token%22%3A%22x3%22%7D": "https://h/a?***&q=***&d=***",
        "//bob:pw@h/a and //h/b?m=ann@mail.net&c=u:pw@host": "//***@h/a and //h/b?m=***&c=***",
        "https://h/a?Passwort=x&contraseña=y&senha=z": "https://h/a?Passwort=***&contraseña=***&senha=***",
        "https://h/ghp_0aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1wX/x?s=AKIAIOSFODNN7ABCDEFG": "https://h/***/x?s=***",
        f"https://hooks.slack.com/services/T01234567/B01234567/{'aB3x' * 6}": "https://hooks.slack.com/services/***",
        "https://h/sk-learn-is-a-package-for-python/npm_packages": None,
        "https://h/css?family=Lato:ital,wght@0,300;1,400&name=@ann&w=61@N00&features=Array.@@iterator": None,
        "https://h/a?require_name_email=1&show_user=false&key=all&f=%7B%22a%22%3A%22b%22%7D&q=Code%3D%3D": None,
    }
    assert {text: mask_reference_secrets(text) for text in references} == {
        text: masked_text or text for text, masked_text in references.items()
    }
    for hostile in (
        "http://h/" + ")" * 80_000 + "x",
        "a" * 80_000 + " http://h/x",
        "http://h/?" + "n=1&" * 20_000 + "n=1",
        "http://h/?n=" + ":a" * 40_000,
        "http://h/?n=" + "%22:" * 20_000,
        "//" + ":" * 80_000,
    ):
        assert mask_url_secrets(hostile) == mask_reference_secrets(hostile) == hostile  # in linear time
    assert without_user_and_query("https://bob:a/b#c@host/x?y=1") == "https://host/x"
