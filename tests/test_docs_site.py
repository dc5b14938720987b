"""The site of docs/: every page is in it, it builds without a warning, and a browser asks nobody else for anything."""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
CONFIG = tomllib.loads((ROOT / "zensical.toml").read_text())
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
WIDTH = 390


def pages_of(nav: list[dict[str, Any]]) -> Iterator[str]:
    for entry in nav:
        for target in entry.values():
            yield from [target] if isinstance(target, str) else pages_of(target)


def test_every_page_is_in_the_navigation_once() -> None:
    docs = ROOT / CONFIG["project"]["docs_dir"]
    assert sorted(pages_of(CONFIG["project"]["nav"])) == sorted(str(p.relative_to(docs)) for p in docs.rglob("*.md"))


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    if subprocess.run([sys.executable, "-c", "import zensical, mkdocstrings"], capture_output=True).returncode:
        pytest.skip("zensical or mkdocstrings is not installed: pip install 'stochseg[docs]'")
    for name in ("docs", "src"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "zensical.toml", folder)
    return built_again(folder)


def built_again(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *parts: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    done = build(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


def test_it_builds_without_a_warning_and_loads_nothing_from_elsewhere(site: Path) -> None:
    api = (site / "api" / "index.html").read_text()
    for name in ("push_to_hub", "coverage_sets", "generalized_energy_distance", "BlackBox"):
        assert re.search(rf'<h\d id="[\w.]*{name}"', api), name
    for html in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|img|link|iframe)[^>]*(?:src|href)="?(https?://[^">\s]+)', html.read_text())
        assert [url for url in loaded if "://www.w3.org" not in url] == [], html
    for style in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//", style.read_text()) == [], style


@pytest.mark.slow
def test_a_browser_asks_nobody_else_and_pages_fit_a_phone(site: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="`pip install playwright` lets a browser look at it")
    if CHROMIUM is None:
        pytest.skip("no Chromium; `apt-get install chromium` lets a browser look at it")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site))
    Thread(target=server.serve_forever, daemon=True).start()
    home = f"http://127.0.0.1:{server.server_port}/"
    asked: list[str] = []
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 844})
        page.on("request", lambda request: asked.append(request.url))
        for name in pages_of(CONFIG["project"]["nav"]):
            page.goto(home + name.replace("index.md", "").replace(".md", "/"), wait_until="networkidle")
            assert page.evaluate("document.documentElement.scrollWidth") <= WIDTH, name
            broken = "all => all.filter(each => each.complete && !each.naturalWidth).length"
            assert page.locator("article img").evaluate_all(broken) == 0, name
        browser.close()
    server.shutdown()
    server.server_close()
    assert {url for url in asked if not url.startswith((home, "data:", "blob:"))} == set()


@pytest.mark.slow
def test_a_broken_link_is_an_error(site: Path) -> None:
    (site.parent / "docs" / "hub.md").write_text("# Hub\n\n[nowhere](nowhere.md)\n")
    assert built_again(site.parent).returncode != 0
