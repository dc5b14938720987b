"""The report in a real browser: from disk without a network, on a phone, and in print."""

import shutil
from pathlib import Path

import pytest

from .test_report import run  # noqa: F401

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; `apt-get install chromium` lets this test run")
def test_the_page_opens_from_disk_on_a_phone_and_in_print(run: Path) -> None:  # noqa: F811
    sync_api = pytest.importorskip("playwright.sync_api", reason="`pip install playwright` lets this test run")
    from stochseg.report.page import write_report

    address = write_report(run).resolve().as_uri()
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        asked: list[str] = []
        said: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        sizes = page.locator("p, td, th, figcaption").evaluate_all(
            "all => all.map(each => parseFloat(getComputedStyle(each).fontSize))"
        )
        assert min(sizes) >= 11
        broken = page.locator("img").evaluate_all(
            "all => all.filter(each => each.complete && !each.naturalWidth).length"
        )
        assert broken == 0
        printed = page.pdf(format="A4")
        browser.close()
    assert {url for url in asked if not url.startswith("data:")} == {address}
    assert said == []
    assert 1 <= printed.count(b"/Type /Page\n") <= 15
