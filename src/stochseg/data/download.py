"""Fetches the files of a public Google Cloud Storage bucket: listed, resumed, checked.

The bucket is listed through its JSON API, so no file name is guessed, and each file is checked by the size and md5 of
that listing. A file grows as NAME.part and gets its name when it is whole.
"""

import base64
import hashlib
import http.client
import ipaddress
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from stochseg.data.reading import parse_json
from stochseg.errors import InputError, RunError
from stochseg.progress import say, track

GOOGLE = "https://storage.googleapis.com"
MAX_BYTES = 16 * 2**30
"""A listing that adds up to more than this is refused."""

_MAX_LISTING_BYTES = 32 * 2**20
_MAX_PAGES = 1000
_CHUNK = 2**20
_WORTH_ANOTHER_TRY = (408, 416, 429, 500, 502, 503, 504)
_NETWORK = (OSError, http.client.HTTPException)  # URLError, timeouts and broken connections are OSErrors


@dataclass(frozen=True)
class RemoteFile:
    """One object of a bucket. path: where it goes, relative to the folder; md5: hexadecimal, or None if not listed."""

    name: str
    path: PurePosixPath
    size: int
    md5: str | None
    generation: str | None


@dataclass(frozen=True)
class _Bucket:
    """A bucket and how patiently to talk to its server."""

    name: str
    base_url: str
    attempts: int
    pause: float
    timeout: float

    def url(self, path: str, **query: str) -> str:
        return f"{self.base_url}/storage/v1/b/{self.name}/{path}?{urllib.parse.urlencode(query)}"

    def open(self, url: str, headers: dict[str, str]) -> Any:
        request = urllib.request.Request(url, headers={"User-Agent": "stochseg", **headers})
        return urllib.request.build_opener(_SafeRedirects).open(request, timeout=self.timeout)


def download_bucket(
    bucket: str,
    prefix: str,
    folder: Path,
    *,
    base_url: str | None = None,
    max_bytes: int = MAX_BYTES,
    attempts: int = 5,
    pause: float = 2.0,
    timeout: float = 60.0,
) -> list[Path]:
    """Fetch every object whose name begins with `prefix` into `folder`; return the files.

    Whole files that are there already are checked and kept, parts are continued by a range request. A transfer is
    tried again, up to `attempts` times in a row without a byte gained, with growing pauses that begin at `pause`
    seconds. Proxies are taken from the environment. base_url: https, or http on this machine (loopback).
    Raises InputError for an unsafe address, too large a listing or too small a disk, and RunError when the network
    fails or what it gives is not what the listing says.
    """
    base_url = (base_url or GOOGLE).rstrip("/")
    _check_address(base_url)
    server = _Bucket(bucket, base_url, attempts, pause, timeout)
    files = _list(server, prefix)
    total = sum(file.size for file in files)
    say(f"{base_url}: {len(files)} files of {total / 1e6:.0f} MB in {bucket}/{prefix}")
    if total > max_bytes:
        raise InputError(f"{bucket}/{prefix} lists {total} bytes, at most {max_bytes} are fetched; fetch it by hand")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); choose another --cache") from error
    return [_fetch(server, file, folder / file.path) for file in files]


def _list(server: _Bucket, prefix: str) -> list[RemoteFile]:
    found: list[RemoteFile] = []
    token = ""
    for _ in range(_MAX_PAGES):
        query = {"prefix": prefix, "maxResults": "1000", **({"pageToken": token} if token else {})}
        page = _json(server, server.url("o", **query))
        try:
            found += [_remote_file(item, prefix) for item in page.get("items", []) if not item["name"].endswith("/")]
            token = page.get("nextPageToken", "")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(f"{server.base_url}: an unknown kind of listing ({error!r}); {_by_hand(server)}") from error
        if not token:
            break
    if not found:
        raise RunError(f"{server.base_url}: bucket {server.name} lists nothing under {prefix}; {_by_hand(server)}")
    return found


def _remote_file(item: dict[str, Any], prefix: str) -> RemoteFile:
    name = str(item["name"])
    path = PurePosixPath(name.removeprefix(prefix))
    if path.is_absolute() or ".." in path.parts or not path.parts or any(c in name for c in "\\:\0"):
        raise RunError(f"the listing holds the unsafe name '{name}'; nothing was fetched")
    if (size := int(item["size"])) < 0:
        raise ValueError(f"{name} of {size} bytes")
    md5 = base64.b64decode(item["md5Hash"], validate=True).hex() if item.get("md5Hash") else None
    return RemoteFile(name, path, size, md5, item.get("generation"))


def _json(server: _Bucket, url: str) -> Any:
    failures = 0
    while True:
        try:
            with server.open(url, {}) as response:
                return parse_json(response.read(_MAX_LISTING_BYTES))
        except (*_NETWORK, ValueError) as error:
            failures += 1
            _wait_or_give_up(server, failures, error)


def _fetch(server: _Bucket, file: RemoteFile, target: Path) -> Path:
    if target.is_file() and _is_whole(file, target):
        say(f"{target}: there already")
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    if _size(part) > file.size:
        part.unlink()
    goes_on = _size(part) > 0
    if (free := shutil.disk_usage(target.parent).free) < file.size - _size(part):
        raise InputError(f"{target}: needs {file.size - _size(part)} bytes, {free} are free; choose another --cache")
    _transfer(server, file, part)
    if goes_on and not _is_whole(file, part):
        say(f"{part}: was damaged, starting again")
        part.unlink()
        _transfer(server, file, part)
    if not _is_whole(file, part):
        part.unlink()
        raise RunError(f"{target}: its md5 differs from the listing's; {_by_hand(server)}")
    part.replace(target)
    return target


def _transfer(server: _Bucket, file: RemoteFile, part: Path) -> None:
    """Bring `part` to the listed size."""
    part.touch()
    best = _size(part)
    failures = 0
    while (have := _size(part)) < file.size:
        problem = _attempt(server, file, part, have)
        reached = _size(part)
        failures = 0 if reached > best else failures + 1
        best = max(best, reached)
        if reached < file.size:
            _wait_or_give_up(server, failures, problem)


def _attempt(server: _Bucket, file: RemoteFile, part: Path, have: int) -> Exception:
    """One request for what `part` still lacks; how it ended, if it ended early."""
    query = {"alt": "media", **({"generation": file.generation} if file.generation else {})}
    url = server.url(f"o/{urllib.parse.quote(file.name, safe='')}", **query)
    # The stored bytes are wanted: without Accept-Encoding Google unpacks objects that it keeps gzipped.
    headers = {"Accept-Encoding": "gzip", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        with server.open(url, headers) as response:
            ranged = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            _write(response, file, part, have if ranged else 0)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is none of this object's
            part.write_bytes(b"")
        return error
    except _NETWORK as error:
        return error
    return ConnectionError("the transfer ended early")


def _write(response: Any, file: RemoteFile, part: Path, start: int) -> None:
    left = file.size - start
    chunks = track(_chunks(response, left), -(-left // _CHUNK), f"fetching {file.path.name}", unit="MiB")
    with part.open("r+b" if start else "wb", buffering=0) as stream:
        stream.seek(start)
        for chunk in chunks:
            try:
                stream.write(chunk)
            except OSError as error:
                raise RunError(
                    f"{part}: cannot be written ({error.strerror}); free some space or pass --cache"
                ) from error


def _chunks(response: Any, left: int) -> Iterator[bytes]:
    while left > 0 and (chunk := response.read(min(_CHUNK, left))):
        left -= len(chunk)
        yield chunk


def _wait_or_give_up(server: _Bucket, failures: int, error: Exception) -> None:
    final = isinstance(error, urllib.error.HTTPError) and error.code not in _WORTH_ANOTHER_TRY
    if final or failures >= server.attempts:
        raise RunError(f"{server.base_url}: {error}; run it again to go on from here, or {_by_hand(server)}") from error
    say(f"{server.base_url}: {error}; trying again")
    time.sleep(min(server.pause * 2**failures, 60.0))


def _by_hand(server: _Bucket) -> str:
    return f"fetch it by hand from https://console.cloud.google.com/storage/browser/{server.name} and pass --source"


def _is_whole(file: RemoteFile, path: Path) -> bool:
    if _size(path) != file.size:
        return False
    with path.open("rb") as stream:
        # Against damage in transit; the listing offers nothing stronger.
        digest = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False))
    return file.md5 in (None, digest.hexdigest())


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check_address(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or "")):
        return
    raise InputError(f"{url}: only https is used for downloads (http only on this machine)")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _check_address(newurl)
        if req.type == "https" and not newurl.lower().startswith("https:"):
            raise InputError(f"{newurl}: {req.host} leads from https to this machine; nothing was fetched")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
