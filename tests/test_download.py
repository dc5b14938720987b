"""Downloads against a real server on this machine that behaves as Google's does, or misbehaves as told."""

import base64
import hashlib
import io
import json
import socket
import tarfile
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import stochseg.data.download
from stochseg.data.download import _SafeRedirects, download_bucket
from stochseg.data.lidc import prepare_lidc
from stochseg.data.store import open_store
from stochseg.errors import InputError, RunError

RNG = np.random.default_rng(0)
OBJECTS = {
    "crops/": b"",  # what some tools leave as the mark of a folder
    "crops/train.tar.gz": RNG.bytes(3_500_000),
    "crops/val.tar.gz": RNG.bytes(70_000),
    "crops/more/a b+c%.txt": b"a name that needs quoting",
    "crops/more/empty.txt": b"",
    "other/file": b"under another prefix",
}
TRAIN = OBJECTS["crops/train.tar.gz"]
NAMES = ["train.tar.gz", "val.tar.gz", "more/a b+c%.txt", "more/empty.txt"]


class BucketServer(ThreadingHTTPServer):
    """Lists and serves `objects`, two a page. The attributes below make it misbehave."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.objects = dict(OBJECTS)
        self.listed: dict[str, dict[str, Any]] = {}  # changes to the listing of a name
        self.ranges = True  # False: a Range header is ignored
        self.cuts: list[int] = []  # the next transfers break off after so many bytes
        self.statuses: list[int] = []  # the next requests are answered so
        self.redirect = ""
        self.listings: list[dict[str, str]] = []
        self.transfers: list[tuple[str, str | None]] = []  # (name, its Range header)
        self.paths: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: BucketServer

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        if self.server.statuses:
            self.send_error(self.server.statuses.pop(0))
            return
        if self.server.redirect:
            self.send_response(302)
            self.send_header("Location", self.server.redirect)
            self.end_headers()
            return
        parts = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(parts.query))
        if parts.path == "/storage/v1/b/bucket/o":
            self.listing(query)
        else:
            name = urllib.parse.unquote(parts.path.removeprefix("/storage/v1/b/bucket/o/"))
            assert query["alt"] == "media"
            assert query["generation"] == "17"
            self.content(name)

    def listing(self, query: dict[str, str]) -> None:
        self.server.listings.append(query)
        names = [name for name in self.server.objects if name.startswith(query["prefix"])]
        start = int(query.get("pageToken", "0"))
        items = [
            {
                "name": name,
                "size": str(len(self.server.objects[name])),
                "md5Hash": base64.b64encode(hashlib.md5(self.server.objects[name]).digest()).decode(),
                "generation": "17",
                "mediaLink": f"{self.server.url}/elsewhere",
            }
            | self.server.listed.get(name, {})
            for name in names[start : start + 2]
        ]
        page: dict[str, Any] = {"kind": "storage#objects", "items": items}
        if start + 2 < len(names):
            page["nextPageToken"] = str(start + 2)
        self.reply(200, json.dumps(page).encode())

    def content(self, name: str) -> None:
        wanted = self.headers["Range"]
        self.server.transfers.append((name, wanted))
        data = self.server.objects[name]
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.ranges else 0
        if start >= len(data) > 0:
            self.send_error(416)
        elif start:
            self.reply(206, data[start:], {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"})
        else:
            self.reply(200, data)

    def reply(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        cut = self.server.cuts.pop(0) if self.server.cuts and self.server.transfers else len(data)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[:cut])  # a shorter body than announced: the connection ends here

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BucketServer]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with BucketServer() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def fetch(server: BucketServer, folder: Path, **options: Any) -> list[Path]:
    return download_bucket("bucket", "crops/", folder, base_url=server.url, pause=0.001, **options)


def check_all(server: BucketServer, folder: Path) -> None:
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert files == {name: server.objects[f"crops/{name}"] for name in NAMES}


def test_everything_listed_is_fetched_once(server: BucketServer, tmp_path: Path) -> None:
    assert fetch(server, tmp_path) == [tmp_path / name for name in NAMES]
    check_all(server, tmp_path)
    assert [query.get("pageToken") for query in server.listings] == [None, "2", "4"]
    assert server.transfers == [(f"crops/{name}", None) for name in NAMES if name != "more/empty.txt"]
    fetch(server, tmp_path)
    assert len(server.transfers) == 3


def test_a_changed_file_is_fetched_again(server: BucketServer, tmp_path: Path) -> None:
    fetch(server, tmp_path)
    (tmp_path / "val.tar.gz").write_bytes(RNG.bytes(70_000))
    fetch(server, tmp_path)
    check_all(server, tmp_path)
    assert server.transfers[3:] == [("crops/val.tar.gz", None)]


def test_a_broken_connection_is_resumed_where_it_broke(server: BucketServer, tmp_path: Path) -> None:
    server.cuts = [1_300_000, 900_000]
    fetch(server, tmp_path)
    check_all(server, tmp_path)
    ranges = [wanted for name, wanted in server.transfers if name == "crops/train.tar.gz"]
    assert ranges == [None, "bytes=1300000-", "bytes=2200000-"]


def test_a_later_run_goes_on_from_the_part(server: BucketServer, tmp_path: Path) -> None:
    server.cuts = [2_000_000, 0, 0, 0]
    with pytest.raises(RunError, match="run it again to go on from here, or fetch it by hand from https://console"):
        fetch(server, tmp_path, attempts=3)
    assert [path.name for path in tmp_path.iterdir()] == ["train.tar.gz.part"]
    assert len(server.transfers) == 4  # one gained bytes, then three in a row did not
    server.cuts = []
    fetch(server, tmp_path)
    check_all(server, tmp_path)
    assert server.transfers[4] == ("crops/train.tar.gz", "bytes=2000000-")


@pytest.mark.parametrize("part", [TRAIN[:1_000_000], TRAIN, TRAIN + b"more", bytes(5000), bytes(len(TRAIN)), b""])
@pytest.mark.parametrize("ranges", [True, False])
def test_any_part_that_lies_there(server: BucketServer, tmp_path: Path, part: bytes, ranges: bool) -> None:
    server.ranges = ranges
    (tmp_path / "train.tar.gz.part").write_bytes(part)
    fetch(server, tmp_path)
    check_all(server, tmp_path)


def test_a_server_without_ranges_that_breaks_off(server: BucketServer, tmp_path: Path) -> None:
    server.ranges = False
    server.cuts = [1_300_000, 900_000, 2_000_000]
    fetch(server, tmp_path)
    check_all(server, tmp_path)


def test_a_server_that_always_breaks_off_is_given_up(server: BucketServer, tmp_path: Path) -> None:
    server.ranges = False
    server.cuts = [1_000_000] * 50
    with pytest.raises(RunError, match=r"IncompleteRead|ended early"):
        fetch(server, tmp_path, attempts=4)
    assert len(server.transfers) == 5


def test_a_wrong_md5_leaves_no_file(server: BucketServer, tmp_path: Path) -> None:
    server.listed["crops/val.tar.gz"] = {"md5Hash": base64.b64encode(bytes(16)).decode()}
    with pytest.raises(RunError, match=r"val\.tar\.gz: its md5 differs from the listing's"):
        fetch(server, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["train.tar.gz"]


def test_a_file_longer_or_shorter_than_listed(server: BucketServer, tmp_path: Path) -> None:
    server.listed["crops/train.tar.gz"] = {"size": str(len(TRAIN) - 5)}
    with pytest.raises(RunError, match="md5 differs"):
        fetch(server, tmp_path)
    server.listed["crops/train.tar.gz"] = {"size": str(len(TRAIN) + 5)}
    with pytest.raises(RunError, match=r"416|ended early"):
        fetch(server, tmp_path, attempts=2)
    assert not (tmp_path / "train.tar.gz").exists()


def test_a_listing_without_md5_is_checked_by_size(server: BucketServer, tmp_path: Path) -> None:
    server.listed["crops/val.tar.gz"] = {"md5Hash": None}
    server.cuts = [len(TRAIN), 5000]
    fetch(server, tmp_path)
    check_all(server, tmp_path)


def test_a_busy_server_is_asked_again(server: BucketServer, tmp_path: Path) -> None:
    server.statuses = [503, 429, 500]
    fetch(server, tmp_path)
    check_all(server, tmp_path)


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_is_final(server: BucketServer, tmp_path: Path, status: int) -> None:
    server.statuses = [status] * 9
    with pytest.raises(RunError, match=f"HTTP Error {status}.*--source"):
        fetch(server, tmp_path)
    assert len(server.paths) == 1


def test_no_server(server: BucketServer, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"refused.*--source"):
        download_bucket("bucket", "crops/", tmp_path, base_url="http://127.0.0.1:9", attempts=2, pause=0.001)


def test_a_server_that_says_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(RunError, match="timed out"):
            download_bucket("bucket", "crops/", tmp_path, base_url=url, attempts=2, pause=0.001, timeout=0.1)


@pytest.mark.parametrize("name", ["crops/../escape", "crops//etc/passwd", "crops/a\\b", "crops/c:d"])
def test_unsafe_names_are_refused(server: BucketServer, tmp_path: Path, name: str) -> None:
    server.objects[name] = b"x"
    with pytest.raises(RunError, match="unsafe name"):
        fetch(server, tmp_path / "cache")
    assert not list(tmp_path.rglob("*"))


def test_an_empty_or_odd_listing(server: BucketServer, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="lists nothing under none/"):
        download_bucket("bucket", "none/", tmp_path, base_url=server.url)
    server.listed["crops/val.tar.gz"] = {"size": "large"}
    with pytest.raises(RunError, match="unknown kind of listing"):
        fetch(server, tmp_path)


def test_too_large_a_listing(server: BucketServer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lists 3570025 bytes, at most 1000 are fetched"):
        fetch(server, tmp_path, max_bytes=1000)
    server.listed["crops/train.tar.gz"] = {"size": str(2**60)}
    with pytest.raises(InputError, match="are free; choose another --cache"):
        fetch(server, tmp_path, max_bytes=2**61)
    assert not server.transfers


def test_a_cache_that_cannot_be_made(server: BucketServer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="choose another --cache"):
        fetch(server, tmp_path / "file" / "cache")


@pytest.mark.parametrize(
    "url", ["http://example.org", "ftp://127.0.0.1", "file:///etc", "http://127.0.0.1.example.org"]
)
def test_only_https_or_this_machine(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError, match="only https"):
        download_bucket("bucket", "crops/", tmp_path, base_url=url)


@pytest.mark.parametrize("target", ["http://example.org/", "ftp://example.org/", "file:///etc/passwd"])
def test_a_redirect_cannot_leave_https(server: BucketServer, tmp_path: Path, target: str) -> None:
    server.redirect = target
    with pytest.raises((InputError, RunError), match=r"only https|302"):
        fetch(server, tmp_path)


def test_a_redirect_from_https_cannot_lead_into_this_machine() -> None:
    """Plain http is for this machine's own servers, which another's answer may not name."""
    asked = urllib.request.Request("https://example.org/file")
    with pytest.raises(InputError, match="from https to this machine"):
        _SafeRedirects().redirect_request(asked, None, 302, "", {}, "http://127.0.0.1:8000/secret")


def test_sizes_below_nothing_are_refused(server: BucketServer, tmp_path: Path) -> None:
    """They could balance others, so that the sum stays below the limit."""
    server.listed["crops/val.tar.gz"] = {"size": "-5000000"}
    with pytest.raises(RunError, match="an unknown kind of listing"):
        fetch(server, tmp_path)
    assert not list(tmp_path.iterdir())


def test_proxies_of_the_environment_are_used(
    server: BucketServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    unreachable = "http://127.0.0.1:9"  # only the proxy answers for it
    download_bucket("bucket", "crops/", tmp_path, base_url=unreachable, pause=0.001)
    check_all(server, tmp_path)
    assert all(path.startswith(unreachable) for path in server.paths)


def test_prepare_lidc_downloads_and_reads_the_crops(
    server: BucketServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stochseg.data.download, "GOOGLE", server.url)
    monkeypatch.setattr("stochseg.data.lidc.BUCKET", "bucket")
    images = {split: RNG.integers(0, 256, (3, 12, 10), dtype=np.uint8) for split in ("train", "val", "test")}
    server.objects = {f"lidc_crops/{split}.tar.gz": crops_archive(split, images[split]) for split in images}
    store = open_store(prepare_lidc(tmp_path / "stores" / "lidc", download=True))
    for split, wanted in images.items():
        np.testing.assert_array_equal(store.split(split).images[..., 0], wanted)
        np.testing.assert_array_equal(store.split(split).labels[:, 2], wanted > 99)
    cache = tmp_path / "stores" / "lidc_crops"
    assert sorted(path.name for path in cache.iterdir()) == ["test.tar.gz", "train.tar.gz", "val.tar.gz"]
    prepare_lidc(tmp_path / "again", download=True, cache=cache)
    assert len(server.transfers) == 3


def crops_archive(split: str, images: np.ndarray) -> bytes:
    """A .tar.gz as in the bucket: images [N h w], each with four masks, those pixels above 99."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for n, image in enumerate(images):
            mask = ((image > 99) * 255).astype(np.uint8)
            arrays = {f"images/{split}-patient/z{n}.png": image}
            arrays |= {f"gt/{split}-patient/z{n}_l{rater}.png": mask for rater in range(4)}
            for name, array in arrays.items():
                png = io.BytesIO()
                Image.fromarray(array).save(png, "PNG")
                info = tarfile.TarInfo(f"{split}/{name}")
                info.size = len(png.getvalue())
                tar.addfile(info, io.BytesIO(png.getvalue()))
    return stream.getvalue()
