"""Remote file systems (`s3://`, `gs://`, `https://`), opened with a time-limited first request and clear errors.

    with remote_errors(url, where="curate", family=DataError):
        files, path = open_filesystem(url)
        names = files.find(path)

Cloud libraries retry a wrong address for minutes. `open_filesystem` therefore requests the bucket first, with short
timeouts and without retries. Later requests use the timeouts and retries of the library.
"""

from __future__ import annotations

import glob
import hashlib
import json
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

from vita.spine.errors import DataError, MissingExtra, StoreError, VitaError
from vita.spine.retried_http import ATTEMPTS, TRANSIENT_STATUSES, retry_reads, retry_requests
from vita.spine.url_secrets import MEMBER_SCHEMES, links_of_chain, without_user_and_query

FIRST_REQUEST_SECONDS = 10
"""Time limit of the first request to a bucket."""
_CONNECT_SECONDS = 4
REMOTE_LIBRARIES = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "s3fs")
"""Packages whose exceptions mean that the remote storage is unreachable."""
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_CREDENTIALS = {"s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE", "gcs": "gcloud auth"}
_ENDPOINTS = {"s3": "AWS_ENDPOINT_URL and AWS_REGION", "gcs": "STORAGE_EMULATOR_HOST"}
_LISTING_BYTES = 2**16
"""Bytes of a page in which its title is searched."""
_REACHED = "_vita_reached"
"""Attribute of a file system: the buckets that were reached."""


class _MissingBucketError(Exception):
    """A bucket does not exist, in contrast to a path inside it."""


def open_filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL and the path in it, after the bucket was reached.

    Raises `ValueError` for a malformed HTTP address.
    """
    import fsspec
    from fsspec.utils import infer_compression

    links = links_of_chain(url)
    if not links[-1] or links[-1].startswith(MEMBER_SCHEMES):
        raise ValueError("it names no archive: write zip://MEMBER::ARCHIVE, or the path of the archive for all members")
    for link in filter(_is_http, links):
        _check_host(link)
    over_http = {"client_kwargs": {"middlewares": (retry_requests,)}}
    options: dict[str, Any] = {link.partition("://")[0]: over_http for link in links if _is_http(link)}
    for link, archive in pairwise(links):
        if link.startswith("tar://"):  # fsspec would infer it from the name with its query
            name = without_user_and_query(archive)
            compression = "gzip" if name.endswith(".tgz") else infer_compression(name)
            options["tar"] = {"compression": compression}
    if links == [url] and _is_http(url):  # `url_to_fs` takes `::` in an IPv6 address for the end of a link
        files, path = fsspec.filesystem(url.partition("://")[0], **over_http), url
    else:
        files, path = retry_reads(lambda: fsspec.core.url_to_fs(url, **options))
    if url.split("://")[0] in _EXTRAS:
        _reach_bucket(files, path.split("/")[0])
    return files, path


def _check_host(url: str) -> None:
    """Raise `ValueError` for a malformed HTTP address; its text does not quote what may be a password."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        text = "its host or its port is malformed; in a password, write `/` as %2F, `#` as %23 and `[` as %5B"
        raise ValueError(text) from None
    if not host or re.search(r"\s", host):
        raise ValueError("it has no host" if not host else "its host contains a space")


def is_over_http(url: str) -> bool:
    """Return True for an HTTP address, and for a file inside an archive at one (`zip://member::https://host/a.zip`)."""
    return any(map(_is_http, links_of_chain(url)))


def address_of(files: Any, name: str, url: str) -> str:
    """Return the address of a file that was found at `url`, with the address of the archive around it."""
    address = str(files.unstrip_protocol(name))
    links = links_of_chain(url)
    protocols = [link.partition("://")[0] for link in links]
    protocol = address.partition("://")[0]
    following = links[protocols.index(protocol) + 1 :] if protocol in protocols else []
    return "::".join([address, *following])


_VALIDATORS = ("ETag", "Content-MD5", "Digest")
"""Headers of HTTP that change with the content of a file."""


def checksum_of(files: Any, name: str) -> str:
    """Return a checksum that changes with the content of a remote file, as far as its server tells.

    Over HTTP it does not depend on the address, which a new signature changes, if the server sends a validator, and
    never on the address of a redirection, which can have a new signature for each request.
    """
    if not _is_http(name):
        return str(files.checksum(name))
    info = files.info(name)
    validators: Any = {header: info[header] for header in _VALIDATORS if info.get(header)}
    state = [info.get("size"), validators or [name, info.get("Last-Modified")]]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def list_files_below(files: Any, path: str) -> dict[str, Any]:
    """Return information on the file at a path, or on the files below it or matching it as a glob; empty without any.

    An HTTP address is one file, unless it ends with a slash, or is redirected to such an address, and its page lists
    files: then its links below the address are the files. fsspec's HTTP file system reports an unreachable host and a
    refusal as "not found"; this raises their cause instead. The empty objects that stand for folders in object stores
    are left out.
    """
    infos, cause = _matches(files, path)
    if cause is None and not infos:  # the host may be unreachable, or the page has no links
        info, cause = _info(files, folder_of(files, path))
        infos = {} if info is None or is_glob(files, path) else {path: info}
    # Raised outside of a handler: otherwise the two exceptions would be each other's context.
    if cause is not None:
        raise cause
    entries = {name: info if "type" in info else files.info(name) for name, info in infos.items()}
    folders = {name.rpartition("/")[0] for name in entries}
    return {
        name: info
        for name, info in entries.items()
        if info["type"] == "file" and (name == path or not _is_marker(name, info, folders))
    }


def _matches(files: Any, path: str) -> tuple[dict[str, Any], BaseException | None]:
    """Return (information on the files, the error of a host that is unreachable or refuses)."""
    try:
        if is_glob(files, path):
            return retry_reads(lambda: files.glob(path, detail=True)), None
        if _is_http(path) and not without_user_and_query(path).endswith("/"):
            info = files.info(path)
            if not without_user_and_query(str(info.get("url", ""))).endswith("/"):
                return {path: info}, None
        if _is_http(path) and not _is_listing(files, path):
            return {path: files.info(path)}, None
        if _is_http(path) and "?" in path:
            raise ValueError("its page lists files, and a folder has no query; give the address without the query")
        return retry_reads(lambda: files.find(path, detail=True)), None
    except FileNotFoundError as error:
        return {}, _cause_of(error)


_LISTING = re.compile(rb"<(?:title|h1)[^>]*>\s*(?:index of|directory listing|directory:|files in)", re.I)
_HTML = re.compile(rb"<(?:!doctype|html|head|body|a|pre)[\s>]", re.I)
_LINK = re.compile(rb"<a[^>]*\shref=[\"']?([^\"'\s>?#]+)", re.I)
_DATA_FILE = re.compile(
    r"\.(?:jsonl|ndjson|json|csv|tsv|parquet|arrow|feather|txt|md|warc|wet|arc|pdf|epub|docx|zip|tar|tgz|mbox|eml|gz|zst|bz2|xz)$",
    re.IGNORECASE,
)


def _is_listing(files: Any, path: str) -> bool:
    """Return True if the page at an HTTP address lists files: by its title, or by a link to a file of data."""
    head = retry_reads(lambda: _beginning(files, path))
    if not _HTML.search(head):
        return False
    if _LISTING.search(head):
        return True
    if "?" in path:  # fsspec would add the names to the query
        links = [link.decode("utf-8", "replace") for link in _LINK.findall(head)]
        return any("/" not in link and _DATA_FILE.search(without_user_and_query(link)) for link in links)
    links = retry_reads(lambda: files.ls(path, detail=False))
    return any(_DATA_FILE.search(without_user_and_query(link)) for link in links)


def _beginning(files: Any, path: str) -> bytes:
    """Return the first bytes of a page; the others are not loaded."""
    with files.open(path, "rb", block_size=0) as page:
        return page.read(_LISTING_BYTES)


def _info(files: Any, path: str) -> tuple[dict[str, Any] | None, BaseException | None]:
    """Return (information on a file or folder, the error of a host that is unreachable or refuses)."""
    try:
        return files.info(path), None
    except FileNotFoundError as error:
        return None, _cause_of(error)


def _cause_of(error: FileNotFoundError) -> BaseException | None:
    """Return the cause of a missing file, unless the cause is a page that does not exist."""
    cause = error.__cause__
    return None if getattr(cause, "status", None) in _NOT_FOUND else cause


_NOT_FOUND = (404, 410)
"""HTTP statuses of a page that does not exist."""
_FOLDER_MARKS = ("/", "_$folder$")
"""Ends of the names of empty objects that stand for folders, as the S3 console, Hadoop and EMR write them."""


def _is_marker(name: str, info: dict[str, Any], folders: set[str]) -> bool:
    """Return True for an empty object that stands for a folder, and for the links that sort a listing of a server."""
    if _is_http(name):
        return name.rpartition("/")[2].startswith("?")
    key = str(info.get("Key", name))
    return not info.get("size") and (key.endswith(_FOLDER_MARKS) or name.rstrip("/") in folders)


def _is_http(path: str) -> bool:
    return path.startswith(("http://", "https://"))


def is_glob(files: Any, path: str) -> bool:
    """Return True for a pattern; a path with brackets or `?` that exists is literal, as on a local disk.

    In an HTTP address, `?` begins the query.
    """
    pattern = re.split(r"[?#]", _below_host(path), maxsplit=1)[0] if _is_http(path) else path
    return glob.has_magic(pattern) and ("*" in pattern or _info(files, path)[0] is None)


def folder_of(files: Any, path: str) -> str:
    """Return the path up to the last slash before the first wildcard of a glob, or a path that is no glob itself."""
    if not is_glob(files, path):
        return path
    pattern = _below_host(path)
    literal = pattern[: next(index for index, character in enumerate(pattern) if character in "*?[")]
    return (path.removesuffix(pattern) + literal).rpartition("/")[0]


def _below_host(path: str) -> str:
    """Return the part of an HTTP address after its host, which can contain brackets; any other path as it is."""
    return path[path.find("/", path.find("://") + 3) :] if _is_http(path) and path.count("/") > 2 else path


@contextmanager
def missing_files(url: str, *, where: str) -> Iterator[None]:
    """Translate the FileNotFoundError of a listed file, and of an archive that cannot be opened, into `DataError`."""
    try:
        yield
    except FileNotFoundError as error:
        reason = f" ({error.__cause__ or error})"
        hint = "check the address; a folder over HTTP ends with `/`, and its page lists the files"
        raise DataError(
            where, f"{url}: cannot be read, expected a file, a folder or a glob{reason}", hint=hint
        ) from None


def _reach_bucket(files: Any, bucket: str) -> None:
    """Request each bucket once; a denied request is not an error, because a key may allow only some requests."""
    from fsspec.asyn import sync

    reached: set[str] = files.__dict__.setdefault(_REACHED, set())
    if bucket in reached:
        return
    try:
        sync(files.loop, _with_short_timeouts(files)._info, bucket, timeout=FIRST_REQUEST_SECONDS)
    except FileNotFoundError as error:
        raise _MissingBucketError(str(error)) from None
    except PermissionError:
        if not _only_listing_is_denied(files, bucket):
            raise
    reached.add(bucket)


def _only_listing_is_denied(files: Any, bucket: str) -> bool:
    """Return True if the credentials are valid, and only listing the bucket is denied."""
    from fsspec.asyn import sync

    try:
        sync(
            files.loop, _with_short_timeouts(files)._info, f"{bucket}/vita-access-check", timeout=FIRST_REQUEST_SECONDS
        )
    except FileNotFoundError:
        return True
    except PermissionError as error:
        return _error_code(error) == "AccessDenied"
    return True


def _error_code(error: Exception) -> str:
    """Return the error code of an S3 service, such as `NoSuchBucket`."""
    response = getattr(error.__cause__, "response", None) or getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _with_short_timeouts(files: Any) -> Any:
    """Return the same file system with short timeouts and without retries."""
    if not hasattr(files, "config_kwargs"):
        return files
    limits = {
        "connect_timeout": _CONNECT_SECONDS,
        "read_timeout": FIRST_REQUEST_SECONDS - 1,
        "retries": {"max_attempts": 0},
    }
    options = {**files.storage_options, "config_kwargs": {**files.config_kwargs, **limits}}
    impatient = type(files)(**options, skip_instance_cache=True)
    impatient.retries = 1
    return impatient


@contextmanager
def remote_errors(url: str, *, where: str | None = None, family: type[VitaError] = StoreError) -> Iterator[None]:
    """Translate exceptions of a cloud library into `family`; FileNotFoundError of a path in a bucket is passed on."""
    try:
        yield
    except VitaError:
        raise
    except ImportError as error:
        scheme = url.split("://")[0]
        extra = "http" if scheme in ("http", "https") else _EXTRAS.get(scheme)
        if extra is None:
            raise _error(family, where, url, f"`{url.split('://')[0]}://` cannot be opened: {error}") from None
        raise MissingExtra(url, extra) from None
    except Exception as error:
        explained = explain_remote(error, url, where=where, family=family)
        if explained is None:
            raise
        raise explained from None


def explain_remote(
    error: Exception, url: str, *, where: str | None = None, family: type[VitaError] = StoreError
) -> VitaError | None:
    """Return the one-line error for an exception of remote storage; None for any other exception."""
    from vita.spine.disk import explain_disk

    service = _EXTRAS.get(url.split("://")[0], "")
    names = {entry.__name__ for entry in type(error).__mro__}
    text = " ".join(str(error).split())
    code = _error_code(error)
    credentials = f"check the credentials ({_CREDENTIALS[service]})" if service else "check the credentials"
    address = f"check the address ({_ENDPOINTS[service]})" if service else "check the address"
    if "NoCredentialsError" in names or "PartialCredentialsError" in names or "ProfileNotFound" in names:
        return _error(family, where, url, f"needs credentials: {text}", hint=credentials)
    if isinstance(error, PermissionError) and service:
        detail = text if not code or code in text else f"{code}: {text}"
        return _error(family, where, url, f"access is denied ({detail})", hint=f"{credentials} and what they allow")
    if isinstance(error, _MissingBucketError) or code == "NoSuchBucket":
        return _error(family, where, url, "there is no such bucket", hint="create the bucket, or correct its name")
    if isinstance(error, FileNotFoundError):
        return None
    if isinstance(error, TimeoutError) and not text:
        text = f"no answer within {FIRST_REQUEST_SECONDS} s"
    if isinstance(error, ValueError) and "range requests" in text:
        hint = "download the archive, or give its own address, which reads all members"
        return _error(family, where, url, "the server sends no part of a file, which this address needs", hint=hint)
    if isinstance(error, tarfile.TarError | zipfile.BadZipFile | zlib.error | lzma.LZMAError | EOFError):
        hint = "check the address and the name of the archive, which states its compression"
        return _error(family, where, url, f"the archive cannot be opened: {text or type(error).__name__}", hint=hint)
    if isinstance(error, RuntimeError) and "encrypted" in text:  # of zipfile
        return _error(family, where, url, "the member is encrypted", hint="unpack the archive with its password")
    if isinstance(error, ValueError | NotImplementedError):
        return _error(family, where, url, f"is not an address that can be opened: {text}", hint=address)
    if explain_disk(error, url):
        return None
    status = getattr(error, "status", None)
    if type(error).__module__.startswith("aiohttp") and isinstance(status, int) and status >= 400:
        return _error(
            family, where, url, f"the server answers with the HTTP status {status}", hint=_status_hint(status)
        )
    if isinstance(error, OSError) or type(error).__module__.split(".")[0] in REMOTE_LIBRARIES:
        return _error(family, where, url, f"cannot be reached: {text or type(error).__name__}", hint=address)
    return None


def _status_hint(status: int) -> str:
    """Return what to do about an HTTP status."""
    if status in (401, 403, 407):
        return "check the user and password, or the token, in the address"
    if status in TRANSIENT_STATUSES:
        return f"the server is overloaded or out of order, also after {ATTEMPTS} attempts: run the same command later"
    return "check the address"


def _error(family: type[VitaError], where: str | None, url: str, problem: str, *, hint: str | None = None) -> VitaError:
    return family(url, problem, hint=hint) if where is None else family(where, f"{url}: {problem}", hint=hint)
