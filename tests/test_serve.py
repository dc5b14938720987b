"""`stochseg serve` as a process of its own: what it answers, whom it refuses, and the page in a real browser."""

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stochseg.errors import InputError
from stochseg.sample_files import sample_files
from stochseg.serve.drawings import Drawing, Kept, between, draw

from .test_tiles import mosaic, small

anyio = pytest.importorskip("anyio")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

POST = {"x-stochseg": "1"}


@dataclass
class Served:
    """A running server. said: what it printed; url: the address in it; folder: what it shows."""

    said: str
    url: str
    folder: Path
    process: subprocess.Popen[str]

    @property
    def base(self) -> str:
        return self.url.partition("?")[0].rstrip("/").replace("0.0.0.0", "127.0.0.1")

    def ask(self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        """Status and content; a body is posted."""
        request = urllib.request.Request(self.base + path, body, headers if headers is not None else POST)
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def drawn(self, query: str, body: bytes = b"") -> dict[str, Any]:
        status, content = self.ask(f"/api/drawings?{query}", body)
        assert status == 200, content
        found: dict[str, Any] = json.loads(content)
        return found

    def picture(self, path: str) -> np.ndarray:
        status, content = self.ask(path)
        assert status == 200, content
        return np.asarray(Image.open(io.BytesIO(content)))


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def pixels_of(image: torch.Tensor) -> np.ndarray:
    return ((image[0, 0] + 1) * 127.5).round().to(torch.uint8).numpy()


def started(folder: Path, *flags: str) -> Served:
    process = subprocess.Popen(
        [sys.executable, "-m", "stochseg", "serve", str(folder / "model"), "--port", "0", *flags],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        found = re.search(r" at (http://\S+) ", line)
        if found:
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return Served(said, found[1], folder, process)
    raise AssertionError(said)


def stopped(served: Served) -> None:
    served.process.send_signal(signal.SIGINT)
    served.process.wait(20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and three images beside it: two of the training size and one that takes tiles."""
    folder = tmp_path_factory.mktemp("served")
    small().save(folder / "model")
    for seed, name in enumerate(("one", "two")):
        Image.fromarray(pixels_of(mosaic(seed, 1))).save(folder / f"{name}.png")
    Image.fromarray(pixels_of(mosaic(2, 2))).save(folder / "wide.png")
    return folder


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    found = started(folder, "--examples", str(folder / "one.png"), str(folder / "two.png"), "--samples", "8")
    yield found
    stopped(found)


@pytest.mark.parametrize("name", ["one", "wide"])
def test_samples_are_those_of_the_command(name: str, served: Served, tmp_path: Path) -> None:
    file = served.folder / f"{name}.png"
    (written,) = sample_files(served.folder / "model", [file], tmp_path / "out", samples=6, seed=3).written
    maps = np.load(written / "samples.npz")["maps"]
    found = served.drawn("samples=6&seed=3&name=a%20b.png", file.read_bytes())
    assert found["name"] == "a b.png"
    assert found["areas"][1] == (maps == 1).sum((1, 2)).tolist()
    assert sum(h["share"] for h in found["hypotheses"]) == pytest.approx(1)
    at = f"/api/drawings/{found['id']}"
    arrays = np.load(io.BytesIO(served.ask(f"{at}/samples.npz")[1]))
    assert np.array_equal(arrays["maps"], maps)
    assert np.allclose(arrays["mean"], np.load(written / "marginals.npz")["mean"])
    with zipfile.ZipFile(io.BytesIO(served.ask(f"{at}/samples.zip")[1])) as archive:
        assert len(archive.namelist()) == 6
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(archive.read("0002.png")))), maps[1])
    layer = served.picture(f"{at}/samples/4.png")
    assert np.array_equal(layer[..., 3] > 0, maps[4] == 1)
    shown = served.picture(f"{at}/mean.png")[..., 3] > 0
    assert np.array_equal(shown, (maps == 1).any(0))
    ends = [served.picture(f"{at}/walk.png?one=1&other=4&part={part}")[..., 3] > 0 for part in (0, 1)]
    assert np.array_equal(ends[0], maps[1] == 1)
    assert np.array_equal(ends[1], maps[4] == 1)
    near = served.picture(f"{at}/walk.png?one=1&other=4&part=0.02")[..., 3] > 0
    assert (near != ends[0]).mean() <= (ends[1] != ends[0]).mean()


def test_what_cannot_be_read_is_said_without_a_path(served: Served) -> None:
    grey = np.zeros((20, 20), np.uint8)
    for name, body, message in (
        ("a.exe", b"MZ", "a.exe: files of the kinds .png"),
        ("a.png", b"", "a.png: empty"),
        ("a.png", b"no picture", "a.png: not readable"),
        (
            "../../etc/a.png",
            png(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))[:2000],
            "a.png: not readable",
        ),
        ("a.png", png(np.dstack([grey, grey, grey + 9])), "a.png: the image is colour"),
        ("big.png", png(np.zeros((1025, 1024), np.uint8)), "big.png: 1024x1025 pixels; up to 1024x1024"),
        ("a.npy", b"\x93NUMPY", "a.npy: not readable"),
        ("a.png", b"x" * (33 * 2**20), "the file is too large; files up to 32 MB"),
        ("a.dcm", b"x" * 300, "a.dcm: "),
    ):
        status, content = served.ask(f"/api/drawings?name={name}", body)
        said = json.loads(content)["error"]
        assert status == 400, (name, content)
        assert re.search(message, said), said
        assert "/tmp" not in said
        assert str(served.folder) not in said
        assert "stochseg-" not in said
    for query, message in (
        ("example=7", "example 7: there are 2"),
        ("example=x", "example x: must be a whole number"),
        ("example=0&samples=65", "samples 65: must be from 1 to 64"),
        ("example=0&seed=-1", "seed -1"),
    ):
        status, content = served.ask(f"/api/drawings?{query}", b"")
        assert (status, message in json.loads(content)["error"]) == (400, True), content
    assert served.ask("/api/drawings/nowhere/image.png")[0] == 404
    known = served.drawn("example=0")["id"]
    assert served.ask(f"/api/drawings/{known}/samples/8.png")[0] == 404
    assert served.ask(f"/api/drawings/{known}/other.png")[0] == 404
    assert served.ask(f"/api/drawings/{known}/walk.png?one=0&other=9&part=0.5")[0] == 400
    assert served.ask(f"/api/drawings/{known}/walk.png?one=0&other=1&part=nan")[0] == 400
    assert served.ask("/page.css/../../server.py")[0] == 404
    status, content = served.ask("/api/info")
    assert status == 200
    assert str(served.folder) not in content.decode()


def test_other_sites_are_refused(served: Served) -> None:
    assert served.ask("/api/drawings?example=0", b"", {})[0] == 403
    assert served.ask("/", None, {"host": "evil.example"})[0] == 403
    assert served.ask("/", None, {"host": "localhost:1"})[0] == 200
    with urllib.request.urlopen(served.base + "/") as response:
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert response.headers["server"] is None
        page = response.read().decode()
    for name in ("/page.css", "/page.js"):
        page += served.ask(name)[1].decode()
    remote = set(re.findall(r"https?://[^\s\"'`]+", page))
    assert remote <= {"http://www.w3.org/2000/svg"}, remote  # a name, which nobody fetches


def test_other_hosts_get_a_warning_and_a_token_that_is_asked_of_everybody(folder: Path) -> None:
    served = started(folder, "--host", "0.0.0.0")
    try:
        assert served.said.startswith("warning: 0.0.0.0 lets other machines in")
        token = served.url.partition("?token=")[2]
        assert len(token) >= 20
        for headers in ({}, {"authorization": "Bearer wrong"}, {"cookie": "stochseg-token=wrong"}):
            assert served.ask("/api/info", None, headers)[0] == 401
        assert served.ask("/api/info", None, {"authorization": f"Bearer {token}"})[0] == 200
        assert served.ask("/api/drawings?example=0", b"", {"authorization": f"Bearer {token}"})[0] == 403
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with opener.open(f"{served.base}/?token={token}") as response:
            assert response.url == served.base + "/"  # the token has left the address
        with opener.open(served.base + "/api/info") as response:
            assert json.load(response)["examples"] == []
    finally:
        stopped(served)


def test_flags_that_cannot_be(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from stochseg.cli import main

    for flags, message in (
        (["--port", "99999"], "--port 99999: must be from 0 to 65535"),
        (["--host", "203.0.113.7", "--port", "0"], "--host 203.0.113.7 --port 0: "),
        (["--token", "short"], "--token: must have at least 8 characters"),
        (["--samples", "65"], "--samples 65: must be from 1 to 64"),
        (["--examples", "nowhere.png"], "nowhere.png: no such image"),
    ):
        assert main(["serve", str(folder / "model"), *flags]) == 2
        assert message in capsys.readouterr().err


def test_old_drawings_are_forgotten_and_memory_is_bounded() -> None:
    model = small()
    image = mosaic(0, 1)[0]
    drawings = [draw(model, image, str(i), 4, i) for i in range(5)]
    kept = Kept(3 * drawings[0].bytes)
    names = [kept.add(drawing) for drawing in drawings]
    assert [kept.get(name) is not None for name in names] == [False, False, True, True, True]
    kept.get(names[2])
    kept.add(drawings[0])
    assert [kept.get(name) is not None for name in names[2:]] == [True, False, True]
    assert kept.bytes <= kept.most_bytes
    assert len(set(names)) == 5
    for part in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="the way 0 to 1"):
            between(model, drawings[0], 0, 1, part)


def test_points_between_are_as_likely_as_the_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    drawing: Drawing = draw(model, mosaic(0, 2)[0], "a", 2, 0)
    seen = []
    monkeypatch.setattr(model, "sample", lambda image, z, tile: seen.append(z) or torch.zeros(1, 1, 2, 2))
    for part in (0.25, 0.5, 0.75):
        between(model, drawing, 0, 1, part)
    assert all(abs(float(z.std()) - 1) < 0.1 for z in seen)
    assert torch.allclose(seen[1], drawing.z.sum(1, keepdim=True) * 2**-0.5, atol=1e-6)


def test_more_than_can_wait_is_told_to_come_back() -> None:
    from stochseg.serve.guard import Busy, Gate

    async def crowd(gate: Gate, count: int, call: Any) -> list[Any]:
        found: list[Any] = []

        async def one() -> None:
            try:
                found.append(await gate.run(call))
            except Busy:
                found.append("busy")

        async with anyio.create_task_group() as group:
            for _ in range(count):
                group.start_soon(one)
        return found

    at_once: list[int] = []
    inside = 0

    def work() -> int:
        nonlocal inside
        inside += 1
        at_once.append(inside)
        threading.Event().wait(0.02)
        inside -= 1
        return 1

    async def enough() -> list[Any]:
        return await crowd(Gate(20, 10), 20, work)

    async def too_many() -> list[Any]:
        return await crowd(Gate(3, 10), 20, work)

    async def too_slow() -> list[Any]:
        return await crowd(Gate(20, 0.05), 20, work)

    assert anyio.run(enough) == [1] * 20
    assert max(at_once) == 1
    found = anyio.run(too_many)
    assert 1 <= found.count(1) <= 4
    assert found.count(1) + found.count("busy") == 20
    found = anyio.run(too_slow)
    assert 1 <= found.count(1) < 10
    assert found.count(1) + found.count("busy") == 20


@pytest.mark.slow
def test_two_hundred_requests_of_twenty_clients(folder: Path) -> None:
    served = started(folder)
    status = Path(f"/proc/{served.process.pid}/status")

    def memory() -> int:
        found = re.search(r"VmRSS:\s+(\d+)", status.read_text())
        assert found
        return int(found[1])

    bodies = [(folder / f"{name}.png").read_bytes() for name in ("one", "two", "wide")]

    def one(i: int) -> list[int]:
        found = served.drawn(f"samples=16&seed={i}&name=a.png", bodies[i % 3])
        assert (served.picture(f"/api/drawings/{found['id']}/mean.png")[..., 3] > 0).any()
        areas: list[int] = found["areas"][1]
        return areas

    try:
        alone = [one(i) for i in range(20)]
        before = memory()
        with ThreadPoolExecutor(20) as clients:
            found = list(clients.map(one, range(200)))
        assert found[:20] == alone
        assert len({tuple(areas) for areas in found}) > 190
        assert memory() - before < 200_000  # kB
    finally:
        stopped(served)


@pytest.mark.slow
def test_connections_that_ask_nothing_do_not_keep_others_out(folder: Path) -> None:
    """As many as may be open: silent ones, and others that never end their first line, or never send what they said."""
    served = started(folder, "--token", "a-token-of-ours")
    address = ("127.0.0.1", int(served.base.rpartition(":")[2]))
    post = b"POST /api/drawings?name=a.png HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    open_ones: list[socket.socket] = []
    try:
        for number in range(256):
            one = socket.create_connection(address)
            one.sendall((b"", b"GET / HT", post)[number % 3])
            open_ones.append(one)
        assert served.ask("/api/info")[0] == 503
        deadline = time.monotonic() + 60
        while served.ask("/api/info", None, {"authorization": "Bearer a-token-of-ours"})[0] != 200:
            assert time.monotonic() < deadline
            time.sleep(1)
    finally:
        for one in open_ones:
            one.close()
        stopped(served)


@pytest.mark.slow
def test_a_crowd_of_uploads_takes_little_memory(folder: Path) -> None:
    """Forty times 30 MB that arrive together are 1.2 GB; a few are read at once, and the others wait."""
    served = started(folder)
    status = Path(f"/proc/{served.process.pid}/status")

    def peak() -> int:
        found = re.search(r"VmHWM:\s+(\d+)", status.read_text())
        assert found
        return int(found[1])

    try:
        served.drawn("name=a.png", (folder / "one.png").read_bytes())
        before = peak()
        with ThreadPoolExecutor(40) as clients:
            found = list(clients.map(lambda _: served.ask("/api/drawings?name=a.png", bytes(30 * 2**20)), range(40)))
        assert [status for status, _ in found] == [400] * 40
        assert peak() - before < 800_000  # kB
    finally:
        stopped(served)


CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; `apt-get install chromium` lets this test run")
def test_the_page_in_a_browser(served: Served, tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="`pip install playwright` lets this test run")
    expect = sync_api.expect
    (written,) = sample_files(
        served.folder / "model", [served.folder / "wide.png"], tmp_path / "out", samples=8
    ).written
    maps = np.load(written / "samples.npz")["maps"]
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        asked: list[str] = []
        wrong: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)

        def seen() -> np.ndarray:
            """The viewer's pixels [h w 3] at the image's own size."""
            page.wait_for_timeout(300)
            shot = Image.open(io.BytesIO(page.locator("#view").screenshot())).convert("RGB")
            return np.asarray(shot.resize((64, 64), Image.Resampling.BOX)).astype(int)

        page.goto(served.url)
        expect(page.locator("#message")).to_contain_text("one: 32×32", timeout=60000)
        page.set_input_files("#file", served.folder / "wide.png")
        expect(page.locator("#message")).to_contain_text("wide.png: 64×64 pixels, 8 samples", timeout=60000)
        shown = int(page.locator("#grid [aria-pressed=true]").get_attribute("data-sample"))

        def reddish(pixels: np.ndarray) -> np.ndarray:
            """Where the colour of the class lies over the grey image."""
            return np.ptp(pixels, axis=2) > 40

        assert (reddish(seen()) == (maps[shown] == 1)).mean() > 0.97
        page.locator("#opacity").fill("0")
        clear = seen()
        assert not reddish(clear).any()
        assert np.abs(clear.mean(2) - np.asarray(Image.open(served.folder / "wide.png"))).mean() < 3
        page.locator("#opacity").fill("85")
        page.click("[data-show=walk]")
        page.select_option("#one", "2")
        page.select_option("#other", "5")
        views = []
        for part, words in (("0", "0 % of the way from sample 3 to 6"), ("50", "50 %"), ("100", "100 %")):
            page.locator("#part").fill(part)
            expect(page.locator("#caption")).to_contain_text(words, timeout=60000)
            views.append(reddish(seen()))
        assert (views[0] == (maps[2] == 1)).mean() > 0.97
        assert (views[2] == (maps[5] == 1)).mean() > 0.97
        assert (views[0] != views[1]).any()
        assert (views[1] != views[2]).any()
        page.click("[data-show=entropy]")
        expect(page.locator("#scale")).to_be_visible()
        expect(page.locator("#caption")).to_contain_text("how much the samples disagree", timeout=60000)
        disagreed = np.ptp(maps, axis=0) > 0
        assert (np.ptp(seen(), axis=2) > 20)[disagreed].mean() > (np.ptp(seen(), axis=2) > 20)[~disagreed].mean() + 0.5
        with page.expect_download() as download:
            page.click("#npz")
        assert np.array_equal(np.load(download.value.path())["maps"], maps)
        bars = page.locator("#histogram rect").evaluate_all("bars => bars.map(b => Number(b.getAttribute('height')))")
        assert sum(height > 0 for height in bars) > 1
        page.set_input_files("#file", {"name": "bad.png", "mimeType": "image/png", "buffer": b"nothing"})
        expect(page.locator("#message")).to_contain_text("bad.png: not readable", timeout=30000)
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        browser.close()
    assert all(address.startswith((served.base, "blob:")) for address in asked)
    assert [text for text in wrong if "400" not in text] == []
